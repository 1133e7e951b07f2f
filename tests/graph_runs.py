"""Runs the graphs of `hamuco.engine.device_graphs` on the CPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import ModelProto
from onnx.helper import tensor_dtype_to_np_dtype
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from hamuco.engine.builders import Run
from hamuco.engine.openvino_core import core

Array = NDArray[Any]


def single_run(model: ModelProto) -> Run:
    """By OpenVINO in single precision, whatever the graph's is."""
    network = core().read_model(model.SerializeToString())
    compiled = core().compile_model(network, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    types = _input_types(model)
    outputs = [one.name for one in model.graph.output]

    def run(inputs: Mapping[str, Array]) -> dict[str, Array]:
        results = compiled({name: np.asarray(inputs[name], kind) for name, kind in types.items()})
        return {name: np.array(results[name]) for name in outputs}

    return run


def rounded_run(model: ModelProto) -> Run:
    """As a GPU does: what each layer gives is rounded to the layer's type, and products are summed in single precision."""
    evaluator = ReferenceEvaluator(model, new_ops=[Conv, MatMul, LayerNormalization])
    types = _input_types(model)
    outputs = [one.name for one in model.graph.output]

    def run(inputs: Mapping[str, Array]) -> dict[str, Array]:
        results = evaluator.run(None, {name: np.asarray(inputs[name], kind) for name, kind in types.items()})
        return dict(zip(outputs, map(np.asarray, results), strict=True))

    return run


def _input_types(model: ModelProto) -> dict[str, Any]:
    return {one.name: tensor_dtype_to_np_dtype(one.type.tensor_type.elem_type) for one in model.graph.input}


def _single(values: Array) -> torch.Tensor:
    return torch.tensor(np.asarray(values, np.float32))


# onnx's own sum in the type of their inputs, or take minutes.
class Conv(OpRun):
    op_domain = ""

    def _run(self, x: Array, w: Array, b: Array | None = None, **how: Any) -> tuple[Array]:
        pads: Sequence[int] = how.get("pads") or (0, 0)
        values = torch.nn.functional.conv2d(
            _single(x),
            _single(w),
            None if b is None else _single(b),
            stride=how.get("strides") or 1,
            padding=tuple(pads[:2]),
            groups=how.get("group") or 1,
        )
        return (values.numpy().astype(x.dtype),)


class MatMul(OpRun):
    op_domain = ""

    def _run(self, a: Array, b: Array) -> tuple[Array]:
        return (np.matmul(a.astype(np.float32), b.astype(np.float32)).astype(a.dtype),)


class LayerNormalization(OpRun):
    op_domain = ""

    def _run(self, x: Array, scale: Array, shift: Array, **how: Any) -> tuple[Array]:
        assert x.dtype == np.float32, "its sums of squares go beyond half precision"
        normal = torch.nn.functional.layer_norm(
            _single(x), x.shape[-1:], _single(scale), _single(shift), how["epsilon"]
        )
        return (normal.numpy(),)
