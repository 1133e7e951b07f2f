"""Engines as the networks of the GPU runtime, through stand-ins for both libraries and the driver."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from fake_driver import FakeLibrary, fake_device
from fake_tensorrt import PROFILE, VERSION, FakeTensorRT, engine_of, fake_plan
from gpu_scene import HALF, SINGLE, UNTRAINED, assert_same, network_of, one_scene

from hamuco.engine import gpu_runtime, kernel_launch
from hamuco.engine.builders import Builder
from hamuco.engine.bundle import Bundle
from hamuco.engine.cuda_driver import CudaError, Driver
from hamuco.engine.device_graphs import estimator_graph
from hamuco.engine.gpu_runtime import FusedSet, GpuRuntime, open_runtime
from hamuco.engine.kernel_launch import Kernels
from hamuco.engine.plans import PlanError, Profile, RuntimeName
from hamuco.engine.tensorrt_engine import EngineError, TensorRT
from hamuco.engine.tensorrt_networks import TensorRTNetworks
from hamuco.training.gpu_networks import TorchNetworks

pytestmark = pytest.mark.usefixtures("one_thread")

RUNTIMES: tuple[RuntimeName, ...] = ("tensorrt", "tensorrt-rtx")


@pytest.fixture(autouse=True)
def installed(fatbins: Path, monkeypatch: pytest.MonkeyPatch) -> FakeLibrary:
    """Both libraries, the kernels and a driver."""
    library = FakeLibrary()
    monkeypatch.setitem(sys.modules, "tensorrt", FakeTensorRT("tensorrt", library))
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", FakeTensorRT("tensorrt-rtx", library))
    monkeypatch.setattr(gpu_runtime, "load_driver", lambda: Driver(library))
    monkeypatch.setattr(kernel_launch, "FOLDER", fatbins)
    return library


def _trt(runtime: RuntimeName = "tensorrt") -> FakeTensorRT:
    library = sys.modules[runtime.replace("-", "_")]
    assert isinstance(library, FakeTensorRT)
    return library


def _run(runtime: GpuRuntime, seed: int = 0, hands: int = 2) -> FusedSet:
    scene = one_scene(seed)
    runtime.start(scene.images, scene.hands[:hands])
    return runtime.finish()


def _single(bundle: Bundle, runtime: RuntimeName, library: FakeLibrary) -> GpuRuntime:
    """In single precision, which `open_runtime` has no kernels for."""
    device = fake_device(library)
    networks = TensorRTNetworks(bundle, fake_plan(bundle, runtime, "f32"), device)
    return GpuRuntime(networks, bundle.hand, one_scene().cameras, Kernels(device, np.float32), device)


@pytest.fixture(scope="module")
def by_torch(bundle: Bundle, fatbins: Path) -> list[FusedSet]:
    """What torch makes of sets of two hands, of one, and of two others, in single precision."""
    device = fake_device()
    networks = TorchNetworks(network_of(bundle), np.float32, "cpu")
    kernels = Kernels(device, np.float32, fatbins)
    runtime = GpuRuntime(networks, bundle.hand, one_scene().cameras, kernels, device)
    return [_run(runtime, seed, hands) for seed, hands in ((0, 2), (1, 1), (2, 2))]


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_the_chain_is_that_of_torch(
    runtime: RuntimeName, own_bundle: Bundle, by_torch: list[FusedSet], installed: FakeLibrary
) -> None:
    """Every number of hands has its graph; a graph is captured once, and allocates nothing, which the driver would refuse."""
    opened = _single(own_bundle, runtime, installed)
    for (seed, hands), expected in zip(((0, 2), (1, 1), (2, 2), (0, 2)), [*by_torch, by_torch[0]], strict=True):
        assert_same(_run(opened, seed, hands), expected, SINGLE, UNTRAINED)
    assert installed.names().count("cuStreamBeginCapture_v2") == 2
    opened.close()
    assert installed.held() == 0


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_plan_is_opened_and_run_in_half_precision(
    runtime: RuntimeName, own_bundle: Bundle, by_torch: list[FusedSet], installed: FakeLibrary
) -> None:
    fake_plan(own_bundle, runtime)
    opened = open_runtime(own_bundle, runtime, one_scene().cameras, hands=2)
    assert opened.name == f"{runtime} {VERSION} fp16"
    got = _run(opened)
    assert got.vertices.dtype == np.float16
    # Layers are single here, so no more is rounded than what the kernels and the seams round.
    assert_same(got, by_torch[0], HALF, UNTRAINED)
    assert np.abs(got.vertices - by_torch[0].vertices).max() > SINGLE["vertices"]
    opened.close()


def test_more_than_the_engine_takes_is_refused_and_named_with_the_command(
    own_bundle: Bundle, installed: FakeLibrary
) -> None:
    fake_plan(own_bundle, "tensorrt", profile=Profile((1, 4, 4), 1))
    opened, scene = open_runtime(own_bundle, "tensorrt", one_scene().cameras, hands=1), one_scene()
    with pytest.raises(EngineError) as caught:
        opened.start(scene.images, scene.hands)
    assert str(caught.value) == (
        "2 hands in 4 views are more or less than the engine takes, 1:4:4 views, 1 hand. Build one that does: hamuco build "
        f"{own_bundle.path} --runtime tensorrt --precision fp16 --views 1:4:4 --hands 2"
    )
    held = installed.held()
    with pytest.raises(EngineError):
        opened.start(scene.images, scene.hands)
    assert installed.held() == held
    assert _run(opened, hands=1).valid.shape == (1, 4)


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ({"hands": 3}, r"takes 2 hands at most, wanted are 3\. Build one that fits: hamuco build .*--hands 3$"),
        ({"cameras": 2 * one_scene().cameras}, r"takes 1 to 4 views, wanted are 8\. Build one that fits"),
        (
            {"runtime": "tensorrt-rtx"},
            r"tensorrt-rtx does not build for Fake GPU \(sm_90\), take --runtime tensorrt\. ",
        ),
    ],
)
def test_a_plan_that_does_not_fit_is_refused(
    wanted: dict[str, object], said: str, own_bundle: Bundle, installed: FakeLibrary
) -> None:
    fake_plan(own_bundle, "tensorrt")
    given = {"bundle": own_bundle, "runtime": "tensorrt", "cameras": one_scene().cameras, "hands": 2} | wanted
    with pytest.raises(PlanError, match=said):
        open_runtime(**given)  # type: ignore[arg-type]
    assert installed.names()[-2] == "cuDevicePrimaryCtxRelease_v2"


def test_without_kernels_or_a_driver_nothing_is_left_open(
    own_bundle: Bundle, installed: FakeLibrary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_plan(own_bundle, "tensorrt")
    monkeypatch.setattr(kernel_launch, "FOLDER", tmp_path)
    with pytest.raises(CudaError, match=r"crop.fatbin is not there: .*kernels"):
        open_runtime(own_bundle, "tensorrt", one_scene().cameras, 2)
    assert installed.names()[-2] == "cuDevicePrimaryCtxRelease_v2"
    installed.codes["cuInit"] = 100
    with pytest.raises(CudaError, match=r"The driver sees no GPU"):
        open_runtime(own_bundle, "tensorrt", one_scene().cameras, 2)


@pytest.mark.parametrize(
    ("refused", "said"),
    [
        (
            "deserialize_cuda_engine",
            r"estimator.engine: tensorrt-rtx 10.13 cannot load it on Fake GPU: .*: Error Code 2: refused\. Build it again: .*",
        ),
        (
            "create_execution_context",
            r"cannot prepare it on Fake GPU: .*refused\. If the GPU's memory is full.* nvidia-smi",
        ),
        ("set_tensor_address", r"^tensorrt-rtx 10.13 refuses memory for images: .*refused"),
        ("execute_async_v3", r"^tensorrt-rtx 10.13 cannot run an engine: .*refused"),
        ("is_stream_capturable", r"^a CUDA graph cannot hold the engines of small, .* Build them again: .*--replace$"),
    ],
)
def test_what_the_library_refuses_is_said_in_one_line(
    refused: str, said: str, own_bundle: Bundle, installed: FakeLibrary
) -> None:
    fake_plan(own_bundle, "tensorrt-rtx")
    _trt("tensorrt-rtx").refused.add(refused)
    with pytest.raises(EngineError, match=said) as caught:
        _run(open_runtime(own_bundle, "tensorrt-rtx", one_scene().cameras, 2))
    assert "\n" not in str(caught.value)


def test_an_engine_that_lacks_a_tensor_is_refused(own_bundle: Bundle) -> None:
    plan = fake_plan(own_bundle, "tensorrt")
    graph = estimator_graph(own_bundle.estimator, "fp16")
    (betas,) = [one for one in graph.graph.output if one.name == "betas"]
    graph.graph.output.remove(betas)
    onnx.checker.check_model(graph)
    plan.estimator.write_bytes(engine_of(graph, PROFILE))
    with pytest.raises(
        EngineError, match=r"estimator.engine should have the tensors images, .*; betas differ\. Build it again"
    ):
        TensorRTNetworks(own_bundle, plan, fake_device())
    # `find_plan` sees it before.
    with pytest.raises(PlanError, match="is not the file that was built"):
        open_runtime(own_bundle, "tensorrt", one_scene().cameras, 2)


def test_shapes_beyond_the_profile_are_named(own_bundle: Bundle) -> None:
    engine = TensorRT("tensorrt").engine(
        engine_of(estimator_graph(own_bundle.estimator, "fp16"), PROFILE), fake_device()
    )
    with pytest.raises(
        EngineError,
        match=r"cannot take images of shape \(9, 3, 64, 64\): the engine was built for \(1, 3, 64, 64\) to \(8, 3, 64, 64\)",
    ):
        engine.context({"images": (9, 3, 64, 64)})


def test_the_real_library_says_that_there_is_no_gpu(own_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorRT for RTX builds an engine here, and cannot load it."""
    pytest.importorskip("tensorrt_rtx_bindings", exc_type=ImportError)
    monkeypatch.delitem(sys.modules, "tensorrt_rtx")
    plan = fake_plan(own_bundle, "tensorrt-rtx")
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Relu", ["images"], ["pose"])],
        "g",
        [onnx.helper.make_tensor_value_info("images", onnx.TensorProto.FLOAT16, ("crops", 3))],
        [onnx.helper.make_tensor_value_info("pose", onnx.TensorProto.FLOAT16, ("crops", 3))],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)])
    engine, _ = Builder("tensorrt-rtx", ("sm_89",)).build(
        model.SerializeToString(), {"images": ((1, 3), (2, 3), (3, 3))}, lambda what, done, total: None
    )
    for content in (engine, b"not an engine"):
        plan.estimator.write_bytes(content)
        with pytest.raises(
            EngineError, match=r"estimator.engine: tensorrt-rtx 1\.\S+ cannot load it on Fake GPU: \S+"
        ) as caught:
            TensorRTNetworks(own_bundle, plan, fake_device())
        assert "\n" not in str(caught.value)
        assert "it says no reason" not in str(caught.value)
        assert str(caught.value).endswith("--replace")
