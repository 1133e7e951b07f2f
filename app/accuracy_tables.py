"""Accuracy as tables: on the terminal, as Markdown for a report, as CSV and JSON for programs."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from hamuco.app.truth_monitor import FARTHEST
from hamuco.fusion.hand import JOINT_NAMES
from hamuco.training.accuracy_plots import UNSAVED
from hamuco.training.evaluation import ESTIMATOR_JOINTS, Evaluation
from hamuco.training.hamuco_methods import NOTE
from hamuco.training.leave_one_out import LeftOut
from hamuco.training.tally import HAMUCO, PCK_THRESHOLDS_M, REST_SPEED, Scores
from hamuco.training.whole_file import write_whole

LIVE = "live (tracked, smoothed)"
"""The row of the live pipeline."""

_NONE = "-"

# What is printed of a method, line by line.
_LINES: tuple[tuple[str, Callable[[Scores], str]], ...] = (
    ("hands estimated", lambda s: _percent(s.coverage)),
    ("of hands", lambda s: str(s.hands)),
    ("MPJPE, mm", lambda s: number(s.mpjpe)),
    ("root-relative, mm", lambda s: number(s.root_mpjpe)),
    ("N-MPJPE, mm", lambda s: number(s.n_mpjpe)),
    ("PA-MPJPE, mm", lambda s: number(s.pa_mpjpe)),
    ("AUC 0-50 mm", lambda s: number(s.auc, 3)),
    ("root AUC 20-50 mm", lambda s: number(s.root_auc_20_50, 3)),
    ("PA-AUC 0-50 mm", lambda s: number(s.pa_auc, 3)),
    ("MPVPE, mm", lambda s: number(s.mpvpe)),
    ("PA-MPVPE, mm", lambda s: number(s.pa_mpvpe)),
    ("F@5 mm", lambda s: number(s.f5, 3)),
    ("F@15 mm", lambda s: number(s.f15, 3)),
    ("PA-F@5 mm", lambda s: number(s.pa_f5, 3)),
    ("PA-F@15 mm", lambda s: number(s.pa_f15, 3)),
    ("acceleration, m/s²", lambda s: number(s.acceleration)),
    ("at rest, mm", lambda s: number(s.rest)),
    ("joints left open", lambda s: str(s.joints_missing)),
    ("wrong side", lambda s: str(s.wrong_side)),
    ("extra hands", lambda s: str(s.extra_hands)),
    ("identity changes", lambda s: str(s.identity_changes)),
)


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """What was measured together, and on what.

    Attributes:
        evaluations: of data with truth.
        machine, runtime: for the heads of tables.
        left_out: of recordings without truth; their tables are `hamuco.app.left_out_tables`.
    """

    evaluations: tuple[Evaluation, ...]
    machine: str
    runtime: str
    left_out: tuple[LeftOut, ...] = ()


def print_run(run: Run, console: Console) -> None:
    """Per data set a table of methods by number of views, and all figures at the most views."""
    console.print(f"{run.machine}; landmark network: {run.runtime}", highlight=False)
    for evaluation in run.evaluations:
        console.print()
        table = Table("method", box=box.SIMPLE_HEAD, title=Text(_title(evaluation)), title_justify="left")
        for views in evaluation.subsets:
            table.add_column(f"{views} views", justify="right", no_wrap=True)
        for method in evaluation.methods:
            table.add_row(method, *("\n".join(_brief(evaluation, method, views)) for views in evaluation.subsets))
        console.print(table)
        most = max(evaluation.subsets)
        table = Table(box=box.SIMPLE_HEAD)
        table.add_column(f"{most} views", no_wrap=True)
        for method in evaluation.methods:
            table.add_column(method, justify="right")
        for row in _details(evaluation, most):
            table.add_row(*row)
        console.print(table)
        for note in notes(evaluation):
            console.print(note, highlight=False, markup=False)


def save_run(run: Run, plots: Sequence[Sequence[Path]], out: Path) -> None:
    """Write accuracy.md, accuracy.csv and accuracy.json, each whole; `plots` are the pictures of each evaluation.

    Raises:
        OSError: the disk is full, or the folder cannot be written.
    """
    lines = ["# Accuracy", "", f"{run.machine}; landmark network: {run.runtime}"]
    for evaluation, pictures in zip(run.evaluations, plots, strict=True):
        lines += ["", f"## {_title(evaluation)}", ""]
        lines += markdown(
            ["method", *(f"{views} views" for views in evaluation.subsets)],
            [
                [method, *(", ".join(_brief(evaluation, method, views)) for views in evaluation.subsets)]
                for method in evaluation.methods
            ],
        )
        for views in evaluation.subsets:
            lines += ["", *markdown([f"{views} views", *evaluation.methods], list(_details(evaluation, views)))]
        lines += ["", *(f"- {note}" for note in notes(evaluation))]
        lines += [f"\n![{picture.stem}]({picture.name})" for picture in pictures]
    written = {"accuracy.md": "\n".join(lines) + "\n"}
    names = [field.name for field in fields(Scores) if field.type in ("int", "float")]
    table = io.StringIO(newline="")
    writer = csv.writer(table)
    writer.writerow(["dataset", "protocol", "method", "views", *names])
    for evaluation in run.evaluations:
        for (method, views), scores in evaluation.scores.items():
            values = [getattr(scores, name) for name in names]
            row = ["" if isinstance(value, float) and np.isnan(value) else value for value in values]
            writer.writerow([evaluation.dataset, evaluation.protocol.name, method, views, *row])
    written["accuracy.csv"] = table.getvalue()
    written["accuracy.json"] = json.dumps(_as_dict(run), indent=1, allow_nan=False) + "\n"
    for name, text in written.items():
        write_whole(out / name, text.encode(), UNSAVED)


def notes(evaluation: Evaluation) -> Iterator[str]:
    """How the figures came about; sentences."""
    yield f"Protocol {evaluation.protocol.name}. {evaluation.protocol.description}"
    if evaluation.protocol is HAMUCO:
        comparable = (
            "These are that test's moments" if evaluation.dataset == "HanCo test" else "This is another data set"
        )
        yield (
            f"The paper's tables are of HanCo's test split, by networks trained on HanCo. {comparable}; the default "
            "methods were not trained on it."
        )
    if any(method.startswith("HaMuCo") for method in evaluation.methods):
        yield NOTE
    yield (
        "Crops are laid around the true joints, disturbed by 10 mm as a whole and 4 mm each, and the side of a hand is "
        "given: detection is not measured."
    )
    if LIVE in evaluation.methods:
        yield (
            "A live row finds and follows the hands by itself, is smoothed, and has estimates also of moments that it "
            f"only extrapolates. Its hands count as estimates of the true hands within {1e3 * FARTHEST:.0f} mm, "
            "nearest first; another is an extra hand, so that larger errors are missing hands and not in its means."
        )
    if evaluation.same_joints:
        yield f"Joints: {evaluation.joint_definition}, the points that the landmark network means."
    else:
        yield (
            f"Joints: {evaluation.joint_definition}. The methods give {ESTIMATOR_JOINTS}: other points of the hand, "
            "some millimetres away, which counts as error."
        )
    yield (
        "Errors are over the joints that were estimated; the share of true hands with an estimate stands beside them. "
        "MPVPE and F-scores are of mesh vertices, PA of any under its best similarity transform. Acceleration: mean "
        f"distance from the true one. At rest: standard deviation while no true joint is faster than {1e3 * REST_SPEED:.0f} mm/s."
    )
    for views, subsets in evaluation.subsets.items():
        cameras = "; ".join(", ".join(names) for names in subsets)
        yield f"{views} views: {cameras}" + (", counted together." if len(subsets) > 1 else ".")


def _title(evaluation: Evaluation) -> str:
    figures = "N-MPJPE / PA-MPJPE" if evaluation.protocol is HAMUCO else "MPJPE / root-relative / PA"
    return f"{evaluation.dataset}, {evaluation.samples} moments: {figures} in mm, hands estimated"


def _brief(evaluation: Evaluation, method: str, views: int) -> list[str]:
    """The errors and the coverage."""
    scores = evaluation.scores.get((method, views))
    if scores is None:
        return [_NONE]
    figures = [scores.n_mpjpe, scores.pa_mpjpe]
    if evaluation.protocol is not HAMUCO:
        figures = [scores.mpjpe, scores.root_mpjpe, scores.pa_mpjpe]
    return ["/".join(number(figure, 1) for figure in figures), _percent(scores.coverage)]


def _details(evaluation: Evaluation, views: int) -> Iterator[list[str]]:
    for label, text in _LINES:
        scores = [evaluation.scores.get((method, views)) for method in evaluation.methods]
        yield [label, *(_NONE if one is None else text(one) for one in scores)]


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table; its first column is text, the others are figures."""
    lines = [header, ["---", *("---:" for _ in header[1:])], *rows]
    return [f"| {' | '.join(line)} |" for line in lines]


def number(value: float, digits: int = 2) -> str:
    """A dash for what is not finite."""
    return f"{value:.{digits}f}" if np.isfinite(value) else _NONE


def _percent(share: float) -> str:
    """Never 100 % where one is missing."""
    return f"{np.floor(1000 * share) / 10:.1f} %" if np.isfinite(share) else _NONE


def _as_dict(run: Run) -> dict[str, object]:
    return {
        "machine": run.machine,
        "runtime": run.runtime,
        "joints": list(JOINT_NAMES),
        "pck_thresholds_mm": (1e3 * PCK_THRESHOLDS_M).round(3).tolist(),
        "datasets": [
            {
                "name": evaluation.dataset,
                "samples": evaluation.samples,
                "joint_definition": evaluation.joint_definition,
                "protocol": evaluation.protocol.name,
                "subsets": {str(views): subsets for views, subsets in evaluation.subsets.items()},
                "scores": [
                    {"method": method, "views": views, "coverage": _json(scores.coverage)}
                    | {field.name: _json(getattr(scores, field.name)) for field in fields(Scores)}
                    for (method, views), scores in evaluation.scores.items()
                ],
            }
            for evaluation in run.evaluations
        ],
    }


def _json(value: object) -> object:
    """Numbers as JSON has them: what is not finite becomes null."""
    if isinstance(value, np.ndarray):
        return [_json(one) for one in value.tolist()]
    if isinstance(value, float):
        return round(value, 6) if np.isfinite(value) else None
    return value
