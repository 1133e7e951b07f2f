"""The losses: zero for exact hands, equal to slow formulas, gradients where they belong and nowhere else, masks."""

from __future__ import annotations

from dataclasses import asdict, fields, replace

import pytest
import torch
from hands_in_crops import (
    LAYER,
    LEAVES,
    gradients,
    noisy_hands,
    picked,
    picked_views,
    predicted,
    slow_agreement,
    true_batch,
    true_hands,
)
from torch import Tensor
from torch.autograd import gradcheck

from hamuco.engine.hamuco import ROOT
from hamuco.training.batch import Batch, Views
from hamuco.training.losses import LossConfig, LossWeights, losses
from hamuco.training.networks.prediction import HandPrediction
from hamuco.training.networks.rotations import axis_angle_to_matrix

NAMES = tuple(field.name for field in fields(LossWeights))

# Some hundred roundings of numbers around 1 in double precision.
ROUNDING = 1e-12


def compute(
    single: HandPrediction,
    refined: HandPrediction,
    batch: Batch,
    step: int = 0,
    config: LossConfig | None = None,
) -> dict[str, Tensor]:
    """Of a network whose locator finds the joints where the hand by each view alone has them."""
    return losses(single, refined, batch, step, config or LossConfig(), LAYER.pose_mean, single.pixels)


def reached(loss: Tensor, hands: HandPrediction) -> set[str]:
    return {name for name, gradient in gradients(loss, hands).items() if (gradient != 0).any()}


def test_the_weights_are_the_papers() -> None:
    weights = asdict(LossWeights())
    assert list(weights.values()) == [
        1,
        1,
        1,
        1,
        1,
        1,
        0.01,
        0.01,
        0,
        0,
        0,
    ]  # the third is not among the paper's losses


def test_the_total_is_the_weighted_sum() -> None:
    batch = true_batch()
    single, refined = noisy_hands(batch, 1), noisy_hands(batch, 2)
    weights = LossWeights(**{name: 0.5 + index for index, name in enumerate(NAMES)})
    terms = compute(single, refined, batch, config=LossConfig(weights))
    assert (*NAMES, "total") == tuple(terms)
    expected = sum((0.5 + index) * terms[name].item() for index, name in enumerate(NAMES))
    assert terms["total"].item() == pytest.approx(expected, rel=ROUNDING)
    for name in NAMES:
        assert terms[name].shape == ()
        assert terms[name] > 0


@pytest.mark.parametrize("step", [0, 1])
@pytest.mark.parametrize("calibrated", [True, False])
@pytest.mark.parametrize("views", [1, 2, 4])
def test_exact_hands_cost_nothing_but_the_priors(views: int, calibrated: bool, step: int) -> None:
    batch = true_batch(views=views)
    hands = true_hands(batch)
    terms = compute(hands, hands, batch, step, LossConfig(calibrated=calibrated))
    for name in NAMES:
        if not name.endswith("prior"):
            # The layer's skinning weights sum to 1 within 1e-7, times millimetres from the model's origin.
            assert terms[name].item() == pytest.approx(0, abs=1e-9), name
    assert terms["shape_prior"].item() == pytest.approx(float(batch.betas.abs().mean()))


def test_the_mean_pose_and_shape_cost_nothing() -> None:
    batch = true_batch()
    rotations = LAYER.mean_rotations.expand(2, 3, 16, 3, 3).clone()
    rotations[:, :, 0] = true_hands(batch).rotations[:, :, 0]
    hands = predicted(rotations, torch.zeros(2, 3, 10, dtype=torch.float64))
    terms = compute(hands, hands, batch)
    assert terms["shape_prior"] == 0
    # The mean pose as matrices and back, of numbers in single precision.
    assert terms["single_pose_prior"].item() == pytest.approx(0, abs=1e-7)
    bent = rotations.clone()
    bent[:, :, 4] = axis_angle_to_matrix(LAYER.pose_mean[9:12] + torch.tensor([0.0, 0.0, 0.45]))
    terms = compute(hands, predicted(bent, hands.betas), batch)
    assert terms["refined_pose_prior"].item() == pytest.approx(0.45 / 45, rel=1e-5)


def test_labels_count_by_their_confidence() -> None:
    batch = true_batch(samples=1, views=2)
    hands = true_hands(batch)
    pixels, confidence = batch.pixels.clone(), torch.zeros(1, 2, 21, dtype=torch.float64)
    pixels[0, 0, 3] += torch.tensor([0.3, -0.1], dtype=torch.float64)
    pixels[0, 1, 5] += torch.tensor([0.2, 0.0], dtype=torch.float64)
    pixels[0, 1, 6] = torch.nan
    confidence[0, 0, 3], confidence[0, 1, 5], confidence[0, 1, 7] = 0.5, 1.0, 0.1
    batch = replace(batch, pixels=pixels, confidence=confidence)
    # Three labels of two coordinates.
    assert compute(hands, hands, batch)["single_pixels"].item() == pytest.approx((0.5 * 0.4 + 0.2) / 6, rel=1e-9)
    only_sure = LossConfig(min_confidence=0.5)
    assert compute(hands, hands, batch, config=only_sure)["refined_pixels"].item() == pytest.approx(0.2 / 2, rel=1e-9)
    none = replace(batch, confidence=torch.zeros_like(confidence))
    assert compute(hands, hands, none)["single_pixels"] == 0


def test_located_joints_are_compared_with_the_labels() -> None:
    batch = true_batch()
    hands, located = true_hands(batch), noisy_hands(batch, 1).pixels.detach()
    terms = losses(hands, hands, batch, 0, LossConfig(), LAYER.pose_mean, located)
    assert terms["located_pixels"].item() == pytest.approx(
        compute(noisy_hands(batch, 1), hands, batch)["single_pixels"].item(), rel=ROUNDING
    )
    assert losses(hands, hands, batch, 0, LossConfig(), LAYER.pose_mean)["located_pixels"] == 0  # no locator


REACH = {
    "single_pixels": ({"pixels"}, set()),
    "refined_pixels": (set(), {"pixels"}),
    "located_pixels": ({"pixels"}, set()),
    "consistency": (set(), {"vertices", "joints"}),
    "distillation": ({"vertices", "joints"}, set()),
    "shape_prior": ({"betas"}, set()),
    "single_pose_prior": ({"rotations"}, set()),
    "refined_pose_prior": (set(), {"rotations"}),
    "true_joints": ({"joints"}, {"joints"}),
    "true_rotations": ({"rotations"}, {"rotations"}),
    "true_betas": ({"betas"}, set()),
}


@pytest.mark.parametrize("step", [0, 1])
@pytest.mark.parametrize("name", NAMES)
def test_gradients_reach_what_they_should_and_nothing_else(name: str, step: int) -> None:
    batch = true_batch()
    single, refined = noisy_hands(batch, 1), noisy_hands(batch, 2)
    loss = compute(single, refined, batch, step)[name]
    assert (reached(loss, single), reached(loss, refined)) == REACH[name]


@pytest.mark.parametrize("calibrated", [True, False])
@pytest.mark.parametrize("step", [0, 1, 6])
def test_agreement_equals_the_slow_formulas_with_their_gradients(step: int, calibrated: bool) -> None:
    batch = true_batch(samples=1)
    single, refined = noisy_hands(batch, 3), noisy_hands(batch, 4)
    terms = compute(single, refined, batch, step, LossConfig(calibrated=calibrated))
    slow = slow_agreement(single, refined, batch, step, calibrated)
    for name, expected in zip(("consistency", "distillation"), slow, strict=True):
        torch.testing.assert_close(terms[name], expected, rtol=1e-9, atol=0)
        for hands in (single, refined):
            found, wanted = gradients(terms[name], hands), gradients(expected, hands)
            for leaf in LEAVES:
                # Damping of the gradient near equal singular values: 1e-5 squared, over their sums of some 0.1 squared.
                torch.testing.assert_close(found[leaf], wanted[leaf], rtol=1e-6, atol=1e-9)


def test_without_alternation_each_step_has_both_directions() -> None:
    batch = true_batch()
    single, refined = noisy_hands(batch, 3), noisy_hands(batch, 4)
    both = compute(single, refined, batch, 5, LossConfig(alternating=False))["consistency"]
    turns = [compute(single, refined, batch, step)["consistency"] for step in (0, 1)]
    torch.testing.assert_close(both, (turns[0] + turns[1]) / 2)
    expected = [gradients(loss, refined)["vertices"] for loss in turns]
    torch.testing.assert_close(gradients(both, refined)["vertices"], (expected[0] + expected[1]) / 2)


@pytest.mark.parametrize("step", [0, 1])
@pytest.mark.parametrize("calibrated", [True, False])
def test_one_view_agrees_with_itself_exactly(calibrated: bool, step: int) -> None:
    batch = true_batch(views=1)
    single, refined = noisy_hands(batch, 5), noisy_hands(batch, 6)
    terms = compute(single, refined, batch, step, LossConfig(calibrated=calibrated))
    assert terms["consistency"] == 0
    assert not reached(terms["consistency"], refined)
    fused = torch.cat([refined.vertices, refined.joints], dim=-2)
    alone = torch.cat([single.vertices, single.joints], dim=-2)
    torch.testing.assert_close(terms["distillation"], (alone - fused).abs().mean() / 0.2)


CONFIGS = [LossConfig(), LossConfig(calibrated=False), LossConfig(alternating=False)]


@pytest.mark.parametrize("config", CONFIGS, ids=["calibrated", "uncalibrated", "not alternating"])
@pytest.mark.parametrize("step", [0, 1])
def test_views_that_are_not_valid_contribute_nothing(step: int, config: LossConfig) -> None:
    batch = true_batch(views=4)
    single, refined = noisy_hands(batch, 7), noisy_hands(batch, 8)
    there = [0, 2, 3]
    expected = compute(picked(single, there), picked(refined, there), picked_views(batch, there), step, config)
    batch.views.valid[:, 1] = False
    batch.crop_from_world[:, 1] = torch.nan
    batch.pixels[:, 1] = torch.nan
    batch.confidence[:, 1] = torch.nan
    with torch.no_grad():
        for hands in (single, refined):
            for name in ("vertices", "joints", "pixels", "betas"):
                getattr(hands, name)[:, 1] *= 1000
    found = compute(single, refined, batch, step, config)
    for name in (*NAMES, "total"):
        torch.testing.assert_close(found[name], expected[name], rtol=1e-9, atol=0)
        for hands in (single, refined):
            for gradient in gradients(found[name], hands).values():
                assert (gradient[:, 1] == 0).all()
                assert gradient.isfinite().all()


def test_the_mean_counts_what_is_there_over_all_samples() -> None:
    """One sample with one view and one with three: four views, not two samples."""
    batch = true_batch()
    single, refined = noisy_hands(batch, 9), noisy_hands(batch, 10)
    batch.views.valid[0, 1:] = False
    terms = compute(single, refined, batch)
    valid = batch.views.valid
    torch.testing.assert_close(terms["shape_prior"], single.betas[valid].abs().mean())
    torch.testing.assert_close(terms["single_pixels"], (single.pixels - batch.pixels)[valid].abs().mean())
    nothing = replace(batch, views=replace(batch.views, valid=torch.zeros_like(valid)))
    for name, term in compute(single, refined, nothing).items():
        assert term == 0, name


@pytest.mark.parametrize("config", CONFIGS, ids=["calibrated", "uncalibrated", "not alternating"])
@pytest.mark.parametrize("step", [0, 1])
def test_the_order_of_the_views_does_not_matter(step: int, config: LossConfig) -> None:
    batch = true_batch(views=4)
    single, refined = noisy_hands(batch, 11), noisy_hands(batch, 12)
    order = [2, 0, 3, 1]
    expected = compute(single, refined, batch, step, config)
    found = compute(picked(single, order), picked(refined, order), picked_views(batch, order), step, config)
    for name, term in expected.items():
        torch.testing.assert_close(found[name], term, rtol=1e-9, atol=0)


@pytest.mark.parametrize("step", [0, 1])
def test_samples_without_calibration_are_aligned_by_procrustes(step: int) -> None:
    batch = true_batch()
    single, refined = noisy_hands(batch, 13), noisy_hands(batch, 14)

    def part(batch: Batch, sample: int, calibrated: bool) -> Tensor:
        index = slice(sample, sample + 1)
        one = {field.name: getattr(batch, field.name)[index] for field in fields(Batch) if field.name != "views"}
        views = replace(batch.views, **{field.name: getattr(batch.views, field.name)[index] for field in fields(Views)})
        hands = [replace(h, **{f.name: getattr(h, f.name)[index] for f in fields(h)}) for h in (single, refined)]
        config = LossConfig(calibrated=calibrated)
        return compute(hands[0], hands[1], replace(batch, views=views, **one), step, config)["consistency"]

    expected = (part(batch, 0, True) + part(batch, 1, False)) / 2
    batch.crop_from_world[1] = torch.nan
    terms = compute(single, refined, batch, step)
    torch.testing.assert_close(terms["consistency"], expected, rtol=1e-9, atol=0)
    for gradient in gradients(terms["total"], refined).values():
        assert gradient.isfinite().all()


def test_true_losses_are_in_the_crops_frames_and_units() -> None:
    batch = true_batch(samples=1, views=2)
    hands = true_hands(batch)
    moved = replace(hands, joints=hands.joints + 0.02, rotations=hands.rotations + 0.5, betas=hands.betas - 0.3)
    terms = compute(hands, moved, batch)
    assert terms["true_joints"].item() == pytest.approx(0.1)
    assert terms["true_rotations"].item() == pytest.approx(0.5)
    assert terms["true_betas"].item() == pytest.approx(0, abs=ROUNDING)
    terms = compute(moved, moved, batch)
    assert terms["true_joints"].item() == pytest.approx(0.2)
    assert terms["true_betas"].item() == pytest.approx(0.3)


def test_truth_that_is_not_known_does_not_count() -> None:
    batch = true_batch()
    single, refined = noisy_hands(batch, 15), noisy_hands(batch, 16)
    weights = LossWeights(**dict.fromkeys(NAMES, 1.0))
    exact = true_hands(batch).joints[0]
    batch.joints[1] = torch.nan
    batch.joints[0, 4] = torch.nan
    batch.rotations[:] = torch.nan
    batch.betas[0] = torch.nan
    terms = compute(single, refined, batch, config=LossConfig(weights))
    known = [joint for joint in range(21) if joint != 4]
    errors = [(hands.joints[0] - exact)[:, known].abs().mean() for hands in (single, refined)]
    torch.testing.assert_close(terms["true_joints"], (errors[0] + errors[1]) / 0.2)
    assert terms["true_rotations"] == 0
    torch.testing.assert_close(terms["true_betas"], (single.betas[1] - batch.betas[1]).abs().mean())
    assert terms["total"].isfinite()
    for hands in (single, refined):
        for gradient in gradients(terms["total"], hands).values():
            assert gradient.isfinite().all()
    batch.joints[0, ROOT] = torch.nan
    assert compute(single, refined, batch)["true_joints"] == 0


def test_fingers_are_known_without_calibration() -> None:
    batch = true_batch()
    hands = true_hands(batch)
    wrong = replace(hands, rotations=hands.rotations + 0.5)
    batch.crop_from_world[:] = torch.nan
    terms = compute(hands, wrong, batch)
    assert terms["true_rotations"].item() == pytest.approx(0.5)
    assert terms["true_joints"] == 0


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("consistency", "distillation")])
def test_gradients_are_the_derivatives(name: str) -> None:
    """The two that are left out do not differentiate what stands still; slow formulas check them."""
    batch = true_batch(samples=1, views=1)

    def function(rotations: Tensor, betas: Tensor) -> Tensor:
        hands = predicted(rotations, betas)
        return compute(hands, hands, batch)[name]

    hands = noisy_hands(batch, 17)
    assert gradcheck(function, (hands.rotations, hands.betas))
