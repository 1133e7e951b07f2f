"""The benchmarks that make their own data run from beginning to end."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.mark.slow
@pytest.mark.timeout(900)  # rendering, labels and ten trainings; and once more, when all is there
def test_self_supervision_makes_data_trains_and_measures_every_variant(tmp_path: Path) -> None:
    sizes = (
        "--samples",
        "16",
        "--validation",
        "16",
        "--views",
        "3",
        "--first-steps",
        "2",
        "--steps",
        "2",
        "--longer-steps",
        "2",
    )
    command = [sys.executable, str(BENCHMARKS / "self_supervision.py"), str(tmp_path), *sizes]
    subprocess.run(command, check=True, capture_output=True)
    with (tmp_path / "table.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    parts = {(row["preset"], row["views"]) for row in rows}
    assert parts == {(preset, views) for preset in ("room", "hard") for views in ("2", "3")}
    assert len(rows) == 10 * len(parts)
    assert len({row["method"] for row in rows}) == 10
    for row in rows:
        known = {stage for stage in ("single-view", "multi-view", "fused") if row[f"pa_{stage}_mm"] != "nan"}
        expected = {"labels triangulated": {"fused"}, "no cross-view network": {"single-view"}}
        assert known == expected.get(row["method"], {"single-view", "multi-view", "fused"})
        assert all(1 < float(row[f"pa_{stage}_mm"]) < 100 for stage in known)
    for name in ("table.md", "table.png"):
        assert (tmp_path / name).stat().st_size > 0
    # What is there is not made again: neither crops nor trainings.
    made = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/last.pt")}
    assert len(made) == 10
    subprocess.run(command, check=True, capture_output=True)
    assert {path: path.stat().st_mtime_ns for path in made} == made
