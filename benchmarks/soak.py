"""Does a long run stay the same? Tracks one clip over and over, back to back, and prints memory and what was learned.

python benchmarks/soak.py [MINUTES]
"""

from __future__ import annotations

import sys
import tempfile
import time
from dataclasses import replace
from itertools import count
from pathlib import Path

import numpy as np
from footage import decoded_sets, make_recording

from hamuco.app.report import Report
from hamuco.capture.frame import FrameSet
from hamuco.fusion.pipeline import Pipeline
from hamuco.streaming.publisher import Publisher
from hamuco.training.datasets.footage import FOUR_CAMERAS


def later(frame_set: FrameSet, set_id: int, by_ns: int) -> FrameSet:
    """The same images at another time."""
    frames = {name: replace(frame, t_capture_ns=frame.t_capture_ns + by_ns) for name, frame in frame_set.frames.items()}
    return replace(frame_set, set_id=set_id, frames=frames)


def resident_mb() -> float:
    """Memory of this process that is in use (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1024


def main() -> None:
    end = time.monotonic() + 60 * (float(sys.argv[1]) if len(sys.argv) > 1 else 2)
    with tempfile.TemporaryDirectory() as folder, Publisher("tcp://127.0.0.1:*") as publisher:
        recording = make_recording(FOUR_CAMERAS, Path(folder) / "recording")
        sets = decoded_sets(recording)
        pipeline = Pipeline(recording.rig)
        report = Report(recording.rig, pipeline.estimator.name, pipeline.estimator.runtime)
        period_ns = recording.duration_ns + 166_000_000
        for repetition in count():
            for index, frame_set in enumerate(sets):
                moved = later(frame_set, repetition * len(sets) + index, repetition * period_ns)
                result = pipeline.process(moved)
                publisher.publish(result.hand_set)
                pipeline.prepare(moved)
                report.add(result, result.hand_set.stage_ms)
            if repetition % 10 == 9:
                turns = {
                    name: round(float(np.rad2deg(np.linalg.norm(value[:3]))), 2)
                    for name, value in pipeline.tracker.refiner.corrections().items()
                }
                print(
                    f"{(repetition + 1) * len(sets)} sets: {resident_mb():.0f} MB, corrections {turns} degrees",
                    flush=True,
                )
            if time.monotonic() > end:
                break


if __name__ == "__main__":
    main()
