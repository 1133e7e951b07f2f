"""The graphs of a bundle as GPUs run them: cut where our kernels take over, folded, and in half precision.

    estimator      images (N, 3, S, S) half -> pose (N, 16, 6), betas (N, 10), camera (N, 3), four maps (N, ...) half
    interaction    map_32 (N, ...) half, location (N, 21, 3), single_pose (N, 16, 6), half_angle (N,), places (B, V) int64,
                   sampled (N, 21, C) half -> pose (B, V, 16, 6), camera (B, V, 3)

What is not half is single precision. `images` is what kernels/crop.cuh writes, RGB with mean 0 and deviation 1, and
`sampled` what kernels/sampler.cuh gathers from the first three maps, C being all their channels; the rest is as in
hamuco.engine.hamuco. The seams are half also where the graph computes in bfloat16: the kernels need not know.

TensorRT takes the precision of every layer from the graph. All that can be computed before is, in single precision. Then
layers are converted, but for those of `_SINGLE` and the heads that give the hand's parameters: small, and worth half a
millimetre of a hand's distance (p99). f32, all single and the seams too, is for comparisons.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper, version_converter
from onnx.reference import ReferenceEvaluator

from hamuco.engine.gpu_networks import SAMPLED_MAPS

GraphPrecision = Literal["fp16", "bf16", "f32"]
Array = NDArray[Any]

_TYPES = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16, "f32": TensorProto.FLOAT}
_HALF_SEAMS = ("images", "sampled", "map_4", "map_8", "map_16", "map_32")
# Normalization sums squares, which half precision cannot hold: joints were off by 3 mm (p99). Then, what is made of
# integers. Softmax and means may be half: on 48 crops of hands it made no difference.
_SINGLE = ("LayerNormalization", "Cast", "ConstantOfShape")
_HEADS = ("pose", "betas", "camera")
_HEAD_PRODUCTS = 2  # matrix products that a head has
_OPSET = 22  # the first whose convolutions may be of bfloat16


class GraphError(ValueError):
    """A graph that is not built as `hamuco export` builds them."""


def estimator_graph(path: Path, precision: GraphPrecision) -> ModelProto:
    """Of a bundle's estimator.onnx, without the normalization of images.

    Raises:
        GraphError: it is not built as expected.
    """
    model = onnx.load(path)
    tensor, size = "images", _dimensions(model.graph.input, "images")[1]
    while (reader := _reader(model.graph, tensor)).op_type != "Conv":
        tensor = reader.output[0]
    _cut(model.graph, tensor, "images", ("crops", 3, size, size))
    return _finished(model, precision)


def interaction_graph(path: Path, precision: GraphPrecision) -> ModelProto:
    """Of a bundle's interaction.onnx, without sampling the maps.

    Raises:
        GraphError: it is not built as expected.
    """
    model = onnx.load(path)
    ends = set()
    for reader in [node for node in model.graph.node if node.op_type == "GridSample"]:
        while reader.op_type != "Transpose":
            reader = _reader(model.graph, reader.output[0])
        ends.add(reader.output[0])
    if len(ends) != 1:
        raise GraphError(f"{path} brings sampled maps together in {len(ends)} places, expected 1: export it again")
    channels = sum(int(_dimensions(model.graph.input, name)[1]) for name in SAMPLED_MAPS)
    _cut(model.graph, ends.pop(), "sampled", ("crops", 21, channels))
    return _finished(model, precision)


def _finished(model: ModelProto, precision: GraphPrecision) -> ModelProto:
    _prune(model.graph)
    _fold_constants(model)
    _fold_normalization(model.graph)
    _spell_out_identities(model.graph)
    _prune(model.graph)
    model = version_converter.convert_version(model, _OPSET)
    _convert(model, _TYPES[precision])
    _prune(model.graph)
    onnx.checker.check_model(model, full_check=True)
    return model


def _cut(graph: GraphProto, tensor: str, name: str, shape: Sequence[str | int]) -> None:
    """Make an input of a tensor; what it was computed from is left for `_prune`."""
    for node in graph.node:
        _rename(node.input, tensor, name)
    others = [one for one in graph.input if one.name != name]
    _replace(graph.input, [*others, helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)])


def _prune(graph: GraphProto) -> None:
    """Keep what outputs depend on."""
    needed, nodes = {one.name for one in graph.output}, []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            needed.update(node.input)
            nodes.append(node)
    _replace(graph.node, nodes[::-1])
    for kind in (graph.input, graph.initializer):
        _replace(kind, [one for one in kind if one.name in needed])
    del graph.value_info[:]


def _fold_constants(model: ModelProto) -> None:
    """Compute what depends on no input, sizes that are the same for all inputs among it."""
    before = 0
    while len(model.graph.node) != before:  # what is folded tells more sizes
        before = len(model.graph.node)
        _fold_once(model, _sizes(model))


def _fold_once(model: ModelProto, sizes: Mapping[str, Array]) -> None:
    known = {one.name: numpy_helper.to_array(one) for one in model.graph.initializer}
    partly: dict[str, Array] = {}  # sizes, -1 for those that depend on inputs
    nodes = []
    for node in model.graph.node:
        given = {name: known.get(name, partly.get(name)) for name in node.input if name}
        selects = node.op_type in ("Gather", "Slice") and node.input[0] in partly
        if node.op_type == "Shape" and node.input[0] in sizes:
            results = [sizes[node.input[0]]]
        elif all(value is not None for value in given.values()) and (selects or given.keys() <= known.keys()):
            results = _evaluated(node, given, model)
        else:
            results = []
        for name, values in zip(node.output, results, strict=False):
            of_sizes = selects or node.op_type == "Shape"
            (partly if of_sizes and (values < 0).any() else known)[name] = values
        if not known.keys() >= set(node.output):
            nodes.append(node)
    _replace(model.graph.node, nodes)
    read = {name for node in nodes for name in node.input}
    _replace(model.graph.initializer, [numpy_helper.from_array(known[name], name) for name in known if name in read])


def _sizes(model: ModelProto) -> dict[str, Array]:
    """Shapes of tensors, -1 for what depends on inputs."""
    graph = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph
    types = {one.name: one.type.tensor_type for one in (*graph.input, *graph.value_info, *graph.output)}
    return {
        name: np.array([one.dim_value if one.HasField("dim_value") else -1 for one in kind.shape.dim], np.int64)
        for name, kind in types.items()
        if kind.HasField("shape")
    }


def _evaluated(node: NodeProto, given: Mapping[str, Any], model: ModelProto) -> list[Array]:
    outputs = [helper.make_tensor_value_info(name, TensorProto.UNDEFINED, None) for name in node.output]
    constants = [numpy_helper.from_array(values, name) for name, values in given.items()]
    graph = helper.make_graph([node], "constant", [], outputs, constants)
    alone = helper.make_model(graph, opset_imports=model.opset_import)
    return [np.asarray(values) for values in ReferenceEvaluator(alone).run(None, {})]


def _fold_normalization(graph: GraphProto) -> None:
    """Batch normalization into the convolution before it."""
    known = {one.name: numpy_helper.to_array(one).astype(np.float64) for one in graph.initializer}
    makers = {node.output[0]: node for node in graph.node}
    for node in [node for node in graph.node if node.op_type == "BatchNormalization"]:
        convolution = makers.get(node.input[0])
        if convolution is None or convolution.op_type != "Conv" or _reader(graph, node.input[0]) is not node:
            raise GraphError(f"{node.name} follows no convolution of its own: export the bundle again")
        scale, shift, mean, variance = (known[name] for name in node.input[1:5])
        (epsilon,) = [one.f for one in node.attribute if one.name == "epsilon"] or [1e-5]
        factor = scale / np.sqrt(variance + epsilon)
        bias = known[convolution.input[2]] if len(convolution.input) > 2 else np.zeros_like(mean)
        folded = known[convolution.input[1]] * factor[:, None, None, None], shift + (bias - mean) * factor
        names = [f"{node.name}/{part}" for part in ("weight", "bias")]
        graph.initializer.extend(
            numpy_helper.from_array(values.astype(np.float32), name) for values, name in zip(folded, names, strict=True)
        )
        _replace(convolution.input, [convolution.input[0], *names])
        convolution.output[0] = node.output[0]
        graph.node.remove(node)


def _spell_out_identities(graph: GraphProto) -> None:
    """Identity matrices by comparison of rows with columns: TensorRT has none of sizes that depend on inputs."""
    nodes = []
    for node in graph.node:
        if node.op_type != "EyeLike":
            nodes.append(node)
            continue
        name = node.output[0]
        numbers = {"zero": np.int64(0), "one": np.int64(1), "first": np.array([0]), "second": np.array([1])}
        for what, value in numbers.items():
            graph.initializer.append(numpy_helper.from_array(np.asarray(value, np.int64), f"{name}/{what}"))
        for kind, inputs, output in (
            ("Shape", [node.input[0]], f"{name}/shape"),
            ("Gather", [f"{name}/shape", f"{name}/zero"], f"{name}/size"),
            ("Range", [f"{name}/zero", f"{name}/size", f"{name}/one"], f"{name}/range"),
            ("Unsqueeze", [f"{name}/range", f"{name}/first"], f"{name}/columns"),
            ("Unsqueeze", [f"{name}/range", f"{name}/second"], f"{name}/rows"),
            ("Equal", [f"{name}/rows", f"{name}/columns"], name),
        ):
            nodes.append(helper.make_node(kind, inputs, [output]))
    _replace(graph.node, nodes)


def _convert(model: ModelProto, low: int) -> None:
    """Make each layer compute in single precision or in the type `low`, with casts where these meet."""
    graph = model.graph
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph
    constants = {one.name: one for one in graph.initializer}
    floats = {one.name for one in constants.values() if one.data_type == TensorProto.FLOAT}
    for one in (*inferred.input, *inferred.value_info, *inferred.output):
        if one.type.tensor_type.elem_type == TensorProto.FLOAT:
            floats.add(one.name)
    heads = _head_nodes(graph)
    nodes: list[NodeProto] = []
    made: dict[str, dict[int, str]] = {}  # what is there of each of these: names by type

    def given(name: str, kind: int) -> str:
        if name not in floats:
            return name
        there = made.setdefault(name, {})
        if kind not in there:
            there[kind] = _typed(name, kind)
            if name in constants:
                graph.initializer.append(_constant(constants[name], kind))
            else:
                nodes.append(helper.make_node("Cast", [next(iter(there.values()))], [there[kind]], to=kind))
        return there[kind]

    for one in graph.input:
        if one.name in floats:
            made[one.name] = {_seam(one.name, low): one.name}
            one.type.tensor_type.elem_type = _seam(one.name, low)
    for node in graph.node:
        if node.op_type == "Cast" and floats.issuperset((*node.input, *node.output)):
            made[node.output[0]] = made[node.input[0]]  # from single precision to the same
            continue
        kind = TensorProto.FLOAT if node.op_type in _SINGLE or node.output[0] in heads else low
        _replace(node.input, [given(name, kind) for name in node.input])
        for index, name in enumerate(node.output):
            if name in floats:
                node.output[index] = _typed(name, kind)
                made[name] = {kind: node.output[index]}
        nodes.append(node)
    for one in graph.output:
        kind = _seam(one.name, low)
        one.type.tensor_type.elem_type = kind
        nodes.append(helper.make_node("Cast", [next(iter(made[one.name].values()))], [one.name], to=kind))
    _replace(graph.node, nodes)


def _head_nodes(graph: GraphProto) -> set[str]:
    """First outputs of the nodes that make the hand's parameters, from the last matrix products on."""
    makers = {name: node for node in graph.node for name in node.output}
    found: set[str] = set()

    def walk(tensor: str, products: int) -> None:
        node = makers.get(tensor)
        if node is None:
            return
        found.add(node.output[0])
        products -= node.op_type in ("Gemm", "MatMul")
        for name in node.input if products else ():
            walk(name, products)

    for output in _HEADS:
        walk(output, _HEAD_PRODUCTS)
    return found


def _seam(name: str, low: int) -> int:
    return int(TensorProto.FLOAT16 if name in _HALF_SEAMS and low != TensorProto.FLOAT else TensorProto.FLOAT)


def _typed(name: str, kind: int) -> str:
    return f"{name}:{TensorProto.DataType.Name(kind).lower()}"


def _constant(single: TensorProto, kind: int) -> TensorProto:
    values = numpy_helper.to_array(single)
    with np.errstate(over="ignore"):
        rounded = values.astype(helper.tensor_dtype_to_np_dtype(kind))
    if not np.array_equal(np.isfinite(values), np.isfinite(rounded)):
        raise GraphError(
            f"{single.name} reaches {np.abs(values).max():.3g}, beyond {rounded.dtype}: build with --precision bf16"
        )
    return numpy_helper.from_array(rounded, _typed(single.name, kind))


def _reader(graph: GraphProto, tensor: str) -> NodeProto:
    """The one node that reads a tensor."""
    readers: list[NodeProto] = [node for node in graph.node if tensor in node.input]
    if len(readers) != 1:
        raise GraphError(f"{len(readers)} layers read {tensor}, expected 1: export the bundle again")
    return readers[0]


def _dimensions(values: Iterable[ValueInfoProto], name: str) -> list[int]:
    """0 for those that are not fixed."""
    (info,) = [one for one in values if one.name == name]
    return [one.dim_value for one in info.type.tensor_type.shape.dim]


def _rename(names: Any, old: str, new: str) -> None:
    for index, name in enumerate(names):
        if name == old:
            names[index] = new


def _replace(field: Any, values: Iterable[Any]) -> None:
    """Of a protobuf message."""
    kept = list(values)
    del field[:]
    field.extend(kept)
