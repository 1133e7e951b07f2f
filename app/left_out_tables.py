"""Recordings without truth as tables: on the terminal, as Markdown for a report, as CSV and JSON for programs."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from hamuco.app.accuracy_tables import markdown, number
from hamuco.training.accuracy_plots import UNSAVED
from hamuco.training.leave_one_out import MIN_VIEWS, LeftOut, ViewErrors
from hamuco.training.whole_file import write_whole

FILES = ("leave_one_out.md", "leave_one_out.csv", "leave_one_out.json")

MEANING = (
    "Nobody knows where these hands were. Each view is left out in turn: px there, from where the other views put a "
    "joint to where the landmark network sees it. That network's own error is in every row, so compare rows, and do "
    "not expect 0."
)
"""What the figures are, for every table."""

_ALL = "all"  # in the place of a camera
_COLUMNS = 6  # cameras beside each other on a terminal


def print_left_out(measured: LeftOut, console: Console) -> None:
    """A table of methods, and the median by the camera that was left out."""
    table = Table(box=box.SIMPLE_HEAD, title=Text(_title(measured)), title_justify="left")
    for column, head in enumerate(_HEADS):
        table.add_column(head, justify="right" if column else "left")
    for row in _rows(measured):
        table.add_row(*map(Text, row))
    console.print(table)
    for first in range(0, len(measured.cameras), _COLUMNS):
        cameras = measured.cameras[first : first + _COLUMNS]
        table = Table("median, px, in", box=box.SIMPLE_HEAD)
        for camera in cameras:
            table.add_column(Text(camera), justify="right", overflow="fold")
        for row in _rows_by_camera(measured, cameras):
            table.add_row(*map(Text, row))
        console.print(table)
    console.print(MEANING, highlight=False, markup=False)


def save_left_out(measured: Sequence[LeftOut], machine: str, runtime: str, out: Path) -> None:
    """Write `FILES` into a folder, each whole.

    Raises:
        OSError: the disk is full, or the folder cannot be written.
    """
    lines = ["# Views that were left out", "", f"{machine}; landmark network: {runtime}", "", MEANING]
    for one in measured:
        lines += ["", f"## {_title(one)}", "", *markdown(_HEADS, _rows(one))]
        lines += ["", *markdown(["median, px, in", *one.cameras], _rows_by_camera(one, one.cameras))]
    names = [field.name for field in fields(ViewErrors)]
    table = io.StringIO(newline="")
    writer = csv.writer(table)
    writer.writerow(["recording", "method", "camera", *names])
    for one in measured:
        for figures in _figures(one):
            writer.writerow(["" if value is None else value for value in (one.name, *figures.values())])
    document = {
        "machine": machine,
        "runtime": runtime,
        "recordings": [
            {
                "name": one.name,
                "cameras": list(one.cameras),
                "moments": one.moments,
                "hands": one.hands,
                "figures": _figures(one),
            }
            for one in measured
        ],
    }
    texts = ("\n".join(lines) + "\n", table.getvalue(), json.dumps(document, indent=1, allow_nan=False) + "\n")
    for name, text in zip(FILES, texts, strict=True):
        write_whole(out / name, text.encode(), UNSAVED)


_HEADS = ("method", "median, px", "mean, px", "90 %, px", "hands in left-out views")


def _title(measured: LeftOut) -> str:
    return (
        f"{measured.name}, {measured.moments} moments, {measured.hands} hands in {MIN_VIEWS} views or more: error in "
        "the view that was left out"
    )


def _rows(measured: LeftOut) -> list[list[str]]:
    rows = []
    for method in measured.errors_px:
        one = measured.figures(method)
        rows.append([method, *map(number, (one.median_px, one.mean_px, one.p90_px)), f"{one.estimated} of {one.views}"])
    return rows


def _rows_by_camera(measured: LeftOut, cameras: Sequence[str]) -> list[list[str]]:
    return [
        [method, *(number(measured.figures(method, camera).median_px) for camera in cameras)]
        for method in measured.errors_px
    ]


def _figures(measured: LeftOut) -> list[dict[str, str | int | float | None]]:
    """Of each method in all views and in those of each camera; what is not known is None."""
    found = []
    for method in measured.errors_px:
        for camera in (None, *measured.cameras):
            figures = asdict(measured.figures(method, camera))
            known = {name: round(value, 4) if np.isfinite(value) else None for name, value in figures.items()}
            found.append({"method": method, "camera": camera or _ALL, **known})
    return found
