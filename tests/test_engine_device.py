"""The kernels and the chain on a real GPU; skipped where there is no CUDA driver. `make kernels` comes first."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from fake_driver import PARAMETERS
from kernel_checks import CHECKS, Memory

from hamuco.engine.cuda import Device
from hamuco.engine.cuda_driver import OUT_OF_MEMORY, CudaError, load_driver
from hamuco.engine.kernel_launch import Kernels
from hamuco.engine.kernel_structs import FeatureMap

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def device() -> Iterator[Device]:
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        pytest.skip(f"no CUDA driver here: {error}")
    device = Device(load_driver())
    yield device
    device.close()


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("check", CHECKS)
def test_kernels_compute_what_the_references_do(
    check: Callable[[Device, Kernels], None], dtype: type[np.floating], device: Device
) -> None:
    check(device, Kernels(device, dtype))


def test_kernels_have_the_parameters_that_the_stand_in_says(device: Device) -> None:
    kernels = Kernels(device)
    sizes = [kernel.sizes for kernel in (kernels._crop, kernels._skin, kernels._sample, kernels._fuse)]
    assert sizes == [PARAMETERS[name] for name in ("crop_normalized", "skin", "sample", "fuse")]


def test_a_captured_launch_runs_when_its_graph_does(device: Device) -> None:
    kernels, memory, stream = Kernels(device, np.float32), Memory(device), device.stream()
    ones = [FeatureMap(memory.put(np.full((1, 2, 4, 4), 3.0, np.float32)), 2, 4, 16, 1)] * 3
    location, out = memory.put(np.zeros((1, 21, 3), np.float32)), memory.room(1, 21, 6)
    graph = device.capture(stream, lambda: kernels.sample(ones, location, out, 1, stream.handle))
    stream.synchronize()
    assert (memory.get(out, 1, 21, 6) == 7).all()  # as `room` has left it
    begin, end = device.event(), device.event()
    begin.record(stream)
    graph.launch(stream)
    end.record(stream)
    stream.synchronize()
    assert (memory.get(out, 1, 21, 6) == 3).all()
    assert end.seconds_since(begin) > 0


def test_what_a_graph_cannot_hold_ends_its_capture(device: Device) -> None:
    stream = device.stream()
    with pytest.raises(CudaError, match="CUDA_ERROR_STREAM_CAPTURE"):
        device.capture(stream, stream.synchronize)
    device.capture(stream, lambda: None)


def test_a_thread_makes_the_device_current(device: Device) -> None:
    addresses: list[int] = []

    def allocate() -> None:
        device.make_current()
        addresses.append(device.memory(1000))

    thread = threading.Thread(target=allocate)
    thread.start()
    thread.join()
    assert addresses[0] % 256 == 0


def test_errors_of_the_real_driver(device: Device) -> None:
    with pytest.raises(CudaError, match="no CUDA device 99"):
        Device(device.driver, 99)
    with pytest.raises(CudaError, match=r"MiB of .* memory: out of memory \(CUDA_ERROR_OUT_OF_MEMORY\)") as caught:
        device.memory(2**50)
    assert caught.value.code == OUT_OF_MEMORY
    with pytest.raises(CudaError, match=r"loading crop.fatbin: .*CUDA_ERROR_INVALID"):
        device.module("crop.fatbin", b"no machine code" + bytes(1000))
    fatbin = Path(__file__).parents[1] / "engine/kernels/fusion.fatbin"
    with pytest.raises(CudaError, match=r"finding fuze in fusion.fatbin.*CUDA_ERROR_NOT_FOUND"):
        device.module("fusion.fatbin", fatbin.read_bytes()).kernel("fuze")


@pytest.mark.parametrize("which", ["torch", "torch-last", "tensorrt", "tensorrt-rtx"])
def test_the_chain_is_that_of_the_cpu(
    which: Literal["torch", "torch-last", "tensorrt", "tensorrt-rtx"], device: Device, tmp_path: Path
) -> None:
    """As a graph, with the next set uploaded in the meantime; and a set gives the same twice. Engines are those that
    `hamuco build hamuco-s` made."""
    import torch
    from gpu_scene import HALF, assert_same, one_scene
    from gpu_stand_in import StandIn

    from hamuco.engine.bundle import load_bundle
    from hamuco.engine.gpu_runtime import FusedSet, GpuRuntime, open_runtime
    from hamuco.engine.plans import PlanError
    from hamuco.engine.tensorrt_engine import EngineError
    from hamuco.training.gpu_networks import TorchNetworks
    from hamuco.training.weights import bundle_network

    bundle, scenes = load_bundle(Path("hamuco-s")), [one_scene(seed) for seed in range(3)]
    scenes[1].hands.pop()  # another number of hands, and so another graph
    cameras = scenes[0].cameras
    if which == "tensorrt" or which == "tensorrt-rtx":
        try:
            runtime = open_runtime(bundle, which, cameras, hands=2)
        except (EngineError, PlanError) as error:
            pytest.skip(str(error))
    else:
        if not torch.cuda.is_available():
            pytest.skip(f"torch {torch.__version__} has no CUDA")
        own = Device(device.driver)
        networks = TorchNetworks(bundle_network(bundle), channels_last=which == "torch-last")
        runtime = GpuRuntime(networks, bundle.hand, cameras, Kernels(own), own)
    single = StandIn(tmp_path).open(bundle, cameras)
    runtime.start(scenes[0].images, scenes[0].hands)
    got = []
    for scene in [*scenes[1:], *scenes]:
        runtime.start(scene.images, scene.hands)
        got.append(runtime.finish())
    got.append(runtime.finish())
    runtime.close()
    device.make_current()
    for scene, one, again in zip(scenes, got[:3], got[3:], strict=True):
        single.start(scene.images, scene.hands)
        assert_same(one, single.finish(), HALF)
        for field in fields(FusedSet):
            np.testing.assert_array_equal(getattr(again, field.name), getattr(one, field.name))
