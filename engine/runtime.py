"""Networks on the CPU through OpenVINO, fed with 8-bit BGR images."""

from __future__ import annotations

import logging
from collections.abc import Mapping
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

    def __init__(self, path: Path, ranges: Mapping[str, Range] | None = None) -> None:
        """Read and compile a TFLite or ONNX file whose one input is (1, height, width, 3) float32 RGB in [0, 1].

        With ranges, convolutions run in int8 where the processor does that exactly; see `hamuco.engine.quantize`.
        """
        model = _core().read_model(path)
        self.precision, hint = inference_precision(), inference_precision()
        if ranges and int8_is_exact():
            try:
                model, self.precision, hint = quantized(model, ranges), "int8", "f32"
            except ValueError as error:  # a later OpenVINO may name the file's layers differently
                _log.warning("%s goes on in %s, which is slower: %s", path.name, self.precision, error)
        _, self.height, self.width, _ = (dimension.get_length() for dimension in model.inputs[0].partial_shape)
        # Colour order and scale inside the graph: OpenVINO fuses them with the first convolution's reorder.
        processor = PrePostProcessor(model)
        processor.input().tensor().set_element_type(ov.Type.u8).set_layout(ov.Layout("NHWC"))
        processor.input().tensor().set_color_format(ColorFormat.BGR)
        processor.input().preprocess().convert_element_type(ov.Type.f32).convert_color(ColorFormat.RGB).scale(255.0)
        processor.input().model().set_layout(ov.Layout("NHWC"))
        config = {"PERFORMANCE_HINT": "THROUGHPUT", "INFERENCE_PRECISION_HINT": hint}
        self._compiled = _core().compile_model(processor.build(), "CPU", config)
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
