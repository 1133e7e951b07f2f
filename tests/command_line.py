"""The `hamuco` command in a process of its own, as a user starts it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

COMMAND = (sys.executable, "-m", "hamuco.app.cli")


def hamuco(
    *arguments: str, folder: Path | None = None, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run it in a folder, with additions to the environment and without a display."""
    return subprocess.run(
        [*COMMAND, *arguments],
        capture_output=True,
        text=True,
        cwd=folder or Path(sys.prefix),
        env=clean_environment() | dict(environment or {}),
        timeout=240,
        check=False,
    )


def clean_environment() -> dict[str, str]:
    """This process's, with a wide terminal and no display."""
    kept = {name: value for name, value in os.environ.items() if name not in ("DISPLAY", "WAYLAND_DISPLAY")}
    return kept | {"COLUMNS": "200", "TERM": "dumb"}


def one_line(errors: str) -> str:
    """What is printed as errors, as a person reads it: without the frame and the line breaks that wrong use gets."""
    assert "Traceback" not in errors, errors
    return " ".join(errors.replace("│", " ").split())
