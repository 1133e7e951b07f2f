"""The chain on the CPU: the kernels' bodies through the driver's stand-in, torch's networks between them.

Against the CPU runtime and the fusion in float64, on the same crops.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from fake_driver import FATBIN, fake_device
from gpu_scene import HALF, SINGLE, Scene, assert_same, one_scene

from hamuco.engine.bundle import Bundle, load_bundle
from hamuco.engine.hamuco import HaMuCoNetworks
from hamuco.engine.hamuco_views import right_crops
from hamuco.engine.hand_model import forward_rotations
from hamuco.engine.kernel_launch import Kernels
from hamuco.fusion.alignment import align_views, fused_parameters, fused_points, relative_rotations, solve_centre
from hamuco.training.gpu_runtime import FusedSet, TorchGpuRuntime, _feature_map
from hamuco.training.networks import backbones
from hamuco.training.weights import bundle_network

ROOT = 9
MIRROR = np.array([-1.0, 1.0, 1.0, 1.0])


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def hamuco_s() -> Bundle:
    return load_bundle(Path("hamuco-s"))


@pytest.fixture(scope="module")
def fatbins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fatbins")
    for name in ("crop", "skinning", "sampler", "fusion"):
        (folder / f"{name}.fatbin").write_bytes(FATBIN)
    return folder


def _runtime(
    bundle: Bundle, scene: Scene, fatbins: Path, dtype: type[np.floating], last: bool = False
) -> TorchGpuRuntime:
    return TorchGpuRuntime(bundle_network(bundle), scene.cameras, Kernels(fake_device(), dtype, fatbins), "cpu", last)


@pytest.fixture(scope="module")
def single(hamuco_s: Bundle, fatbins: Path) -> TorchGpuRuntime:
    """In single precision; every scene of `one_scene` has cameras of these names and sizes."""
    return _runtime(hamuco_s, one_scene(), fatbins, np.float32)


def _run(runtime: TorchGpuRuntime, scene: Scene) -> FusedSet:
    runtime.start(scene.images, scene.hands)
    return runtime.finish()


def reference(networks: HaMuCoNetworks, scene: Scene) -> FusedSet:
    """By the CPU runtime, and the fusion in float64."""
    regions = [region for hand in scene.hands for region in hand]
    half_angle = np.array([region.crop.half_angle for region in regions])
    looks = networks.look(right_crops(scene.images, regions, networks.image_size), half_angle)
    places, index = np.full((len(scene.hands), len(scene.cameras)), -1), 0
    for row, hand in enumerate(scene.hands):
        for region in hand:
            places[row, scene.cameras.index(region.camera)] = index
            index += 1
    refined, fused = networks.refine(looks, places), []
    for row, own in enumerate(places):
        counts = own >= 0
        weights, rotations, betas = np.ones(counts.sum()), refined.rotations[row, counts], refined.betas[row, counts]
        frames = np.stack([regions[one].crop_from_world for one in own[counts]])
        if not regions[own[counts][0]].right:
            frames = MIRROR[:, None] * frames * MIRROR
        mesh = forward_rotations(networks.hand, rotations, betas, np.zeros(3))
        assert mesh.vertices is not None
        points = np.concatenate([mesh.vertices, mesh.landmarks], axis=1) - mesh.landmarks[:, ROOT, None]
        similarity = align_views(points, relative_rotations(frames), weights > 0)
        turn = frames[:, :3, :3]
        together = fused_points(similarity.apply(points[None]), weights)[0] @ turn[0]
        rotations, betas = fused_parameters(rotations, betas, turn.swapaxes(-1, -2), weights)
        normalized = refined.pixels[row, counts] * half_angle[own[counts], None, None]
        root = solve_centre(together[-21:], normalized, frames, np.ones(normalized.shape[:-1])).centre
        fused.append((together[:-21], together[-21:], rotations, betas, root))
    vertices, landmarks, bones, shapes, roots = (np.stack(one) for one in zip(*fused, strict=True))
    return FusedSet(vertices, landmarks, bones, shapes, roots, refined.pixels, places >= 0)


def test_the_chain_is_the_cpu_runtime_and_fusion(single: TorchGpuRuntime, hamuco_s: Bundle) -> None:
    expected = reference(HaMuCoNetworks(hamuco_s, "f32"), one_scene())
    np.testing.assert_array_equal(expected.valid, [[True, True, True, False], [True, False, True, True]])
    assert_same(_run(single, one_scene()), expected, SINGLE)
    # Hands differ by much more than is allowed, and so do their views.
    assert np.abs(expected.landmarks[0] - expected.landmarks[1]).max() > 0.01
    assert np.ptp(expected.pixels[0, :3], axis=0).max() > 0.05


@pytest.mark.parametrize("last", [False, True])
def test_in_half_precision_it_is_the_same_to_half_precision(
    last: bool, single: TorchGpuRuntime, hamuco_s: Bundle, fatbins: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And with maps in either order in memory."""
    # On CPUs, for the sake of training, depthwise convolutions are in single precision whatever they are given.
    monkeypatch.setattr(backbones._DepthwiseConv2d, "forward", torch.nn.Conv2d.forward)
    expected, got = (
        _run(single, one_scene()),
        _run(_runtime(hamuco_s, one_scene(), fatbins, np.float16, last), one_scene()),
    )
    assert got.vertices.dtype == np.float16
    assert_same(got, expected, HALF)
    assert np.abs(got.vertices - expected.vertices).max() > SINGLE["vertices"]


def test_sets_under_way_do_not_mix(single: TorchGpuRuntime) -> None:
    """Also with another number of hands, and with hands that fewer views see."""
    scenes = [one_scene(), one_scene(1), one_scene(2)]
    scenes[1].hands.pop()
    scenes[2].hands[0].pop(1)
    alone = [_run(single, scene) for scene in scenes]
    single.start(scenes[0].images, scenes[0].hands)
    together = []
    for scene in [*scenes[1:], *scenes]:
        single.start(scene.images, scene.hands)
        together.append(single.finish())
    together.append(single.finish())
    for one, other in zip([*alone, *alone], together, strict=True):
        for field in fields(FusedSet):
            np.testing.assert_array_equal(getattr(other, field.name), getattr(one, field.name))


def test_what_cannot_be_started_is_refused(single: TorchGpuRuntime) -> None:
    scene = one_scene()
    stranger = replace(scene.hands[0][0], camera=replace(scene.cameras[0], name="other"))
    with pytest.raises(ValueError, match="a set without hands"):
        single.start(scene.images, [])
    with pytest.raises(
        ValueError, match=r"hand 0 has a region in camera 'other', which is not of this rig: leave it out"
    ):
        single.start(scene.images, [[stranger]])
    fewer = {name: image for name, image in scene.images.items() if name != "camera 2"}
    with pytest.raises(ValueError, match=r"hand 0 has a region in camera 'camera 2', which has no image in this set"):
        single.start(fewer, scene.hands)
    with pytest.raises(ValueError, match=r"camera 'camera 1' has shape \(70, 160, 3\); calibrated is 160 x 140"):
        single.start(scene.images | {"camera 1": scene.images["camera 1"][::2]}, scene.hands)
    with pytest.raises(ValueError, match="no set is under way"):
        single.finish()
    for _ in range(2):
        single.start(scene.images, scene.hands)
    with pytest.raises(ValueError, match="2 sets are under way: finish one"):
        single.start(scene.images, scene.hands)
    single.finish(), single.finish()


@pytest.mark.parametrize("count", [0, 65])
def test_a_rig_has_up_to_64_cameras(count: int, hamuco_s: Bundle, fatbins: Path) -> None:
    with pytest.raises(ValueError, match=rf"a rig of {count} cameras: the GPU fuses 1 to 64"):
        TorchGpuRuntime(
            bundle_network(hamuco_s), count * one_scene().cameras[:1], Kernels(fake_device(), folder=fatbins), "cpu"
        )


def test_maps_with_gaps_are_refused() -> None:
    maps = torch.zeros(2, 4, 8, 8)
    assert _feature_map(maps).channel_stride == 64
    assert _feature_map(maps.contiguous(memory_format=torch.channels_last)).column_stride == 4
    with pytest.raises(ValueError, match=r"shape \(2, 4, 8, 4\) has strides \(256, 64, 8, 1\): there are gaps"):
        _feature_map(maps[..., :4])
