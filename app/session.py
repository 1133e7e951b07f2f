"""One run as the command line starts it: pipeline, publishers and viewer, live status, summary and report."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections import deque
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live

from hamuco.app.live import LiveRun, Status
from hamuco.app.status import print_summary, status_line
from hamuco.app.truth_monitor import TruthMonitor
from hamuco.app.view_link import ViewerLink, Where
from hamuco.calibration.camera import Rig
from hamuco.capture.replay import Pace, ReplayConfig
from hamuco.capture.source import SourceConfig, SourceError
from hamuco.engine.bundle import Bundle
from hamuco.engine.hand_model import HandModel, load_hand_model
from hamuco.fusion.pipeline import LiveRuntime, Pipeline
from hamuco.streaming.publisher import Publisher
from hamuco.training.synthetic.truth import Truth

# Between status lines, s: a terminal's line is rewritten, a log gets a line now and then.
_TERMINAL_S, _LOG_S = 0.2, 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """What to run.

    Attributes:
        pace: of the recording that plays the cameras; None for cameras.
        hands: how many hands to follow at most.
        publish: address, or None.
        vertices: put the mesh into every published hand.
        refine: correct the rig's extrinsics by the hands.
        key: secret key file for `publish`.
        where: kind of viewer, or None.
        view_file: .rrd file to record the view into, or None.
        report: JSON file to write, or None.
        truth: of the recording that plays the cameras, to be compared with; or None.
        bundle: trained networks that follow the hands; None for the default estimator.
        runtime: of the bundle.
    """

    rig: Rig
    sources: tuple[SourceConfig, ...]
    pace: Pace | None
    hands: int = 2
    publish: str | None = None
    vertices: bool = False
    refine: bool = True
    key: Path | None = None
    where: Where | None = None
    view_file: Path | None = None
    report: Path | None = None
    truth: Truth | None = None
    bundle: Bundle | None = None
    runtime: LiveRuntime = "openvino"


def run_session(session: Session) -> None:
    """Run until the footage ends or Ctrl-C, then print a summary and write the report.

    Raises:
        SourceError, EndpointError, ViewerError, ModelFileError, TruthError, BundleError, CudaError, PlanError, EngineError:
            something that was asked for cannot be had.
    """
    if session.report is not None:
        _check_place(session.report)
    console = Console(stderr=True, markup=False)  # brackets in names and addresses are themselves
    with ExitStack() as stack:
        model = load_hand_model() if session.bundle is None else session.bundle.hand
        monitor = _monitor(session.truth, model, session.sources) if session.truth is not None else None
        publishers = []
        if session.publish is not None:
            faces = model.faces if session.vertices else None
            publishers.append(stack.enter_context(Publisher(session.publish, faces=faces, key=session.key)))
            address = publishers[0].endpoint
            console.print(f"publishing at {address}; watch with: hamuco subscribe {address}", soft_wrap=True)
        pipeline = Pipeline(
            session.rig,
            model,
            max_hands=session.hands,
            vertices=session.vertices,
            refine=session.refine,
            bundle=session.bundle,
            runtime=session.runtime,
        )
        stack.callback(pipeline.close)
        if session.runtime != "openvino":
            console.print(f"{pipeline.estimator.name} runs on {pipeline.estimator.runtime}", soft_wrap=True)
        viewer = None
        where: Where | None = "file" if session.view_file is not None else session.where
        if where is not None:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="hamuco-"))
            endpoint = f"ipc://{folder}/hands"
            publishers.append(stack.enter_context(Publisher(endpoint)))
            viewer = stack.enter_context(
                ViewerLink(session.rig, endpoint, where, session.view_file, model, with_truth=monitor is not None)
            )
        run = LiveRun(session.rig, pipeline, session.sources, publishers, viewer, session.pace, monitor)
        try:
            with Live(console=console, auto_refresh=False, transient=True) as live:
                run.run(_Watch(live))
        finally:
            if run.process_ids:  # every camera opened
                report = run.report()
                print_summary(report, console)
                if session.report is not None:
                    _write(report, session.report)
                    console.print(f"report: {session.report}", soft_wrap=True)
        if viewer is not None and where == "browser" and not run.interrupted:
            console.print("the page stays until Ctrl-C")
            with suppress(KeyboardInterrupt):
                while viewer.alive:
                    time.sleep(0.2)
    if len(run.lost_cameras) == len(session.rig):
        raise SourceError("every camera was lost: " + "; ".join(run.lost_cameras.values()))


def _check_place(report: Path) -> None:
    """Before a run that may take hours."""
    if not report.parent.is_dir():
        raise ValueError(f"cannot write the report to {report}: there is no folder {report.parent}")
    if report.is_dir():
        raise ValueError(f"cannot write the report to {report}: it is a folder, name a file")
    if not os.access(report if report.exists() else report.parent, os.W_OK):
        raise ValueError(f"cannot write the report to {report}: choose a place where you may write")


def _write(report: dict[str, Any], path: Path) -> None:
    text = json.dumps(report, indent=2)
    try:
        path.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        print(text)  # it cannot be made again
        raise OSError(f"cannot write the report to {path} ({error.strerror}): it is printed instead") from error


def _monitor(truth: Truth, model: HandModel, sources: Sequence[SourceConfig]) -> TruthMonitor:
    first = [source.first_ns for source in sources if isinstance(source, ReplayConfig)]
    if not first:
        raise ValueError("truth goes with the recording that it belongs to; cameras have none")
    return TruthMonitor(truth, model, first[0])


class _Watch:
    """Shows the status of a run now and then."""

    def __init__(self, live: Live) -> None:
        self._live = live
        self._every_s = _TERMINAL_S if live.console.is_terminal else _LOG_S
        self._times: deque[float] = deque(maxlen=60)
        self._shown = 0.0
        self._warned = 0

    def __call__(self, status: Status) -> None:
        now = time.monotonic()
        for warning in status.warnings[self._warned :]:
            self._live.console.print(f"warning: {warning}", style="yellow", soft_wrap=True)
        self._warned = len(status.warnings)
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
