"""`hamuco build`: engines for NVIDIA GPUs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace as changed
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from hamuco.app.offline import DEMO_CLIP

if TYPE_CHECKING:
    from hamuco.engine.build import Route
    from hamuco.engine.builders import Builder
    from hamuco.engine.bundle import Bundle
    from hamuco.engine.parity import HandCrops
    from hamuco.engine.plans import Parity, Plan, Platform, Profile

# Of the demo clip: 8 with two hands in four views are 64 crops to compare with. Videos have to be decoded up to the last.
_MOMENTS = slice(0, 64, 8)


def build(
    bundle: Annotated[
        Path, typer.Argument(help="A bundle from hamuco export, or hamuco-s, which comes with the package.")
    ],
    runtime: Annotated[
        Literal["tensorrt", "tensorrt-rtx", "openvino"],
        typer.Option(
            help="tensorrt: for the GPU of this computer. tensorrt-rtx: for RTX GPUs from the 30 series on, on any computer."
        ),
    ],
    route: Annotated[
        Literal["onnx", "torch"],
        typer.Option(
            help="With tensorrt: build of the bundle's ONNX graphs, or of its network in torch, by torch-tensorrt."
        ),
    ] = "onnx",
    precision: Annotated[Literal["fp16", "bf16"], typer.Option(help="What most layers compute in.")] = "fp16",
    views: Annotated[
        str, typer.Option(help="Least, usual and most views of a hand; fastest with the usual.")
    ] = "1:8:16",
    hands: Annotated[int, typer.Option(min=1, max=8, help="Most hands at a time.")] = 2,
    arch: Annotated[
        list[str] | None,
        typer.Option(
            help="With tensorrt-rtx: only for this architecture, of sm_80, sm_86, sm_89, sm_120 and sm_121. Repeat it.",
            show_default=False,
        ),
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Build again what was built already.")] = False,
) -> None:
    """Build a bundle's networks for NVIDIA GPUs, in the form in which these run fastest.

    An engine runs with the runtime's version that built it, and on the GPU or the architectures that it was built for. It
    lies in the bundle's folder, or in the user's cache if the bundle is that of the package or cannot be written.

    With --route torch an engine comes straight from torch, on a training machine that has what the extra named
    torch-tensorrt installs. It takes and gives the same as one through ONNX, lies beside it, and is used where there is
    none. This has not run on a GPU yet: look at how far the build says that joints differ.

    Examples:

        hamuco build hamuco-s --runtime tensorrt

        hamuco build hamuco-mine --runtime tensorrt-rtx --views 1:4:8 --arch sm_89

        hamuco build hamuco-mine --runtime tensorrt --route torch
    """
    from hamuco.engine.build import OnnxRoute, build_plan, built_plan
    from hamuco.engine.builders import Builder
    from hamuco.engine.bundle import load_bundle

    if route == "torch" and runtime != "tensorrt":
        raise typer.BadParameter("--route torch goes with --runtime tensorrt, for the GPU of this computer")
    profile, opened = _profile(views, hands), load_bundle(bundle)
    if runtime == "openvino":
        if arch:
            raise typer.BadParameter("--arch goes with --runtime tensorrt-rtx")
        typer.echo("nothing to build: OpenVINO compiles a bundle when it is opened, within a second")
        return
    torch_route = _torch_route() if route == "torch" else None  # before what it needs: it says how to install all
    builder = Builder(runtime, tuple(arch or ()))
    chosen: Route = OnnxRoute(builder) if torch_route is None else torch_route(builder.platform)
    if not replace and (found := built_plan(opened, chosen, precision, profile)):
        typer.echo(f"{found.path} was built already: nothing to do, or build it again with --replace")
        return
    how = "" if route == "onnx" else f", by {route}"
    typer.echo(f"building {opened.card.name} for {builder.platform}, {precision}, {profile}{how}", err=True)
    if runtime == "tensorrt":
        typer.echo("this takes minutes, and is best done while the GPU has nothing else to do", err=True)

    def compare(estimator: bytes, interaction: bytes) -> Parity | str:
        return _parity(opened, builder, (estimator, interaction), profile)

    try:
        with _phases() as progress:
            plan = build_plan(opened, chosen, precision, profile, compare, progress, replace)
    except KeyboardInterrupt:
        typer.echo("interrupted: nothing was built", err=True)
        raise
    _print(plan)


def _torch_route() -> Callable[[Platform], Route]:
    """To be called with the platform."""
    try:
        from hamuco.training.torch_route import TorchRoute, load_torch_tensorrt
    except ModuleNotFoundError as error:
        raise ValueError(
            f'--route torch needs {error.name}, which is not installed: pip install "hamuco[torch-tensorrt]"'
        ) from error
    library = load_torch_tensorrt()
    return lambda platform: TorchRoute(library, platform)


def _profile(views: str, hands: int) -> Profile:
    from hamuco.engine.plans import Profile

    parts = views.split(":")
    if len(parts) != 3 or not all(part.isdecimal() for part in parts):
        raise typer.BadParameter(f"--views {views!r} is not LEAST:USUAL:MOST, such as 1:8:16")
    least, usual, most = map(int, parts)
    try:
        return Profile((least, usual, most), hands)
    except ValueError as error:
        raise typer.BadParameter(f"--views {views}: {error}") from error


def _parity(bundle: Bundle, builder: Builder, engines: tuple[bytes, bytes], profile: Profile) -> Parity | str:
    """On the clip that comes with the package, if there is a device that runs the engines."""
    from hamuco.engine.cuda import Device
    from hamuco.engine.cuda_driver import CudaError, load_driver
    from hamuco.engine.parity import measure_parity
    from hamuco.engine.plans import NOT_COMPARED

    try:
        device = Device(load_driver())
    except CudaError:
        return NOT_COMPARED

    def measured() -> Parity | str:
        """The engines go with this, before their device."""
        if device.architecture not in builder.platform.architectures:
            return f"not compared: {device.name} is {device.architecture}"
        estimator, interaction = (builder.loaded(engine, device) for engine in engines)
        return measure_parity(bundle, estimator, interaction, demo_crops(bundle.card.image_size, profile))

    try:
        parity = measured()
    except (ValueError, OSError) as error:  # minutes of building are not to be lost
        parity = f"not compared: {error}"
    device.close()  # not in a `finally`, where an error would still hold the engines
    return parity


def demo_crops(size: int, profile: Profile) -> list[HandCrops]:
    """True hands of moments of the demo clip as its cameras see them, at each as many as the profile takes."""
    from hamuco.engine.hamuco_views import right_crops
    from hamuco.engine.landmarks import regions_from_joints
    from hamuco.engine.parity import HandCrops
    from hamuco.training.datasets.footage import decode
    from hamuco.training.datasets.recorded import Recorded

    least, _, most = profile.views
    demo, found = Recorded(DEMO_CLIP), []
    cameras = demo.recording.rig.cameras[:most]
    for frames in decode(demo.recording, demo.sets[_MOMENTS]):
        hands = demo.hands_at(frames.t_capture_ns, frames)[: profile.hands]
        regions = [
            changed(region, right=hands[region.track_id or 0].side == "right")
            for region in regions_from_joints(cameras, [(index, hand.joints) for index, hand in enumerate(hands)])
        ]
        names = [camera.name for camera in cameras]
        places = np.full((len(hands), max(least, len(cameras))), -1)
        for index, region in enumerate(regions):
            places[region.track_id or 0, names.index(region.camera.name)] = index
        half_angle = np.array([region.crop.half_angle for region in regions])
        images = {name: frame.image for name, frame in frames.frames.items()}
        found.append(HandCrops(right_crops(images, regions, size), half_angle, places))
    return found


def _print(plan: Plan) -> None:
    from hamuco.engine.plans import Parity

    card = plan.card
    size = sum(file.stat().st_size for file in plan.path.iterdir()) / 1e6
    typer.echo(f"{plan.path}: {size:.1f} MB, {card.profile}, built in {card.seconds:.1f} s")
    if isinstance(card.parity, Parity):
        typer.echo(
            f"joints differ from the bundle's on the CPU by {card.parity.p99_mm:.2f} mm (p99), {card.parity.max_mm:.2f} "
            f"mm at most, on {card.parity.crops} crops"
        )
    else:
        typer.echo(f"joints {card.parity}")


@contextmanager
def _phases() -> Iterator[Callable[[str, int, int], None]]:
    """A bar on a terminal, of the phase that the builder is in."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("building", total=None)
        yield lambda what, done, total: bar.update(task, description=what, completed=done, total=total)
