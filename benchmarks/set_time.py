"""Time per frame set without decoding, stage by stage; with --mediapipe side by side with MediaPipe Hands.

    python benchmarks/set_time.py [--mediapipe PYTHON]

PYTHON is the interpreter of an environment that has mediapipe; `make bench-mediapipe` makes one. Both programs see the
same decoded frames, in turns, and each round starts with fresh state, so that both have to find the hands first.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from footage import decoded_sets, make_recording
from rich.console import Console
from rich.table import Table

from hamuco.app.report import machine_name
from hamuco.calibration.camera import Rig
from hamuco.capture.frame import FrameSet
from hamuco.capture.synchronizer import Synchronizer
from hamuco.fusion.pipeline import Pipeline
from hamuco.streaming.publisher import Publisher
from hamuco.streaming.subscriber import HamucoSubscriber
from hamuco.training.datasets.footage import FOUR_CAMERAS

ROUNDS = 5
WORKER = Path(__file__).with_name("mediapipe_worker.py")


def one_round(rig: Rig, sets: Sequence[FrameSet], publisher: Publisher) -> dict[str, list[float]]:
    """Milliseconds of each stage, set by set."""
    pipeline, synchronizer = Pipeline(rig), Synchronizer(rig.names)
    stages: dict[str, list[float]] = defaultdict(list)
    for recorded in sets:
        start = time.perf_counter()
        for frame in recorded.frames.values():
            synchronizer.push(frame)
        synchronized = time.perf_counter()
        result = pipeline.process(recorded)
        processed = time.perf_counter()
        publisher.publish(result.hand_set)
        published = time.perf_counter()
        pipeline.prepare(recorded)
        prepared = time.perf_counter()
        own = {
            "synchronize": synchronized - start,
            "publish": published - processed,
            "prepare (after publishing)": prepared - published,
        }
        times = dict(result.hand_set.stage_ms) | {stage: 1e3 * seconds for stage, seconds in own.items()}
        for stage, milliseconds in times.items():
            stages[stage].append(milliseconds)
        stages["overhead: synchronize + fuse + publish"].append(times["synchronize"] + times["fuse"] + times["publish"])
        stages["total"].append(1e3 * (prepared - start))
    return stages


def mediapipe_round(python: str, videos: Sequence[Path]) -> list[float]:
    """Milliseconds of MediaPipe Hands, set by set."""
    command = [python, str(WORKER), *map(str, videos)]
    result = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    times: list[float] = json.loads(result.stdout.splitlines()[-1])
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--mediapipe", metavar="PYTHON")
    python = parser.parse_args().mediapipe
    stages: dict[str, list[float]] = defaultdict(list)
    theirs: list[float] = []
    ratios: list[float] = []
    with (
        tempfile.TemporaryDirectory() as folder,
        Publisher("tcp://127.0.0.1:*") as publisher,
        HamucoSubscriber(publisher.endpoint),
    ):
        recording = make_recording(FOUR_CAMERAS, Path(folder) / "recording")
        sets = decoded_sets(recording)
        runtime = Pipeline(recording.rig).estimator.runtime
        for index in range(ROUNDS + 1):
            ours = one_round(recording.rig, sets, publisher)
            if python is not None:
                other = mediapipe_round(python, [recording.videos[name] for name in recording.rig.names])
            if index == 0:
                continue  # warm-up
            for stage, values in ours.items():
                stages[stage] += values
            if python is not None:
                theirs += other
                ratios.append(float(np.median(other) / np.median(ours["total"])))

    table = Table("stage, ms per set", "p50", "p99", "max")
    for stage, values in [*stages.items(), *([("MediaPipe Hands, total", theirs)] if theirs else [])]:
        table.add_row(stage, *(f"{value:.2f}" for value in (*np.percentile(values, (50, 99)), max(values))))
    Console(width=100).print(table)
    print(f"{len(sets)} sets of 4 cameras, two hands, {ROUNDS} rounds; {machine_name()}; {runtime}")
    if ratios:
        rounds = ", ".join(f"{ratio:.2f}" for ratio in ratios)
        print(f"MediaPipe Hands takes {np.median(ratios):.2f} times as long (rounds: {rounds}); target: 3 or more")


if __name__ == "__main__":
    main()
