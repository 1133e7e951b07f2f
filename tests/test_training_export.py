"""Bundles of small, untrained networks. Parity is checked by the export itself, so what is tested is that it can fail."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from full_disk import room_for
from small_bundle import CARD, CONFIG, small_network
from small_training import small_config

from hamuco.capture.recording import RecordingError
from hamuco.engine.bundle import CARD as CARD_FILE
from hamuco.engine.bundle import ESTIMATOR, HAND, INTERACTION, load_bundle
from hamuco.engine.hamuco import HaMuCoNetworks
from hamuco.engine.hand_model import load_hand_model
from hamuco.training import export
from hamuco.training.batch import Views
from hamuco.training.checkpoint import Checkpoint, CheckpointError, save_checkpoint, written_by
from hamuco.training.config import config_values
from hamuco.training.export import ExportError, export_checkpoint, write_bundle
from hamuco.training.networks.hamuco import HaMuCo

# Half precision rounds weights by 2^-12 at most, relatively; fifty layers of random signs make 7 of it, or 0.2 %, of what is
# about 1; the worst of some thousands of outputs ten times that.
HALF = 0.02


def _weights(path: Path) -> dict[int, int]:
    """Bytes of a graph's constants by their types."""
    sizes: dict[int, int] = {}
    for constant in onnx.load(path).graph.initializer:
        array = onnx.numpy_helper.to_array(constant)
        sizes[constant.data_type] = sizes.get(constant.data_type, 0) + array.nbytes
    return sizes


def test_a_bundle_is_whole_and_weights_take_half_the_space(tmp_path: Path) -> None:
    network, hand = small_network(), load_hand_model()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    full = write_bundle(network, hand, CARD, tmp_path / "full", half=False)
    half = write_bundle(network, hand, CARD, tmp_path / "half")
    for bundle in (full, half):
        assert sorted(path.name for path in bundle.path.iterdir()) == sorted([CARD_FILE, ESTIMATOR, INTERACTION, HAND])
        assert bundle.card.architecture["interaction"]["width"] == CONFIG.interaction.width
        np.testing.assert_array_equal(bundle.hand.v_template, hand.v_template)
    for name in (ESTIMATOR, INTERACTION):
        single, mixed = _weights(full.path / name), _weights(half.path / name)
        assert onnx.TensorProto.FLOAT16 not in single
        # Vectors stay as they are: 2 % of the weights, and biases of the small layers.
        assert sum(mixed.values()) < 0.6 * sum(single.values())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    crops = np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3), dtype=np.uint8)
    looks = [HaMuCoNetworks(one, "f32").look(crops, np.full(4, 0.2)) for one in (full, half)]
    difference = np.abs(looks[0].hands.pixels - looks[1].hands.pixels).max()
    assert 0 < difference < HALF


def test_a_network_in_training_is_exported_as_it_would_be_used(tmp_path: Path) -> None:
    """Dropout, hidden views and batch statistics would show at once; the mode and the weights are left as they were."""
    network = small_network().train()
    write_bundle(network, load_hand_model(), CARD, tmp_path / "bundle", half=False)
    assert network.training
    assert network.interaction.training
    bundle = HaMuCoNetworks(load_bundle(tmp_path / "bundle"), "f32")
    images = np.random.default_rng(1).integers(0, 256, (1, 5, 64, 64, 3), dtype=np.uint8)
    with torch.no_grad():
        views = Views(torch.tensor(images), torch.ones(1, 5, dtype=torch.bool), torch.full((1, 5), 0.2))
        expected = network.eval()(views).refined
    refined = bundle.refine(bundle.look(images[0], np.full(5, 0.2)), np.arange(5)[None])
    np.testing.assert_allclose(refined.joints, expected.joints, rtol=0, atol=export.PARITY)
    np.testing.assert_allclose(refined.pixels, expected.pixels, rtol=0, atol=export.PARITY)


@pytest.mark.parametrize("name", [ESTIMATOR, INTERACTION])
def test_graphs_that_differ_leave_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    store = export._store_half

    def wrong(path: Path) -> None:
        store(path)
        if path.name == name:
            model = onnx.load(path)
            bias = max(model.graph.initializer, key=lambda one: (one.name.endswith("head.2.bias"), one.name))
            assert bias.name.endswith("head.2.bias")
            values = onnx.numpy_helper.to_array(bias) + np.float32(0.001)
            bias.CopyFrom(onnx.numpy_helper.from_array(values, bias.name))
            onnx.save(model, path)

    monkeypatch.setattr(export, "_store_half", wrong)
    with pytest.raises(ExportError, match=rf"{name} differs from its network by 0.00\d+ in \w+, 0.0001 is allowed"):
        write_bundle(small_network(), load_hand_model(), CARD, tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "mine").touch()
    with pytest.raises(RecordingError, match="exists and is not an empty folder"):
        write_bundle(small_network(), load_hand_model(), CARD, tmp_path / "bundle")


@pytest.mark.parametrize("room", [1000, 100_000])
def test_a_full_disk_leaves_no_bundle(room: int, tmp_path: Path) -> None:
    with (
        room_for(room),
        pytest.raises(OSError, match=r"bundle cannot be written \(File too large\): nothing is left of it; make room"),
    ):
        write_bundle(small_network(), load_hand_model(), CARD, tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_becomes_a_bundle_that_says_where_it_comes_from(tmp_path: Path) -> None:
    config = small_config(tmp_path / "crops")
    network = HaMuCo(config.model, load_hand_model())
    state = Checkpoint(
        1234, 1, config_values(config), network.state_dict(), {}, {}, 8.25, load_hand_model().name, written_by()
    )
    save_checkpoint(tmp_path / "best.pt", state)
    bundle = export_checkpoint(tmp_path / "best.pt", tmp_path / "bundle", "mine", "CC0")
    assert bundle.card.name == "mine"
    assert bundle.card.image_size == 64
    assert bundle.card.training_data == "crops crops; 1234 steps of 4 hands in 2 views"
    said = "MPJPE (root-relative) of the fused hand 8.25 mm at its best until step 1234, on 4 hands of the validation"
    assert bundle.card.accuracy == f"{said} (crops crops)"
    assert bundle.card.licence == "CC0"
    first_stage = small_config(
        tmp_path / "crops", loss={"weights": dict.fromkeys(("refined_pixels", "consistency"), 0.0)}
    )
    weights = replace(first_stage.loss.weights, distillation=0.0, refined_pose_prior=0.0)
    first_stage = replace(first_stage, loss=replace(first_stage.loss, weights=weights))
    save_checkpoint(tmp_path / "first.pt", replace(state, config=config_values(first_stage)))
    with pytest.raises(
        ExportError, match=r"its cross-view network has learnt nothing.*--set start.estimator=.*first\.pt"
    ):
        export_checkpoint(tmp_path / "first.pt", tmp_path / "another", "mine", "CC0")
    save_checkpoint(tmp_path / "other.pt", replace(state, hand_model="MANO"))
    with pytest.raises(CheckpointError, match="was trained with the hand 'MANO'"):
        export_checkpoint(tmp_path / "other.pt", tmp_path / "another", "mine", "CC0")
    assert not (tmp_path / "another").exists()
