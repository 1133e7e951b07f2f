"""Validation figures against hands that are right, or wrong in a known way."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hands_in_crops import noisy_hands, picked_views, true_batch, true_hands
from torch import nn

from hamuco.training.batch import Views
from hamuco.training.networks.hamuco import HaMuCoOutput
from hamuco.training.networks.prediction import HandPrediction
from hamuco.training.validation import FIGURES, fused_joints, validate

# The layer's constants are rounded to single, so that its weights sum up to 1 within 6e-8, and a turned hand of 200 mm is
# that much larger or smaller.
EXACT_MM = 200 * 6e-8


class Answers(nn.Module):
    """Says about the views what it was told to."""

    def __init__(self, single: HandPrediction, refined: HandPrediction) -> None:
        super().__init__()
        self._output = HaMuCoOutput(single, refined, single.pixels)

    def forward(self, views: Views, refine: bool = True) -> HaMuCoOutput:
        assert not self.training
        return self._output if refine else replace(self._output, refined=None)


def larger(hands: HandPrediction, factor: float) -> HandPrediction:
    return replace(hands, vertices=factor * hands.vertices, joints=factor * hands.joints)


def test_right_hands_have_no_error() -> None:
    batch = true_batch()
    figures = validate(Answers(true_hands(batch), true_hands(batch)), [batch, batch], calibrated=True)
    assert set(figures) == set(FIGURES)
    assert all(figures[name] < EXACT_MM for name in FIGURES if name.endswith("_mm"))
    # Labels are single: u, v below 4 are rounded by 1.2e-7 or less.
    assert figures["single_2d"] < 1e-6


def test_sizes_count_unless_aligned() -> None:
    batch = true_batch()
    hands = true_hands(batch)
    figures = validate(Answers(hands, larger(hands, 1.1)), [batch], calibrated=True)
    distance = 1000 * torch.linalg.vector_norm(hands.joints, dim=-1).mean().item()
    assert figures["single_mpjpe_mm"] < EXACT_MM
    assert figures["refined_mpjpe_mm"] == pytest.approx(0.1 * distance)
    assert figures["fused_mpjpe_mm"] == pytest.approx(0.1 * distance)
    assert figures["refined_pa_mpjpe_mm"] < EXACT_MM


def test_distances_in_2d_are_shares_of_the_crop() -> None:
    batch = true_batch()
    hands = true_hands(batch)
    shifted = replace(hands, pixels=hands.pixels + torch.tensor([0.6, 0.8]))
    # Labels without confidence do not count.
    unlabelled = batch.confidence.clone()
    unlabelled[0, :, :10] = 0
    pixels = torch.where(unlabelled[..., None] > 0, batch.pixels, 99.0)
    figures = validate(Answers(hands, shifted), [replace(batch, confidence=unlabelled, pixels=pixels)], calibrated=True)
    assert figures["refined_2d"] == pytest.approx(0.5, abs=1e-6)


def test_labels_count_by_their_confidence() -> None:
    batch = true_batch()
    hands = true_hands(batch)
    confidence = torch.ones_like(batch.confidence)
    confidence[:, :, 0] = 0.1
    labels = batch.pixels.clone()
    labels[:, :, 0] += torch.tensor([6.0, 8.0])  # mislabelled, which the other views have noticed
    figures = validate(Answers(hands, hands), [replace(batch, pixels=labels, confidence=confidence)], calibrated=True)
    assert figures["refined_2d"] == pytest.approx(5 * 0.1 / 20.1, rel=1e-6)


def test_what_was_not_trained_has_no_figure() -> None:
    batch = true_batch()
    hands = true_hands(batch)
    figures = validate(Answers(hands, hands), [batch], calibrated=True, refine=False)
    known = {name for name, figure in figures.items() if not math.isnan(figure)}
    assert known == {"single_mpjpe_mm", "single_pa_mpjpe_mm", "single_2d", "located_2d"}


@pytest.mark.parametrize("calibrated", [True, False])
def test_views_that_are_not_valid_do_not_count(calibrated: bool) -> None:
    batch = true_batch(views=4)
    single, refined = noisy_hands(batch, 1), noisy_hands(batch, 2)
    valid = torch.tensor([[True, True, False, True]] * 2)
    hidden = replace(batch, views=replace(batch.views, valid=valid))
    fewer = picked_views(batch, [0, 1, 3])
    picked = [
        replace(hands, **{name: getattr(hands, name)[:, [0, 1, 3]] for name in ("vertices", "joints", "pixels")})
        for hands in (single, refined)
    ]
    found = validate(Answers(single, refined), [hidden], calibrated)
    expected = validate(Answers(*picked), [fewer], calibrated)
    assert found == pytest.approx(expected, rel=1e-9)


def test_what_is_not_known_has_no_figure() -> None:
    batch = true_batch()
    hands = true_hands(batch)
    nobody_knows = replace(batch, joints=torch.full_like(batch.joints, torch.nan))
    figures = validate(Answers(hands, hands), [nobody_knows], calibrated=True)
    assert all(math.isnan(figures[name]) == name.endswith("_mm") for name in FIGURES)


def test_fusion_takes_the_cameras_or_the_hands() -> None:
    batch = true_batch(views=3)
    turned = noisy_hands(batch, 3)
    calibrated = fused_joints(turned, batch, calibrated=True)
    free = fused_joints(turned, batch, calibrated=False)
    assert not torch.allclose(calibrated, free, atol=1e-3)
    unknown = replace(batch, crop_from_world=torch.full_like(batch.crop_from_world, torch.nan))
    torch.testing.assert_close(fused_joints(turned, unknown, calibrated=True), free)


def test_a_network_goes_on_as_it_was() -> None:
    batch = true_batch()
    network = Answers(true_hands(batch), true_hands(batch))
    for training in (True, False):
        network.train(training)
        validate(network, [batch], calibrated=True)
        assert network.training == training
