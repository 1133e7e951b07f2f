"""Pictures of an evaluation: error by joint, PCK curves, error by how many views see a joint."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hamuco.training.evaluation import Evaluation
from hamuco.training.tally import PCK_THRESHOLDS_M, Scores
from hamuco.training.whole_file import write_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

UNSAVED = (
    "what was measured is printed above; make room on the disk, or choose another folder with --out, and measure again"
)
"""What to do where results cannot be written."""

# Okabe and Ito's colours, told apart by everybody, and three of Tol's: as many as there are methods at most.
_COLOURS = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#CC79A7",
    "#D55E00",
    "#56B4E9",
    "#000000",
    "#882255",
    "#999999",
    "#999933",
)
_GREY = "#555555"
_FINGERS = ("thumb", "index", "middle", "ring", "little")
_FINGER_JOINTS = (("CMC", "MCP", "IP", "tip"), *[("MCP", "PIP", "DIP", "tip")] * 4)
_DPI = 130


class PlotError(OSError):
    """There is nothing to draw with."""


def draw_plots(evaluation: Evaluation, out: Path) -> list[Path]:
    """Write the pictures of an evaluation, at its largest number of views, as PNG files into a folder.

    Raises:
        PlotError: matplotlib is not installed.
        OSError: the disk is full, or the folder cannot be written.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise PlotError('they need matplotlib: pip install "hamuco[bench]"') from error

    most = max(evaluation.subsets)
    scores = {
        method: one for method in evaluation.methods if (one := evaluation.scores.get((method, most))) is not None
    }
    scores = {_label(method, one): one for method, one in scores.items() if one.estimated}
    title = f"{evaluation.dataset}, {most} views"
    stem = re.sub(r"[^\w.-]+", "-", evaluation.dataset).strip("-").lower()
    written = []
    for name, draw in (("joints", _by_joint), ("pck", _pck), ("occlusion", _by_views)):
        # A figure of its own, not pyplot's: nothing is kept and no display is looked for.
        figure = Figure(figsize=(9.0, 4.2), layout="constrained")
        FigureCanvasAgg(figure)
        if not draw(figure, scores):
            continue
        figure.suptitle(title, x=0.01, ha="left", fontsize=11, weight="bold")
        path = out / f"{stem}-{name}.png"
        picture = io.BytesIO()
        figure.savefig(picture, dpi=_DPI)
        write_whole(path, picture.getbuffer(), UNSAVED)
        written.append(path)
    return written


def _label(method: str, scores: Scores) -> str:
    """With the share of the hands, where it is not all: means over easy hands alone look good."""
    if scores.estimated == scores.hands:
        return method
    return f"{method}, {np.floor(1000 * scores.coverage) / 10:.1f} % of hands"


def _by_joint(figure: Figure, scores: Mapping[str, Scores]) -> bool:
    """Bars per joint, the fingers as groups from the palm to the tip."""
    if not scores:
        return False
    axes = figure.add_subplot()
    # Joints stand one apart, fingers half a joint farther.
    places = np.array([0.0, *(joint + 1 + 0.6 * (joint // 4 + 1) for joint in range(20))])
    _bars(axes, places, {method: one.by_joint for method, one in scores.items()})
    labels = ["wrist", *(label for finger in _FINGER_JOINTS for label in finger)]
    axes.set_xticks(places, labels, fontsize=8)
    for finger, name in enumerate(_FINGERS):
        middle = places[1 + 4 * finger : 5 + 4 * finger].mean()
        axes.annotate(name, (middle, 0), (0, -24), xycoords=("data", "axes fraction"), textcoords="offset points", ha="center")  # fmt: skip
    axes.tick_params(axis="x", length=0)
    axes.set_xlim(places[0] - 0.7, places[-1] + 0.7)
    axes.set_ylabel("mean error in the world, mm")
    _finish(figure, axes)
    return True


def _pck(figure: Figure, scores: Mapping[str, Scores]) -> bool:
    """Share of joints within a distance, as they are and after Procrustes alignment."""
    if not scores:
        return False
    panels = figure.subplots(1, 2, sharey=True)
    for axes, aligned in zip(panels, (False, True), strict=True):
        for colour, (method, one) in zip(cycle(_COLOURS), scores.items(), strict=False):
            curve, area = (one.pa_pck, one.pa_auc) if aligned else (one.pck, one.auc)
            axes.plot(1e3 * PCK_THRESHOLDS_M, 100 * curve, color=colour, linewidth=1.8, label=f"{method}  {area:.3f}")
        axes.set_xlim(0, 50)
        axes.set_ylim(0, 101)
        axes.set_xlabel("error, mm")
        axes.set_title("Procrustes-aligned" if aligned else "in the world", fontsize=10)
        axes.grid(color="#dddddd", linewidth=0.8)
        axes.legend(
            title="method, area under the curve", fontsize=8, title_fontsize=8, frameon=False, loc="lower right"
        )
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("joints within it, %")
    return True


def _by_views(figure: Figure, scores: Mapping[str, Scores]) -> bool:
    """Bars by the number of views that see a joint, from none to all."""
    scores = {method: one for method, one in scores.items() if len(one.by_views)}
    if not scores:
        return False
    counts = np.max([one.joints_by_views for one in scores.values()], axis=0)
    shown = np.flatnonzero(counts)
    axes = figure.add_subplot()
    places = np.arange(len(shown), dtype=np.float64)
    _bars(axes, places, {method: one.by_views[shown] for method, one in scores.items()})
    axes.set_xticks(places, [f"{views}\n{100 * counts[views] / counts.sum():.1f} %" for views in shown])
    axes.tick_params(axis="x", length=0)
    axes.set_xlabel("views in which nothing hides the joint, and the share of such joints")
    axes.set_ylabel("mean error in the world, mm")
    _finish(figure, axes)
    return True


def _bars(axes: Axes, places: np.ndarray, values: Mapping[str, np.ndarray]) -> None:
    width = 0.84 / len(values)
    for index, (method, heights) in enumerate(values.items()):
        offset = (index - (len(values) - 1) / 2) * width
        axes.bar(places + offset, heights, 0.92 * width, color=_COLOURS[index % len(_COLOURS)], label=method)


def _finish(figure: Figure, axes: Axes) -> None:
    axes.grid(axis="y", color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(
        ncols=min(3, len(axes.containers)), fontsize=8, frameon=False, loc="outside lower left", labelcolor=_GREY
    )
