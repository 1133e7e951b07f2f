"""The two real clips that the benchmarks measure, and how to import them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from hamuco.calibration.formats import import_rig
from hamuco.capture.frame import Frame, FrameSet
from hamuco.capture.importing import expand_template, import_recording
from hamuco.capture.recording import Recording
from hamuco.capture.replay import replay_configs
from hamuco.capture.source import read
from hamuco.capture.synchronizer import Synchronizer

DATA = Path(os.environ.get("HAMUCO_DATA", Path(__file__).parents[2] / "shared" / "data"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """Foreign footage in a folder of the test data."""

    folder: str
    calibration: str
    video: str
    timestamps: str | None = None
    fps: float | None = None
    unit_m: float | None = None
    size: tuple[int, int] | None = None

    def make_recording(self, out: Path) -> Recording:
        """Import the clip; an error names what is absent."""
        folder = DATA / self.folder
        if not folder.is_dir():
            raise SystemExit(f"no footage in {folder}; set HAMUCO_DATA to the folder that has {self.folder}")
        rig = import_rig(folder / self.calibration, self.unit_m, self.size)
        timestamps = None if self.timestamps is None else folder / self.timestamps
        return import_recording(out, rig, expand_template(str(folder / self.video), rig.names), timestamps, self.fps)


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


def decoded_sets(recording: Recording) -> list[FrameSet]:
    """All frame sets of a recording, with their images in memory: for timings without decoding."""
    synchronizer = Synchronizer(recording.rig.names)
    frames: list[Frame] = []
    for config in replay_configs(recording, "fast"):
        source = config.create()
        source.open()
        while (frame := read(source, config)) is not None:
            frames.append(frame)
        source.close()
    sets = []
    for frame in sorted(frames, key=lambda frame: frame.t_capture_ns):
        sets += synchronizer.push(frame)
    return sets + synchronizer.flush()
