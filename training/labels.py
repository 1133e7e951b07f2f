"""Labels of a recording: where the joints of each hand are in the images, and how sure that is.

They lie in the recording's folder as `labels/<who made them>.npz`, one row per hand and view:

    set_id      (N,)       number of the frame set, as the synchronizer counts them
    camera      (N,)       number of the camera in the rig
    side        (N,)       0: a right hand, 1: a left one
    track       (N,)       rows of one set with the same track show the same hand
    pixels      (N, 21, 2) float32, px of the camera's image; NaN where nothing is known
    confidence  (N, 21)    float32, 0 to 1

and in single numbers and words: source (who made them), cameras (their names), sets (of the recording) and recording
(a fingerprint of its capture times). Confidence 0 with pixels says only where about the hand is: a view that does not
see it well is worth training on, but teaches nothing by its labels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hamuco.capture.recording import Recording
from hamuco.fusion.hand import Side
from hamuco.training.npz_file import load_arrays, save_arrays

SIDES: tuple[Side, Side] = ("right", "left")

_ADVICE = "remove it and make the labels again with `hamuco label`"
_ROWS: dict[str, type] = {
    "set_id": np.integer,
    "camera": np.integer,
    "side": np.integer,
    "track": np.integer,
    "pixels": np.floating,
    "confidence": np.floating,
}


class LabelsError(ValueError):
    """Labels that contradict themselves, or belong to another recording."""


@dataclass(frozen=True, slots=True, eq=False)
class Labels:
    """See above. Rows are in the order of set, track and camera."""

    source: str
    recording: str
    cameras: tuple[str, ...]
    sets: int
    set_id: NDArray[np.int64]
    camera: NDArray[np.int32]
    side: NDArray[np.int8]
    track: NDArray[np.int32]
    pixels: NDArray[np.float32]
    confidence: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.set_id)

    @property
    def seen(self) -> NDArray[np.bool_]:
        """(N,) where a view does see the hand: some joint has a confidence."""
        return np.asarray((self.confidence > 0).any(axis=1))

    def hands(self) -> Iterator[slice]:
        """The rows of each hand of each set."""
        changes = np.flatnonzero((np.diff(self.set_id) != 0) | (np.diff(self.track) != 0)) + 1
        edges = [0, *changes.tolist(), len(self)] if len(self) else [0]
        for start, stop in pairwise(edges):
            yield slice(start, stop)

    def save(self, path: Path) -> None:
        """Write the file, whole or not at all. Raises OSError where that cannot be."""
        arrays = {field.name: np.asarray(getattr(self, field.name)) for field in fields(self)}
        save_arrays(path, arrays)

    @staticmethod
    def load(path: Path) -> Labels:
        """Read a file.

        Raises:
            LabelsError: what it says cannot be.
            ArrayFileError: it is damaged.
            FileNotFoundError: there is no such file.
        """
        named: dict[str, type] = {"source": np.str_, "recording": np.str_, "cameras": np.str_, "sets": np.integer}
        stored = load_arrays(path, named | _ROWS, _ADVICE)
        rows = len(stored["set_id"]) if stored["set_id"].ndim == 1 else -1
        shapes = {"pixels": (rows, 21, 2), "confidence": (rows, 21)}
        for name in _ROWS:
            if stored[name].shape != shapes.get(name, (rows,)):
                raise LabelsError(f"{path}: {name} has shape {stored[name].shape}, set_id {rows} rows: {_ADVICE}")
        cameras = tuple(str(name) for name in np.atleast_1d(stored["cameras"]))
        sets = int(stored["sets"])
        if rows:
            for name, limit in (("set_id", sets), ("camera", len(cameras)), ("side", len(SIDES))):
                low, high = int(stored[name].min()), int(stored[name].max())
                if low < 0 or high >= limit:
                    raise LabelsError(f"{path}: {name} is {low} to {high}, expected 0 to {limit - 1}: {_ADVICE}")
            if not (stored["confidence"].min() >= 0 and stored["confidence"].max() <= 1):
                raise LabelsError(f"{path}: there are confidences outside of 0 to 1: {_ADVICE}")
        texts = str(stored["source"]), str(stored["recording"])
        return Labels(*texts, cameras, sets, *(stored[name] for name in _ROWS))

    def check(self, recording: Recording) -> None:
        """Raise LabelsError unless these are labels of this recording."""
        if self.cameras != recording.rig.names or self.recording != fingerprint(recording):
            raise LabelsError(
                f"the labels by {self.source} are not of {recording.path}: they are of cameras "
                f"{', '.join(self.cameras)} and {self.sets} sets, or the recording's times were changed since; make its own "
                f"with `hamuco label {recording.path}`"
            )


@dataclass(frozen=True, slots=True, eq=False)
class Label:
    """One row: the names and meanings of `Labels`."""

    set_id: int
    camera: int
    side: int
    track: int
    pixels: NDArray[np.floating]
    confidence: NDArray[np.floating]


def collect(source: str, recording: Recording, sets: int, rows: Sequence[Label]) -> Labels:
    """Labels of a recording with that many sets, from rows in any order."""
    ordered = sorted(rows, key=lambda row: (row.set_id, row.track, row.camera))
    return Labels(
        source,
        fingerprint(recording),
        recording.rig.names,
        sets,
        np.array([row.set_id for row in ordered], np.int64),
        np.array([row.camera for row in ordered], np.int32),
        np.array([row.side for row in ordered], np.int8),
        np.array([row.track for row in ordered], np.int32),
        np.array([row.pixels for row in ordered], np.float32).reshape(-1, 21, 2),
        np.array([row.confidence for row in ordered], np.float32).reshape(-1, 21),
    )


def fingerprint(recording: Recording) -> str:
    """Of the capture times, which say which frames form a set."""
    return hashlib.sha256((recording.path / "timestamps.csv").read_bytes()).hexdigest()[:16]


def labels_of(recording: Recording, name: str) -> Labels:
    """The labels of a recording that have this name.

    Raises:
        FileNotFoundError: there are none.
        LabelsError, ArrayFileError: they are damaged, or of another recording.
    """
    file = labels_path(recording, name)
    if not file.is_file():
        others = sorted(one.stem for one in file.parent.glob("*.npz"))
        there = f", but {', '.join(others)}: take those with --set sources.0.labels={others[0]}, or" if others else ":"
        raise FileNotFoundError(
            f"{recording.path} has no labels named {name}{there} make them with "
            f"`hamuco label {recording.path}{' --openpose FOLDER' if name == 'openpose' else ''}`"
        )
    labels = Labels.load(file)
    labels.check(recording)
    return labels


def labels_path(recording: Recording, name: str) -> Path:
    """Where the labels of a recording lie that have this name, such as "landmarks"."""
    return recording.path / "labels" / f"{name}.npz"
