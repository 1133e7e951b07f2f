"""Real footage without truth: what the other views say, seen from the view that was left out.

    python benchmarks/leave_one_out.py [BUNDLE] [RECORDING]      # hamuco-s on the clip of four cameras

Hands are followed by the default estimator. Of every fused hand that three views or more see, each view is left out in
turn: a method makes the hand from the others, its joints are projected into the view that was left out, and compared with
what the landmark network sees there. That network has seen nothing of the other views, nor has a method seen this one:
unlike in live reports, where refined views know of each other. The network's own error in the left-out view, and
offsets between calibration, cameras' clocks and definitions of joints, are in every figure alike.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import defaultdict
from pathlib import Path

import numpy as np
from footage import make_recording
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

from hamuco.capture.recording import Recording
from hamuco.engine.bundle import HAMUCO_S, load_bundle
from hamuco.engine.hamuco import HaMuCoNetworks
from hamuco.engine.hand_model import load_hand_model
from hamuco.fusion.observation import Observation
from hamuco.fusion.pipeline import Pipeline
from hamuco.training.datasets.footage import FOUR_CAMERAS, decode, planned_sets
from hamuco.training.hamuco_methods import HaMuCoMethods
from hamuco.training.methods import HandViews, Method, Ransac, TriangulationAndFit

FloatArray = NDArray[np.float64]


def left_out_errors(observation: Observation, hand: HandViews, methods: list[Method]) -> dict[str, list[FloatArray]]:
    """Distances (21,) px of each method's joints from what each left-out view sees; NaN where there is no hand."""
    errors: dict[str, list[FloatArray]] = defaultdict(list)
    for left_out in range(len(hand.views)):
        others = tuple(view for index, view in enumerate(hand.views) if index != left_out)
        for method in methods:
            estimate = method(HandViews(hand.sequence, hand.side, others, hand.images))
            joints = np.full((21, 3), np.nan) if estimate is None else estimate.joints
            errors[method.name].append(observation.errors_px(joints, left_out))
    return errors


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("bundle", type=Path, nargs="?", default=HAMUCO_S, help="trained networks")
    parser.add_argument("recording", type=Path, nargs="?", help="of three cameras or more")
    arguments = parser.parse_args()
    networks = HaMuCoMethods(HaMuCoNetworks(load_bundle(arguments.bundle)))
    errors: dict[str, list[FloatArray]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder:
        path = arguments.recording
        recording = make_recording(FOUR_CAMERAS, Path(folder) / "clip") if path is None else Recording.open(path)
        title = FOUR_CAMERAS.folder if path is None else path.name
        pipeline = Pipeline(recording.rig)
        # Of each hand, since shapes are measured over the first moments.
        methods: dict[str, list[Method]] = {}
        planned = planned_sets(recording)
        for frame_set in track(decode(recording, planned), title, len(planned)):
            result = pipeline.process(frame_set)
            images = {name: frame.image for name, frame in frame_set.frames.items()}
            for hand, observation in zip(result.hand_set.hands, result.observations, strict=True):
                if observation is None or len(observation.views) < 3:
                    continue
                own = methods.setdefault(hand.side, [Ransac(), TriangulationAndFit(load_hand_model()), *networks()])
                seen = HandViews("clip", hand.side, observation.views, images)
                for name, distances in left_out_errors(observation, seen, own).items():
                    errors[name] += distances
            pipeline.prepare(frame_set)
    table = Table("method", "median, px", "mean, px", "90 %, px", "hands in left-out views", title=title)
    for name, own_errors in errors.items():
        values = np.array(own_errors)
        known = np.asarray(np.isfinite(values).all(axis=1))
        median, high = np.percentile(values[known], [50, 90])
        table.add_row(
            name, f"{median:.2f}", f"{values[known].mean():.2f}", f"{high:.2f}", f"{known.sum()} of {len(known)}"
        )
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
