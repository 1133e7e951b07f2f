"""Checkpoints: one file with all that a training needs to go on as if it had never stopped.

Everything random in a step is a function of the seed, the process and the step (see `trainer`), so no state of a random
generator is among it; nor is the learning rate, a function of the step.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from hamuco.training.config import difference
from hamuco.training.whole_file import write_whole

FORMAT = 1

RESUME = "make room on the disk and go on with --resume"
"""What to do where a file of a training cannot be written."""

_WHICH = "a checkpoint is the file best.pt or last.pt in the folder of a training"


class CheckpointError(ValueError):
    """A file that is no checkpoint, is damaged, or belongs to another training."""


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """
    Attributes:
        step: how many steps were made.
        processes: that trained together.
        config: of the training, as plain values.
        network, optimizer, scaler: state dicts; the scaler's is empty but for half precision.
        best: smallest figure so far of the one that decides; infinity before the first validation.
        hand_model: name of the hand that the network poses, whose numbers are not in the file.
        versions: of what wrote it, for whoever looks for a difference.
    """

    step: int
    processes: int
    config: dict[str, Any]
    network: dict[str, Any]
    optimizer: dict[str, Any]
    scaler: dict[str, Any]
    best: float
    hand_model: str
    versions: dict[str, str]


def written_by() -> dict[str, str]:
    """Versions of what matters to a training's numbers."""
    return {name: version(name) for name in ("hamuco", "torch", "numpy", "opencv-python-headless")}


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint. Until it is whole on the disk, what was at its place stays there. Raises OSError; see `save`."""
    save(path, {"format": FORMAT, **{one.name: getattr(checkpoint, one.name) for one in fields(Checkpoint)}})


def save(path: Path, values: Mapping[str, Any]) -> None:
    """Write tensors and plain values for torch.load: whole, or not at all.

    Raises:
        OSError: the disk is full, or the folder cannot be written.
    """
    memory = io.BytesIO()  # torch's own writer hides what the system says about a full disk
    torch.save(dict(values), memory)
    write_whole(path, memory.getbuffer(), RESUME)


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint; its tensors are on the CPU. Nothing in the file is executed.

    Raises:
        CheckpointError: the file is none, or is damaged.
        OSError: it cannot be read; FileNotFoundError: it is not there.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path} is not there; {_WHICH}")
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder; {_WHICH}")
    try:
        with zipfile.ZipFile(path) as archive:  # as which torch saves; it does not notice every changed byte itself
            if changed := archive.testzip():
                raise zipfile.BadZipFile(f"{changed} was changed")
        stored = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # a damaged file makes torch and zipfile stumble in all kinds of ways
        raise CheckpointError(
            f"{path} is not a whole checkpoint: its {path.stat().st_size} bytes were cut off or changed, or are another "
            "kind of file; take another checkpoint of this training, or train anew in another folder"
        ) from error
    names = [one.name for one in fields(Checkpoint)]
    if not isinstance(stored, Mapping) or "format" not in stored:
        raise CheckpointError(f"{path} is not a checkpoint of hamuco train")
    if stored["format"] != FORMAT or set(stored) != {"format", *names}:
        raise CheckpointError(
            f"{path} has format {stored['format']}, this version reads {FORMAT}; use the version that wrote it"
        )
    return Checkpoint(**{name: stored[name] for name in names})


def check_same_training(path: Path, checkpoint: Checkpoint, config: Mapping[str, Any], processes: int) -> None:
    """A training can only go on as it was.

    Args:
        path: of the checkpoint, for errors.
        checkpoint: the checkpoint.
        config: of the training that is to go on, as plain values.
        processes: that train together now.

    Raises:
        CheckpointError: names the first difference.
    """
    if found := difference(checkpoint.config, config):
        key, was, wanted = found
        raise CheckpointError(
            f"{path} is of another training: {key} was {_shown(was)} and is {_shown(wanted)} now. Take it back to resume; "
            f"or train anew, in another folder, with --set start.weights={path}"
        )
    if checkpoint.processes != processes:
        raise CheckpointError(
            f"{path} was trained by {checkpoint.processes} processes, these are {processes}: start as many as then"
        )


def _shown(value: Any) -> str:
    return "not set" if value is None else repr(value)
