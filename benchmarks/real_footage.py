"""Accuracy on real footage: imports two clips, tracks them with `hamuco live`, compares the reports with the targets.

python benchmarks/real_footage.py
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from footage import make_recording
from rich.console import Console
from rich.table import Table

from hamuco.training.datasets.footage import FOUR_CAMERAS, TWO_CAMERAS, Clip


def track(clip: Clip, folder: Path) -> dict[str, Any]:
    """The report of `hamuco live` on a clip, replayed as fast as it goes."""
    recording, report = folder / clip.folder, folder / f"{clip.folder}.json"
    make_recording(clip, recording)
    command = [sys.executable, "-m", "hamuco.app.cli", "live", "--replay", str(recording), "--fast", "--report"]
    subprocess.run([*command, str(report)], check=True, stderr=subprocess.DEVNULL)
    loaded: dict[str, Any] = json.loads(report.read_text())
    return loaded


def main() -> None:
    table = Table("clip", "figure", "measured", "target", "")

    def row(clip: Clip, figure: str, measured: float, target: str, good: bool) -> None:
        table.add_row(clip.folder, figure, f"{measured:g}", target, "ok" if good else "MISSED")

    with tempfile.TemporaryDirectory() as folder:
        four, two = track(FOUR_CAMERAS, Path(folder)), track(TWO_CAMERAS, Path(folder))
    views = {int(count): hands for count, hands in four["hands"]["by_views"].items()}
    fused, from_three = sum(views.values()), views[3] + views[4]
    reprojection, left_out = four["reprojection_px"]["median"], four["leave_one_out_px"]["median"]
    against = four["hands"]["views_against_side"]
    row(FOUR_CAMERAS, "hands fused, of 72", fused, ">= 64", fused >= 64)
    row(FOUR_CAMERAS, "of these from 3 or 4 views", from_three, ">= 58", from_three >= 58)
    row(FOUR_CAMERAS, "reprojection, median px", reprojection, "<= 3.7", reprojection <= 3.7)
    row(FOUR_CAMERAS, "leave one view out, median px", left_out, "<= 5.5", left_out <= 5.5)
    row(FOUR_CAMERAS, "hands whose views say the other side", against, "0", against == 0)
    row(FOUR_CAMERAS, "wrist to middle MCP, mean mm", four["bones_mm"]["wrist_middle_mcp"]["mean"], "", True)
    row(FOUR_CAMERAS, "fit residual, median mm", four["fit_residual_mm"]["median"], "", True)
    present = 100 * sum(two["hands"]["by_views"].values()) / two["sets"]["seen"]
    reprojection = two["reprojection_px"]["median"]
    row(TWO_CAMERAS, "sets with the hand, %", round(present, 1), ">= 95", present >= 95)
    row(TWO_CAMERAS, "reprojection, median px", reprojection, "<= 1.5", reprojection <= 1.5)
    row(TWO_CAMERAS, "fit residual, median mm", two["fit_residual_mm"]["median"], "", True)
    Console(width=110).print(table)
    print(f"{four['machine']}; {four['runtime']}")


if __name__ == "__main__":
    main()
