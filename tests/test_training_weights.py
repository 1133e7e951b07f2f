"""Weights that are trained on: what a bundle has is what was exported."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from small_bundle import CARD, CONFIG, small_network
from small_training import small_config, write_drawn_hands

from hamuco.engine.bundle import BundleError
from hamuco.engine.hand_model import load_hand_model
from hamuco.training.checkpoint import CheckpointError, load_checkpoint
from hamuco.training.export import export_checkpoint, write_bundle
from hamuco.training.keeper import LAST
from hamuco.training.networks.hamuco import HaMuCo
from hamuco.training.trainer import train
from hamuco.training.weights import take_weights, weights_of


@pytest.fixture(scope="module")
def network() -> HaMuCo:
    """With no two parameters alike: the exporter stores equal ones once, as untrained norms are."""
    network = small_network()
    with torch.no_grad():
        for value in network.state_dict().values():
            if value.is_floating_point():
                value += 0.001 * torch.rand_like(value)
    return network


@pytest.mark.parametrize("half", [False, True])
def test_a_bundle_gives_back_what_was_exported(network: HaMuCo, half: bool, tmp_path: Path) -> None:
    bundle = write_bundle(network, load_hand_model(), CARD, tmp_path / "bundle", half)
    again = HaMuCo(CONFIG, load_hand_model())
    take_weights(again, weights_of(bundle.path), load_hand_model())
    # Half precision has 11 bits.
    tolerance = 2.0**-11 if half else 0.0
    for name, value in network.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            torch.testing.assert_close(again.state_dict()[name], value, rtol=tolerance, atol=1e-7 if half else 0.0)


def test_training_goes_on_from_a_bundle(tmp_path: Path) -> None:
    """Exported after some steps, and taken into a training that learns next to nothing."""
    crops = write_drawn_hands(tmp_path / "crops", 4)
    train(small_config(crops, steps=3, learning_rate=1e-3), tmp_path / "first")
    bundle = export_checkpoint(tmp_path / "first" / LAST, tmp_path / "bundle", "b", "CC0", half=False)
    on = {"steps": 1, "learning_rate": 1e-30, "weight_decay": 0.0, "start": {"weights": str(bundle.path)}}
    train(small_config(crops, **on), tmp_path / "second")
    before, after = (load_checkpoint(tmp_path / name / LAST).network for name in ("first", "second"))
    for name, value in before.items():
        if "running" not in name and "num_batches" not in name:
            assert torch.equal(after[name], value), name


def test_what_is_neither_is_said(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"is no bundle: it has no model\.toml"):
        weights_of(tmp_path)
    (tmp_path / "file").write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="is not a whole checkpoint"):
        weights_of(tmp_path / "file")
    with pytest.raises(FileNotFoundError):
        weights_of(tmp_path / "none")
