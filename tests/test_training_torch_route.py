"""Programs from torch are the ONNX graphs of the other route; what torch-tensorrt is told, by a stand-in for it."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fake_torch_tensorrt import Conversion, FakeTorchTensorRT, Input
from graph_runs import single_run
from onnx import ModelProto
from onnx.helper import tensor_dtype_to_np_dtype
from torch.export import ExportedProgram

from hamuco.app.build_command import demo_crops
from hamuco.engine.build import build_plan
from hamuco.engine.builders import Array, Run
from hamuco.engine.bundle import HAMUCO_S, Bundle, load_bundle
from hamuco.engine.device_graphs import GraphPrecision, estimator_graph, interaction_graph
from hamuco.engine.parity import measure_parity
from hamuco.engine.plans import NOT_COMPARED, Plan, Platform, Profile, Wanted, find_plan
from hamuco.engine.tensorrt_engine import EngineError
from hamuco.training import torch_route
from hamuco.training.torch_route import Exported, TorchRoute, exported, load_torch_tensorrt
from hamuco.training.weights import bundle_network

CPU = torch.device("cpu")
HERE = Platform("tensorrt", "10.13", "Fake GPU", ("sm_90",))
PROFILE = Profile((1, 3, 5), 2)
HALF, SINGLE = torch.float16, torch.float32
# One hand in one view; views that see nothing; none that sees anything; more than the programs were traced with.
SETS = ([[0]], [[0, 1, -1], [2, -1, 0]], [[-1, -1]], [[0, 1, 2, 3, 4], [5, -1, 6, -1, 0], [-1, -1, -1, 3, 6]])


@pytest.fixture(scope="module")
def trained() -> Bundle:
    return load_bundle(HAMUCO_S)


@pytest.fixture(scope="module")
def single(trained: Bundle) -> tuple[Exported, Exported]:
    return exported(bundle_network(trained), "f32", CPU, PROFILE)


@dataclass(frozen=True, slots=True, eq=False)
class Built:
    """A plan in half precision, and what happened when it was built."""

    plan: Plan
    asked: list[Conversion]
    steps: list[str]
    compared: list[tuple[bytes, ...]]


@pytest.fixture(scope="module")
def built(trained: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Built]:
    library, steps, compared = FakeTorchTensorRT(), list[str](), list[tuple[bytes, ...]]()

    def compare(*engines: bytes) -> str:
        compared.append(engines)
        return NOT_COMPARED

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))  # where plans of this bundle lie
        route = TorchRoute(library, HERE, "cpu")
        plan = build_plan(trained, route, "fp16", PROFILE, compare, lambda what, *_: steps.append(what))
        yield Built(plan, library.asked, steps, compared)


def graphs(bundle: Bundle, precision: GraphPrecision) -> tuple[ModelProto, ModelProto]:
    return estimator_graph(bundle.estimator, precision), interaction_graph(bundle.interaction, precision)


def program_run(program: ExportedProgram, inputs: Mapping[str, torch.dtype], outputs: tuple[str, ...]) -> Run:
    module = program.module()

    def run(given: Mapping[str, Array]) -> dict[str, Array]:
        tensors = [torch.tensor(given[name]).to(dtype) for name, dtype in inputs.items()]
        with torch.no_grad():
            return dict(zip(outputs, (one.numpy() for one in module(*tensors)), strict=True))

    return run


def test_programs_give_what_the_onnx_graphs_give(trained: Bundle, single: tuple[Exported, Exported]) -> None:
    look, refine = (
        program_run(one.program, {name: dtype for name, (_, dtype) in one.inputs.items()}, one.outputs)
        for one in single
    )
    expected_look, expected_refine = map(single_run, graphs(trained, "f32"))
    for places in SETS:
        crops = max(1, max(map(max, places)) + 1)
        rng = np.random.default_rng(crops)
        images = {"images": rng.normal(size=(crops, 3, 128, 128)).astype(np.float32)}
        expected = expected_look(images)
        _assert_same(look(images), expected)
        known: dict[str, Array] = {"map_32": expected["map_32"], "single_pose": expected["pose"]}
        known["places"] = np.array(places)
        for name, scale in (("location", 0.5), ("half_angle", 0.1), ("sampled", 1.0)):
            shape, _ = single[1].inputs[name]
            known[name] = rng.normal(0, scale, [size if isinstance(size, int) else crops for size in shape])
        refined = refine(known)
        assert refined["pose"].shape == (*np.shape(places), 16, 6)
        _assert_same(refined, expected_refine(known))


def _assert_same(found: Mapping[str, Array], expected: Mapping[str, Array]) -> None:
    assert list(found) == list(expected)
    for name, values in expected.items():
        # Sums of a thousand products in two orders (6e-8 times 30), in some fifty layers: 1e-4 of the largest number.
        limit = 1e-4 * max(1.0, float(np.abs(values).max()))
        np.testing.assert_allclose(found[name], values, rtol=0, atol=limit, err_msg=name)


@pytest.mark.slow
def test_half_precision_costs_no_more_than_by_the_other_route(trained: Bundle, built: Built) -> None:
    estimator, interaction = (
        program_run(one.program, {given.name: given.dtype for given in one.inputs}, one.outputs) for one in built.asked
    )
    moments = demo_crops(trained.card.image_size, Profile((1, 4, 4), 2))
    parity = measure_parity(trained, estimator, interaction, moments)
    print(parity)
    assert parity.p99_mm < 0.2  # as test_engine_device_graphs allows the other


def _seams(program: ExportedProgram, names: Iterable[str]) -> dict[str, np.dtype[Any]]:
    signature = program.graph_signature
    values = {node.name: node.meta.get("val") for node in program.graph.nodes}
    tensors = (*signature.user_inputs, *signature.user_outputs)
    return {
        name: torch.zeros(0, dtype=values[one].dtype).numpy().dtype for name, one in zip(names, tensors, strict=True)
    }


def _seams_of_graph(graph: ModelProto) -> dict[str, np.dtype[Any]]:
    values = [*graph.graph.input, *graph.graph.output]
    return {one.name: np.dtype(tensor_dtype_to_np_dtype(one.type.tensor_type.elem_type)) for one in values}


def test_tensors_have_the_types_of_the_onnx_graphs(trained: Bundle, built: Built) -> None:
    for asked, graph in zip(built.asked, graphs(trained, "fp16"), strict=True):
        assert _seams(asked.program, (*(one.name for one in asked.inputs), *asked.outputs)) == _seams_of_graph(graph)


def test_what_a_profile_fixes_is_fixed_and_seams_are_half_for_bfloat16_too(trained: Bundle) -> None:
    networks = exported(bundle_network(trained), "bf16", CPU, Profile((4, 4, 4), 1))
    for network, graph in zip(networks, graphs(trained, "bf16"), strict=True):
        assert _seams(network.program, (*network.inputs, *network.outputs)) == _seams_of_graph(graph)
        assert set(_types(network.program, "conv2d")) == {torch.bfloat16}
    shapes = {node.name: node.meta["val"].shape for node in networks[1].program.graph.nodes if node.op == "placeholder"}
    assert shapes["places"] == (1, 4)
    assert not isinstance(shapes["half_angle"][0], int)


def _types(program: ExportedProgram, operator: str) -> list[torch.dtype]:
    nodes = [node for node in program.graph.nodes if node.op == "call_function"]
    return [node.meta["val"].dtype for node in nodes if str(node.target).startswith(f"aten.{operator}.")]


def test_layers_compute_in_half_precision_but_for_norms_and_heads(built: Built) -> None:
    estimator, interaction = (one.program for one in built.asked)
    assert set(_types(estimator, "conv2d")) == set(_types(interaction, "conv2d")) == {HALF}
    *body, hidden, last = _types(interaction, "linear")
    assert set(body) == {HALF}
    assert hidden == last == SINGLE
    assert set(_types(interaction, "layer_norm")) == {SINGLE}
    assert set(_types(estimator, "linear")) == {SINGLE}  # all are of heads, or follow the locator's softmax


def test_what_is_converted_becomes_the_plan(trained: Bundle, built: Built) -> None:
    plan = built.plan
    assert (plan.card.route, plan.card.platform, plan.card.precision) == ("torch", HERE, "fp16")
    assert find_plan(trained, Wanted(HERE, views=5, hands=2)) == plan
    assert (
        built.compared == [(plan.estimator.read_bytes(), plan.interaction.read_bytes())] == [(b"engine 1", b"engine 2")]
    )
    assert built.steps == ["exporting", "building the estimator", "building the interaction network"]
    look, refine = built.asked
    sampled, last = 32 + 64 + 96, 384  # channels of the backbone
    assert look.inputs == [Input((1, 3, 128, 128), (6, 3, 128, 128), (10, 3, 128, 128), HALF, "images")]
    assert look.outputs == ("pose", "betas", "camera", "map_4", "map_8", "map_16", "map_32")
    assert refine.inputs == [
        Input((1, last, 4, 4), (6, last, 4, 4), (10, last, 4, 4), HALF, "map_32"),
        Input((1, 21, 3), (6, 21, 3), (10, 21, 3), SINGLE, "location"),
        Input((1, 16, 6), (6, 16, 6), (10, 16, 6), SINGLE, "single_pose"),
        Input((1,), (6,), (10,), SINGLE, "half_angle"),
        Input((1, 1), (2, 3), (2, 5), torch.int64, "places"),
        Input((1, 21, sampled), (6, 21, sampled), (10, 21, sampled), HALF, "sampled"),
    ]
    assert refine.outputs == ("pose", "camera")
    options = {"require_full_compilation": True, "decompose_attention": True, "disable_tf32": True}
    assert look.options == refine.options == options
    assert (look.timings, refine.timings) == (b"", b"measured ")
    assert sorted(path.name for path in plan.path.parent.iterdir()) == [
        "tensorrt-10.13-Fake-GPU-fp16-1.3.5x2-torch",
        "tensorrt-10.13-Fake-GPU.timings",  # beside the plans, where the other route looks for it too
    ]


def _not_compared(estimator: bytes, interaction: bytes) -> str:
    return NOT_COMPARED


def _silent(what: str, done: int, total: int) -> None:
    assert 0 < done <= total, what


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, single: tuple[Exported, Exported]) -> Path:
    """Empty; and networks are exported already, which takes seconds and is the same every time."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(torch_route, "exported", lambda *given: single)
    return tmp_path


def _wrapped() -> RuntimeError:
    error = RuntimeError("Conversion of module " + 1000 * "graph\n")
    error.__cause__ = RuntimeError("Conversion of function aten.eye.default not\ncurrently supported!")
    return error


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            _wrapped(),
            r"the estimator: Conversion of function aten\.eye\.default not currently supported!\. Build it with ",
        ),
        (AssertionError(), r"the estimator: IBuilder: Error Code 2: no memory\. Build it with --route onnx"),
        (RuntimeError("long " * 1000), r"the estimator: (long )+\.\.\.\. Build it with --route onnx"),
    ],
)
def test_what_cannot_be_converted_says_why_in_a_line_and_leaves_nothing(
    error: Exception, words: str, trained: Bundle, cache: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    library = FakeTorchTensorRT()
    library.error = error
    with pytest.raises(EngineError, match=f"^torch-tensorrt 2.14.0 could not build {words}") as raised:
        build_plan(trained, TorchRoute(library, HERE, "cpu"), "fp16", PROFILE, _not_compared, _silent)
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 450
    assert capfd.readouterr().err == ""
    assert not list(cache.iterdir())


def test_an_interrupted_build_leaves_nothing(trained: Bundle, cache: Path) -> None:
    library = FakeTorchTensorRT()
    library.error = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        build_plan(trained, TorchRoute(library, HERE, "cpu"), "fp16", PROFILE, _not_compared, _silent)
    assert not list(cache.iterdir())


def test_weights_beyond_half_precision_are_refused(trained: Bundle) -> None:
    network = bundle_network(trained)
    with torch.no_grad():
        network.get_parameter("interaction.head_graph.layers.1.linear.bias")[0] = 1e5
    with pytest.raises(EngineError, match=r"linear\.bias has numbers beyond fp16: build with --precision bf16$"):
        exported(network, "fp16", CPU, PROFILE)


def _older(program: Any, inputs: Any) -> bytes:
    return b""


def test_a_library_that_will_not_do_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    install = r'pip install "hamuco\[torch-tensorrt\]"$'
    monkeypatch.setitem(sys.modules, "torch_tensorrt", None)
    with pytest.raises(EngineError, match=f"^torch-tensorrt is not installed: {install}"):
        load_torch_tensorrt()
    library = FakeTorchTensorRT()
    monkeypatch.setitem(sys.modules, "torch_tensorrt", library)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert load_torch_tensorrt() is library
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(EngineError, match=r"and torch \S+ finds none; --runtime tensorrt-rtx builds without one$"):
        load_torch_tensorrt()
    library.dynamo.convert_exported_program_to_serialized_trt_engine = _older
    with pytest.raises(EngineError, match=f"2.14.0 cannot name what engines take and give: {install}"):
        load_torch_tensorrt()


def test_a_library_whose_own_libraries_are_missing_says_which(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    for text, words in (
        (
            "raise OSError('libcudart.so.13:\\n no such file')",
            r"cannot be loaded \(libcudart.so.13: no such file\): pip",
        ),
        ("import no_such_tensorrt", "needs no_such_tensorrt, which is not installed: pip"),
    ):
        (tmp_path / "torch_tensorrt.py").write_text(text)
        with pytest.raises(EngineError, match=f"^torch-tensorrt {words}"):
            load_torch_tensorrt()
        monkeypatch.delitem(sys.modules, "torch_tensorrt", raising=False)
