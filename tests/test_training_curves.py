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
    write(tmp_path, 0, list(range(1, 11)))
    assert draw_curves(tmp_path) == tmp_path / CURVES
    image = cv2.imread(str(tmp_path / CURVES))
    assert image is not None
    # The blue of the first curve is there: of the losses, at the left. Of the figures in 2D, at the right, nothing is known.
    blue = np.asarray((np.abs(image.astype(int) - (0xB2, 0x72, 0x00)) < 20).all(axis=2))
    third = image.shape[1] // 3
    assert blue[:, :third].sum() > 100
    assert not blue[:, 2 * third :].any()


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
    assert draw_curves(tmp_path) == tmp_path / CURVES


def test_a_full_disk_keeps_the_log(tmp_path: Path) -> None:
    write(tmp_path, 0, [1, 2, 3, 4])
    before = (tmp_path / LOG).read_bytes()
    with room_for(len(before) // 2), pytest.raises(OSError, match=r"log\.csv cannot be written .* before is whole"):
        TrainingLog(tmp_path, 4)
    assert (tmp_path / LOG).read_bytes() == before
    assert not list(tmp_path.glob("*.unfinished"))
