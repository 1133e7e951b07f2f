"""What GPUs run is what the bundle's graphs compute."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from graph_runs import rounded_run, single_run
from onnx import ModelProto, TensorProto, helper, numpy_helper

from hamuco.app.build_command import demo_crops
from hamuco.engine.bundle import HAMUCO_S, Bundle, load_bundle
from hamuco.engine.device_graphs import GraphError, GraphPrecision, estimator_graph, interaction_graph
from hamuco.engine.hamuco import HaMuCoNetworks
from hamuco.engine.parity import HandCrops, measure_parity, normalized, run_networks
from hamuco.engine.plans import Profile

HALF, SINGLE, INT64 = TensorProto.FLOAT16, TensorProto.FLOAT, TensorProto.INT64


def graphs(bundle: Bundle, precision: GraphPrecision) -> tuple[ModelProto, ModelProto]:
    return estimator_graph(bundle.estimator, precision), interaction_graph(bundle.interaction, precision)


def noise(bundle: Bundle, crops: int, places: list[list[int]]) -> HandCrops:
    rng, size = np.random.default_rng(crops), bundle.card.image_size
    images = rng.integers(0, 256, (crops, size, size, 3), dtype=np.uint8)
    return HandCrops(images, rng.uniform(0.1, 0.3, crops), np.array(places))


@pytest.mark.parametrize("places", [[[0]], [[0, 1, -1], [2, -1, 0]], [[-1, -1]]])
def test_cut_graphs_fed_with_what_was_cut_away_are_the_bundles(bundle: Bundle, places: list[list[int]]) -> None:
    given = noise(bundle, 3, places)
    estimator, interaction = map(single_run, graphs(bundle, "f32"))
    networks = HaMuCoNetworks(bundle, "f32")
    looks = networks.look(given.crops, given.half_angle)
    outputs = estimator({"images": normalized(given.crops)})
    for name, expected in zip(("map_4", "map_8", "map_16", "map_32"), looks.maps, strict=True):
        np.testing.assert_allclose(outputs[name], expected, rtol=0, atol=1e-4)
    single, refined = run_networks(bundle, estimator, interaction, given)
    for one, other in ((single, looks.hands), (refined, networks.refine(looks, given.places))):
        for name in ("camera", "joints", "pixels"):
            np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_types_at_the_seams_do_not_depend_on_the_precision(bundle: Bundle, precision: GraphPrecision) -> None:
    def types(values: object) -> dict[str, int]:
        return {one.name: one.type.tensor_type.elem_type for one in values}  # type: ignore[attr-defined]

    estimator, interaction = graphs(bundle, precision)
    maps = {"map_4": HALF, "map_8": HALF, "map_16": HALF, "map_32": HALF}
    assert types(estimator.graph.input) == {"images": HALF}
    assert types(estimator.graph.output) == {"pose": SINGLE, "betas": SINGLE, "camera": SINGLE} | maps
    assert types(interaction.graph.input) == {
        "map_32": HALF, "location": SINGLE, "single_pose": SINGLE, "half_angle": SINGLE, "places": INT64, "sampled": HALF,
    }  # fmt: skip
    assert types(interaction.graph.output) == {"pose": SINGLE, "camera": SINGLE}


@pytest.mark.parametrize(
    ("precision", "kind"), [("fp16", TensorProto.FLOAT16), ("bf16", TensorProto.BFLOAT16), ("f32", TensorProto.FLOAT)]
)
def test_layers_compute_in_the_precision_but_for_the_heads(
    bundle: Bundle, precision: GraphPrecision, kind: int
) -> None:
    for graph in graphs(bundle, precision):
        weights = {one.name: one for one in graph.graph.initializer}
        products = [node for node in graph.graph.node if node.op_type in ("Conv", "MatMul", "Gemm")]
        types = [weights[node.input[1]].data_type for node in products if node.input[1] in weights]
        assert kind in types
        assert types[-2:] == [SINGLE, SINGLE]
        left = {node.op_type for node in graph.graph.node}
        assert not left & {"BatchNormalization", "EyeLike", "GridSample"}


def test_rounding_to_half_precision_costs_little(bundle: Bundle) -> None:
    given = noise(bundle, 4, [[0, 1, -1], [2, -1, 3]])
    estimator, interaction = map(rounded_run, graphs(bundle, "fp16"))
    parity = measure_parity(bundle, estimator, interaction, [given])
    # This network is untrained and magnifies: bfloat16 may move its joints by 6 mm in the mean (test_engine_hamuco). Half
    # precision has 3 bits more, an eighth of that; of a hundred joints one is off by ten times the mean.
    assert 0 < parity.p99_mm < 7.5
    assert parity.crops == 4


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "p99"), [("fp16", 0.2), ("bf16", 1.6)])  # 8 bits and not 11: eight times as much
def test_what_precisions_cost_on_hands(precision: GraphPrecision, p99: float) -> None:
    bundle = load_bundle(HAMUCO_S)
    moments = demo_crops(bundle.card.image_size, Profile((1, 4, 4), 2))
    estimator, interaction = map(rounded_run, graphs(bundle, precision))
    parity = measure_parity(bundle, estimator, interaction, moments)
    print(precision, parity)
    assert parity.p99_mm < p99


def _changed(path: Path, folder: Path, change: str) -> Path:
    model = onnx.load(path)
    graph = model.graph
    if change == "read twice":
        (name,) = [node.output[0] for node in graph.node if node.op_type == "Div" and "backbone" not in node.name][:1]
        graph.node.append(helper.make_node("Relu", [name], ["extra"]))
        graph.output.append(helper.make_tensor_value_info("extra", SINGLE, None))
    if change == "large":
        (weight,) = [one for one in graph.initializer if one.name.endswith("pose_head.0.bias")]
        (bias,) = [one for one in graph.initializer if one.name.endswith("locator.mix.bias")]
        assert weight.data_type == bias.data_type == SINGLE
        bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + np.float32(1e5), bias.name))
    onnx.save(model, folder / path.name)
    return folder / path.name


def test_a_graph_that_is_built_in_another_way_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(GraphError, match=r"2 layers read .*, expected 1: export the bundle again"):
        estimator_graph(_changed(bundle.estimator, tmp_path, "read twice"), "fp16")


def test_a_number_beyond_half_precision_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    path = _changed(bundle.estimator, tmp_path, "large")
    with pytest.raises(GraphError, match=r"mix.bias reaches 1e\+05, beyond float16: build with --precision bf16"):
        estimator_graph(path, "fp16")
    estimator_graph(path, "bf16")
