"""The chain on the CPU: the kernels' bodies through the driver's stand-in, torch's or TensorRT's networks between them.

Against the CPU runtime and the fusion in float64, on the same crops.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from fake_driver import FakeLibrary, fake_device
from fake_tensorrt import FakeTensorRT, fake_plan
from gpu_scene import HALF, SINGLE, Scene, assert_same, network_of, one_scene

from hamuco.engine.bundle import Bundle
from hamuco.engine.cuda_driver import OUT_OF_MEMORY, CudaError
from hamuco.engine.gpu_runtime import FusedSet, GpuRuntime
from hamuco.engine.hamuco import ROOT, HaMuCoNetworks
from hamuco.engine.hamuco_views import right_crops
from hamuco.engine.kernel_launch import Kernels
from hamuco.engine.skinning import forward_rotations
from hamuco.engine.tensorrt_networks import TensorRTNetworks
from hamuco.fusion.alignment import align_views, fused_parameters, fused_points, relative_rotations, solve_centre
from hamuco.training.gpu_networks import TorchNetworks
from hamuco.training.networks import backbones

pytestmark = pytest.mark.usefixtures("one_thread")

MIRROR = np.array([-1.0, 1.0, 1.0, 1.0])


def torch_runtime(
    bundle: Bundle,
    fatbins: Path,
    dtype: type[np.floating] = np.float32,
    last: bool = False,
    library: FakeLibrary | None = None,
) -> GpuRuntime:
    """Every scene of `one_scene` has cameras of these names and sizes."""
    device = fake_device(library)
    networks = TorchNetworks(network_of(bundle), dtype, "cpu", last)
    return GpuRuntime(networks, bundle.hand, one_scene().cameras, Kernels(device, dtype, fatbins), device)


@pytest.fixture(scope="module")
def single(hamuco_s: Bundle, fatbins: Path) -> GpuRuntime:
    """With torch, in single precision."""
    return torch_runtime(hamuco_s, fatbins)


@pytest.fixture(scope="module")
def small(bundle: Bundle, fatbins: Path) -> GpuRuntime:
    """The same with small networks, for what does not depend on them."""
    return torch_runtime(bundle, fatbins)


def _run(runtime: GpuRuntime, scene: Scene) -> FusedSet:
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


def test_the_chain_is_the_cpu_runtime_and_fusion(single: GpuRuntime, hamuco_s: Bundle) -> None:
    expected = reference(HaMuCoNetworks(hamuco_s, "f32"), one_scene())
    np.testing.assert_array_equal(expected.valid, [[True, True, True, False], [True, False, True, True]])
    assert_same(_run(single, one_scene()), expected, SINGLE)
    # Hands differ by much more than is allowed, and so do their views.
    assert np.abs(expected.landmarks[0] - expected.landmarks[1]).max() > 0.01
    assert np.ptp(expected.pixels[0, :3], axis=0).max() > 0.05


def test_with_tensorrt_it_is_the_cpu_runtime_too(
    hamuco_s: Bundle, fatbins: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    library = FakeLibrary()
    monkeypatch.setitem(sys.modules, "tensorrt", FakeTensorRT("tensorrt", library))
    device = fake_device(library)
    networks = TensorRTNetworks(hamuco_s, fake_plan(hamuco_s, "tensorrt", "f32"), device)
    runtime = GpuRuntime(networks, hamuco_s.hand, one_scene().cameras, Kernels(device, np.float32, fatbins), device)
    assert_same(_run(runtime, one_scene()), reference(HaMuCoNetworks(hamuco_s, "f32"), one_scene()), SINGLE)


@pytest.mark.parametrize("last", [False, True])
def test_in_half_precision_it_is_the_same_to_half_precision(
    last: bool, single: GpuRuntime, hamuco_s: Bundle, fatbins: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And with maps in either order in memory."""
    # On CPUs, for the sake of training, depthwise convolutions are in single precision whatever they are given.
    monkeypatch.setattr(backbones._DepthwiseConv2d, "forward", torch.nn.Conv2d.forward)
    expected, got = (
        _run(single, one_scene()),
        _run(torch_runtime(hamuco_s, fatbins, np.float16, last), one_scene()),
    )
    assert got.vertices.dtype == np.float16
    assert_same(got, expected, HALF)
    assert np.abs(got.vertices - expected.vertices).max() > SINGLE["vertices"]


def test_sets_under_way_do_not_mix(small: GpuRuntime) -> None:
    """Also with another number of hands, and with hands that fewer views see."""
    scenes = [one_scene(), one_scene(1), one_scene(2)]
    scenes[1].hands.pop()
    scenes[2].hands[0].pop(1)
    alone = [_run(small, scene) for scene in scenes]
    small.start(scenes[0].images, scenes[0].hands)
    together = []
    for scene in [*scenes[1:], *scenes]:
        small.start(scene.images, scene.hands)
        together.append(small.finish())
    together.append(small.finish())
    for one, other in zip([*alone, *alone], together, strict=True):
        for field in fields(FusedSet):
            np.testing.assert_array_equal(getattr(other, field.name), getattr(one, field.name))


def test_what_cannot_be_started_is_refused(small: GpuRuntime) -> None:
    scene = one_scene()
    stranger = replace(scene.hands[0][0], camera=replace(scene.cameras[0], name="other"))
    with pytest.raises(ValueError, match="a set without hands"):
        small.start(scene.images, [])
    with pytest.raises(
        ValueError, match=r"hand 0 has a region in camera 'other', which is not of this rig: leave it out"
    ):
        small.start(scene.images, [[stranger]])
    fewer = {name: image for name, image in scene.images.items() if name != "camera 2"}
    with pytest.raises(ValueError, match=r"hand 0 has a region in camera 'camera 2', which has no image in this set"):
        small.start(fewer, scene.hands)
    with pytest.raises(ValueError, match=r"camera 'camera 1' has shape \(70, 160, 3\); calibrated is 160 x 140"):
        small.start(scene.images | {"camera 1": scene.images["camera 1"][::2]}, scene.hands)
    with pytest.raises(ValueError, match="no set is under way"):
        small.finish()
    for _ in range(2):
        small.start(scene.images, scene.hands)
    with pytest.raises(ValueError, match="2 sets are under way: finish one"):
        small.start(scene.images, scene.hands)
    small.finish(), small.finish()


@pytest.mark.parametrize("count", [0, 65])
def test_a_rig_has_up_to_64_cameras(count: int, bundle: Bundle, fatbins: Path) -> None:
    device = fake_device()
    networks = TorchNetworks(network_of(bundle), np.float32, "cpu")
    with pytest.raises(ValueError, match=rf"a rig of {count} cameras: the GPU fuses 1 to 64"):
        GpuRuntime(networks, bundle.hand, count * one_scene().cameras[:1], Kernels(device, np.float32, fatbins), device)


def test_kernels_of_another_type_than_the_networks_are_refused(bundle: Bundle, fatbins: Path) -> None:
    device = fake_device()
    networks = TorchNetworks(network_of(bundle), np.float32, "cpu")
    with pytest.raises(ValueError, match=r"^torch \S+ float32 takes and gives float32, the kernels .* for float16"):
        GpuRuntime(networks, bundle.hand, one_scene().cameras, Kernels(device, folder=fatbins), device)


def test_any_thread_may_use_it(small: GpuRuntime) -> None:
    """The driver's context belongs to a thread; that which opened the device is another."""
    scene, got = one_scene(), []
    thread = threading.Thread(target=lambda: got.append(_run(small, scene)))
    thread.start()
    thread.join()
    np.testing.assert_array_equal(got[0].vertices, _run(small, scene).vertices)


@pytest.mark.parametrize("lost", [False, True])
def test_closing_gives_all_back(lost: bool, bundle: Bundle, fatbins: Path) -> None:
    """Also of a device that is lost, where nothing works any more, with a set under way."""
    library = FakeLibrary()
    runtime = torch_runtime(bundle, fatbins, library=library)
    runtime.start(one_scene().images, one_scene().hands)
    assert library.held() > 0
    if lost:
        library.codes["cuStreamSynchronize"] = library.codes["cuEventSynchronize"] = 700
        with pytest.raises(CudaError, match="illegal address"):
            runtime.finish()
    runtime.close()
    assert library.held() == 0
    assert library.names()[-2] == "cuDevicePrimaryCtxRelease_v2"
    runtime.close()
    with pytest.raises(ValueError, match="this GPU runtime is closed: open another"):
        runtime.start(one_scene().images, one_scene().hands)
    with pytest.raises(ValueError, match="this GPU runtime is closed: open another"):
        runtime.finish()


def test_a_set_that_does_not_fit_into_memory_leaves_the_others_be(bundle: Bundle, fatbins: Path) -> None:
    library, scene = FakeLibrary(), one_scene()
    runtime = torch_runtime(bundle, fatbins, library=library)
    before = _run(runtime, scene)
    library.codes["cuMemAlloc_v2"] = 2
    with pytest.raises(CudaError, match=r"MiB of Fake GPU's memory: out of memory") as caught:
        runtime.start(scene.images, scene.hands[:1])
    assert caught.value.code == OUT_OF_MEMORY
    np.testing.assert_array_equal(_run(runtime, scene).vertices, before.vertices)


def test_importing_it_loads_no_other_library() -> None:
    names = ("torch", "tensorrt", "tensorrt_rtx", "tensorrt_rtx_bindings", "onnx", "openvino")
    code = f"import sys, hamuco.engine.gpu_runtime; print([name for name in {names} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=sys.prefix, check=True)
    assert done.stdout.strip() == "[]"
