"""Self-training: better labels, and rounds that go on where they were."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hands_in_crops import LAYER
from small_training import small_config, write_drawn_hands
from torch import Tensor, nn

from hamuco.engine.hamuco import ROOT
from hamuco.training.augment import PLAIN, move
from hamuco.training.batch import Batch, Views
from hamuco.training.checkpoint import load_checkpoint
from hamuco.training.config import config_text
from hamuco.training.crop_set import CropSet, CropSetWriter, copy_with_labels
from hamuco.training.keeper import CONFIG, LAST
from hamuco.training.loader import stack_samples
from hamuco.training.networks.hamuco import HaMuCoOutput
from hamuco.training.networks.parameters import project
from hamuco.training.networks.prediction import HandPrediction
from hamuco.training.rounds import relabel, train_rounds

SAMPLES, VIEWS = 6, 3


@pytest.fixture(scope="module")
def crops(tmp_path_factory: pytest.TempPathFactory) -> CropSet:
    return CropSet(write_drawn_hands(tmp_path_factory.mktemp("rounds") / "hands", SAMPLES, VIEWS))


class Knows(nn.Module):
    """Says of all hands of a crop set what is true, but for `error` half crops in what the first view alone sees."""

    def __init__(self, crops: CropSet, error: float = 0.0) -> None:
        super().__init__()
        self.nothing = nn.Parameter(torch.zeros(1))
        rng = np.random.default_rng(0)
        samples = [
            ([move(crops.view(view), crops.margin, 64, PLAIN, rng) for view in crops.views_of(sample)], crops.truth(sample))
            for sample in range(len(crops))
        ]  # fmt: skip
        hands = true_hands(stack_samples(samples, VIEWS, 64))
        wrong = hands.pixels.clone()
        wrong[:, 0, :, 0] += error
        self._output = HaMuCoOutput(replace(hands, pixels=wrong), hands)

    def forward(self, views: Views) -> HaMuCoOutput:
        return self._output


def true_hands(batch: Batch) -> HandPrediction:
    """With the root where it is: at (tx, ty, 1 / h) / s in the camera's frame."""
    pose = batch.crop_from_world.double()
    rotations = batch.rotations.double()[:, None].expand(-1, VIEWS, -1, -1, -1).clone()
    rotations[:, :, 0] = pose[..., :3, :3] @ rotations[:, :, 0]
    betas = batch.betas.double()[:, None].expand(-1, VIEWS, -1)
    vertices, _, landmarks = LAYER(rotations, betas)
    root: Tensor = (pose[..., :3, :3] @ batch.joints[:, None, ROOT, :, None].double())[..., 0] + pose[..., :3, 3]
    half_angle = batch.views.half_angle.double()
    scale = 1 / (half_angle * root[..., 2])
    camera = torch.stack([scale, scale * root[..., 0], scale * root[..., 1]], dim=-1)
    joints = landmarks - landmarks[..., ROOT : ROOT + 1, :]
    pixels = project(joints, camera, half_angle)
    return HandPrediction(rotations, betas, camera, vertices - landmarks[..., ROOT : ROOT + 1, :], joints, pixels)


def labels(crops: CropSet) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    views = [crops.view(view) for view in range(crops.view_count)]
    return np.array([view.pixels for view in views]), np.array([view.confidence for view in views])


def test_labels_become_what_the_views_agree_on(crops: CropSet, tmp_path: Path) -> None:
    true, _ = labels(crops)
    # Every second joint is mislabelled, without much confidence.
    poor, doubt = true.copy(), np.ones(true.shape[:2])
    poor[:, ::2] += 20.0
    doubt[:, ::2] = 0.6
    labelled = copy_with_labels(crops, tmp_path / "poor", poor, doubt, "a test")
    pixels, confidence, replaced = relabel(Knows(crops), labelled, small_config(crops.path))
    # Single precision: 6e-8 of some 1 m, seen with 96 px of focal length at 0.6 m, is 1e-5 px; some ten such roundings.
    np.testing.assert_allclose(pixels, true, atol=1e-4)
    assert replaced == pytest.approx(11 / 21)
    # (1e-6 / 0.03) squared is nothing.
    np.testing.assert_allclose(confidence, 1.0, atol=1e-6)


def test_views_that_disagree_are_not_sure(crops: CropSet, tmp_path: Path) -> None:
    true, sure = labels(crops)
    labelled = copy_with_labels(crops, tmp_path / "poor", true + 20.0, 0.05 * sure, "a test")
    # One of three views is off by 0.2 of the crop's width. The others outvote it: they agree, and it does not.
    pixels, confidence, replaced = relabel(Knows(crops, 0.4), labelled, small_config(crops.path))
    assert replaced == 1.0
    np.testing.assert_allclose(pixels, true, atol=1e-4)
    assert confidence == pytest.approx(2 / 3, abs=0.01)
    # Labels that are surer stay.
    pixels, confidence, replaced = relabel(Knows(crops, 0.4), crops, small_config(crops.path))
    assert replaced == 0.0
    np.testing.assert_array_equal(pixels, true)
    np.testing.assert_array_equal(confidence, sure)


def test_one_view_is_never_sure(crops: CropSet, tmp_path: Path) -> None:
    with CropSetWriter(tmp_path / "lone", crops.size, crops.margin) as writer:
        for sample in range(SAMPLES):
            first, *others = (crops.view(view) for view in crops.views_of(sample))
            # The others are there, but nobody knows where their cameras are.
            lost = [replace(view, focal=np.nan, crop_from_world=np.full((4, 4), np.nan)) for view in others]
            writer.write([replace(view, confidence=np.zeros(21)) for view in (first, *lost)], crops.truth(sample))
    lone = CropSet(tmp_path / "lone")
    pixels, confidence, replaced = relabel(Knows(crops), lone, small_config(crops.path))
    assert replaced == 0.0
    assert not confidence.any()
    np.testing.assert_array_equal(pixels, labels(lone)[0])


def test_rounds_follow_each_other_and_go_on(crops: CropSet, tmp_path: Path) -> None:
    true, _ = labels(crops)
    unsure = copy_with_labels(crops, tmp_path / "unsure", true, np.zeros(true.shape[:2]), "a test")
    config = small_config(unsure.path, rounds=2, steps=2, validation={"sources": []}, run={"checkpoint_every": 1})
    told: list[str] = []
    train_rounds(config, tmp_path / "whole", tell=told.append)
    assert [line for line in told if line.startswith("round")] == ["round 1 of 2", "round 2 of 2"]
    assert any("of the labels were replaced" in line for line in told)
    relabelled = CropSet(tmp_path / "whole/round-1/relabelled/0")
    assert labels(relabelled)[1].max() > 0
    assert (relabelled.path / "crops.bin").stat().st_ino == (unsure.path / "crops.bin").stat().st_ino
    first, second = (load_checkpoint(tmp_path / "whole" / f"round-{number}" / LAST) for number in (1, 2))
    assert second.config["start"]["weights"] == str(tmp_path / "whole/round-1" / LAST)
    assert second.config["sources"][0]["crops"] == str(relabelled.path)
    assert (tmp_path / "whole" / CONFIG).read_text() == config_text(config)
    other = replace(config, steps=5)
    for resume, words in ((False, "has a training already"), (True, "is of another training: steps was 2 and is 5")):
        with pytest.raises(ValueError, match=words):
            train_rounds(other, tmp_path / "whole", resume)
    with pytest.raises(ValueError, match="round-1 has a training of one round: choose another folder with --out"):
        train_rounds(config, tmp_path / "whole/round-1", resume=True)
    assert (tmp_path / "whole" / CONFIG).read_text() == config_text(config)

    def stop(what: str, done: int, total: int) -> None:
        if what.startswith("training") and (tmp_path / "parts/round-2").exists() and done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_rounds(config, tmp_path / "parts", progress=stop)
    train_rounds(config, tmp_path / "parts", resume=True)
    resumed = load_checkpoint(tmp_path / "parts/round-2" / LAST)
    assert all(torch.equal(value, resumed.network[name]) for name, value in second.network.items())
    assert not all(torch.equal(value, first.network[name]) for name, value in second.network.items())


@pytest.mark.slow
def test_hands_that_were_rendered_once_are_rendered_once_for_all_rounds(tmp_path: Path) -> None:
    synthetic = {"preset": "plain", "seed": 3, "samples": 4}
    sources = [{"synthetic": synthetic}, {"synthetic": synthetic | {"seed": 4}, "labels": "network"}]
    validation = {"sources": [{"synthetic": synthetic | {"seed": 5, "samples": 4}}]}
    config = small_config(tmp_path, rounds=2, steps=2, sources=sources, validation=validation)
    train_rounds(config, tmp_path / "out")
    first, second = (
        load_checkpoint(tmp_path / "out" / f"round-{number}" / LAST).config["sources"] for number in (1, 2)
    )
    assert [one["synthetic"] is None for one in first] == [False, False]
    true, better = (Path(one["crops"]) for one in second)
    assert true.parent == tmp_path / "out" / "round-1" / "crops"
    assert better.parent == tmp_path / "out" / "round-1" / "relabelled"
    assert len(CropSet(true)) == len(CropSet(better)) == 4
    # What is measured on is rendered once too.
    assert [path.parts[-3] for path in (tmp_path / "out").glob("round-*/crops/*-5-*")] == ["round-1"]
