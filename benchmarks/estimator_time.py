"""Time of what makes joints out of crops: HaMuCo's networks and the hand model, beside the landmark network.

    python benchmarks/estimator_time.py [BUNDLE] [--rounds N]

The crops are those of two hands that four cameras see, of real footage: 8 in every set. Both run in turns, set by set,
after all was run once. HaMuCo gives refined parameters of every view, and the vertices of both hands; the landmark network
landmarks in every view, without any mesh. Sampling crops out of the images, which both need, and fusion, which live tracking
replaces by its fit, have rows of their own.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
from footage import decoded_sets, make_recording
from rich.console import Console
from rich.progress import track
from rich.table import Table

from hamuco.app.chains import CPUChain, Scene
from hamuco.app.report import machine_name
from hamuco.capture.frame import FrameSet
from hamuco.engine.bundle import HAMUCO_S, load_bundle
from hamuco.engine.landmarks import LandmarkEstimator
from hamuco.engine.view_hand import Region
from hamuco.fusion.pipeline import Pipeline
from hamuco.training.datasets.footage import FOUR_CAMERAS

HANDS, VIEWS = 2, 4
OF_JOINTS = ("estimator", "interaction", "skinning")  # what takes the landmark network's place


def full_sets() -> list[tuple[FrameSet, tuple[tuple[Region, ...], ...]]]:
    """Frame sets of the four-camera clip in which every view sees both hands, and by hand where it was looked."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        recording = make_recording(FOUR_CAMERAS, Path(folder) / "clip")
        pipeline = Pipeline(recording.rig)
        for frame_set in track(decoded_sets(recording), "following hands"):
            observations = pipeline.process(frame_set).observations
            seen = tuple(tuple(view.region for view in one.views) for one in observations if one is not None)
            if [len(regions) for regions in seen] == [VIEWS] * HANDS:
                found.append((frame_set, seen))
            pipeline.prepare(frame_set)
    if not found:
        raise SystemExit(f"no set of {FOUR_CAMERAS.folder} has {HANDS} hands in {VIEWS} views")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("bundle", type=Path, nargs="?", default=HAMUCO_S, help="trained networks")
    parser.add_argument("--rounds", type=int, default=10)
    arguments = parser.parse_args()
    chain, landmarks = CPUChain(load_bundle(arguments.bundle)), LandmarkEstimator()
    sets = full_sets()
    seconds: dict[str, list[float]] = defaultdict(list)
    for turn in track(range(arguments.rounds + 1), "measuring"):
        for frame_set, hands in sets:
            images = {name: frame.image for name, frame in frame_set.frames.items()}
            stages = dict(zip(chain.stages, chain(Scene(images, hands)).seconds, strict=True))
            regions = [region for hand in hands for region in hand]
            crops = landmarks.crop(frame_set, regions)
            began = time.perf_counter()
            landmarks(frame_set, regions, crops)
            stages["landmark network"] = time.perf_counter() - began
            stages["HaMuCo: estimator, interaction, skinning"] = sum(stages[name] for name in OF_JOINTS)
            if turn:
                for name, value in stages.items():
                    seconds[name].append(value)
    table = Table("8 crops, ms", "p50", "p99", "max")
    for name, values in seconds.items():
        table.add_row(name, *(f"{1e3 * one:.2f}" for one in (*np.percentile(values, [50, 99]), max(values))))
    Console(width=100).print(table)
    print(f"{arguments.bundle.name} on {chain.name}; {landmarks.name} on {landmarks.runtime}")
    print(f"{len(sets)} sets, {arguments.rounds} rounds; load {os.getloadavg()[0]:.1f}; {machine_name()}")


if __name__ == "__main__":
    main()
