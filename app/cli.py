"""The `hamuco` command."""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import signal
import sys
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Literal

import typer

from hamuco.app.build_command import build
from hamuco.app.model_commands import evaluate, export
from hamuco.app.offline import DEMO_CLIP, bench, parse_size, saying_so, synth
from hamuco.app.training_commands import label, train
from hamuco.calibration.camera import Camera, Rig
from hamuco.calibration.formats import import_rig
from hamuco.capture.importing import expand_template, import_recording
from hamuco.capture.interruption import STOPS
from hamuco.capture.recording import Recording
from hamuco.capture.replay import Pace, replay_configs
from hamuco.capture.source import OpenCVConfig, SourceConfig
from hamuco.streaming.publisher import DEFAULT_ENDPOINT
from hamuco.streaming.subscriber import HamucoSubscriber

# What loads the inference library is imported by the commands that need it: the grabbers' processes import this module too.

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    epilog="Start with: hamuco doctor, then hamuco demo. Every command explains itself with --help.",
)

# Raw images of two cameras do not fit through one USB 2 bus at 30 frames/s; nearly every camera offers this format.
_CAMERA_FORMAT = "MJPG"

_ADVICE = {
    errno.ENOSPC: "make room on that disk",
    errno.EDQUOT: "make room on that disk",
    errno.EROFS: "choose a place where you may write",
    errno.EACCES: "choose one that you may use",
    errno.EISDIR: "name a file",
    errno.ENOTDIR: "name a folder",
}

CalibrationOption = Annotated[
    Path | None,
    typer.Option(
        help="Calibration: rig.toml, Caliscope's camera_array.toml, or a folder of handpose3d .dat files.",
        show_default=False,
    ),
]
UnitOption = Annotated[
    float | None,
    typer.Option("--unit-m", help="Metres per unit of the calibration's translations, where it does not say."),
]
SizeOption = Annotated[
    str | None, typer.Option("--size", help="Image size as WIDTHxHEIGHT, where the calibration does not say.")
]
ReportOption = Annotated[
    Path | None, typer.Option(help="Write the run's figures to this JSON file.", show_default=False)
]
PublishOption = Annotated[
    str | None,
    typer.Option(help=f"Publish hands at this address, for example {DEFAULT_ENDPOINT}.", show_default=False),
]
KeyOption = Annotated[
    Path | None, typer.Option(help="Secret key file for publishing beyond this computer.", show_default=False)
]
HandsOption = Annotated[int, typer.Option(min=1, max=8, help="How many hands to follow at most.")]
ViewOption = Annotated[bool, typer.Option("--view", help="Show images, hands and latencies in a Rerun window.")]
BrowserOption = Annotated[bool, typer.Option("--browser", help="Like --view, in the web browser.")]
ViewFileOption = Annotated[
    Path | None, typer.Option("--view-file", help="Like --view, into an .rrd file.", show_default=False)
]


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"hamuco {version('hamuco')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Live multi-camera 3D hand tracking: calibrated cameras in, metric hands out over ZeroMQ."""


app.command()(synth)
app.command()(label)
app.command()(train)
app.command()(export)
app.command()(build)
app.command()(evaluate)
app.add_typer(bench, name="bench")


@app.command("import")
def import_(
    out: Annotated[Path, typer.Argument(help="Folder to make.")],
    video: Annotated[
        str, typer.Option(help="Video files, with {camera} for the camera's name or number: 'cam_{camera}.mp4'.")
    ],
    calibration: Annotated[Path, typer.Option(help="Calibration of the cameras; see `hamuco live --help`.")],
    timestamps: Annotated[
        Path | None, typer.Option(help="CSV file of capture times: ours or Caliscope's.", show_default=False)
    ] = None,
    fps: Annotated[
        float | None, typer.Option(help="Instead of timestamps: constant rate of videos that start together.")
    ] = None,
    unit_m: UnitOption = None,
    size: SizeOption = None,
) -> None:
    """Make a recording of foreign footage: videos of several cameras with their calibration and times.

    Example: hamuco import rec --calibration camera_array.toml --video 'hands_cam_{camera}.mp4' --timestamps times.csv
    """
    rig = import_rig(calibration, unit_m, parse_size(size) if size else None)
    recording = import_recording(out, rig, expand_template(video, rig.names), timestamps, fps)
    for warning in recording.warnings:
        typer.echo(f"warning: {warning}", err=True)
    frames = sum(len(rows) for rows in recording.frames.values())
    typer.echo(
        f"{out}: {len(rig)} cameras, {frames} frames, {recording.duration_ns / 1e9:.1f} s. "
        f"Next: hamuco live --replay {out}"
    )


@app.command()
def live(
    replay: Annotated[Path | None, typer.Option(help="Play this recording instead of cameras.")] = None,
    camera: Annotated[
        list[str] | None,
        typer.Option(help="Device number, file or URL, in the order of the calibration, or NAME=DEVICE. Repeat it."),
    ] = None,
    calibration: CalibrationOption = None,
    unit_m: UnitOption = None,
    size: SizeOption = None,
    publish: PublishOption = None,
    key: KeyOption = None,
    vertices: Annotated[bool, typer.Option("--vertices", help="Publish the meshes too.")] = False,
    model: Annotated[
        Path | None,
        typer.Option(
            help="Follow the hands by trained networks: hamuco-s, which comes with the package, or a bundle from "
            "hamuco export."
        ),
    ] = None,
    runtime: Annotated[
        Literal["openvino", "tensorrt", "tensorrt-rtx"],
        typer.Option(
            help="What runs the networks of --model: openvino on the CPU, the others on an NVIDIA GPU, with engines that "
            "hamuco build makes first for as many --views and --hands."
        ),
    ] = "openvino",
    hands: HandsOption = 2,
    refine: Annotated[
        bool,
        typer.Option(
            "--refine/--no-refine", help="Correct the cameras' poses by the tracked hands, within 0.5 degrees."
        ),
    ] = True,
    fast: Annotated[bool, typer.Option("--fast", help="Replay as fast as possible, not at the recorded pace.")] = False,
    view: ViewOption = False,
    browser: BrowserOption = False,
    view_file: ViewFileOption = None,
    report: ReportOption = None,
) -> None:
    """Track hands, from cameras or from a recording.

    Examples:

        hamuco live --replay rec --report report.json --publish tcp://127.0.0.1:5570

        hamuco live --camera 0 --camera 1 --calibration rig.toml --view

        hamuco live --replay rec --model hamuco-s --runtime tensorrt
    """
    from hamuco.app.session import Session, run_session
    from hamuco.engine.bundle import load_bundle
    from hamuco.training.synthetic.truth import TRUTH_FILE, Truth

    if replay is None and not camera and calibration is None:
        raise typer.BadParameter("say what to track: either --replay RECORDING, or --camera and --calibration")
    if runtime != "openvino" and model is None:
        raise typer.BadParameter(
            f"--runtime {runtime} needs --model, hamuco-s for instance: the default estimator runs on the CPU alone"
        )
    pace: Pace = "fast" if fast else "original"
    truth = None
    if replay is not None:
        if camera or calibration:
            raise typer.BadParameter("--replay brings its own cameras and calibration")
        recording = Recording.open(replay)
        for warning in recording.warnings:
            typer.echo(f"warning: {warning}", err=True)
        if (replay / TRUTH_FILE).is_file():
            truth = Truth.load(replay / TRUTH_FILE)
        rig, sources = recording.rig, tuple[SourceConfig, ...](replay_configs(recording, pace))
    else:
        if calibration is None:
            raise typer.BadParameter("cameras need their --calibration (rig.toml)")
        if fast:
            raise typer.BadParameter("--fast goes with --replay; cameras have a pace of their own")
        rig = _with_sources(import_rig(calibration, unit_m, parse_size(size) if size else None), camera or [])
        sources = tuple(
            OpenCVConfig(camera=one.name, device=_device(one), size=one.size, fourcc=_CAMERA_FORMAT) for one in rig
        )
    with saying_so("interrupted"):
        run_session(
            Session(
                rig=rig,
                sources=sources,
                pace=pace if replay is not None else None,
                hands=hands,
                publish=publish,
                vertices=vertices,
                refine=refine,
                key=key,
                where="browser" if browser else "window" if view else None,
                view_file=view_file,
                report=report,
                truth=truth,
                bundle=None if model is None else load_bundle(model),
                runtime=runtime,
            )
        )


@app.command()
def demo(
    recording: Annotated[
        Path | None, typer.Argument(help="Recording to play; without one, the clip that comes with the package.")
    ] = None,
    calibration: Annotated[
        Path | None,
        typer.Option(help="Track with the attached cameras, whose calibration this is.", show_default=False),
    ] = None,
    browser: BrowserOption = False,
    view_file: ViewFileOption = None,
    report: ReportOption = None,
) -> None:
    """Show what this is: track hands, print what happens, publish them, and open the viewer where there is a display.

    The clip that comes with the package is synthetic, so the true hands are known and the error is shown beside them.
    """
    display = sys.platform == "darwin" or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))
    if not (display or browser or view_file):
        typer.echo("no display here, so no viewer window: see the hands with hamuco demo --browser", err=True)
    live(
        replay=recording or (DEMO_CLIP if calibration is None else None),
        calibration=calibration,
        publish=DEFAULT_ENDPOINT,
        view=display,
        browser=browser,
        view_file=view_file,
        report=report,
    )


@app.command()
def subscribe(
    endpoint: Annotated[str, typer.Argument(help="Address of the publisher.")] = DEFAULT_ENDPOINT,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object a line, with all joints and parameters.")
    ] = False,
    every: Annotated[bool, typer.Option("--every", help="Every hand in order, not only the newest.")] = False,
    key: Annotated[Path | None, typer.Option(help="Public key file of the publisher.", show_default=False)] = None,
    timeout: Annotated[float | None, typer.Option(min=0, help="Give up after so many seconds of silence.")] = None,
) -> None:
    """Print the hands that somebody publishes, one line each. Ctrl-C ends it."""
    from hamuco.app.status import hand_json, hand_line

    milliseconds = None if timeout is None else round(timeout * 1000)
    with HamucoSubscriber(endpoint, latest=not every, timeout_ms=milliseconds, key=key) as subscriber:
        typer.echo(f"listening at {endpoint}", err=True)
        for hand in subscriber:
            typer.echo(hand_json(hand) if as_json else hand_line(hand))


@app.command()
def doctor(
    fetch: Annotated[bool, typer.Option("--fetch", help="Fetch the networks now, for use without a network.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The findings as JSON.")] = False,
) -> None:
    """Say what this machine can do: cameras, runtimes, graphics, model files, versions. Exit code 1: it cannot track."""
    from hamuco.app.doctor import examine
    from hamuco.app.status import print_findings
    from hamuco.engine.model_files import fetch_model_files

    if fetch:
        fetch_model_files()
    findings = examine()
    if as_json:
        typer.echo(json.dumps([finding.as_dict() for finding in findings], indent=2))
    else:
        print_findings(findings)
    if any(finding.needed and not finding.good for finding in findings):
        raise typer.Exit(1)


def main() -> None:
    """Entry point: expected errors become one line and exit code 1, wrong usage exit code 2."""
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    logging.getLogger("hamuco").setLevel(logging.INFO)
    # Who stops a service or a job, or closes the terminal, is taken for one who presses Ctrl-C: what runs saves and reports.
    for number in STOPS:
        if signal.getsignal(number) == signal.SIG_DFL:  # nohup has SIGHUP ignored
            signal.signal(number, signal.default_int_handler)
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(130)
    except (ValueError, OSError) as error:
        if os.environ.get("HAMUCO_DEBUG"):
            raise
        typer.echo(f"error: {_said(error)}", err=True)
        sys.exit(1)


def _said(error: ValueError | OSError) -> str:
    """Its own words; of the system's, what it was about and what to do."""
    if not isinstance(error, OSError) or error.errno is None or error.strerror is None:
        return str(error)
    names = [str(name) for name in (error.filename, error.filename2) if name is not None]
    advice = f": {_ADVICE[error.errno]}" if error.errno in _ADVICE else ""
    return f"{' -> '.join(names)}{': ' if names else ''}{error.strerror}{advice}"


def _with_sources(rig: Rig, cameras: list[str]) -> Rig:
    """The rig with each camera's source taken from the command line, by name or by order, or else from its file."""
    named = dict(text.split("=", 1) for text in cameras if text.split("=", 1)[0] in rig.names)
    in_order = [text for text in cameras if text.split("=", 1)[0] not in rig.names]
    if misnamed := [text for text in in_order if re.fullmatch(r"\w+=\S+", text) and not Path(text).exists()]:
        raise typer.BadParameter(f"--camera {misnamed[0]}: the rig has no such camera, but {', '.join(rig.names)}")
    if in_order and (named or len(in_order) != len(rig)):
        raise typer.BadParameter(
            f"{len(cameras)} --camera for a rig of {len(rig)}: give one for each of {', '.join(rig.names)}, in this "
            f"order, or name them: --camera {rig.names[0]}=0"
        )
    sources = {camera.name: camera.source for camera in rig} | dict(zip(rig.names, in_order, strict=False)) | named
    if absent := [name for name, source in sources.items() if source is None]:
        raise typer.BadParameter(
            f'where is camera {", ".join(absent)}? Put source = "DEVICE" into the file, or say hamuco live --camera {absent[0]}=DEVICE'
        )
    return Rig(tuple(replace(camera, source=sources[camera.name]) for camera in rig))


def _device(camera: Camera) -> int | str:
    source = camera.source or ""
    return int(source) if source.isdecimal() else source


if __name__ == "__main__":
    main()
