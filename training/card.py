"""What a checkpoint knows of its training, in words for the card of a bundle."""

from __future__ import annotations

import math
from pathlib import Path

from hamuco.training.checkpoint import Checkpoint
from hamuco.training.config import TrainConfig
from hamuco.training.curves import LOG, read_log
from hamuco.training.sources import KINDS, SourceConfig
from hamuco.training.validation import FIGURES

_HANDS = {"single": "single views", "refined": "refined views", "fused": "the fused hand", "located": "located joints"}
_MEASURES = {
    "mpjpe_mm": "MPJPE (root-relative) of {} {:.3g} mm",
    "pa_mpjpe_mm": "PA-MPJPE of {} {:.3g} mm",
    "2d": "2D error of {} {:.3g} of a crop's width",
}


def training_data(checkpoint: Checkpoint, config: TrainConfig) -> str:
    """What the networks learnt from, how long, and what they started from."""
    hands = config.batch * checkpoint.processes
    said = [
        ", ".join(_source(source) for source in config.sources),
        f"{checkpoint.step} steps of {hands} hands in {config.views} views",
    ]
    for name in ("weights", "estimator", "backbone"):
        if (start := getattr(config.start, name)) is not None:
            said.append(f"started from the {name} {start.name}")
    return "; ".join(said)


def accuracy(path: Path, checkpoint: Checkpoint, config: TrainConfig) -> str:
    """What was measured in validation.

    Args:
        path: of the checkpoint; the log beside it has all figures of its step.
        checkpoint, config: what is in it.
    """
    decides = config.validation.best
    hands = f"on {config.validation.batches * config.batch} hands of the validation ("
    hands += ", ".join(_source(source) for source in config.validation.sources) + ")"
    rows = read_log(path.with_name(LOG)) if path.with_name(LOG).is_file() else []
    row = next((row for row in rows if row["step"] == checkpoint.step), {})
    if math.isfinite(row.get(decides, math.nan)):
        names = [decides, *(name for name in FIGURES if name != decides and name.startswith("fused"))]
        known = [_figure(name, row[name]) for name in names if math.isfinite(row.get(name, math.nan))]
        return f"{', '.join(known)}, {hands}"
    if math.isfinite(checkpoint.best):
        return f"{_figure(decides, checkpoint.best)} at its best until step {checkpoint.step}, {hands}"
    return "not measured"


def _source(source: SourceConfig) -> str:
    if (rendered := source.synthetic) is not None:
        number = "" if rendered.samples is None else f"{rendered.samples:,} "
        return f"{number}rendered hands ({rendered.preset})"
    kind = next(kind for kind in KINDS if getattr(source, kind) is not None)
    path: Path = getattr(source, kind)
    return f"{kind} {path.name}"


def _figure(name: str, value: float) -> str:
    hands, _, measure = name.partition("_")
    return _MEASURES[measure].format(_HANDS[hands], value)
