"""The kernels, launched as the runtimes launch them, against references: on any device, a real one or a stand-in.

The bodies have tests of their own, with many more cases. These are about launches: grids, arguments, strides, memory.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import DTypeLike, NDArray
from rigs import ring_rig
from torch.nn import functional as F
from views_of_a_hand import views_of_a_hand

from hamuco.calibration.camera import Rig
from hamuco.engine.crops import BoxRule, crops_around
from hamuco.engine.cuda import Device
from hamuco.engine.hamuco import DEPTH_UNIT, IMAGE_DEVIATION, IMAGE_MEAN, ROOT
from hamuco.engine.hand_arrays import hand_arrays
from hamuco.engine.hand_model import load_hand_model
from hamuco.engine.kernel_launch import Kernels
from hamuco.engine.kernel_structs import (
    FeatureMap,
    FusedHands,
    HandViews,
    SkinnedHands,
    SkinningInputs,
    SkinningModel,
    camera_frame,
    crop_view,
)
from hamuco.engine.skinning import forward_rotations, pose_rotations
from hamuco.engine.view_hand import Region, crop_regions
from hamuco.fusion.alignment import fused_parameters

# Some thirty operations on numbers below 1, each rounded by 2^-24 and on a device perhaps fused with the next.
ROUNDING = 60 * 2.0**-24
HALF_POINT = 0.061e-3  # m, half a step of half numbers from 0.125 to 0.25
_MEAN, _DEVIATION = np.array(IMAGE_MEAN), np.array(IMAGE_DEVIATION)


class Memory:
    """Arrays on a device, by their addresses."""

    def __init__(self, device: Device) -> None:
        self._device, self._stream = device, device.stream()
        self.stream = self._stream.handle

    def put(self, values: NDArray[np.generic], dtype: DTypeLike | None = None) -> int:
        array = np.ascontiguousarray(values, dtype)
        address = self._device.memory(max(array.nbytes, 1))
        self._device.upload(address, array, self.stream)
        self._stream.synchronize()
        return address

    def room(self, *shape: int, dtype: DTypeLike = np.float32) -> int:
        return self.put(np.full(shape, 7, dtype))

    def get(self, address: int, *shape: int, dtype: DTypeLike = np.float32) -> NDArray[np.float64]:
        array = np.empty(shape, dtype)
        self._device.download(array, address, self.stream)
        self._stream.synchronize()
        return array.astype(np.float64)


def hand_on(memory: Memory, dtype: DTypeLike) -> SkinningModel:
    arrays = hand_arrays(load_hand_model(), dtype)
    return arrays.skinning_model([memory.put(array) for array in arrays.arrays()])


def waves(size: tuple[int, int], seed: int) -> NDArray[np.uint8]:
    """BGR without edges: no channel changes by more than 9 levels from a pixel to the next, both ways added up."""
    x, y = np.meshgrid(np.arange(size[0]), np.arange(size[1]))
    phases = np.random.default_rng(seed).uniform(0, 2 * np.pi, (3, 2))
    planes = [127.5 + 60 * np.cos(x / 20 + one) + 60 * np.cos(y / 20 + other) for one, other in phases]
    return np.stack(planes, axis=-1).round().astype(np.uint8)


def check_crops(device: Device, kernels: Kernels) -> None:
    """Two cameras; crops of a right hand, and mirrored ones of a left. Blocks do not divide their size."""
    rig = ring_rig(2)
    size = 150
    images = {camera.name: waves(camera.size, seed) for seed, camera in enumerate(rig.cameras)}
    regions = [region for row in (0, 1) for region in _regions(rig, row)]
    names = [camera.name for camera in rig.cameras]
    memory = Memory(device)
    frames = [
        camera_frame(camera, image.shape, image.strides[0], memory.put(image))
        for camera, image in zip(rig.cameras, images.values(), strict=True)
    ]
    crops = [crop_view(region, names.index(region.camera.name), size) for region in regions]
    out = memory.room(len(crops), 3, size, size, dtype=kernels.dtype)
    kernels.crop(memory.put(np.stack(crops)), memory.put(np.stack(frames)), out, (len(crops), size), memory.stream)
    got = memory.get(out, len(crops), 3, size, size, dtype=kernels.dtype)

    bgr = crop_regions(images, regions, size)
    for crop, region in zip(bgr, regions, strict=True):
        if not region.right:
            crop[:] = crop[:, ::-1].copy()
    expected = ((bgr[..., ::-1] / 255 - _MEAN) / _DEVIATION).transpose(0, 3, 1, 2)
    # The reference interpolates its map (0.2 px) and rounds to whole levels; half numbers below 4 are 2^-9 apart.
    levels = 0.2 * 9 + 1
    np.testing.assert_allclose(got, expected, rtol=0, atol=levels / 255 / _DEVIATION.min() + 2.0**-10)


def _regions(rig: Rig, track: int) -> list[Region]:
    """Where every camera sees a few points near the origin, of a right hand or, for track 1, a left one."""
    points = np.random.default_rng(track).normal(0.04 * track, 0.05, (21, 3))
    regions = []
    for camera in rig.cameras:
        seen = camera.to_camera(points)[None]
        (crop,) = crops_around(seen, seen[:, [0, 9]], BoxRule(2.0, 0.0), 128)
        assert crop is not None
        regions.append(Region(camera, crop, track, right=track == 0))
    return regions


def check_skinning(device: Device, kernels: Kernels) -> None:
    """Three hands whose rotations are known; a model without vertices gives the same landmarks."""
    rng, count, model = np.random.default_rng(0), 3, load_hand_model()
    rotations = pose_rotations(model, rng.normal(0, 1, (count, 3)), rng.normal(0, 0.3, (count, 45)))
    betas = rng.normal(0, 1, (count, 10)).astype(np.float32).astype(np.float64)
    camera, half_angle = rng.normal(0, 0.2, (count, 3)) + [5, 0, 0], rng.uniform(0, 0.3, count)
    memory = Memory(device)
    hand = hand_on(memory, kernels.dtype)
    given = SkinningInputs(
        *(memory.put(one, np.float32) for one in (rotations[..., :2].reshape(count, 16, 6), betas, camera, half_angle))
    )
    shapes = {"joints": (16, 3), "landmarks": (21, 3), "rotations": (16, 3, 3), "location": (21, 3)}

    def skinned(with_vertices: bool) -> dict[str, NDArray[np.float64]]:
        points = {name: memory.room(count, *shape) for name, shape in shapes.items()}
        vertices = memory.room(count, hand.vertices, 3, dtype=kernels.dtype) if with_vertices else 0
        launch = kernels.skin if with_vertices else kernels.skin_landmarks
        launch(hand, given, SkinnedHands(vertices, **points), count, memory.stream)
        got = {name: memory.get(points[name], count, *shape) for name, shape in shapes.items()}
        if with_vertices:
            got["vertices"] = memory.get(vertices, count, hand.vertices, 3, dtype=kernels.dtype)
        return got

    got, bare = skinned(True), skinned(False)
    mesh = forward_rotations(model, rotations, betas, np.zeros(3))
    assert mesh.vertices is not None
    root = mesh.landmarks[:, ROOT, None]
    joints = mesh.landmarks - root
    distance = 1 + (half_angle * camera[:, 0])[:, None] * joints[..., 2]
    seen = (camera[:, None, :1] * joints[..., :2] + camera[:, None, 1:]) / distance[..., None]
    np.testing.assert_allclose(got["rotations"], rotations, rtol=0, atol=ROUNDING)
    np.testing.assert_allclose(got["joints"], mesh.joints - root, rtol=0, atol=ROUNDING)
    np.testing.assert_allclose(got["landmarks"], joints, rtol=0, atol=ROUNDING)
    # u and v go up to 2, and magnify points and half_angle by some 5 / 0.7.
    np.testing.assert_allclose(got["location"][..., :2], seen, rtol=0, atol=20 * ROUNDING)
    np.testing.assert_allclose(got["location"][..., 2], joints[..., 2] / DEPTH_UNIT, rtol=0, atol=5 * ROUNDING)
    # Weights in units of 1 / 65535 between places up to 0.1 m apart.
    vertex_error = ROUNDING + 0.1 / 65535 + (2 * HALF_POINT if kernels.dtype == np.float16 else 0.0)
    np.testing.assert_allclose(got["vertices"], mesh.vertices - root, rtol=0, atol=vertex_error)
    for name in shapes:
        np.testing.assert_array_equal(bare[name], got[name])


def check_sampling(device: Device, kernels: Kernels) -> None:
    """Maps in both orders in memory; joints some way outside too."""
    rng, count = np.random.default_rng(1), 2
    levels = [rng.uniform(-1, 1, (count, channels, size, size)) for channels, size in ((32, 16), (200, 8), (5, 3))]
    levels = [level.astype(kernels.dtype) for level in levels]
    location = rng.uniform(-1.4, 1.4, (count, 21, 3)).astype(np.float32)
    at = torch.from_numpy(location[..., None, :2].astype(np.float64))
    maps = [F.grid_sample(torch.from_numpy(level.astype(np.float64)), at, align_corners=False) for level in levels]
    expected = torch.cat(maps, dim=1)[..., 0].transpose(1, 2).numpy()
    memory = Memory(device)
    for last in (False, True):
        described = []
        for level in levels:
            _, channels, size, _ = level.shape
            stored = level.transpose(0, 2, 3, 1) if last else level
            strides = (1, channels) if last else (size * size, 1)
            described.append(FeatureMap(memory.put(stored), channels, size, *strides))
        out = memory.room(count, 21, expected.shape[2], dtype=kernels.dtype)
        kernels.sample(described, memory.put(location), out, count, memory.stream)
        got = memory.get(out, count, 21, expected.shape[2], dtype=kernels.dtype)
        # Places on a map of 16 pixels; half numbers below 1 are 2^-11 apart.
        np.testing.assert_allclose(got, expected, rtol=0, atol=2 * 16 * ROUNDING + 2.0**-12)


def check_fusion(device: Device, kernels: Kernels) -> None:
    """Two hands in five views that agree exactly; the third view of the second does not count."""
    count, views, vertices = 2, 5, 300
    hands = [views_of_a_hand(views, vertices + 21, seed) for seed in (2, 3)]
    rng = np.random.default_rng(4)
    bones = pose_rotations(load_hand_model(), rng.normal(0, 1, (count, 1, 3)), rng.normal(0, 0.3, (count, 1, 45)))
    rotations = np.repeat(bones, views, axis=1)
    frames = np.stack([one.crop_from_world for one in hands])
    rotations[:, :, 0] = frames[..., :3, :3] @ rotations[:, :, 0]
    betas, half_angle = rng.normal(0, 1, (count, views, 10)), rng.uniform(0.1, 0.3, (count, views))
    weights = rng.uniform(0.5, 1, (count, views))
    weights[1, 2] = 0
    points = np.stack([one.in_crops for one in hands])
    points[1, 2] = np.nan
    pixels = np.stack([one.normalized for one in hands])[:, :, vertices:] / half_angle[..., None, None]
    location = np.concatenate([pixels, np.full((*pixels.shape[:-1], 1), 1e9)], axis=-1)
    memory = Memory(device)
    single = {
        "landmarks": points[:, :, vertices:],
        "weights": weights,
        "crop_from_world": frames,
        "rotations": rotations,
        "betas": betas,
        "location": location,
        "half_angle": half_angle,
        "landmark_weights": np.ones((count, views, 21)),
    }
    given = HandViews(
        vertices=memory.put(points[:, :, :vertices], kernels.dtype),
        views=views,
        vertex_count=vertices,
        **{name: memory.put(one, np.float32) for name, one in single.items()},
    )
    shapes = {"vertices": (vertices, 3), "landmarks": (21, 3), "rotations": (16, 3, 3), "betas": (10,), "root": (3,)}
    types = {name: kernels.dtype if name == "vertices" else np.dtype(np.float32) for name in shapes}
    fused = FusedHands(**{name: memory.room(count, *shape, dtype=types[name]) for name, shape in shapes.items()})
    kernels.fuse(given, fused, count, memory.stream)
    got = {name: memory.get(getattr(fused, name), count, *shape, dtype=types[name]) for name, shape in shapes.items()}

    world_from_crop = frames[..., :3, :3].swapaxes(-1, -2)
    mean_rotations, mean_betas = fused_parameters(rotations, betas, world_from_crop, weights)
    truth = np.stack([one.points for one in hands])
    # Half-precision vertices move the centroid that landmarks are aligned by.
    half = HALF_POINT if kernels.dtype == np.float16 else 0.0
    np.testing.assert_allclose(got["vertices"], truth[:, :vertices], rtol=0, atol=2 * half + ROUNDING)
    np.testing.assert_allclose(got["landmarks"], truth[:, vertices:], rtol=0, atol=half + ROUNDING)
    np.testing.assert_allclose(got["rotations"], mean_rotations, rtol=0, atol=2 * ROUNDING)
    np.testing.assert_allclose(got["betas"], mean_betas, rtol=0, atol=4 * ROUNDING)
    # The normal equations magnify rounding by their condition, some 100 for views from all sides, of places up to 1.5 m.
    np.testing.assert_allclose(got["root"], [one.root for one in hands], rtol=0, atol=2 * half + 150 * ROUNDING)


def check_nothing_to_do(device: Device, kernels: Kernels) -> None:
    """No hands are no launches: a grid of 0 blocks would be an error."""
    memory = Memory(device)
    hand = hand_on(memory, kernels.dtype)
    nowhere = SkinnedHands(0, 0, 0, 0, 0)
    kernels.crop(0, 0, 0, (0, 128), memory.stream)
    for skin in (kernels.skin, kernels.skin_landmarks):
        skin(hand, SkinningInputs(0, 0, 0, 0), nowhere, 0, memory.stream)
    kernels.sample([FeatureMap(0, 8, 4, 16, 1)] * 3, 0, 0, 0, memory.stream)
    nothing = HandViews(0, 0, 0, 0, 0, 0, 0, 0, 0, views=4, vertex_count=1609)
    kernels.fuse(nothing, FusedHands(0, 0, 0, 0, 0), 0, memory.stream)


CHECKS: list[Callable[[Device, Kernels], None]] = [
    check_crops,
    check_skinning,
    check_sampling,
    check_fusion,
    check_nothing_to_do,
]
