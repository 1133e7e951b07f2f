"""From camera images to fused hands on one CUDA GPU: our kernels around a bundle's networks, in one CUDA graph.

    runtime = open_runtime(load_bundle(path), "tensorrt", rig.cameras, hands=2)
    runtime.start(images, hands)   # of one set
    runtime.start(...)             # of the next: its images are uploaded while the first is computed
    result = runtime.finish()      # of the first
    runtime.close()

For every number of hands one graph is captured, when it first comes: crop -> estimator -> skinning -> sampler ->
interaction -> skinning -> fusion. Its inputs but for the images are one small block, and its results another. Live tracking
reads the refined joints of the views alone, which it triangulates and fits like those of any estimator; the fused hands are
for who has no use for tracking, and for `hamuco bench latency`. Importing this loads neither the driver nor TensorRT.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hamuco.calibration.camera import Camera
from hamuco.engine.bundle import Bundle
from hamuco.engine.cuda import Device, Event
from hamuco.engine.cuda_driver import CudaError, load_driver
from hamuco.engine.gpu_memory import SLOTS, FrameMemory, SetMemory, hand_on_device, set_memory
from hamuco.engine.gpu_networks import GpuNetworks, LaunchedGraph, NetworkInputs, PreparedNetworks
from hamuco.engine.hand_arrays import hand_arrays
from hamuco.engine.hand_model import HandModel
from hamuco.engine.kernel_launch import MAX_VIEWS, Kernels
from hamuco.engine.kernel_structs import FusedHands, HandViews, SkinnedHands, SkinningInputs, crop_view
from hamuco.engine.plans import Platform, RuntimeName, Wanted, find_plan
from hamuco.engine.tensorrt_engine import load_runtime
from hamuco.engine.tensorrt_networks import TensorRTNetworks
from hamuco.engine.view_hand import Region

_WARM_UP = 3  # runs before a capture, in which libraries choose, compile and allocate
_MIRROR = np.array([-1.0, 1.0, 1.0, 1.0])


@dataclass(frozen=True, slots=True, eq=False)
class FusedSet:
    """The hands of one set. Left hands are mirrored at x = 0 of the world, as the model's right hand is their shape.

    Attributes:
        vertices: (H, N, 3) m, relative to `root`, axes of the world.
        landmarks: (H, 21, 3) m, likewise.
        rotations: (H, 16, 3, 3) of the bones in their parents' frames, the first in the world's axes.
        betas: (H, 10).
        root: (H, 3) m, world; NaN where the views do not say.
        pixels: (H, V, 21, 2) u and v of the refined joints, in the order of the runtime's cameras.
        valid: (H, V) whether the view had a region.
    """

    vertices: NDArray[np.floating]
    landmarks: NDArray[np.floating]
    rotations: NDArray[np.floating]
    betas: NDArray[np.floating]
    root: NDArray[np.floating]
    pixels: NDArray[np.floating]
    valid: NDArray[np.bool_]


@dataclass(slots=True, eq=False)
class _Chain:
    """What sets of so many hands need, and their graph once it is captured."""

    hands: int
    memory: SetMemory
    networks: PreparedNetworks
    graph: LaunchedGraph | None = None


@dataclass(frozen=True, slots=True, eq=False)
class _UnderWay:
    """A set that was started: where its results will be, and what tells that they are there."""

    outputs: Mapping[str, NDArray[Any]]
    valid: NDArray[np.bool_]
    done: Event


class GpuRuntime:
    """The chain of one rig. Any thread may use it, one at a time.

    Attributes:
        name: of its networks, for reports.
    """

    def __init__(
        self, networks: GpuNetworks, hand: HandModel, cameras: Sequence[Camera], kernels: Kernels, device: Device
    ) -> None:
        """
        Args:
            networks: to run.
            hand: the model that they speak of.
            cameras: of the rig, up to 64.
            kernels: of the networks' type.
            device: that both were loaded on. It belongs to the runtime from now on, as the networks do.

        Raises:
            ValueError: there are too many cameras, or none, or kernels and networks are of different types.
            CudaError: the device is out of memory, or lost.
        """
        _check_rig(cameras)
        if networks.dtype != kernels.dtype:
            raise ValueError(
                f"{networks.name} takes and gives {networks.dtype}, the kernels were loaded for {kernels.dtype}: load both "
                "for one type"
            )
        self.name = networks.name
        self._networks, self._kernels, self._device = networks, kernels, device
        self._cameras = {camera.name: number for number, camera in enumerate(cameras)}
        self._compute, self._upload = device.stream(), device.stream()
        self._uploaded, self._done = ([device.event() for _ in range(SLOTS)] for _ in range(2))
        self._hand = hand_on_device(device, hand_arrays(hand, kernels.dtype), self._compute)
        self._frames = FrameMemory(device, cameras)
        self._memory: dict[int, SetMemory] = {}
        self._chains: dict[int, _Chain] = {}
        self._under_way: deque[_UnderWay] = deque()
        self._slot, self._closed = 0, False

    def start(self, images: Mapping[str, NDArray[np.uint8]], hands: Sequence[Sequence[Region]]) -> None:
        """Begin with a set; returns when all is queued. The first with so many hands takes longer, up to seconds.

        Args:
            images: of cameras, by name: BGR (height, width, 3), or NV12 (height * 3 / 2, width).
            hands: of each hand its regions, one for each view in which it shows; all know the hand's side.

        Raises:
            ValueError: two sets are under way, there are no hands, or more than the networks take, an image is not of its
                camera's size, or a region is of no camera of the rig, or of one without an image; or it is closed.
            CudaError: the device is out of memory, or lost.
        """
        self._open()
        if not hands:
            raise ValueError("a set without hands: there is nothing to start")
        if len(self._under_way) == SLOTS:
            raise ValueError(f"{SLOTS} sets are under way: finish one before the next is started")
        slot, chain, compute = self._slot, self._chain(len(hands)), self._compute
        memory = chain.memory
        inputs = memory.inputs_at(slot)
        self._fill_hands(inputs, images, hands)
        inputs["cameras"][:] = self._frames.upload(images, slot, self._upload)
        self._uploaded[slot].record(self._upload)
        memory.upload(slot, compute)
        compute.wait(self._uploaded[slot])
        self._graph(chain).launch(compute)
        memory.download(slot, compute)
        self._done[slot].record(compute)
        self._under_way.append(_UnderWay(memory.outputs_at(slot), inputs["weights"] > 0, self._done[slot]))
        self._slot = (slot + 1) % SLOTS

    def finish(self) -> FusedSet:
        """Wait for the oldest set that is under way.

        Raises:
            ValueError: none is, or it is closed.
            CudaError: a kernel failed.
        """
        self._open()
        if not self._under_way:
            raise ValueError("no set is under way: start one before")
        oldest = self._under_way.popleft()
        oldest.done.synchronize()
        copies = {name: array.copy() for name, array in oldest.outputs.items()}
        return FusedSet(pixels=copies.pop("location")[..., :2], valid=oldest.valid, **copies)

    def close(self) -> None:
        """Give back all of the GPU, working or not, and close its device; sets under way are given up."""
        if self._closed:
            return
        self._closed = True
        try:
            self._device.make_current()
            for stream in (self._upload, self._compute):
                stream.synchronize()
        except CudaError:
            pass  # of a device that is lost, nothing can be waited for
        self._under_way.clear()
        self._chains.clear()
        self._networks.close()
        self._device.close()

    def _open(self) -> None:
        if self._closed:
            raise ValueError("this GPU runtime is closed: open another")
        self._device.make_current()  # whichever thread this is

    def _fill_hands(
        self,
        inputs: Mapping[str, NDArray[Any]],
        images: Mapping[str, NDArray[np.uint8]],
        hands: Sequence[Sequence[Region]],
    ) -> None:
        """Views in which a hand has no region get weight 0, no place, and a crop that means nothing."""
        for name in ("crops", "half_angle", "weights"):
            inputs[name][:] = np.zeros((), inputs[name].dtype)
        inputs["crop_from_world"][:], inputs["landmark_weights"][:], inputs["places"][:] = np.nan, 1, -1
        for row, regions in enumerate(hands):
            for region in regions:
                view = self._cameras.get(region.camera.name)
                if view is None or region.camera.name not in images:
                    raise ValueError(
                        f"hand {row} has a region in camera {region.camera.name!r}, which "
                        f"{'is not of this rig' if view is None else 'has no image in this set'}: leave it out"
                    )
                inputs["crops"][row, view] = crop_view(region, view, self._networks.image_size)
                inputs["half_angle"][row, view] = region.crop.half_angle
                inputs["weights"][row, view] = 1
                inputs["places"][row, view] = row * len(self._cameras) + view
                # A left hand is a right one in a mirrored world.
                mirror = _MIRROR if region.right is False else np.ones(4)
                inputs["crop_from_world"][row, view] = mirror[:, None] * region.crop_from_world * mirror

    def _chain(self, hands: int) -> _Chain:
        views = len(self._cameras)
        if hands not in self._memory:  # kept also if the networks cannot take so many: whoever asks again gets no more
            self._memory[hands] = set_memory(self._device, (hands, views), self._networks, self._hand.vertices)
        if hands not in self._chains:
            memory = self._memory[hands]
            at, given = memory.between, memory.given
            inputs = NetworkInputs(at["images"], given["half_angle"], given["places"], at["location"], at["sampled"])
            self._chains[hands] = _Chain(hands, memory, self._networks.prepare(hands, views, inputs))
        return self._chains[hands]

    def _graph(self, chain: _Chain) -> LaunchedGraph:
        """Captured on the first set of so many hands, whose inputs are on the device by then: it runs a few times before."""
        if chain.graph is None:
            for _ in range(_WARM_UP):
                self._queue(chain)
            chain.graph = self._networks.capture(self._compute, lambda: self._queue(chain))
        return chain.graph

    def _queue(self, chain: _Chain) -> None:
        """Everything from images to fused hands, on the stream of computations."""
        kernels, stream, views = self._kernels, self._compute, len(self._cameras)
        given, at, out = chain.memory.given, chain.memory.between, chain.memory.out
        count = chain.hands * views
        kernels.crop(given["crops"], given["cameras"], at["images"], (count, self._networks.image_size), stream.handle)

        single = chain.networks.look(stream)
        hands = SkinningInputs(single.pose, single.betas, single.camera, given["half_angle"])
        skinned = SkinnedHands(0, at["joints"], at["landmarks"], at["rotations"], at["location"])
        kernels.skin_landmarks(self._hand, hands, skinned, count, stream.handle)
        kernels.sample(single.maps, at["location"], at["sampled"], count, stream.handle)

        better = chain.networks.refine(stream)
        # The shape stays as each view sees it: the network is not trained to better it.
        hands = replace(hands, pose=better.pose, camera=better.camera)
        skinned = replace(skinned, vertices=at["vertices"], location=out["location"])
        kernels.skin(self._hand, hands, skinned, count, stream.handle)

        seen = HandViews(
            vertices=skinned.vertices,
            landmarks=skinned.landmarks,
            weights=given["weights"],
            crop_from_world=given["crop_from_world"],
            rotations=skinned.rotations,
            betas=hands.betas,
            location=skinned.location,
            half_angle=given["half_angle"],
            landmark_weights=given["landmark_weights"],
            views=views,
            vertex_count=self._hand.vertices,
        )
        fused = FusedHands(out["vertices"], out["landmarks"], out["rotations"], out["betas"], out["root"])
        kernels.fuse(seen, fused, chain.hands, stream.handle)


def open_runtime(bundle: Bundle, runtime: RuntimeName, cameras: Sequence[Camera], hands: int) -> GpuRuntime:
    """The chain with the engines that `hamuco build` made of a bundle, on the GPU that is here. Nothing is built.

    Args:
        bundle: whose networks and hand model are used.
        runtime: that runs the engines.
        cameras: of the rig, up to 64.
        hands: most that sets will have.

    Raises:
        CudaError: there is no GPU or no driver, it cannot be used, or the package is without its kernels.
        PlanError: no engine fits, or it is damaged; the message has the command that builds one.
        EngineError: the runtime is not installed, or cannot load an engine.
        ValueError: there are too many cameras, or none.
        OSError: a file cannot be read.
    """
    _check_rig(cameras)
    with ExitStack() as opened:
        device = Device(load_driver())
        opened.callback(device.close)
        here = Platform(runtime, load_runtime(runtime).__version__, device.name, (device.architecture,))
        plan = find_plan(bundle, Wanted(here, len(cameras), hands))
        kernels = Kernels(device)
        networks = TensorRTNetworks(bundle, plan, device)
        opened.callback(networks.close)
        made = GpuRuntime(networks, bundle.hand, cameras, kernels, device)
        opened.pop_all()  # which is the runtime's now
        return made


def _check_rig(cameras: Sequence[Camera]) -> None:
    if not 1 <= len(cameras) <= MAX_VIEWS:
        raise ValueError(f"a rig of {len(cameras)} cameras: the GPU fuses 1 to {MAX_VIEWS}, leave some out")
