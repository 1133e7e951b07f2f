"""Checkpoints: whole or not there, and only for the training that they are of."""

from __future__ import annotations

import math
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from full_disk import room_for
from small_training import small_config

from hamuco.engine.hand_model import load_hand_model
from hamuco.training.checkpoint import (
    Checkpoint,
    CheckpointError,
    check_same_training,
    load_checkpoint,
    save,
    save_checkpoint,
    written_by,
)
from hamuco.training.config import TrainConfig, config_values
from hamuco.training.networks.hamuco import HaMuCo
from hamuco.training.npz_file import save_arrays
from hamuco.training.weights import Weights, load_network, take_weights

CONFIG = small_config(Path("crops"))


def made(config: TrainConfig = CONFIG, step: int = 3) -> Checkpoint:
    torch.manual_seed(0)
    network = HaMuCo(config.model, load_hand_model())
    optimizer = torch.optim.AdamW(network.parameters())
    return Checkpoint(
        step, 1, config_values(config), network.state_dict(), optimizer.state_dict(), {}, math.inf,
        load_hand_model().name, written_by(),
    )  # fmt: skip


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    checkpoint = made()
    save_checkpoint(tmp_path / "a.pt", checkpoint)
    found = load_checkpoint(tmp_path / "a.pt")
    for one in fields(Checkpoint):
        if one.name != "network":
            assert getattr(found, one.name) == getattr(checkpoint, one.name)
    assert found.network.keys() == checkpoint.network.keys()
    assert all(torch.equal(found.network[name], value) for name, value in checkpoint.network.items())
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt"]


def test_networks_come_back(tmp_path: Path) -> None:
    checkpoint = made()
    save_checkpoint(tmp_path / "a.pt", checkpoint)
    network, config = load_network(tmp_path / "a.pt")
    assert config == CONFIG
    assert not network.training
    assert all(torch.equal(value, checkpoint.network[name]) for name, value in network.state_dict().items())


def test_a_full_disk_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    with (
        room_for(100_000),
        pytest.raises(OSError, match=r"a\.pt cannot be written \(.*MB\): nothing is there; make room"),
    ):
        save_checkpoint(path, made())
    assert list(tmp_path.iterdir()) == []
    save_checkpoint(path, made(step=3))
    before = path.read_bytes()
    with (
        room_for(100_000),
        pytest.raises(OSError, match="what was there before is whole; make room on the disk and go on"),
    ):
        save_checkpoint(path, made(step=4))
    assert path.read_bytes() == before
    assert [one.name for one in tmp_path.iterdir()] == ["a.pt"]


def test_a_disk_that_is_full_at_the_last_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Some file systems say so only when they have to write in earnest.
    save(tmp_path / "a.pt", {"x": 1})

    def full(file: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match=r"No space left on device.*what was there before is whole"):
        save(tmp_path / "a.pt", {"x": 2})
    assert torch.load(tmp_path / "a.pt", weights_only=True) == {"x": 1}
    assert [one.name for one in tmp_path.iterdir()] == ["a.pt"]


def test_other_files_are_told_from_checkpoints(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    with pytest.raises(FileNotFoundError, match=r"a\.pt is not there; .* best\.pt or last\.pt in the folder"):
        load_checkpoint(path)
    with pytest.raises(CheckpointError, match=r"is a folder; .* best\.pt or last\.pt in the folder of a training"):
        load_checkpoint(tmp_path)
    save_checkpoint(path, made())
    whole = path.read_bytes()
    middle = len(whole) // 2
    changed = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
    save_arrays(path, {"x": np.zeros(3)})  # a zip file, as checkpoints are
    arrays = path.read_bytes()
    # Text that starts like a pickle makes the unpickler stumble in ways of its own.
    for content in (
        b"",
        b"nothing of the kind",
        b"steps = 4\nbatch = 2\n",
        whole[:middle],
        whole[:-1],
        changed,
        arrays,
    ):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"a\.pt is not a whole checkpoint: .*take another") as caught:
            load_checkpoint(path)
        assert f"its {len(content)} bytes" in str(caught.value)
    save(path, {"conv1.weight": torch.zeros(3)})
    with pytest.raises(CheckpointError, match="is not a checkpoint of hamuco train"):
        load_checkpoint(path)
    save(path, {"format": 99})
    with pytest.raises(CheckpointError, match="has format 99, this version reads 1"):
        load_checkpoint(path)


def test_nothing_in_a_file_is_executed(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return (tmp_path / "sprung").touch, ()

    torch.save({"format": 1, "network": Trap()}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="is not a whole checkpoint"):
        load_checkpoint(tmp_path / "a.pt")
    assert not (tmp_path / "sprung").exists()


def test_another_training_cannot_go_on() -> None:
    path, checkpoint = Path("a.pt"), made()
    check_same_training(path, checkpoint, config_values(CONFIG), 1)
    elsewhere = small_config(Path("crops"), run={"workers": 3, "threads": 2})
    check_same_training(path, checkpoint, config_values(elsewhere), 1)
    faster = small_config(Path("crops"), learning_rate=1e-2, augmentation={"blur": 0.0})
    with pytest.raises(CheckpointError, match=r"of another training: learning_rate was 0.0003 and is 0.01 now"):
        check_same_training(path, checkpoint, config_values(faster), 1)
    more = small_config(Path("crops"), sources=[{"crops": "crops"}, {"crops": "others"}])
    with pytest.raises(CheckpointError, match=r"sources\.1\.crops was not set and is 'others' now"):
        check_same_training(path, checkpoint, config_values(more), 1)
    with pytest.raises(CheckpointError, match="was trained by 1 processes, these are 2"):
        check_same_training(path, checkpoint, config_values(CONFIG), 2)


def test_weights_of_other_networks_do_not_fit() -> None:
    other = small_config(Path("crops"), model={"estimator": {"head_width": 48}})
    network = HaMuCo(other.model, load_hand_model())
    with pytest.raises(
        CheckpointError, match=r"a\.pt does not fit this network.*size mismatch for estimator\.pose_head"
    ):
        take_weights(network, Weights(Path("a.pt"), made().hand_model, made().network), load_hand_model())
    with pytest.raises(CheckpointError, match=r"Missing key.* \.\.\. Take them over") as caught:
        take_weights(network, Weights(Path("a.pt"), made().hand_model, {}), load_hand_model())
    assert len(str(caught.value)) < 400  # of some hundred names
    with pytest.raises(CheckpointError, match=r"trained with the hand 'another', not"):
        take_weights(network, Weights(Path("a.pt"), "another", made().network), load_hand_model())
