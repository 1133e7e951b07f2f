"""Time of what makes joints out of crops: HaMuCo's networks and the hand model, beside the landmark network.

    python benchmarks/estimator_time.py [BUNDLE] [--rounds N]

The crops are those of two hands that four cameras see, of real footage: 8 in every set. Sampling them out of the images
is left out on both sides. Both run in turns, set by set, after all was run once. HaMuCo gives refined parameters of every
view, and the vertices of both hands; the landmark network landmarks in every view, without any mesh. Apart from these is
what makes one hand of what the views say, alignment and RANSAC, which live tracking replaces by its fit.
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

from hamuco.app.report import machine_name
from hamuco.capture.frame import FrameSet
from hamuco.engine.bundle import HAMUCO_S, load_bundle
from hamuco.engine.hamuco import HaMuCoNetworks
from hamuco.engine.hamuco_views import right_crops
from hamuco.engine.landmarks import LandmarkEstimator
from hamuco.engine.skinning import forward
from hamuco.engine.view_hand import Region
from hamuco.fusion.mean_hand import mean_hands
from hamuco.fusion.pipeline import Pipeline
from hamuco.training.datasets.footage import FOUR_CAMERAS

HANDS, VIEWS = 2, 4
STAGES = ("estimator", "interaction", "skinning", "HaMuCo, these three", "one hand of its views", "landmark network")


def full_sets() -> list[tuple[FrameSet, list[list[Region]]]]:
    """Frame sets of the four-camera clip in which every view sees both hands, and by hand where it was looked."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        recording = make_recording(FOUR_CAMERAS, Path(folder) / "clip")
        pipeline = Pipeline(recording.rig)
        for frame_set in track(decoded_sets(recording), "following hands"):
            observations = pipeline.process(frame_set).observations
            seen = [[view.region for view in one.views] for one in observations if one is not None]
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
    networks, landmarks = HaMuCoNetworks(load_bundle(arguments.bundle)), LandmarkEstimator()
    sets = full_sets()
    places = np.arange(HANDS * VIEWS).reshape(HANDS, VIEWS)
    milliseconds: dict[str, list[float]] = defaultdict(list)
    for turn in track(range(arguments.rounds + 1), "measuring"):
        for frame_set, hands in sets:
            regions = [region for hand in hands for region in hand]
            images = {name: frame.image for name, frame in frame_set.frames.items()}
            half_angle = np.array([region.crop.half_angle for region in regions])
            crops = right_crops(images, regions, networks.image_size)
            landmark_crops = landmarks.crop(frame_set, regions)
            times = [time.perf_counter()]
            looks = networks.look(crops, half_angle)
            times.append(time.perf_counter())
            refined = networks.refine(looks, places)
            times.append(time.perf_counter())
            fused = mean_hands(networks.hand, refined, hands)
            times.append(time.perf_counter())
            for hand in fused:
                if hand is not None:
                    forward(networks.hand, hand.global_orient, hand.hand_pose, hand.betas, hand.transl)
            times.append(time.perf_counter())
            landmarks(frame_set, regions, landmark_crops)
            times.append(time.perf_counter())
            if turn:
                look, refine, fuse, skin, landmark = np.diff(times)
                stages = (look, refine, skin, look + refine + skin, fuse, landmark)
                for name, seconds in zip(STAGES, stages, strict=True):
                    milliseconds[name].append(1e3 * seconds)
    table = Table("8 crops, ms", "p50", "p99", "max")
    for name, values in milliseconds.items():
        table.add_row(name, *(f"{one:.2f}" for one in (*np.percentile(values, [50, 99]), max(values))))
    Console(width=100).print(table)
    print(f"{networks.name} on {networks.runtime}; {landmarks.name} on {landmarks.runtime}")
    print(f"{len(sets)} sets, {arguments.rounds} rounds; load {os.getloadavg()[0]:.1f}; {machine_name()}")


if __name__ == "__main__":
    main()
