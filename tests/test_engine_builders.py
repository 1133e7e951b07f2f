"""TensorRT for RTX really builds here, without a GPU; TensorRT says what it lacks."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from onnx import ModelProto, TensorProto, helper

from hamuco.engine.build import OnnxRoute, build_plan, shapes
from hamuco.engine.builders import Builder
from hamuco.engine.bundle import HAMUCO_S, Bundle, load_bundle
from hamuco.engine.device_graphs import estimator_graph, interaction_graph
from hamuco.engine.plans import (
    NOT_COMPARED,
    RTX_ARCHITECTURES,
    PlanError,
    Platform,
    Precision,
    Profile,
    Wanted,
    find_plan,
)
from hamuco.engine.tensorrt_engine import EngineError, TensorRT, load_runtime

PROFILE = Profile((1, 3, 5), 2)


@pytest.fixture(scope="module")
def rtx() -> Builder:
    pytest.importorskip("tensorrt_rtx_bindings", exc_type=ImportError)
    return Builder("tensorrt-rtx", ("sm_89",))


def _not_compared(estimator: bytes, interaction: bytes) -> str:
    return NOT_COMPARED


def _silent(what: str, done: int, total: int) -> None:
    assert 0 < done <= total, what


def test_both_graphs_are_built_and_found_again(rtx: Builder, own_bundle: Bundle) -> None:
    seen: list[tuple[str, int, int]] = []
    plan = build_plan(own_bundle, OnnxRoute(rtx), "fp16", PROFILE, _not_compared, lambda *step: seen.append(step))
    assert {what for what, _, _ in seen} >= {"Building engine", "Optimizing graph"}
    assert plan.card.platform == Platform("tensorrt-rtx", rtx.platform.version, "", ("sm_89",))
    assert plan.card.seconds > 0
    assert plan.card.route == "onnx"
    here = Platform("tensorrt-rtx", rtx.platform.version, "RTX 4090", ("sm_89",))
    assert find_plan(own_bundle, Wanted(here, views=5, hands=2)) == plan
    # The weights alone, in half precision.
    assert plan.estimator.stat().st_size > own_bundle.estimator.stat().st_size / 2
    with pytest.raises(PlanError, match="was built already"):
        build_plan(own_bundle, OnnxRoute(rtx), "fp16", PROFILE, _not_compared, _silent)
    again = build_plan(own_bundle, OnnxRoute(rtx), "fp16", PROFILE, _not_compared, _silent, replace=True)
    assert again.path == plan.path


def test_the_profile_is_what_the_graphs_inputs_say(bundle: Bundle) -> None:
    assert shapes(estimator_graph(bundle.estimator, "fp16"), PROFILE) == {
        "images": ((1, 3, 64, 64), (6, 3, 64, 64), (10, 3, 64, 64))
    }
    found = shapes(interaction_graph(bundle.interaction, "fp16"), PROFILE)
    assert found["places"] == ((1, 1), (2, 3), (2, 5))
    assert found["location"] == ((1, 21, 3), (6, 21, 3), (10, 21, 3))
    assert found["half_angle"] == ((1,), (6,), (10,))


def test_every_node_of_the_default_bundle_is_known_to_the_parser(rtx: Builder) -> None:
    bundle, trt = load_bundle(HAMUCO_S), load_runtime("tensorrt-rtx")
    log = trt.Logger(trt.Logger.ERROR)
    for graph in (estimator_graph(bundle.estimator, "fp16"), interaction_graph(bundle.interaction, "fp16")):
        network = trt.Builder(log).create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = trt.OnnxParser(network, log)
        assert parser.supports_model_v2(graph.SerializeToString())
        assert parser.num_subgraphs == 1
        assert len(parser.get_subgraph_nodes(0)) == len(graph.graph.node)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_the_default_bundle_is_built_for_all_gpus(
    precision: Precision, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    pytest.importorskip("tensorrt_rtx_bindings", exc_type=ImportError)
    builder = Builder("tensorrt-rtx")
    profile = Profile((1, 8, 16), 2)
    plan = build_plan(load_bundle(HAMUCO_S), OnnxRoute(builder), precision, profile, _not_compared, _silent)
    assert plan.card.platform.architectures == RTX_ARCHITECTURES
    assert tmp_path in plan.path.parents


@pytest.mark.parametrize("by", ["Ctrl-C", "an exception"])
def test_an_interrupted_build_leaves_nothing(
    rtx: Builder, own_bundle: Bundle, by: str, capfd: pytest.CaptureFixture[str]
) -> None:
    steps: list[str] = []

    def interrupt(what: str, done: int, total: int) -> None:
        steps.append(what)
        if by != "Ctrl-C":
            raise KeyboardInterrupt
        if len(steps) == 1:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        build_plan(own_bundle, OnnxRoute(rtx), "fp16", PROFILE, _not_compared, interrupt)
    assert len(steps) < 5  # of the first of two networks, where there are some more
    assert not (own_bundle.path / "engines").exists()
    assert ("stopping the build; Ctrl-C again stops at once" in capfd.readouterr().err) == (by == "Ctrl-C")


def _graph(operator: str, shape: tuple[str | int, ...], kind: int) -> ModelProto:
    given = helper.make_tensor_value_info("images", kind, shape)
    taken = helper.make_tensor_value_info("out", kind, shape)
    node = helper.make_node(operator, ["images"], ["out"], name="the node")
    return helper.make_model(
        helper.make_graph([node], "g", [given], [taken]), opset_imports=[helper.make_opsetid("", 17)]
    )


def test_a_node_that_the_parser_does_not_know_is_named(rtx: Builder) -> None:
    graph = _graph("EyeLike", ("crops", "crops"), TensorProto.FLOAT)
    with pytest.raises(EngineError, match=r"tensorrt-rtx 1\.\S+ does not know node the node \(EyeLike\): ") as error:
        rtx.build(graph.SerializeToString(), {"images": ((1, 1), (2, 2), (3, 3))}, _silent)
    assert "\n" not in str(error.value)


def test_what_is_no_graph_is_refused(rtx: Builder) -> None:
    with pytest.raises(EngineError, match="does not know"):
        rtx.build(b"not a graph", {}, _silent)


def test_shapes_that_contradict_the_graph_are_refused(rtx: Builder) -> None:
    graph = _graph("Relu", ("crops", 3), TensorProto.FLOAT)
    with pytest.raises(EngineError, match=r"could not build: .*images"):
        rtx.build(graph.SerializeToString(), {"images": ((1, 4), (2, 4), (3, 4))}, _silent)


@pytest.mark.parametrize("architecture", ["sm_75", "sm_90", "CURRENT"])
def test_an_architecture_that_is_not_built_for_is_refused(rtx: Builder, architecture: str) -> None:
    with pytest.raises(
        EngineError,
        match=rf"^tensorrt-rtx 1\.\S+ cannot build these networks for {architecture}, only for {', '.join(RTX_ARCHITECTURES)}$",
    ):
        Builder("tensorrt-rtx", ("sm_89", architecture))


@pytest.mark.skipif(importlib.util.find_spec("tensorrt") is not None, reason="tensorrt is installed here")
def test_a_runtime_that_is_not_installed_says_how_to_get_it() -> None:
    with pytest.raises(EngineError, match=r'^tensorrt is not installed: pip install "hamuco\[tensorrt\]"$'):
        Builder("tensorrt")


def test_a_library_that_does_not_start_says_why_and_what_to_do(rtx: Builder) -> None:
    library = TensorRT("tensorrt-rtx")
    severity = library.module.ILogger.Severity

    def refuse(log: Any) -> None:  # as with a driver that is older than the library
        log.log(severity.WARNING, "CUDA initialization failure with error: 35\n")
        log.log(severity.INFO, "good bye")
        raise TypeError("pybind11::init(): factory function returned nullptr")

    with pytest.raises(
        EngineError,
        match=r"^tensorrt-rtx 1\.\S+ does not start: CUDA .* error: 35\. It may need a newer driver \(Ubuntu",
    ):
        library.made(refuse)


def test_bindings_without_their_libraries_say_how_to_get_them(rtx: Builder) -> None:
    code = (
        "import sys; sys.modules['tensorrt_rtx_libs'] = None\n"
        "from hamuco.engine.tensorrt_engine import EngineError, load_runtime\n"
        "try: load_runtime('tensorrt-rtx')\n"
        "except EngineError as error: print(error)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=sys.prefix)
    assert result.stdout.startswith("tensorrt-rtx cannot be loaded (libtensorrt")
    assert result.stdout.endswith('): pip install "hamuco[tensorrt-rtx]"\n')
