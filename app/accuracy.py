"""`hamuco bench accuracy`: how far estimated hands are from true ones, on recordings with truth and on data sets."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from rich.console import Console

from hamuco.app.accuracy_tables import LIVE, Run, print_run, save_run
from hamuco.app.report import machine_name
from hamuco.app.truth_monitor import TruthMonitor
from hamuco.calibration.camera import Rig
from hamuco.engine.bundle import Bundle
from hamuco.engine.hamuco import HaMuCoNetworks
from hamuco.fusion.pipeline import Pipeline
from hamuco.training.accuracy_plots import PlotError, draw_plots
from hamuco.training.datasets.footage import decode
from hamuco.training.datasets.freihand import FreiHAND
from hamuco.training.datasets.hanco import HanCo
from hamuco.training.datasets.recorded import Recorded
from hamuco.training.datasets.sample import Dataset
from hamuco.training.evaluation import Evaluation, LandmarkObserver, Progress, evaluate, seen_by
from hamuco.training.hamuco_methods import HaMuCoMethods
from hamuco.training.methods import Method, default_methods
from hamuco.training.tally import PROTOCOLS, Estimate, Scores, Tally, TruePose

DATASETS: Mapping[str, Callable[..., Dataset]] = {"hanco": HanCo, "freihand": FreiHAND}
"""Data sets by the name on the command line; NAME:SPLIT chooses a split."""


@dataclass(frozen=True, slots=True)
class AccuracyOptions:
    """What to measure and where to put it.

    Attributes:
        out: folder for tables and plots; made where it is not there.
        protocol: one of `PROTOCOLS`.
        live: for recordings, also run the live pipeline.
        limit: only so many moments of each data set, from the first.
        views: only these numbers of them; None for all.
        bundle: trained networks to measure besides.

    Raises:
        ValueError: on construction, for an unknown protocol.
    """

    out: Path
    protocol: str = "metric"
    live: bool = True
    limit: int | None = None
    views: tuple[int, ...] | None = None
    bundle: Bundle | None = None

    def __post_init__(self) -> None:
        if self.protocol not in PROTOCOLS:
            raise ValueError(f"protocol {self.protocol!r} is not known; choose one of {', '.join(PROTOCOLS)}")


def bench_accuracy(
    recordings: Sequence[Path],
    datasets: Sequence[tuple[str, Path]],
    options: AccuracyOptions,
    console: Console,
    progress: Callable[[str], AbstractContextManager[Progress]],
) -> list[Evaluation]:
    """Evaluate, print one table per data set, and save accuracy.md, .csv and .json and the plots.

    Args:
        recordings: folders with truth.
        datasets: (name or name:split, folder) each.
        options: see there.
        console: for the tables.
        progress: makes a progress bar of a name.

    Raises:
        ValueError: nothing to measure, an unknown name, or data that cannot be measured; the message says which.
        OSError: a file cannot be read or written.
    """
    protocol = PROTOCOLS[options.protocol]
    # All are opened before the first is measured, which takes minutes.
    opened: list[Dataset] = [*(Recorded(path) for path in recordings), *(open_dataset(*one) for one in datasets)]
    if not opened:
        raise ValueError("nothing to measure: give recordings with truth (make one with hamuco synth) or a --dataset")
    _make_folder(options.out)
    observer = LandmarkObserver()
    runtime, trained = observer.runtime, None
    if (bundle := options.bundle) is not None:
        trained = HaMuCoMethods(HaMuCoNetworks(bundle))
        runtime += f"; {bundle.card.name}: {trained.networks.runtime}, trained on {bundle.card.training_data}"

    def make_methods() -> list[Method]:
        return [*default_methods(), *(trained() if trained is not None else ())]

    evaluations = []
    for dataset in opened:
        with progress(dataset.name) as tell:
            evaluation = evaluate(dataset, observer, make_methods, protocol, options.limit, tell, options.views)
        if options.live and isinstance(dataset, Recorded):
            live = _live_scores(dataset, evaluation.subsets, options, progress)
            evaluation = replace(evaluation, scores={**evaluation.scores, **live})
        evaluations.append(evaluation)
    run = Run(tuple(evaluations), machine_name(), runtime)
    print_run(run, console)
    try:
        plots = [draw_plots(evaluation, options.out) for evaluation in evaluations]
    except PlotError as error:
        console.print(f"no plots: {error}", highlight=False, markup=False)
        plots = [[] for _ in evaluations]
    save_run(run, plots, options.out)
    files = f"accuracy.md, accuracy.csv, accuracy.json, {sum(map(len, plots))} plots"
    console.print(f"saved in {options.out}: {files}", highlight=False, markup=False)
    return evaluations


def open_dataset(name: str, path: Path) -> Dataset:
    """A data set by its name on the command line.

    Raises:
        ValueError: no such data set, or the folder is not one; the message says what is there.
    """
    reader, split = dataset_reader(name)
    return reader(path, *([split] if split else []))


def dataset_reader(name: str) -> tuple[Callable[..., Dataset], str]:
    """What opens the folder of a data set, and the split, which may be empty. Raises ValueError for an unknown name."""
    known, _, split = name.partition(":")
    if known not in DATASETS:
        raise ValueError(f"data set {name!r} is not known; choose one of {', '.join(DATASETS)}")
    return DATASETS[known], split


def _make_folder(path: Path) -> None:
    """Before the minutes of work whose results go there."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(
            f"folder {path} for tables and plots cannot be made ({error.strerror}): choose another with --out"
        ) from error
    if not os.access(path, os.W_OK):
        raise OSError(f"folder {path} for tables and plots may not be written: choose another with --out")


def _live_scores(
    dataset: Recorded,
    subsets: Mapping[int, Sequence[Sequence[str]]],
    options: AccuracyOptions,
    progress: Callable[[str], AbstractContextManager[Progress]],
) -> dict[tuple[str, int], Scores]:
    """The live pipeline on the same moments with the same subsets of cameras, a fresh one for each subset."""
    scores = {}
    methods: dict[str, Bundle | None] = {LIVE: None}
    if options.bundle is not None:
        methods[f"live with {options.bundle.card.name}"] = options.bundle
    for method, bundle in methods.items():
        # Tracking triangulates.
        for views in (views for views in subsets if views >= 2):
            tally = Tally(PROTOCOLS[options.protocol], views)
            for run, names in enumerate(subsets[views]):
                rig = Rig(tuple(dataset.recording.rig[name] for name in names))
                pipeline = Pipeline(rig, dataset.model, vertices=True, bundle=bundle)
                with progress(f"{dataset.name} {method.split(' (')[0]}, {', '.join(names)}") as tell:
                    _track(dataset, pipeline, tally, run, options.limit, tell)
            scores[method, views] = tally.scores()
    return scores


def _track(
    dataset: Recorded, pipeline: Pipeline, tally: Tally, run: int, limit: int | None, progress: Progress
) -> None:
    """Detect, follow and smooth; hands are compared with the truth of the set's own capture time.

    What smoothing lags behind is an error, and sets before a hand was found count as hands without an estimate.
    """
    names = pipeline.tracker.rig.names
    first_ns = dataset.recording.first_ns
    monitor = TruthMonitor(dataset.truth, dataset.model, first_ns)
    sets = [
        replace(planned, frames={name: frame for name, frame in planned.frames.items() if name in names})
        for planned in dataset.sets[:limit]
    ]
    sets = [planned for planned in sets if planned.frames]
    for number, frame_set in enumerate(decode(dataset.recording, sets)):
        if not frame_set.frames:
            continue
        hand_set = pipeline.process(frame_set).hand_set
        matches = monitor.compare(hand_set, first_ns)
        if matches is not None:
            true_hands = dataset.hands_at(hand_set.t_capture_ns, frame_set)
            for index, (match, true) in enumerate(zip(matches, true_hands, strict=True)):
                estimate = None
                if (hand := match.hand) is not None:
                    vertices = None if hand.vertices is None else np.asarray(hand.vertices, np.float64)
                    estimate = Estimate(np.asarray(hand.joints, np.float64), vertices, hand.track_id, match.wrong_side)
                pose = TruePose(true.joints, true.vertices, hand_set.t_capture_ns, seen_by(true, names))
                tally.add((run, index), pose, estimate)
            tally.add_extra(len(hand_set.hands) - sum(match.hand is not None for match in matches))
        pipeline.prepare(frame_set)
        progress(number + 1, len(sets))
