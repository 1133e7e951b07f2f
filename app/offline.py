"""The commands that work offline: make synthetic recordings, measure accuracy."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from hamuco.app.accuracy import AccuracyOptions
    from hamuco.app.chains import Chain
    from hamuco.engine.bundle import Bundle
    from hamuco.engine.plans import RuntimeName

DEMO_CLIP = Path(__file__).parent / "demo_clip"
"""The recording with truth that comes with the package."""

_LOG_S = 10.0
_CLIP_HANDS = 2  # in that recording

# Of `hamuco bench accuracy` and `hamuco evaluate`.
RECORDINGS = "Recordings; of one without truth, which needs three cameras, each view is left out in turn"
DatasetOption = Annotated[
    str | None,
    typer.Option(
        help="What is at the paths instead: hanco, or with a split hanco:all; or freihand, whose single views need a "
        "model.",
        show_default=False,
    ),
]
TablesOption = Annotated[Path, typer.Option("--out", help="Folder for tables and plots.")]
# Those without a default here say nothing of recordings without truth, and who gives them for one is told so.
ProtocolOption = Annotated[
    Literal["metric", "hamuco"] | None,
    typer.Option(
        help="metric, or hamuco: the paper's, which takes root and scale from the truth.", show_default="metric"
    ),
]
LiveOption = Annotated[
    bool | None,
    typer.Option("--live/--no-live", help="Run the live pipeline on recordings with truth too.", show_default="live"),
]
LimitOption = Annotated[int | None, typer.Option(min=1, help="Only the first so many moments.")]
ViewsOption = Annotated[
    str | None,
    typer.Option(help="Only these numbers of views, such as 2,4. Otherwise 2, 3, 4, 8 and as many as there are."),
]
TABLES = Path("accuracy")

bench = typer.Typer(no_args_is_help=True, help="Measure what the software does, on this machine and on your data.")


def synth(
    out: Annotated[Path, typer.Argument(help="Folder to make.")],
    rig: Annotated[
        str, typer.Option(help="Layout and number of cameras, 1 to 64: ring4, dome8, table3, stereo, random6.")
    ] = "ring4",
    seconds: Annotated[float, typer.Option(help="Length, up to half an hour.")] = 8.0,
    hands: Annotated[
        int | None,
        typer.Option(help="1 (right or left) or 2 (right and left, interacting); not with --board.", show_default="2"),
    ] = None,
    seed: Annotated[int, typer.Option(help="The same seed makes the same recording.")] = 1,
    preset: Annotated[str, typer.Option(help="How hard the pictures are: plain, room or hard.")] = "room",
    size: Annotated[str, typer.Option(help="Image size as WIDTHxHEIGHT, even, up to 4096 a side.")] = "640x480",
    fps: Annotated[float, typer.Option(help="Frames per second.")] = 30.0,
    timing: Annotated[
        str,
        typer.Option(help="How well the cameras keep step: synced, webcam (jitter, drops) or free-running."),
    ] = "synced",
    codec: Annotated[
        str,
        typer.Option(help="mjpeg, or h264: a tenth of the size, to send or keep. It needs PyAV to write, not to play."),
    ] = "mjpeg",
    board: Annotated[
        bool, typer.Option("--board", help="Move a ChArUco board through the rig instead of hands, to calibrate it.")
    ] = False,
) -> None:
    """Render a recording whose every joint, vertex, camera and time is known.

    The folder is an ordinary recording with a truth.npz in it (board_truth.npz with --board): replay it, measure with
    it, or try a calibration program on the board. About a tenth of a second per frame and core in software. Needs an
    OpenGL driver, in software or hardware, and no display; --board needs none.

    Example: hamuco synth rec --rig ring4 --seconds 8 --hands 2 --seed 1 --preset room && hamuco live --replay rec
    """
    from hamuco.training.synthetic.board_truth import BOARD_TRUTH_FILE
    from hamuco.training.synthetic.charuco import BoardClipOptions, write_board_clip
    from hamuco.training.synthetic.clip import ClipOptions, write_clip
    from hamuco.training.synthetic.filming import FilmOptions

    if board and hands is not None:
        raise typer.BadParameter("--board moves a board through the rig, and no --hands")
    with _wrong_use():
        options = FilmOptions(
            rig=rig,
            seconds=seconds,
            seed=seed,
            preset=preset,
            size=parse_size(size),
            fps=fps,
            timing=timing,
            codec=codec,
        )
        options.shoot()
        common = asdict(options)
        board_options, hand_options = (
            BoardClipOptions(**common),
            ClipOptions(hands=2 if hands is None else hands, **common),
        )
    with saying_so(f"interrupted: nothing is left of {out}"), progress_bar("rendering") as progress:
        recording = write_board_clip(out, board_options, progress) if board else write_clip(out, hand_options, progress)
    frames = sum(len(rows) for rows in recording.frames.values())
    cameras = f"{views} cameras" if (views := len(recording.rig)) > 1 else "1 camera"
    typer.echo(f"{out}: {cameras}, {frames} frames, {recording.duration_ns / 1e9:.1f} s, with truth.")
    if board:
        typer.echo(f"Where the board and its corners are: {out / BOARD_TRUTH_FILE}")
    elif views > 1:
        typer.echo(f"Next: hamuco live --replay {out}, hamuco bench accuracy {out}")


@bench.command()
def accuracy(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(help=f"{RECORDINGS}. None: the clip that comes with the package.", show_default=False),
    ] = None,
    dataset: DatasetOption = None,
    out: TablesOption = TABLES,
    protocol: ProtocolOption = None,
    live: LiveOption = None,
    limit: LimitOption = None,
    views: ViewsOption = None,
    model: Annotated[
        Path | None,
        typer.Option(
            help="Measure trained networks too: hamuco-s, which comes with the package, or a bundle from hamuco "
            "export.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """How far are the hands from the truth? One table per data set, by method and number of views, and plots.

    Of a recording without truth: how far are they from what a view sees that was left out, in px?

    Examples:

        hamuco bench accuracy

        hamuco synth hard8 --rig dome8 --preset hard --seed 100 && hamuco bench accuracy hard8

        hamuco bench accuracy --dataset hanco ~/HanCo --protocol hamuco
    """
    numbers = check_choices(dataset, views)
    if dataset is not None and not paths:
        raise typer.BadParameter(
            f"--dataset {dataset} needs the folder that it is in: hamuco bench accuracy --dataset {dataset} FOLDER"
        )
    bundle = None if model is None else opened_bundle(model)
    from hamuco.app.accuracy import AccuracyOptions

    measure(paths or [DEMO_CLIP], dataset, AccuracyOptions(out, protocol, live, limit, numbers, bundle))


def measure(paths: Sequence[Path], dataset: str | None, options: AccuracyOptions) -> None:
    """Of `hamuco bench accuracy` and `hamuco evaluate`: recordings, or folders of a data set."""
    from hamuco.app.accuracy import bench_accuracy

    check_folder(options.out)
    recordings = paths if dataset is None else []
    datasets = [] if dataset is None else [(dataset, path) for path in paths]
    with saying_so(f"interrupted: nothing new is in {options.out}"):
        bench_accuracy(recordings, datasets, options, Console(), progress_bar)


def check_choices(dataset: str | None, views: str | None) -> tuple[int, ...] | None:
    """Of the options above, what the parser does not check; BadParameter. Gives the numbers of views."""
    if dataset is not None:
        from hamuco.app.datasets import dataset_reader

        with _wrong_use():
            dataset_reader(dataset)
    return None if views is None else tuple(_numbers("--views", views))


def opened_bundle(model: Path) -> Callable[[], Bundle]:
    """Gives a bundle that is opened here and now: what is none says so before anything takes time."""
    from hamuco.engine.bundle import load_bundle

    bundle = load_bundle(model)
    return lambda: bundle


@bench.command()
def latency(
    model: Annotated[Path, typer.Option(help="hamuco-s, which comes with the package, or a bundle.")] = Path(
        "hamuco-s"
    ),
    views: Annotated[str, typer.Option(help="Numbers of views.")] = "1,2,4,8,16",
    hands: Annotated[str, typer.Option(help="Numbers of hands: 1, 2 or both.")] = "1,2",
    rounds: Annotated[int, typer.Option(min=1, help="Runs that are counted, of each.")] = 100,
    torch: Annotated[bool, typer.Option("--torch", help="Measure the networks in PyTorch too, by turns.")] = False,
    compiled: Annotated[
        bool, typer.Option("--compile", help="And by torch.compile, which takes minutes for each size, the first time.")
    ] = False,
    gpu: Annotated[
        bool, typer.Option("--gpu", help="Measure the CUDA graph of a GPU with PyTorch's networks too. Needs torch.")
    ] = False,
    runtime: Annotated[
        list[str] | None,
        typer.Option(
            help="Measure the CUDA graph of a GPU with engines too, which hamuco build makes first, for as many views "
            "and hands. Repeat it.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the figures and the plot.")] = Path("latency"),
) -> None:
    """How long from camera images to fused meshes? By stage and number of views and hands, on this machine.

    The images are in memory, and where the hands are is known; capture, detection and tracking are not in it: for these
    see the latencies in the report of hamuco live --report.

    Examples:

        hamuco bench latency --views 4 --hands 2

        hamuco build hamuco-s --runtime tensorrt && hamuco bench latency --runtime tensorrt
    """
    sizes = [(v, h) for h in _numbers("--hands", hands) for v in _numbers("--views", views)]
    if (most := max(h for _, h in sizes)) > _CLIP_HANDS:
        raise typer.BadParameter(f"--hands {hands}: there is no scene of {most} hands; 1 or 2 can be measured, or 1,2")
    runtimes = _runtimes(runtime or ())
    bundle = opened_bundle(model)()
    from hamuco.app.chains import CPUChain, TorchChain, tensorrt_chain, torch_graph_chain
    from hamuco.app.latency import bench_latency, print_rows, save_rows
    from hamuco.training.datasets.recorded import Recorded

    check_folder(out)
    chains: list[Chain] = [CPUChain(bundle)]
    graphs = [tensorrt_chain(bundle, one) for one in runtimes]
    try:
        chains += [TorchChain(bundle, one) for one, wanted in ((False, torch), (True, compiled)) if wanted]
        if gpu:
            graphs.append(torch_graph_chain(bundle))
    except ModuleNotFoundError as error:
        raise ValueError(f'this needs {error.name}, which is not installed: pip install "hamuco[train]"') from error
    with ExitStack() as opened:
        for graph in graphs:
            opened.callback(graph.close)
        opened.enter_context(saying_so("interrupted: nothing was saved"))
        rows = bench_latency(Recorded(DEMO_CLIP), [*chains, *graphs], sizes, rounds, progress_bar)
    console = Console()
    print_rows(rows, console)
    written = [path.name for path in save_rows(rows, bundle.card.name, out)]
    text = f"{bundle.card.name}, {rounds} rounds; saved in {out}: {', '.join(written)}"
    if not any(name.endswith(".png") for name in written):
        text += '. No plot: it needs matplotlib: pip install "hamuco[bench]"'
    console.print(text, highlight=False, markup=False)


@bench.command()
def kernels() -> None:
    """How long does each CUDA kernel take, and how near is it to what memory allows? And hands skinned on the CPU.

    Without a GPU only the latter. PyTorch's hand layer and smplx's are measured beside it where they are installed.
    """
    from hamuco.app.kernel_times import cpu_times, kernel_times, print_times
    from hamuco.app.report import machine_name
    from hamuco.engine.cuda import Device
    from hamuco.engine.cuda_driver import CudaError, load_driver
    from hamuco.engine.hand_model import load_hand_model
    from hamuco.engine.kernel_launch import Kernels

    console, model = Console(), load_hand_model()
    print_times(machine_name(), list(cpu_times(model)), console)
    try:
        device = Device(load_driver())
    except CudaError as error:
        console.print(f"CUDA kernels not measured: {error}", highlight=False, markup=False)
        return
    print_times(f"{device.name}, half precision", list(kernel_times(device, Kernels(device), model)), console)


def _numbers(option: str, text: str) -> list[int]:
    """Of a text such as 1,2,4, each once."""
    parts = text.split(",")
    if not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
        raise typer.BadParameter(f"{option} {text!r} is not a list of numbers from 1 up, such as 1,2,4")
    return list(dict.fromkeys(map(int, parts)))


def _runtimes(given: Sequence[str]) -> list[RuntimeName]:
    """Each once. Typer takes no list of a Literal."""
    known: dict[str, RuntimeName] = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt-rtx"}
    if unknown := [one for one in given if one not in known]:
        raise typer.BadParameter(f"--runtime {unknown[0]!r} is not one of {', '.join(known)}")
    return [known[one] for one in dict.fromkeys(given)]


def parse_size(text: str) -> tuple[int, int]:
    """Width and height, px, of a text such as 1280x720; BadParameter for another."""
    parts = text.lower().split("x")
    if len(parts) != 2 or not all(part.isdecimal() for part in parts):
        raise typer.BadParameter(f"--size {text!r} is not WIDTHxHEIGHT, such as 1280x720")
    return int(parts[0]), int(parts[1])


def check_folder(path: Path) -> None:
    """Whether figures and plots can go there, before the minutes of work whose results they are. It is not made yet.

    Raises:
        OSError: it cannot be made, or may not be written.
    """
    there = next(one for one in (path, *path.absolute().parents) if one.exists())
    if not there.is_dir():
        raise OSError(f"folder {path} cannot be made, {there} is a file: choose another with --out")
    if not os.access(there, os.W_OK):
        raise OSError(f"folder {there} may not be written: choose another with --out")


@contextmanager
def _wrong_use() -> Iterator[None]:
    """What is wrong with options is wrong use: exit code 2, and where help is to be had."""
    try:
        yield
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


@contextmanager
def saying_so(interrupted: str) -> Iterator[None]:
    """After Ctrl-C, say what is left of what was done; the exit code is then 130."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo(interrupted, err=True)
        raise


class Lines:
    """Says how far it is, for logs."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._said = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self._said > _LOG_S:
            self._said = now
            typer.echo(f"{self._what}: {done} of {total}", err=True)


@contextmanager
def progress_bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal, elsewhere a line now and then; call it with what is done and what there is."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield Lines(what)
        return
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
