"""The two real clips that the benchmarks measure, imported or decoded."""

from __future__ import annotations

import os
from pathlib import Path

from hamuco.capture.frame import FrameSet
from hamuco.capture.recording import Recording
from hamuco.training.datasets.footage import Clip, decode, planned_sets

DATA = Path(os.environ.get("HAMUCO_DATA", Path(__file__).parents[2] / "shared" / "data"))


def make_recording(clip: Clip, out: Path) -> Recording:
    """Import the clip; an error names what is absent."""
    try:
        return clip.make_recording(DATA / clip.folder, out)
    except FileNotFoundError as error:
        raise SystemExit(f"{error}; set HAMUCO_DATA to the folder that has {clip.folder}") from error


def decoded_sets(recording: Recording) -> list[FrameSet]:
    """All frame sets of a recording, with their images in memory: for timings without decoding."""
    return list(decode(recording, planned_sets(recording)))
