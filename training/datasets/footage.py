"""Real footage: calibrated recordings of hands of which nobody knows the truth in 3D.

Its samples have no hands. What they tell is how well a result agrees with itself: the reprojection error, and where a
camera that was left out sees the hand.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from hamuco.calibration.camera import Rig
from hamuco.calibration.formats import import_rig
from hamuco.capture.frame import Frame, FrameSet
from hamuco.capture.importing import expand_template, import_recording
from hamuco.capture.recording import Recording
from hamuco.capture.replay import ReplayConfig, replay_configs
from hamuco.capture.source import read
from hamuco.capture.synchronizer import Synchronizer
from hamuco.training.datasets.files import DatasetError
from hamuco.training.datasets.sample import Sample

_NO_IMAGE = np.zeros((0, 0, 3), np.uint8)


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """Foreign footage: what to import from a folder, as for `hamuco import`.

    Attributes:
        folder: name of the folder, by which it is known.
    """

    folder: str
    calibration: str
    video: str
    timestamps: str | None = None
    fps: float | None = None
    unit_m: float | None = None
    size: tuple[int, int] | None = None

    def make_recording(self, folder: Path, out: Path) -> Recording:
        """Import the clip that lies in `folder`. Raises FileNotFoundError, CalibrationError or RecordingError."""
        if not folder.is_dir():
            raise FileNotFoundError(f"no footage in {folder}")
        rig = self._rig(folder)
        timestamps = None if self.timestamps is None else folder / self.timestamps
        return import_recording(out, rig, self._videos(folder, rig), timestamps, self.fps)

    def open(self, folder: Path) -> Recording:
        """The clip as a recording that plays the videos where they are; raises as `make_recording`."""
        with tempfile.TemporaryDirectory() as temporary:
            recording = self.make_recording(folder, Path(temporary) / "recording")
        return replace(recording, path=folder, videos=self._videos(folder, recording.rig))

    def _rig(self, folder: Path) -> Rig:
        return import_rig(folder / self.calibration, self.unit_m, self.size)

    def _videos(self, folder: Path, rig: Rig) -> dict[str, Path]:
        return expand_template(str(folder / self.video), rig.names)


FOUR_CAMERAS = Clip(
    folder="caliscope-4cam-hands",
    calibration="camera_array.toml",
    video="hands_cam_{camera}.mp4",
    timestamps="timestamps_hands.csv",
)
TWO_CAMERAS = Clip(
    folder="handpose3d-2cam",
    calibration="camera_parameters",
    video="cam{camera}_frames000-251.mp4",
    fps=30.0,
    unit_m=0.044,  # the clip's unit is a chessboard square of unrecorded size; 44 mm make the palm a usual one
    size=(720, 720),
)
CLIPS = {clip.folder: clip for clip in (FOUR_CAMERAS, TWO_CAMERAS)}


class Footage:
    """A recording, one sample per frame set: images and capture times, no hands."""

    has_truth = False
    joint_definition = "none: there is no truth in 3D"

    def __init__(self, path: Path) -> None:
        """
        Args:
            path: a recording, or a folder with one of `CLIPS`, known by its name.

        Raises:
            DatasetError: it is neither. What is wrong inside of one raises as in `Recording.open` and `Clip.open`.
        """
        if (path / "rig.toml").is_file():
            self._recording = Recording.open(path)
        elif path.is_dir() and path.name in CLIPS:
            self._recording = CLIPS[path.name].open(path)
        else:
            within = [name for name in CLIPS if (path / name).is_dir()]
            hint = (
                f"did you mean {' or '.join(str(path / name) for name in within)}?"
                if within
                else (
                    f"make a recording of other footage with `hamuco import`; without it, {' and '.join(CLIPS)} are known"
                )
            )
            raise DatasetError(f"{path} is neither a recording nor footage that is known: {hint}")
        self.name = f"footage {path.name}"
        self._folder = path.name
        self._sets = planned_sets(self._recording)

    def __len__(self) -> int:
        return len(self._sets)

    def __iter__(self) -> Iterator[Sample]:
        for planned, decoded in zip(self._sets, decode(self._recording, self._sets), strict=True):
            yield Sample(
                name=f"{self._folder}/{planned.set_id}",
                sequence=self._folder,
                t_ns=planned.t_capture_ns,
                cameras=self._recording.rig.cameras,
                images={name: frame.image for name, frame in decoded.frames.items()},
                hands=(),
            )


def planned_sets(recording: Recording) -> list[FrameSet]:
    """The frame sets of a recording by their times alone, with empty images."""
    frames = [
        Frame(name, row.frame, row.t_capture_ns, row.t_uncertainty_ns, row.t_capture_ns, row.t_device_ns, _NO_IMAGE)
        for name, rows in recording.frames.items()
        for row in rows
    ]
    synchronizer = Synchronizer(recording.rig.names)
    sets = []
    for frame in sorted(frames, key=lambda frame: frame.t_capture_ns):
        sets += synchronizer.push(frame)
    return sets + synchronizer.flush()


def decode(recording: Recording, sets: list[FrameSet]) -> Iterator[FrameSet]:
    """The same sets with their images, one at a time; a frame that does not decode is absent from its set."""
    readers = {config.camera: _frames(config) for config in replay_configs(recording, "fast")}
    heads = {name: next(reader, None) for name, reader in readers.items()}
    for planned in sets:
        frames = {}
        for name, wanted in planned.frames.items():
            while (head := heads[name]) is not None and head.sequence < wanted.sequence:
                heads[name] = next(readers[name], None)
            if head is not None and head.sequence == wanted.sequence:
                frames[name] = head
        yield replace(planned, frames=frames)


def _frames(config: ReplayConfig) -> Iterator[Frame]:
    """The frames of one camera that decode."""
    source = config.create()
    source.open()
    try:
        while (frame := read(source, config)) is not None:
            yield frame
    finally:
        source.close()
