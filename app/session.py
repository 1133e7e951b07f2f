"""One run as the command line starts it: pipeline, publishers and viewer, live status, summary and report."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections import deque
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.live import Live

from hamuco.app.live import LiveRun, Status
from hamuco.app.pipeline import Pipeline
from hamuco.app.status import print_summary, status_line
from hamuco.app.view_link import ViewerLink, Where
from hamuco.calibration.camera import Rig
from hamuco.capture.source import SourceConfig
from hamuco.streaming.publisher import Publisher

# Between status lines, s: a terminal's line is rewritten, a log gets a line now and then.
_TERMINAL_S, _LOG_S = 0.2, 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """What to run.

    Attributes:
        replay: the sources are a recording.
        hands: how many hands to follow at most.
        publish: address, or None.
        vertices: put the mesh into every published hand.
        key: secret key file for `publish`.
        where: kind of viewer, or None.
        view_file: .rrd file to record the view into, or None.
        report: JSON file to write, or None.
    """

    rig: Rig
    sources: tuple[SourceConfig, ...]
    replay: bool
    hands: int = 2
    publish: str | None = None
    vertices: bool = False
    key: Path | None = None
    where: Where | None = None
    view_file: Path | None = None
    report: Path | None = None


def run_session(session: Session) -> None:
    """Run until the footage ends or Ctrl-C, then print a summary and write the report.

    Raises:
        SourceError, EndpointError, ViewerError, ModelFileError: something that was asked for cannot be had.
    """
    if session.report is not None and not session.report.parent.is_dir():
        raise ValueError(f"cannot write the report to {session.report}: there is no folder {session.report.parent}")
    console = Console(stderr=True)
    with ExitStack() as stack:
        publishers = []
        if session.publish is not None:
            publishers.append(stack.enter_context(Publisher(session.publish, key=session.key)))
            console.print(
                f"publishing at {publishers[0].endpoint}; watch with: hamuco subscribe {publishers[0].endpoint}"
            )
        pipeline = Pipeline(session.rig, max_hands=session.hands)
        viewer = None
        where: Where | None = "file" if session.view_file is not None else session.where
        if where is not None:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="hamuco-"))
            endpoint = f"ipc://{folder}/hands"
            publishers.append(stack.enter_context(Publisher(endpoint)))
            viewer = stack.enter_context(ViewerLink(session.rig, endpoint, where, session.view_file))
        run = LiveRun(session.rig, pipeline, session.sources, publishers, viewer, session.replay)
        with Live(console=console, auto_refresh=False, transient=True) as live:
            run.run(_Watch(live))
    report = run.report()
    print_summary(report, console)
    if session.report is not None:
        session.report.write_text(json.dumps(report, indent=2) + "\n")
        console.print(f"report: {session.report}")


class _Watch:
    """Shows the status of a run now and then."""

    def __init__(self, live: Live) -> None:
        self._live = live
        self._every_s = _TERMINAL_S if live.console.is_terminal else _LOG_S
        self._times: deque[float] = deque(maxlen=60)
        self._shown = 0.0

    def __call__(self, status: Status) -> None:
        now = time.monotonic()
        self._times.append(now)
        if now - self._shown < self._every_s:
            return
        self._shown = now
        rate = (len(self._times) - 1) / (now - self._times[0]) if len(self._times) > 1 else 0.0
        line = status_line(status, rate)
        if self._live.console.is_terminal:
            self._live.update(line, refresh=True)
        else:
            print(line, file=sys.stderr, flush=True)
