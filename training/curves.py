"""What happened in a training, by step: a CSV file, a picture of it, and TensorBoard where that is installed."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

from hamuco.training.checkpoint import RESUME
from hamuco.training.losses import LossWeights
from hamuco.training.validation import FIGURES
from hamuco.training.whole_file import write_whole

LOG, CURVES = "log.csv", "curves.png"
LOSSES = [*(weight.name for weight in fields(LossWeights)), "total"]

_PANELS: Mapping[str, Sequence[str]] = {
    "losses": LOSSES,
    "validation: joint errors, mm": [name for name in FIGURES if name.endswith("_mm")],
    "validation: errors in 2D / crop width": [name for name in FIGURES if name.endswith("_2d")],
}
_MARKED = 20  # points of a curve, up to which each has a mark

# Okabe and Ito's colours, told apart by everybody.
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#000000")


class TrainingLog:
    """Rows of numbers by step, in OUT/log.csv.

    Losses and crops per second are means over the steps since the row before; in the first row after a training went on,
    over the steps since then.
    """

    def __init__(self, out: Path, after: int) -> None:
        """
        Args:
            out: folder of the training.
            after: how many steps were made before; later rows of the file are of a run that stopped before it had a
                checkpoint, and are dropped.
        """
        self.path = out / LOG
        self._columns = ["step", "learning_rate", "crops_per_s", *LOSSES, *FIGURES]
        rows = [row for row in read_log(self.path) if row["step"] <= after] if after and self.path.is_file() else []
        kept = io.StringIO(newline="")
        self._writer = csv.writer(kept)
        self._writer.writerow(self._columns)
        for row in rows:
            self._put(row)
        write_whole(self.path, kept.getvalue().encode(), RESUME)
        self._file = self.path.open("a", newline="", encoding="utf-8")
        self._writer = csv.writer(self._file)
        self._board = _tensor_board(out, after)

    def write(self, row: Mapping[str, float]) -> None:
        """Append a row; it is on the disk when this returns. Raises OSError where the disk is full."""
        try:
            self._put(row)
            self._file.flush()
        except OSError as error:
            raise OSError(f"{self.path} cannot be written ({error.strerror}): make room on the disk") from error
        if self._board is not None:
            for name, value in row.items():
                if name != "step" and math.isfinite(value):
                    kind = "validation" if name in FIGURES else "training"
                    self._board.add_scalar(f"{kind}/{name}", value, int(row["step"]))

    def _put(self, row: Mapping[str, float]) -> None:
        # A column without a number is empty.
        self._writer.writerow(
            [int(row["step"])]
            + [f"{row[name]:.6g}" if math.isfinite(row.get(name, math.nan)) else "" for name in self._columns[1:]]
        )

    def close(self) -> None:
        with suppress(OSError):  # what could not be written was said by `write`
            self._file.close()
        if self._board is not None:
            self._board.close()


def read_log(path: Path) -> list[dict[str, float]]:
    """Rows of a log by the names of their columns; what is empty is NaN."""
    with path.open(newline="", encoding="utf-8") as file:
        return [{name: float(text) if text else math.nan for name, text in row.items()} for row in csv.DictReader(file)]


def draw_curves(out: Path) -> Path | None:
    """Draw OUT/curves.png from the log: losses, and of the validation figures those that are known.

    None, and no picture, where the log has no row yet or matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.ticker import LogFormatter, MaxNLocator
    except ImportError:
        return None
    rows = read_log(out / LOG)
    # By title and name of a figure; zero stands for truth that is not known.
    curves = {
        title: {
            name: points for name in names if (points := [(row["step"], row[name]) for row in rows if row[name] > 0])
        }
        for title, names in _PANELS.items()
    }
    panels = {title: known for title, known in curves.items() if known}
    if not panels:
        return None
    last = max(rows[-1]["step"], 1)

    class Plain(LogFormatter):
        """Writes 0.085, which would be 8e-02, at the ticks that are to have a number."""

        def __call__(self, value: float, position: int | None = None) -> str:
            return f"{value:.3g}" if super().__call__(value, position) else ""

    # A figure of its own, not pyplot's: nothing is kept and no display is looked for.
    figure = Figure(figsize=(4.0 * len(panels), 5.6), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (title, known) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        for name, points in known.items():
            index = _PANELS[title].index(name)
            label = f"{name.removesuffix('_mm').removesuffix('_2d')}: {points[-1][1]:.3g}"
            first, colour = index < len(_COLOURS), _COLOURS[index % len(_COLOURS)]
            axes.plot(
                *zip(*points, strict=True),
                "-" if first else "--",
                color=colour,
                label=label,
                linewidth=1.2,
                marker="o" if len(points) <= _MARKED else None,  # of one point there is no line
                markersize=3,
                markerfacecolor=colour if first else "white",
            )
        axes.set_title(title, fontsize=9)
        axes.set_xlabel("step", fontsize=8)
        axes.tick_params(labelsize=7, which="both")
        axes.grid(alpha=0.25, which="both", linewidth=0.5)
        axes.spines[["top", "right"]].set_visible(False)
        axes.xaxis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 5, 10], integer=True))
        axes.set_yscale("log")
        axes.set_xlim(-0.04 * last, 1.04 * last)
        axes.yaxis.set_major_formatter(Plain())
        axes.yaxis.set_minor_formatter(Plain(minor_thresholds=(2, 0.5)))
        axes.legend(fontsize=7, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=2)
    picture = io.BytesIO()
    figure.savefig(picture, dpi=110)
    write_whole(out / CURVES, picture.getbuffer(), RESUME)
    return out / CURVES


def _tensor_board(out: Path, after: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(out / "tensorboard", purge_step=after + 1 if after else None)
