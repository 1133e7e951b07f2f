"""The `hamuco` command in a process of its own, as a user starts it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
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


def interrupted(
    *arguments: str, folder: Path, ready: Callable[[str], bool], terminated: bool = False
) -> subprocess.CompletedProcess[str]:
    """Start it in a folder and press Ctrl-C when it is `ready`, by what it has printed so far on either stream.

    As a terminal does, for all of its processes; or it is `terminated`, as services and jobs are, its first process alone.
    """
    # A shell starts background jobs with Ctrl-C ignored, and they pass that on.
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    code += "from hamuco.app.cli import main; main()"
    printed = [folder / "stdout", folder / "stderr"]
    with printed[0].open("w") as out, printed[1].open("w") as errors:
        command = [sys.executable, "-u", "-c", code, *arguments]
        started = subprocess.Popen(
            command, cwd=folder, env=clean_environment(), stdout=out, stderr=errors, start_new_session=True
        )
        try:
            while not ready("".join(path.read_text() for path in printed)):
                assert started.poll() is None, printed[1].read_text()
                time.sleep(0.01)
            started.terminate() if terminated else os.killpg(started.pid, signal.SIGINT)
            started.wait(timeout=120)
        finally:
            started.kill()
    said = [path.read_text() for path in printed]
    for path in printed:
        path.unlink()
    return subprocess.CompletedProcess(arguments, started.returncode, *said)


def clean_environment() -> dict[str, str]:
    """This process's, with a wide terminal and no display."""
    kept = {name: value for name, value in os.environ.items() if name not in ("DISPLAY", "WAYLAND_DISPLAY")}
    return kept | {"COLUMNS": "200", "TERM": "dumb"}


def one_line(errors: str) -> str:
    """What is printed as errors, as a person reads it: without the frame and the line breaks that wrong use gets."""
    assert "Traceback" not in errors, errors
    return " ".join(errors.replace("│", " ").split())
