"""`hamuco bench kernels`: each CUDA kernel by itself, beside the bytes that it has to move; and hands skinned on the CPU.

A kernel's time is that of a launch within a CUDA graph of many. Beside it is what the device takes to copy as many bytes as the
kernel's arguments and results have, each moved once, at the rate of a copy that no cache holds, measured here. It is a floor
only for large launches: the data of small ones stay in the cache, and a launch costs more than either.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rich import box
from rich.console import Console
from rich.table import Table

from hamuco.calibration.camera import Camera
from hamuco.engine.crops import CropCamera
from hamuco.engine.cuda import Device
from hamuco.engine.hand_arrays import hand_arrays
from hamuco.engine.hand_model import JOINTS, HandModel
from hamuco.engine.kernel_launch import Kernels
from hamuco.engine.kernel_structs import (
    FeatureMap,
    FusedHands,
    HandViews,
    SkinnedHands,
    SkinningInputs,
    camera_frame,
    crop_view,
)
from hamuco.engine.skinning import pose_rotations, skin
from hamuco.engine.view_hand import Region

_PER_GRAPH, _GRAPHS = 20, 50
_COPY_BYTES = 2**28
_VIEWS, _CROP = 8, 256
_MAPS = ((256, 64), (512, 32), (1024, 16))  # channels and size: of ResNet-50 on crops of 256 px
_CPU_HANDS, _CPU_TURNS, _CPU_ROUNDS = 8, 20, 25
_SETTLE = 5  # the first rounds of a turn meet the others' threads and what they left in the caches


@dataclass(frozen=True, slots=True)
class KernelTime:
    """
    Attributes:
        kernel: what was launched, or else ran.
        hands: how many (or crops).
        microseconds: median of one launch.
        moved: bytes that have to be read and written once; None of what runs on the CPU.
        copy: microseconds in which the device copies as many.
    """

    kernel: str
    hands: int
    microseconds: float
    moved: int | None = None
    copy: float | None = None


class _Arrays:
    """On a device, with their bytes added up."""

    def __init__(self, device: Device) -> None:
        self._device, self._stream, self.size = device, device.stream(), 0

    def put(self, values: NDArray[np.generic]) -> int:
        array = np.ascontiguousarray(values)
        address = self._device.memory(max(array.nbytes, 1))
        self._device.upload(address, array, self._stream.handle)
        self._stream.synchronize()
        self.size += array.nbytes
        return address

    def room(self, dtype: np.dtype[np.generic] | type[np.generic], *shape: int) -> int:
        return self.put(np.zeros(shape, dtype))


def kernel_times(
    device: Device, kernels: Kernels, model: HandModel, sizes: tuple[int, ...] = (1, 16, 256)
) -> Iterator[KernelTime]:
    """Every kernel, for so many crops (fusion: an eighth as many hands, of eight views)."""
    bytes_per_us = _copy_rate(device)
    for count in sizes:
        for name, make in (("crop", _crop), ("skin", _skin), ("sample", _sample), ("fuse", _fuse)):
            hands = max(count // _VIEWS, 1) if name == "fuse" else count
            arrays = _Arrays(device)
            launch = make(kernels, model, arrays, hands)
            yield KernelTime(name, hands, _launch_us(device, launch), arrays.size, arrays.size / bytes_per_us)


def cpu_times(model: HandModel) -> Iterator[KernelTime]:
    """Eight hands out of axis angles, by numpy as live tracking has it, and by what of torch and smplx is installed, by
    turns."""
    rng = np.random.default_rng(0)
    orient, pose = rng.normal(0, 1, (_CPU_HANDS, 3)), rng.normal(0, 0.3, (_CPU_HANDS, 45))
    betas, transl = rng.normal(0, 1, (_CPU_HANDS, 10)), np.zeros((_CPU_HANDS, 3))
    runs: dict[str, Callable[[], object]] = {"numpy, single": lambda: skin(model, orient, pose, betas, transl)}
    runs |= _torch_layers(model, np.concatenate([orient, pose + model.pose_mean], axis=1), betas)
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(_CPU_TURNS):
        for name, run in runs.items():
            for number in range(_CPU_ROUNDS):
                began = time.perf_counter()
                run()
                if number >= _SETTLE:
                    times[name].append(1e6 * (time.perf_counter() - began))
    for name, values in times.items():
        yield KernelTime(f"skin, {name}", _CPU_HANDS, float(np.median(values)))


def print_times(title: str, times: list[KernelTime], console: Console) -> None:
    """A table."""
    measured = any(one.moved is not None for one in times)
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=0, pad_edge=False)
    table.add_column("")
    for head in ("hands", "us, p50", *(("kB", "copy, us", "of it") if measured else ())):
        table.add_column(head, justify="right")
    for one in times:
        cells = [str(one.hands), f"{one.microseconds:.1f}"]
        if one.moved is not None and one.copy is not None:
            cells += [f"{one.moved / 1e3:.0f}", f"{one.copy:.2f}", f"{100 * one.copy / one.microseconds:.0f} %"]
        table.add_row(one.kernel, *cells)
    console.print(table)


def _torch_layers(
    model: HandModel, axis_angle: NDArray[np.float64], betas: NDArray[np.float64]
) -> dict[str, Callable[[], object]]:
    try:
        import roma
        import torch
    except ModuleNotFoundError:
        return {}
    from hamuco.training.networks.hand_layer import HandLayer

    layer = HandLayer(model).eval()
    pose, shapes = torch.from_numpy(axis_angle).float(), torch.from_numpy(betas).float()

    def ours() -> object:
        return layer(roma.rotvec_to_rotmat(pose.reshape(-1, JOINTS, 3)), shapes)

    layers: dict[str, Callable[[], object]] = {"torch": torch.inference_mode()(ours)}
    try:
        from smplx.lbs import lbs
    except ModuleNotFoundError:
        return layers
    count = len(model.v_template)
    posedirs = np.zeros((count, 3, 135)) if model.posedirs is None else model.posedirs
    constants = [
        torch.from_numpy(values).float()
        for values in (model.v_template[None], model.shapedirs, posedirs.reshape(-1, 135).T.copy(), model.J_regressor)
    ]
    parents, weights = torch.from_numpy(model.parents), torch.from_numpy(model.weights).float()
    whole = torch.inference_mode()(lambda: lbs(shapes, pose, *constants, parents, weights))
    return layers | {"smplx": whole}


def _crop(kernels: Kernels, model: HandModel, arrays: _Arrays, count: int) -> Callable[[int], None]:
    """Crops of one place in one image, a pixel of the crop for one of the image: what is read is counted once."""
    width, height, focal = 1280, 720, 900.0
    matrix = np.array([[focal, 0, 639.5], [0, focal, 359.5], [0, 0, 1]])
    camera = Camera("camera", (width, height), matrix, np.array([0.1, -0.2, 0.001, 0.001, 0.05]), np.eye(4))
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    frame = camera_frame(camera, image.shape, image.strides[0], arrays.put(image))
    arrays.size = 3 * _CROP**2
    region = Region(camera, CropCamera(np.eye(3), focal, _CROP), 0, right=True)
    crops = arrays.put(np.stack([crop_view(region, 0, _CROP)] * count))
    frames, out = arrays.put(frame[None]), arrays.room(kernels.dtype, count, 3, _CROP, _CROP)
    return lambda stream: kernels.crop(crops, frames, out, (count, _CROP), stream)


def _skin(kernels: Kernels, model: HandModel, arrays: _Arrays, count: int) -> Callable[[int], None]:
    rng, single = np.random.default_rng(0), np.float32
    packed = hand_arrays(model, kernels.dtype)
    hand = packed.skinning_model([arrays.put(one) for one in packed.arrays()])
    six = pose_rotations(model, rng.normal(0, 1, (count, 3)), rng.normal(0, 0.3, (count, 45)))[..., :2]
    given = SkinningInputs(
        arrays.put(six.reshape(count, 16, 6).astype(single)),
        arrays.put(rng.normal(0, 1, (count, 10)).astype(single)),
        arrays.put(np.tile([5, 0, 0], (count, 1)).astype(single)),
        arrays.put(np.full(count, 0.2, single)),
    )
    out = SkinnedHands(
        arrays.room(kernels.dtype, count, hand.vertices, 3),
        *(arrays.room(single, count, *shape) for shape in ((16, 3), (21, 3), (16, 3, 3), (21, 3))),
    )
    return lambda stream: kernels.skin(hand, given, out, count, stream)


def _sample(kernels: Kernels, model: HandModel, arrays: _Arrays, count: int) -> Callable[[int], None]:
    """From maps with channels last. Of each map four neighbours of 21 joints are read, or all of it where that is less."""
    rng = np.random.default_rng(0)
    maps, read = [], 0
    for channels, size in _MAPS:
        one = rng.normal(0, 1, (1, size, size, channels)).astype(kernels.dtype)
        values = np.repeat(one, count, axis=0)  # to draw them all takes half a minute
        maps.append(FeatureMap(arrays.put(values), channels, size, 1, channels))
        read += min(values.nbytes, count * 21 * 4 * channels * values.itemsize)
    arrays.size = read
    location = arrays.put(rng.uniform(-1, 1, (count, 21, 3)).astype(np.float32))
    out = arrays.room(kernels.dtype, count, 21, sum(channels for channels, _ in _MAPS))
    return lambda stream: kernels.sample(maps, location, out, count, stream)


def _fuse(kernels: Kernels, model: HandModel, arrays: _Arrays, count: int) -> Callable[[int], None]:
    rng, single, vertices = np.random.default_rng(0), np.float32, len(model.v_template)
    points = rng.normal(0, 0.05, (count, 1, vertices, 3)).repeat(_VIEWS, axis=1)
    poses = np.tile(np.eye(4), (count, _VIEWS, 1, 1))
    poses[..., 2, 3] = 0.6
    seen = HandViews(
        vertices=arrays.put(points.astype(kernels.dtype)),
        landmarks=arrays.put(points[..., :21, :].astype(single)),
        weights=arrays.put(np.ones((count, _VIEWS), single)),
        crop_from_world=arrays.put(poses.astype(single)),
        rotations=arrays.put(np.tile(np.eye(3), (count, _VIEWS, 16, 1, 1)).astype(single)),
        betas=arrays.room(single, count, _VIEWS, 10),
        location=arrays.put(points[..., :21, :].astype(single) / single(0.2)),
        half_angle=arrays.put(np.full((count, _VIEWS), 0.2, single)),
        landmark_weights=arrays.put(np.ones((count, _VIEWS, 21), single)),
        views=_VIEWS,
        vertex_count=vertices,
    )
    fused = FusedHands(
        arrays.room(kernels.dtype, count, vertices, 3),
        *(arrays.room(single, count, *shape) for shape in ((21, 3), (16, 3, 3), (10,), (3,))),
    )
    return lambda stream: kernels.fuse(seen, fused, count, stream)


def _copy_rate(device: Device) -> float:
    """Bytes read and written per microsecond by a copy on the device that no cache holds."""
    source, target = device.memory(_COPY_BYTES), device.memory(_COPY_BYTES)
    return 2 * _COPY_BYTES / _launch_us(device, lambda stream: device.copy(target, source, _COPY_BYTES, stream))


def _launch_us(device: Device, launch: Callable[[int], None]) -> float:
    """Median time of a launch, of graphs of them."""
    stream, begin, end = device.stream(), device.event(), device.event()

    def launches() -> None:
        for _ in range(_PER_GRAPH):
            launch(stream.handle)

    launch(stream.handle)  # what fails, fails here and not in a graph
    stream.synchronize()
    graph, times = device.capture(stream, launches), []
    for _ in range(_GRAPHS + 3):
        graph.launch(stream)  # while it runs, the next one is on its way: else its way would be timed, too
        begin.record(stream)
        graph.launch(stream)
        end.record(stream)
        stream.synchronize()
        times.append(1e6 * end.seconds_since(begin) / _PER_GRAPH)
    return float(np.median(times[3:]))  # the first ones upload the graph
