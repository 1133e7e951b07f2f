"""The log of a training and its picture."""

from __future__ import annotations

import math
import sys
from contextlib import closing
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import pytest
from full_disk import room_for
from numpy.typing import NDArray

from hamuco.training.curves import CURVES, LOG, LOSSES, TrainingLog, draw_curves, read_log
from hamuco.training.validation import FIGURES


def row(step: int, **figures: float) -> dict[str, float]:
    losses = {name: (1.0 + LOSSES.index(name)) / step for name in LOSSES}
    return {"step": step, "learning_rate": 1e-4, "crops_per_s": 100.0, **losses, **figures}


def write(out: Path, after: int, steps: list[int]) -> None:
    with closing(TrainingLog(out, after)) as log:
        for step in steps:
            log.write(row(step, **({"fused_mpjpe_mm": 100.0 / step, "single_2d": math.nan} if step % 2 == 0 else {})))


def test_rows_come_back(tmp_path: Path) -> None:
    write(tmp_path, 0, [1, 2])
    rows = read_log(tmp_path / LOG)
    assert list(rows[0]) == ["step", "learning_rate", "crops_per_s", *LOSSES, *FIGURES]
    assert [one["step"] for one in rows] == [1, 2]
    assert rows[1]["single_pixels"] == 0.5
    assert math.isnan(rows[0]["fused_mpjpe_mm"])
    assert math.isnan(rows[1]["single_2d"])
    assert rows[1]["fused_mpjpe_mm"] == 50.0


def test_a_training_that_goes_on_drops_what_has_no_checkpoint(tmp_path: Path) -> None:
    write(tmp_path, 0, [1, 2, 3, 4])
    write(tmp_path, 2, [3])
    assert [one["step"] for one in read_log(tmp_path / LOG)] == [1, 2, 3]
    write(tmp_path, 0, [1])
    assert [one["step"] for one in read_log(tmp_path / LOG)] == [1]


def test_a_full_disk_is_said(tmp_path: Path) -> None:
    with closing(TrainingLog(tmp_path, 0)) as log:
        log.write(row(1))
        size = (tmp_path / LOG).stat().st_size
        with room_for(size + 10), pytest.raises(OSError, match=r"log\.csv cannot be written .*make room on the disk"):
            log.write(row(2))


def test_curves_are_drawn(tmp_path: Path) -> None:
    write(tmp_path, 0, list(range(1, 41)))
    assert draw_curves(tmp_path) == tmp_path / CURVES
    image = cv2.imread(str(tmp_path / CURVES))
    assert image is not None
    # The losses at the left, of which the first is blue; at the right one figure, green: of those in 2D nothing is known.
    half = image.shape[1] // 2
    assert image.shape[1] == 2 * PANEL
    assert _pixels(image[:, :half], 0x0072B2) > 100
    assert _pixels(image[:, half:], 0x009E73) > 100
    assert _pixels(image[:, half:], 0x0072B2) == 0


def test_of_one_row_there_are_marks(tmp_path: Path) -> None:
    write(tmp_path, 0, [1])
    assert draw_curves(tmp_path) == tmp_path / CURVES
    image = cv2.imread(str(tmp_path / CURVES))
    assert image is not None
    assert image.shape[1] == PANEL  # nothing was validated
    # Above the legend, and not of the axes.
    assert _pixels(image[: image.shape[0] // 2], 0x0072B2) > 4


PANEL = 440  # 4 inches of 110 dots


def _pixels(image: NDArray[Any], colour: int) -> int:
    """How many are of a colour, as 0xRRGGBB."""
    blue_first = (colour & 255, colour >> 8 & 255, colour >> 16)
    return int((np.abs(image.astype(int) - blue_first) < 20).all(axis=2).sum())


def test_tensorboard_is_written_where_it_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[tuple[Any, ...]] = []

    class SummaryWriter:  # of another package, which the tests do without
        def __init__(self, folder: Path, purge_step: int | None) -> None:
            said.append(("open", folder, purge_step))

        def add_scalar(self, name: str, value: float, step: int) -> None:
            said.append((name, value, step))

        def close(self) -> None:
            said.append(("close",))

    stand_in = ModuleType("torch.utils.tensorboard")
    stand_in.SummaryWriter = SummaryWriter  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", stand_in)
    write(tmp_path, 0, [1, 2])
    assert said[0] == ("open", tmp_path / "tensorboard", None)
    assert said[-1] == ("close",)
    assert ("training/total", pytest.approx(len(LOSSES)), 1) in said
    assert [one for one in said if one[0].startswith("validation")] == [("validation/fused_mpjpe_mm", 50.0, 2)]
    said.clear()
    write(tmp_path, 2, [3])
    assert ("open", tmp_path / "tensorboard", 3) in said  # what was written after the checkpoint is dropped


def test_nothing_to_draw_is_no_error(tmp_path: Path) -> None:
    write(tmp_path, 0, [])
    assert draw_curves(tmp_path) is None
    assert not (tmp_path / CURVES).exists()


def test_a_full_disk_keeps_the_log(tmp_path: Path) -> None:
    write(tmp_path, 0, [1, 2, 3, 4])
    before = (tmp_path / LOG).read_bytes()
    with room_for(len(before) // 2), pytest.raises(OSError, match=r"log\.csv cannot be written .* before is whole"):
        TrainingLog(tmp_path, 4)
    assert (tmp_path / LOG).read_bytes() == before
    assert not list(tmp_path.glob("*.unfinished"))
