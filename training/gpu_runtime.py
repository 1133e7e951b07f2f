"""From camera images to fused hands on one CUDA GPU: our kernels around torch's networks, in one CUDA graph.

    runtime = TorchGpuRuntime(bundle_network(load_bundle(path)), rig.cameras, Kernels(Device(load_driver())))
    runtime.start(images, hands)   # of one set
    runtime.start(...)             # of the next: its images are uploaded while the first is computed
    result = runtime.finish()      # of the first

For every number of hands one graph is captured, when it first comes: crop -> estimator -> skinning -> sampler ->
interaction -> skinning -> fusion. Its inputs but for the images are one small block, and its results another.

The reference for the TensorRT runtime, and for GPUs without it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hamuco.calibration.camera import Camera
from hamuco.engine.hand_arrays import hand_arrays
from hamuco.engine.hand_model import JOINTS, LANDMARKS, SHAPES
from hamuco.engine.kernel_launch import (
    MAX_VIEWS,
    FeatureMap,
    FusedHands,
    HandParameters,
    HandViews,
    Kernels,
    SkinnedHands,
    device_hand,
)
from hamuco.engine.kernel_structs import CAMERA_FRAME, CROP_VIEW, Block, camera_frame, crop_view
from hamuco.engine.view_hand import Region
from hamuco.training.gpu_networks import DeviceNetworks
from hamuco.training.networks.hamuco import HaMuCo

_SLOTS = 2  # sets under way: one is computed while the next is uploaded
_WARM_UP = 3  # runs before a capture, in which libraries choose and allocate
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
class _Plan:
    """Memory for sets of H hands, on the device and here (pinned, for each slot); and their graph once it is captured."""

    hands: int
    inputs: Block
    outputs: Block
    device_inputs: Tensor
    device_outputs: Tensor
    host_inputs: list[Tensor]
    host_outputs: list[Tensor]
    graph: torch.cuda.CUDAGraph | None = None


@dataclass(frozen=True, slots=True, eq=False)
class _UnderWay:
    """A set that was started: where its results will be, and what tells that they are there."""

    outputs: dict[str, NDArray[Any]]
    valid: NDArray[np.bool_]
    done: torch.cuda.Event | None


class TorchGpuRuntime:
    """The chain of one rig; one thread uses it."""

    def __init__(
        self,
        network: HaMuCo,
        cameras: Sequence[Camera],
        kernels: Kernels,
        device: str = "cuda",
        channels_last: bool = False,
    ) -> None:
        """
        Args:
            network: trained; it is not changed.
            cameras: of the rig, up to 64.
            kernels: of the same device; the networks compute in their type.
            device: of torch; "cpu" in tests, with a stand-in for the driver.
            channels_last: see `DeviceNetworks`.

        Raises:
            ValueError: there are too many cameras, or none.
        """
        if not 1 <= len(cameras) <= MAX_VIEWS:
            raise ValueError(f"a rig of {len(cameras)} cameras: the GPU fuses 1 to {MAX_VIEWS}, leave some out")
        self._device, self._kernels, self._cameras = torch.device(device), kernels, list(cameras)
        self._index = {camera.name: index for index, camera in enumerate(cameras)}
        self._size, self._on_gpu = network.config.estimator.image_size, self._device.type == "cuda"
        dtype = torch.float16 if kernels.dtype == np.float16 else torch.float32
        self._networks = DeviceNetworks(network, self._device, dtype, channels_last)
        arrays = hand_arrays(network.hand_model, kernels.dtype)
        # As bytes: torch need not know what they are.
        self._hand_arrays = [
            torch.from_numpy(one.reshape(-1).view(np.uint8)).to(self._device) for one in arrays.arrays()
        ]
        self._hand = device_hand(arrays, [array.data_ptr() for array in self._hand_arrays])
        self._plans: dict[int, _Plan] = {}
        self._frames = Block({camera.name: (np.uint8, (camera.size[1] * camera.size[0] * 3,)) for camera in cameras})
        self._host_frames = [self._pinned(self._frames.size) for _ in range(_SLOTS)]
        self._device_frames = [self._memory(self._frames.size) for _ in range(_SLOTS)]
        self._under_way: deque[_UnderWay] = deque()
        self._slot = 0
        if self._on_gpu:
            self._compute, self._upload = torch.cuda.Stream(self._device), torch.cuda.Stream(self._device)
            self._pool = torch.cuda.graph_pool_handle()
            torch.cuda.synchronize(self._device)  # the weights came on another stream

    def start(self, images: Mapping[str, NDArray[np.uint8]], hands: Sequence[Sequence[Region]]) -> None:
        """Begin with a set; returns when all is queued.

        Args:
            images: of cameras, by name: BGR (height, width, 3), or NV12 (height * 3 / 2, width).
            hands: of each hand its regions, one for each view in which it shows; all know the hand's side.

        Raises:
            ValueError: two sets are under way, there are no hands, an image is not of its camera's size, or a region is of
                no camera of the rig, or of one without an image.
        """
        if not hands:
            raise ValueError("a set without hands: there is nothing to start")
        if len(self._under_way) == _SLOTS:
            raise ValueError(f"{_SLOTS} sets are under way: finish one before the next is started")
        slot, plan = self._slot, self._plan(len(hands))
        inputs = plan.inputs.views(plan.host_inputs[slot].numpy())
        inputs["cameras"][:] = self._fill_frames(images, slot)
        self._fill_hands(inputs, images, hands)
        done = None
        if self._on_gpu:
            done, uploaded = torch.cuda.Event(), torch.cuda.Event()
            with torch.cuda.stream(self._upload):
                self._device_frames[slot].copy_(self._host_frames[slot], non_blocking=True)
                uploaded.record()
            with torch.cuda.stream(self._compute):
                plan.device_inputs.copy_(plan.host_inputs[slot], non_blocking=True)
                self._compute.wait_event(uploaded)
                self._graph(plan).replay()
                plan.host_outputs[slot].copy_(plan.device_outputs, non_blocking=True)
                done.record()
        else:
            self._device_frames[slot].copy_(self._host_frames[slot])
            plan.device_inputs.copy_(plan.host_inputs[slot])
            self._chain(plan)
            plan.host_outputs[slot].copy_(plan.device_outputs)
        outputs = plan.outputs.views(plan.host_outputs[slot].numpy())
        self._under_way.append(_UnderWay(outputs, inputs["weights"] > 0, done))
        self._slot = (slot + 1) % _SLOTS

    def finish(self) -> FusedSet:
        """Wait for the oldest set that is under way.

        Raises:
            ValueError: none is.
        """
        if not self._under_way:
            raise ValueError("no set is under way: start one before")
        oldest = self._under_way.popleft()
        if oldest.done is not None:
            oldest.done.synchronize()
        copies = {name: array.copy() for name, array in oldest.outputs.items()}
        return FusedSet(pixels=copies.pop("location")[..., :2], valid=oldest.valid, **copies)

    def _fill_frames(self, images: Mapping[str, NDArray[np.uint8]], slot: int) -> NDArray[np.void]:
        """Images into pinned memory, and what the kernel has to know of them; of a missing one, an old frame."""
        places = self._frames.views(self._host_frames[slot].numpy())
        addresses = self._frames.addresses(self._device_frames[slot].data_ptr())
        packed = np.zeros(len(self._cameras), CAMERA_FRAME)
        for index, camera in enumerate(self._cameras):
            image = images.get(camera.name)
            shape = (*camera.size[::-1], 3) if image is None else image.shape
            packed[index] = camera_frame(
                camera, shape, shape[1] * (3 if len(shape) == 3 else 1), addresses[camera.name]
            )
            if image is not None:
                places[camera.name][: image.size].reshape(shape)[:] = image
        return packed

    def _fill_hands(
        self,
        inputs: dict[str, NDArray[Any]],
        images: Mapping[str, NDArray[np.uint8]],
        hands: Sequence[Sequence[Region]],
    ) -> None:
        """Views in which a hand has no region get weight 0, and a crop that means nothing."""
        for name in ("crops", "half_angle", "weights"):
            inputs[name][:] = np.zeros((), inputs[name].dtype)
        inputs["crop_from_world"][:], inputs["landmark_weights"][:] = np.nan, 1
        for row, regions in enumerate(hands):
            for region in regions:
                view = self._index.get(region.camera.name)
                if view is None or region.camera.name not in images:
                    raise ValueError(
                        f"hand {row} has a region in camera {region.camera.name!r}, which "
                        f"{'is not of this rig' if view is None else 'has no image in this set'}: leave it out"
                    )
                inputs["crops"][row, view] = crop_view(region, view, self._size)
                inputs["half_angle"][row, view] = region.crop.half_angle
                inputs["weights"][row, view] = 1
                # A left hand is a right one in a mirrored world.
                mirror = _MIRROR if region.right is False else np.ones(4)
                inputs["crop_from_world"][row, view] = mirror[:, None] * region.crop_from_world * mirror

    def _plan(self, hands: int) -> _Plan:
        if hands not in self._plans:
            each, single = (hands, len(self._cameras)), np.float32
            inputs = Block(
                {
                    "cameras": (CAMERA_FRAME, each[1:]),
                    "crops": (CROP_VIEW, each),
                    "half_angle": (single, each),
                    "weights": (single, each),
                    "crop_from_world": (single, (*each, 4, 4)),
                    "landmark_weights": (single, (*each, LANDMARKS)),
                }
            )
            outputs = Block(
                {
                    "vertices": (self._kernels.dtype, (hands, self._hand.vertices, 3)),
                    "landmarks": (single, (hands, LANDMARKS, 3)),
                    "rotations": (single, (hands, JOINTS, 3, 3)),
                    "betas": (single, (hands, SHAPES)),
                    "root": (single, (hands, 3)),
                    "location": (single, (*each, LANDMARKS, 3)),
                }
            )
            self._plans[hands] = _Plan(
                hands,
                inputs,
                outputs,
                self._memory(inputs.size),
                self._memory(outputs.size),
                [self._pinned(inputs.size) for _ in range(_SLOTS)],
                [self._pinned(outputs.size) for _ in range(_SLOTS)],
            )
        return self._plans[hands]

    def _graph(self, plan: _Plan) -> torch.cuda.CUDAGraph:
        """Captured on the first set of so many hands, whose inputs are on the device by then: it runs a few times before."""
        if plan.graph is None:
            for _ in range(_WARM_UP):
                self._chain(plan)
            graph = torch.cuda.CUDAGraph()
            # Other threads may go on allocating. Graphs share memory, since only one of them runs at a time.
            with torch.cuda.graph(graph, self._pool, self._compute, capture_error_mode="thread_local"):
                self._chain(plan)
            plan.graph = graph
        return plan.graph

    @torch.inference_mode()
    def _chain(self, plan: _Plan) -> None:
        """Queue everything from images to fused hands on the current stream."""
        stream = torch.cuda.current_stream(self._device).cuda_stream if self._on_gpu else 0
        kernels, networks, views = self._kernels, self._networks, len(self._cameras)
        count = plan.hands * views
        given = plan.inputs.addresses(plan.device_inputs.data_ptr())
        out = plan.outputs.addresses(plan.device_outputs.data_ptr())
        half_angle, weights = (
            plan.device_inputs[plan.inputs.offsets[name] :][: 4 * count].view(torch.float32)
            for name in ("half_angle", "weights")
        )

        images = self._empty(count, 3, self._size, self._size, dtype=networks.dtype)
        kernels.crop(given["crops"], given["cameras"], images.data_ptr(), (count, self._size), stream)
        single, maps = networks.look(images)
        pose, betas, camera = single.pose.contiguous(), single.betas.contiguous(), single.camera.contiguous()
        joints, landmarks = self._empty(count, JOINTS, 3), self._empty(count, LANDMARKS, 3)
        rotations, location = self._empty(count, JOINTS, 3, 3), self._empty(count, LANDMARKS, 3)
        single_view = SkinnedHands(
            0, joints.data_ptr(), landmarks.data_ptr(), rotations.data_ptr(), location.data_ptr()
        )
        hands = HandParameters(pose.data_ptr(), betas.data_ptr(), camera.data_ptr(), given["half_angle"])
        kernels.skin_landmarks(self._hand, hands, single_view, count, stream)

        sampled = self._empty(count, LANDMARKS, networks.sampled, dtype=networks.dtype)
        described = [_feature_map(level) for level in maps[:3]]
        kernels.sample(described, location.data_ptr(), sampled.data_ptr(), count, stream)
        known = torch.cat([location.flatten(1), pose[:, 1:].flatten(1), half_angle[:, None]], dim=1)
        valid = weights.reshape(plan.hands, views) > 0
        better = networks.refine(maps[3], sampled, known, valid)
        pose, camera = better.pose.contiguous(), better.camera.contiguous()

        vertices = self._empty(count, self._hand.vertices, 3, dtype=networks.dtype)
        hands = HandParameters(pose.data_ptr(), betas.data_ptr(), camera.data_ptr(), given["half_angle"])
        skinned = replace(single_view, vertices=vertices.data_ptr(), location=out["location"])
        kernels.skin(self._hand, hands, skinned, count, stream)
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
        kernels.fuse(seen, fused, plan.hands, stream)

    def _empty(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=self._device)

    def _memory(self, size: int) -> Tensor:
        return self._empty(size, dtype=torch.uint8)

    def _pinned(self, size: int) -> Tensor:
        return torch.empty(size, dtype=torch.uint8, pin_memory=self._on_gpu)


def _feature_map(maps: Tensor) -> FeatureMap:
    """Maps (n, C, S, S) for the sampler, which knows crops and rows without gaps."""
    _, channels, _, size = maps.shape
    crop, channel, row, column = maps.stride()
    if (crop, row) != (channels * size * size, size * column):
        raise ValueError(
            f"a feature map of shape {tuple(maps.shape)} has strides {maps.stride()}: there are gaps in it"
        )
    return FeatureMap(maps.data_ptr(), channels, size, channel, column)
