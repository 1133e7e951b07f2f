"""Networks on the CPU through OpenVINO, fed with 8-bit BGR images."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import openvino as ov
from numpy.typing import NDArray
from openvino.preprocess import ColorFormat, PrePostProcessor

from hamuco.engine.quantize import Range, int8_is_exact, quantized

_log = logging.getLogger(__name__)


class Network:
    """A compiled network over images (height, width, 3) uint8 BGR.

    Images run one by one, as many at a time as the processor has room for. On two cores eight crops of the landmark
    network take 13.1 ms so, as one batch 14.8 ms; and no batch size has to be compiled for.

    Attributes:
        precision: what it computes in: int8 (with f32 in between), bf16 or f32.
    """

    def __init__(self, path: Path, ranges: Mapping[str, Range] | None = None, precision: str | None = None) -> None:
        """Read and compile a TFLite or ONNX file.

        Args:
            path: its one input is (1, height, width, 3) float32 RGB in [0, 1], or (n, height, width, 3) uint8 BGR.
            ranges: with them, convolutions run in int8 where the processor does that exactly; see
                `hamuco.engine.quantize`.
            precision: bf16 or f32; None for what is best here.
        """
        model = _core().read_model(path)
        self.precision, hint = precision or inference_precision(), precision or inference_precision()
        if ranges and int8_is_exact():
            try:
                model, self.precision, hint = quantized(model, ranges), "int8", "f32"
            except ValueError as error:  # a later OpenVINO may name the file's layers differently
                _log.warning("%s goes on in %s, which is slower: %s", path.name, self.precision, error)
        self.height, self.width = (dimension.get_length() for dimension in list(model.inputs[0].partial_shape)[1:3])
        model.reshape([1, self.height, self.width, 3])
        if model.inputs[0].element_type != ov.Type.u8:
            # Colour order and scale inside the graph: OpenVINO fuses them with the first convolution's reorder.
            processor = PrePostProcessor(model)
            processor.input().tensor().set_element_type(ov.Type.u8).set_layout(ov.Layout("NHWC"))
            processor.input().tensor().set_color_format(ColorFormat.BGR)
            processor.input().preprocess().convert_element_type(ov.Type.f32).convert_color(ColorFormat.RGB).scale(255.0)
            processor.input().model().set_layout(ov.Layout("NHWC"))
            model = processor.build()
        config = {"PERFORMANCE_HINT": "THROUGHPUT", "INFERENCE_PRECISION_HINT": hint}
        self._compiled = _core().compile_model(model, "CPU", config)
        self._requests: list[ov.InferRequest] = []

    def __call__(self, images: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        """Run on images (n, height, width, 3) uint8 BGR, n >= 1; outputs (n, ...) float32 in the file's order."""
        while len(self._requests) < len(images):
            self._requests.append(self._compiled.create_infer_request())
        requests = self._requests[: len(images)]
        for index, request in enumerate(requests):
            request.start_async({0: images[index : index + 1]}, share_inputs=True)
        for request in requests:
            request.wait()
        outputs = zip(*([tensor.data for tensor in request.output_tensors] for request in requests), strict=True)
        return [np.concatenate(values).astype(np.float32, copy=False) for values in outputs]


class SetNetwork:
    """A compiled network over all views and hands of a set at once, whose numbers change from set to set."""

    def __init__(self, path: Path, precision: str | None = None) -> None:
        """Read and compile an ONNX file; `precision` is bf16 or f32, None for what is best here."""
        config = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": precision or inference_precision()}
        self._request = _core().compile_model(_core().read_model(path), "CPU", config).create_infer_request()

    def __call__(self, inputs: Sequence[NDArray[np.generic]]) -> list[NDArray[np.float32]]:
        """Inputs and outputs are in the file's order."""
        self._request.infer(list(inputs), share_inputs=True)
        return [np.array(tensor.data, np.float32) for tensor in self._request.output_tensors]


@cache
def _core() -> ov.Core:
    return ov.Core()


@cache
def inference_precision() -> str:
    """bf16 where the processor computes in it (twice as fast at equal accuracy of the landmarks), else f32."""
    capabilities = _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return "bf16" if "BF16" in capabilities else "f32"


def runtime_name(precision: str) -> str:
    """For reports: runtime, version, precision and device."""
    device = _core().get_property("CPU", "FULL_DEVICE_NAME")
    return f"OpenVINO {ov.__version__.split('-')[0]} {precision} on {device}"
