"""`hamuco bench accuracy`: how far estimated hands are from true ones; without truth, from a view that was left out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from rich.console import Console

from hamuco.app.accuracy_tables import LIVE, Run, print_run, save_run
from hamuco.app.datasets import open_dataset
from hamuco.app.left_out_tables import FILES as LEFT_OUT_FILES
from hamuco.app.left_out_tables import print_left_out, save_left_out
from hamuco.app.report import machine_name
from hamuco.app.truth_monitor import TruthMonitor
from hamuco.calibration.camera import Rig
from hamuco.capture.recording import Recording
from hamuco.engine.bundle import Bundle
from hamuco.engine.hamuco import HaMuCoNetworks
from hamuco.fusion.pipeline import Pipeline
from hamuco.training.accuracy_plots import PlotError, draw_plots
from hamuco.training.datasets.footage import decode
from hamuco.training.datasets.recorded import Recorded
from hamuco.training.evaluation import (
    Evaluation,
    EvaluationError,
    LandmarkObserver,
    Progress,
    evaluate,
    possible_views,
    seen_by,
)
from hamuco.training.hamuco_methods import HaMuCo, HaMuCoMethods
from hamuco.training.leave_one_out import LeaveOneOutError, check_cameras, leave_one_out
from hamuco.training.methods import Method, default_methods
from hamuco.training.synthetic.truth import TRUTH_FILE
from hamuco.training.tally import METRIC, PROTOCOLS, Estimate, Scores, Tally, TruePose


@dataclass(frozen=True, slots=True)
class AccuracyOptions:
    """What to measure and where to put it.

    Attributes:
        out: folder for tables and plots; made where it is not there.
        protocol: one of `PROTOCOLS`; None for metric.
        live: for recordings with truth, also run the live pipeline; None for yes.
        limit: only so many moments of each data set, from the first.
        views: only these numbers of them; None for all.
        model: gives trained networks to measure besides. It is called when all data are open, since a checkpoint is
            exported first, which takes a while.

    Raises:
        ValueError: on construction, for an unknown protocol.
    """

    out: Path
    protocol: str | None = None
    live: bool | None = None
    limit: int | None = None
    views: tuple[int, ...] | None = None
    model: Callable[[], Bundle] | None = None

    def __post_init__(self) -> None:
        if self.protocol is not None and self.protocol not in PROTOCOLS:
            raise ValueError(f"protocol {self.protocol!r} is not known; choose one of {', '.join(PROTOCOLS)}")

    @property
    def for_truth(self) -> list[str]:
        """Those that were given and say something of data with truth only, as on the command line."""
        live = "--live" if self.live else "--no-live"
        given = {"--protocol": self.protocol, live: self.live, "--views": self.views}
        return [name for name, value in given.items() if value is not None]


def bench_accuracy(
    recordings: Sequence[Path],
    datasets: Sequence[tuple[str, Path]],
    options: AccuracyOptions,
    console: Console,
    progress: Callable[[str], AbstractContextManager[Progress]],
) -> Run:
    """Evaluate, print tables per data set, and save them, with plots of those that have truth.

    Recordings without truth are measured by leaving one view out: `hamuco.training.leave_one_out`.

    Args:
        recordings: folders, with truth or without.
        datasets: (name or name:split, folder) each.
        options: see there.
        console: for the tables.
        progress: makes a progress bar of a name.

    Raises:
        ValueError: nothing to measure, an unknown name, or data that cannot be measured; the message says which. What is
            only seen while measuring is said of the data that it is true of, and raised when all else is saved.
        OSError: a file cannot be read or written.
    """
    protocol = PROTOCOLS[options.protocol or METRIC.name]
    # All are opened before the first is measured, which takes minutes.
    opened = [*(_open_recording(path) for path in recordings), *(open_dataset(*one) for one in datasets)]
    if not opened:
        raise ValueError("nothing to measure: give recordings (make one with hamuco synth) or a --dataset")
    say = partial(console.print, highlight=False, markup=False)
    if (unused := options.for_truth) and all(isinstance(one, Recording) for one in opened):
        say(f"not used, for lack of truth: {', '.join(unused)}")
    least = [*(method.min_views for method in default_methods()), *([HaMuCo.min_views] if options.model else [])]
    for dataset in opened:
        if options.views is None or isinstance(dataset, Recording):
            continue
        if (sample := next((one for one in dataset if one.hands), None)) is not None:  # else `evaluate` says so
            possible_views(dataset, sample, min(least), options.views, say)
    bundle = None if options.model is None else options.model()
    observer = LandmarkObserver()
    runtime, trained = observer.runtime, None
    if bundle is not None:
        trained = HaMuCoMethods(HaMuCoNetworks(bundle))
        runtime += f"; {bundle.card.name}: {trained.networks.runtime}, trained on {bundle.card.training_data}"

    def make_methods() -> list[Method]:
        return [*default_methods(), *(trained() if trained is not None else ())]

    evaluations, left_out, failed = [], [], []
    for dataset in opened:
        name = dataset.path.resolve().name if isinstance(dataset, Recording) else dataset.name
        try:
            if isinstance(dataset, Recording):
                with progress(f"{name}, one view left out") as tell:
                    left_out.append(leave_one_out(dataset, make_methods, options.limit, tell))
                continue
            with progress(name) as tell:
                evaluation = evaluate(dataset, observer, make_methods, protocol, options.limit, tell, options.views)
            if options.live is not False and isinstance(dataset, Recorded):
                live = _live_scores(dataset, evaluation, bundle, options.limit, progress)
                evaluation = replace(evaluation, scores={**evaluation.scores, **live})
            evaluations.append(evaluation)
        except (EvaluationError, LeaveOneOutError) as error:
            if len(opened) == 1:
                raise
            say(str(error))
            failed.append(name)
    run = Run(tuple(evaluations), machine_name(), runtime, tuple(left_out))
    if len(failed) < len(opened):
        print_run(run, console)
        for one in run.left_out:
            print_left_out(one, console)
        files = _save(run, options.out, say)
        say(f"saved in {options.out}: {', '.join(files)}")
    if failed:
        raise ValueError(f"not measured, for what is said above: {', '.join(failed)}")
    return run


def _save(run: Run, out: Path, say: Callable[[str], None]) -> list[str]:
    """All tables, and plots where they can be drawn; names of what was written."""
    out.mkdir(parents=True, exist_ok=True)
    files: list[str] = []
    if run.evaluations:
        try:
            plots = [draw_plots(evaluation, out) for evaluation in run.evaluations]
        except PlotError as error:
            say(f"no plots: {error}")
            plots = [[] for _ in run.evaluations]
        save_run(run, plots, out)
        files += ["accuracy.md", "accuracy.csv", "accuracy.json", f"{sum(map(len, plots))} plots"]
    if run.left_out:
        save_left_out(run.left_out, run.machine, run.runtime, out)
        files += LEFT_OUT_FILES
    return files


def _open_recording(path: Path) -> Recorded | Recording:
    """With its truth, or without. Raises as `Recorded` and `Recording.open`; LeaveOneOutError for too few cameras."""
    if (path / TRUTH_FILE).is_file():
        return Recorded(path)
    recording = Recording.open(path)
    check_cameras(recording)
    return recording


def _live_scores(
    dataset: Recorded,
    evaluation: Evaluation,
    bundle: Bundle | None,
    limit: int | None,
    progress: Callable[[str], AbstractContextManager[Progress]],
) -> dict[tuple[str, int], Scores]:
    """The live pipeline on the moments of an evaluation with its subsets of cameras, a fresh one for each subset."""
    scores = {}
    methods: dict[str, Bundle | None] = {LIVE: None}
    if bundle is not None:
        methods[f"live with {bundle.card.name}"] = bundle
    for method, networks in methods.items():
        # Tracking triangulates.
        for views in (views for views in evaluation.subsets if views >= 2):
            tally = Tally(evaluation.protocol, views)
            for run, names in enumerate(evaluation.subsets[views]):
                rig = Rig(tuple(dataset.recording.rig[name] for name in names))
                pipeline = Pipeline(rig, dataset.model, vertices=True, bundle=networks)
                with progress(f"{dataset.name} {method.split(' (')[0]}, {', '.join(names)}") as tell:
                    _track(dataset, pipeline, tally, run, limit, tell)
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
