"""Runtimes of HaMuCo under one roof, to be measured side by side: from camera images to fused meshes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from hamuco.engine.bundle import Bundle
from hamuco.engine.hamuco import CropHands, HaMuCoNetworks
from hamuco.engine.hamuco_views import right_crops
from hamuco.engine.hand_model import HandModel
from hamuco.engine.landmarks import regions_from_joints
from hamuco.engine.skinning import skin
from hamuco.engine.view_hand import Region
from hamuco.fusion.hand import HandParameters
from hamuco.fusion.mean_hand import mean_hands
from hamuco.training.datasets.sample import Sample

if TYPE_CHECKING:
    from torch import Tensor

    from hamuco.calibration.camera import Camera
    from hamuco.engine.gpu_runtime import GpuRuntime
    from hamuco.engine.plans import RuntimeName


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """Hands that cameras look at.

    Attributes:
        images: of each camera, (height, width, 3) uint8 BGR.
        hands: of each hand the regions in which it shows, one for every view.
    """

    images: Mapping[str, NDArray[np.uint8]]
    hands: tuple[tuple[Region, ...], ...]


@dataclass(frozen=True, slots=True, eq=False)
class ChainRun:
    """
    Attributes:
        seconds: of each stage.
        meshes: of each hand the vertices (N, 3) m, world; None where the views of a scene, which other moments may have
            helped to make, do not agree on a place.
    """

    seconds: Sequence[float]
    meshes: Sequence[NDArray[np.floating] | None]


class Chain(Protocol):
    """A runtime that makes meshes out of images."""

    name: str
    stages: tuple[str, ...]

    def __call__(self, scene: Scene) -> ChainRun:
        """Run once; at the end of each stage the device is idle."""


def scene_of(samples: Iterable[Sample], views: int, hands: int) -> Scene:
    """A scene of so many views and hands out of samples of a recording with truth, which are read as far as needed.

    Raises:
        ValueError: no sample has so many hands, or the samples are too few.
    """
    images: dict[str, NDArray[np.uint8]] = {}
    regions: list[list[Region]] = [[] for _ in range(hands)]
    for number, sample in enumerate(samples):
        if len(sample.hands) < hands:
            raise ValueError(f"{sample.name} has {len(sample.hands)} hands, {hands} are wanted: 1 or 2 can be measured")
        joints = [(index, hand.joints) for index, hand in enumerate(sample.hands[:hands])]
        for camera in sample.cameras:
            own = replace(camera, name=f"{camera.name} {number}")
            seen = regions_from_joints([own], joints)
            if camera.name not in sample.images or len(seen) < hands:
                continue
            images[own.name] = sample.images[camera.name]
            for hand, region in enumerate(seen):
                regions[hand].append(replace(region, right=sample.hands[hand].side == "right"))
            if len(images) == views:
                return Scene(images, tuple(map(tuple, regions)))
    raise ValueError(f"the clip shows {hands} hands in {len(images)} views, {views} are wanted: ask for fewer")


class CPUChain:
    """On OpenVINO, as `hamuco live --model` runs it, but for tracking."""

    stages: tuple[str, ...] = ("crop", "estimator", "interaction", "fusion", "skinning")

    def __init__(self, bundle: Bundle) -> None:
        self._networks = HaMuCoNetworks(bundle)
        self._sides = _sides(bundle.hand)
        self.name = self._networks.runtime

    def __call__(self, scene: Scene) -> ChainRun:
        regions, places = _in_camera_order(scene)
        half_angle = np.array([region.crop.half_angle for region in regions])
        times = [time.perf_counter()]
        crops = right_crops(scene.images, regions, self._networks.image_size)
        times.append(time.perf_counter())
        looks = self._networks.look(crops, half_angle)
        times.append(time.perf_counter())
        refined = self._networks.refine(looks, places)
        times.append(time.perf_counter())
        fused = mean_hands(self._networks.hand, refined, scene.hands)
        times.append(time.perf_counter())
        meshes = [_mesh(self._sides, own, parameters) for own, parameters in zip(scene.hands, fused, strict=True)]
        times.append(time.perf_counter())
        return ChainRun([*np.diff(times)], meshes)


class TorchChain:
    """The networks in PyTorch, in single precision (of a GPU: as torch's defaults take it, TF32 in convolutions).

    With the meshes of every view's hand, single and refined, as training has them; on a GPU if torch finds one. Crops
    and fusion are the CPU's.
    """

    stages: tuple[str, ...] = ("crop", "networks", "fusion", "skinning")

    def __init__(self, bundle: Bundle, compiled: bool) -> None:
        """`compiled`: by torch.compile; every new number of views or hands then takes a while, the first time."""
        import torch

        from hamuco.training.weights import bundle_network

        self._torch = torch
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        network = bundle_network(bundle).to(self._device)
        self._run = torch.compile(network) if compiled else network
        self._size, self._hand, self._sides = bundle.card.image_size, bundle.hand, _sides(bundle.hand)
        self.name = f"torch {torch.__version__}, {'compiled' if compiled else 'eager'}, {self._device.type}"

    def __call__(self, scene: Scene) -> ChainRun:
        from hamuco.training.batch import Views

        torch = self._torch
        regions, places = _in_camera_order(scene)
        half_angle = np.array([region.crop.half_angle for region in regions], np.float32)
        times = [time.perf_counter()]
        crops = right_crops(scene.images, regions, self._size)[places]
        times.append(time.perf_counter())
        valid = torch.ones(places.shape, dtype=torch.bool)
        views = Views(torch.from_numpy(crops), valid, torch.from_numpy(half_angle[places]))
        with torch.inference_mode():
            hands = self._run(
                Views(*(one.to(self._device) for one in (views.images, views.valid, views.half_angle)))
            ).refined
        refined = CropHands(*map(_numpy, (hands.rotations, hands.betas, hands.camera, hands.joints, hands.pixels)))
        times.append(time.perf_counter())
        fused = mean_hands(self._hand, refined, scene.hands)
        times.append(time.perf_counter())
        meshes = [_mesh(self._sides, own, parameters) for own, parameters in zip(scene.hands, fused, strict=True)]
        times.append(time.perf_counter())
        return ChainRun([*np.diff(times)], meshes)


class GPUChain:
    """On a CUDA GPU: our kernels around networks of TensorRT or torch, all in one CUDA graph, and one set at a time."""

    stages: tuple[str, ...] = ("set",)

    def __init__(self, open_runtime: Callable[[Sequence[Camera], int], GpuRuntime]) -> None:
        """`open_runtime`: makes a runtime for cameras and so many hands; one is open at a time."""
        self.name, self._open = "CUDA graph", open_runtime  # the runtime has a better name
        self._scene: Scene | None = None
        self._runtime: GpuRuntime | None = None

    def __call__(self, scene: Scene) -> ChainRun:
        if self._runtime is None or scene is not self._scene:
            self.close()
            cameras = {region.camera.name: region.camera for regions in scene.hands for region in regions}
            self._runtime, self._scene = self._open(list(cameras.values()), len(scene.hands)), scene
            self.name = f"{self._runtime.name}, own kernels, one graph"
        began = time.perf_counter()
        self._runtime.start(scene.images, scene.hands)
        fused = self._runtime.finish()
        seconds = time.perf_counter() - began
        placed = fused.vertices.astype(np.float64) + fused.root[:, None]
        mirror = [[1.0 if regions[0].right else -1.0, 1.0, 1.0] for regions in scene.hands]
        meshes = placed * np.array(mirror)[:, None]
        return ChainRun([seconds], [mesh if np.isfinite(mesh).all() else None for mesh in meshes])

    def close(self) -> None:
        """Give the GPU back."""
        if self._runtime is not None:
            self._runtime.close()
            self._runtime = None


def tensorrt_chain(bundle: Bundle, runtime: RuntimeName) -> GPUChain:
    """With the engines that were built of a bundle. When it is called, it raises as `open_runtime` does."""
    from hamuco.engine.gpu_runtime import open_runtime

    return GPUChain(lambda cameras, hands: open_runtime(bundle, runtime, cameras, hands))


def torch_graph_chain(bundle: Bundle) -> GPUChain:
    """With torch's networks, in half precision. When it is called, it raises CudaError where there is no GPU."""
    from hamuco.engine.cuda import Device
    from hamuco.engine.cuda_driver import load_driver
    from hamuco.engine.gpu_runtime import GpuRuntime
    from hamuco.engine.kernel_launch import Kernels
    from hamuco.training.gpu_networks import TorchNetworks
    from hamuco.training.weights import bundle_network

    network = bundle_network(bundle)

    def opened(cameras: Sequence[Camera], hands: int) -> GpuRuntime:
        device = Device(load_driver())
        return GpuRuntime(TorchNetworks(network), bundle.hand, cameras, Kernels(device), device)

    return GPUChain(opened)


def _in_camera_order(scene: Scene) -> tuple[list[Region], NDArray[np.int64]]:
    """All regions, those of one camera together, as they are sampled best; and (H, V) which of them is whose."""
    hands, views = len(scene.hands), len(scene.hands[0])
    regions = [scene.hands[hand][view] for view in range(views) for hand in range(hands)]
    return regions, np.arange(views * hands).reshape(views, hands).T


def _sides(hand: HandModel) -> dict[bool, HandModel]:
    """The right hand and the left, by whether it is the right: made once, as a tracker does."""
    return {True: hand, False: hand.mirrored()}


def _mesh(
    sides: Mapping[bool, HandModel], regions: Sequence[Region], hand: HandParameters | None
) -> NDArray[np.floating] | None:
    """Vertices of the hand that the regions show."""
    if hand is None:
        return None
    return skin(sides[bool(regions[0].right)], hand.global_orient, hand.hand_pose, hand.betas, hand.transl)


def _numpy(values: Tensor) -> NDArray[np.float64]:
    """On the CPU, when it is there."""
    return np.asarray(values.double().cpu().numpy())
