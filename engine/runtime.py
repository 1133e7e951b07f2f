"""Networks on the CPU through OpenVINO, fed with 8-bit BGR images."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
from numpy.typing import NDArray
from openvino.preprocess import ColorFormat, PrePostProcessor


class Network:
    """A compiled network over batches of images (n, height, width, 3) uint8 BGR; n may differ from call to call."""

    def __init__(self, path: Path) -> None:
        """Read and compile a TFLite or ONNX file whose one input is (1, height, width, 3) float32 RGB in [0, 1]."""
        model = _core().read_model(path)
        _, self.height, self.width, _ = (dimension.get_length() for dimension in model.inputs[0].partial_shape)
        model.reshape([-1, self.height, self.width, 3])
        # Colour order and scale inside the graph: OpenVINO fuses them with the first convolution's reorder.
        processor = PrePostProcessor(model)
        processor.input().tensor().set_element_type(ov.Type.u8).set_layout(ov.Layout("NHWC"))
        processor.input().tensor().set_color_format(ColorFormat.BGR)
        processor.input().preprocess().convert_element_type(ov.Type.f32).convert_color(ColorFormat.RGB).scale(255.0)
        processor.input().model().set_layout(ov.Layout("NHWC"))
        config = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": inference_precision()}
        compiled = _core().compile_model(processor.build(), "CPU", config)
        self._request = compiled.create_infer_request()

    def __call__(self, images: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        """Run on images (n, height, width, 3) uint8 BGR; outputs (n, ...) float32 in the file's order."""
        results: Any = self._request.infer({0: images}, share_inputs=True)
        return [np.array(value, np.float32) for value in results.values()]


@cache
def _core() -> ov.Core:
    return ov.Core()


@cache
def inference_precision() -> str:
    """bf16 where the processor computes in it (twice as fast at equal accuracy of the landmarks), else f32."""
    capabilities = _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return "bf16" if "BF16" in capabilities else "f32"


def runtime_name() -> str:
    """For reports: runtime, version, precision and device."""
    device = _core().get_property("CPU", "FULL_DEVICE_NAME")
    return f"OpenVINO {ov.__version__.split('-')[0]} {inference_precision()} on {device}"
