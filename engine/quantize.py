"""8-bit convolutions for a network that was trained in floating point.

OpenVINO computes a convolution in int8 where fake quantization stands before its input and its weights: rounding to 256
levels of a fixed range. Weights bring their range along, per output channel; the ranges of the inputs are measured once
(hamuco.training.calibrate_int8).

Only full convolutions are quantized. Depthwise ones are no faster so, bound by memory as they are, and cost accuracy:
with them the hand's landmarks move by 0.8 px of the crop (median on real hands), without by 0.23, in bf16 by 0.32.
Whatever is not quantized should therefore be computed in f32; in bf16 already the outputs round to whole px.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hamuco.engine.openvino_core import core

if TYPE_CHECKING:
    import openvino as ov

Range = tuple[float, float]

_INPUT_LEVELS = 256
_WEIGHT_LEVELS = 255  # symmetric: -127 to 127


def hand_landmark_ranges() -> dict[str, Range]:
    """Measured ranges of the hand landmark network's convolutions."""
    text = resources.files("hamuco.engine").joinpath("hand_landmark_int8.json").read_text(encoding="utf-8")
    return {name: (low, high) for name, (low, high) in json.loads(text).items()}


def full_convolutions(model: ov.Model) -> dict[str, ov.Node]:
    """The convolutions over all channels, by the name that the file gives their weights."""
    found = [node for node in model.get_ordered_ops() if node.get_type_name() == "Convolution"]
    return {node.input_value(1).get_any_name(): node for node in found}


def quantized(model: ov.Model, ranges: Mapping[str, Range]) -> ov.Model:
    """A copy of the model with 8-bit convolutions where a range is given; the others are left as they are.

    Args:
        model: as read from the file, before any processing is put in front.
        ranges: lowest and highest input per convolution, named as by `full_convolutions`.

    Raises:
        ValueError: a range is not one, or belongs to no convolution of the model.
    """
    model = model.clone()
    convolutions = full_convolutions(model)
    if unknown := sorted(ranges.keys() - convolutions.keys()):
        raise ValueError(
            f"{len(unknown)} of {len(ranges)} ranges belong to no convolution of the network ({unknown[0]}, ...): "
            f"they were measured on another one. Measure them again with hamuco.training.calibrate_int8."
        )
    for name, (low, high) in ranges.items():
        if not -np.inf < low <= 0 < high < np.inf:
            raise ValueError(f"the input of {name} cannot range from {low} to {high}: expected low <= 0 < high")
    chosen = [convolutions[name] for name in ranges]
    weights = _values([node.input_value(1) for node in chosen])
    for node, values, (low, high) in zip(chosen, weights, ranges.values(), strict=True):
        node.input(0).replace_source_output(_fake_quantize(node.input_value(0), *_levels_range(low, high)))
        bound = np.abs(values).max(axis=(1, 2, 3), keepdims=True)
        bound = np.maximum(bound, np.finfo(np.float32).tiny)  # a channel without weights
        node.input(1).replace_source_output(_fake_quantize(node.input_value(1), -bound, bound, _WEIGHT_LEVELS))
    model.validate_nodes_and_infer_types()
    return model


@cache
def int8_is_exact() -> bool:
    """Whether this processor adds up 8-bit products without overflow.

    x86 processors before VNNI add pairs of them in 16 bits and cut off what does not fit. On such a processor the
    quantized network is less accurate than in f32 or bf16. OpenVINO does not tell, so it is tried on a convolution
    whose inputs and weights are all the largest there are.
    """
    core()  # says what to do where there is no OpenVINO
    import openvino as ov
    from openvino import opset13 as ops

    channels = 64
    data = ops.parameter([1, channels, 8, 8], np.float32)
    ones = ops.constant(np.ones((channels, channels, 1, 1), np.float32))
    node = ops.convolution(
        _fake_quantize(data.output(0), 0.0, 1.0),
        _fake_quantize(ones.output(0), -1.0, 1.0, _WEIGHT_LEVELS),
        [1, 1],
        [0, 0],
        [0, 0],
        [1, 1],
    )
    compiled = _compile(ov.Model([ops.result(node)], [data]))
    sums = compiled([np.ones((1, channels, 8, 8), np.float32)])[0]
    return bool(np.abs(sums / channels - 1).max() < 0.01)  # cut off, they are half of what they should be


def _levels_range(low: float, high: float) -> Range:
    """The range of the 256 levels: unsigned for inputs without negative values, else symmetric, -128 to 127."""
    if low >= 0:
        return 0.0, high
    bound = max(-low, high)
    return -bound * 128 / 127, bound


def _fake_quantize(
    source: ov.Output, low: float | NDArray[np.float32], high: float | NDArray[np.float32], levels: int = _INPUT_LEVELS
) -> ov.Output:
    from openvino import opset13 as ops

    lowest, highest = (ops.constant(np.asarray(bound, np.float32)) for bound in (low, high))
    return ops.fake_quantize(source, lowest, highest, lowest, highest, levels).output(0)


def _values(outputs: Sequence[ov.Output]) -> list[NDArray[np.float32]]:
    """What outputs that depend on no input of the model are."""
    import openvino as ov
    from openvino import opset13 as ops

    results = _compile(ov.Model([ops.result(output) for output in outputs], []))([])
    return [np.array(results[index]) for index in range(len(outputs))]


def _compile(model: ov.Model) -> ov.CompiledModel:
    return core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
