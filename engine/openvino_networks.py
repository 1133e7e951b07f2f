"""Networks on the CPU through OpenVINO, fed with 8-bit BGR images."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hamuco.engine.openvino_core import compiled, core
from hamuco.engine.quantize import Range, int8_is_exact, quantized

if TYPE_CHECKING:
    import openvino as ov

_log = logging.getLogger(__name__)


class Network:
    """A compiled network over images (height, width, 3) uint8 BGR.

    Images run one by one or a few together, as many runs at a time as the processor has room for. What is best depends on
    the network: on two cores eight crops of the landmark network take 13.1 ms one by one and 14.8 ms as one batch, those of
    hamuco-s 7.7 ms one by one and 6.1 ms by fours, since its small convolutions wait for their weights.

    Attributes:
        precision: what it computes in: int8 (with f32 in between), bf16 or f32.
    """

    def __init__(
        self,
        path: Path,
        ranges: Mapping[str, Range] | None = None,
        precision: str | None = None,
        together: Sequence[int] = (1,),
        handed_over: Sequence[str] = (),
    ) -> None:
        """Read and compile a TFLite or ONNX file.

        Args:
            path: its one input is (1, height, width, 3) float32 RGB in [0, 1], or (n, height, width, 3) uint8 BGR.
            ranges: with them, convolutions run in int8 where the processor does that exactly; see
                `hamuco.engine.quantize`.
            precision: bf16 or f32; None for what is best here.
            together: how many images may run as one batch, falling, down to 1; each is compiled for.
            handed_over: outputs that only a `SetNetwork` of the same precision reads. They stay as they were computed,
                bf16, which numpy does not have, by its bits in a float16: to make maps of 4 x 32 x 32 x 32 single takes
                0.4 ms.
        """
        model = core().read_model(path)
        self.precision, hint = precision or inference_precision(), precision or inference_precision()
        if ranges and int8_is_exact():
            try:
                model, self.precision, hint = quantized(model, ranges), "int8", "f32"
            except ValueError as error:  # a later OpenVINO may name the file's layers differently
                _log.warning("%s goes on in %s, which is slower: %s", path.name, self.precision, error)
        self.height, self.width = (dimension.get_length() for dimension in list(model.inputs[0].partial_shape)[1:3])
        self._compiled: dict[int, ov.CompiledModel] = {}
        for images in together:
            own = model.clone()
            own.reshape([images, self.height, self.width, 3])
            own = _for_bytes(own)
            if self.precision == "bf16" and handed_over:
                own = _with_bf16(own, handed_over)
            self._compiled[images] = compiled(own, hint)
        self._requests: dict[int, list[ov.InferRequest]] = {images: [] for images in together}
        self._parallel: int = self._compiled[1].get_property("NUM_STREAMS")

    def __call__(self, images: NDArray[np.uint8]) -> list[NDArray[Any]]:
        """Run on images (n, height, width, 3) uint8 BGR, n >= 1.

        Returns:
            Outputs (n, ...) in the file's order, float32 but for those that are `handed_over`.
        """
        running: list[ov.InferRequest] = []
        begun, used = 0, dict.fromkeys(self._requests, 0)
        for size in self._sizes(len(images)):
            own = self._requests[size]
            if used[size] == len(own):
                own.append(self._compiled[size].create_infer_request())
            running.append(own[used[size]])
            running[-1].start_async({0: images[begun : begun + size]}, share_inputs=True)
            begun, used[size] = begun + size, used[size] + 1
        for request in running:
            request.wait()
        outputs = zip(*([tensor.data for tensor in request.output_tensors] for request in running), strict=True)
        return [np.concatenate(values) for values in outputs]

    def _sizes(self, images: int) -> list[int]:
        """Batches to split them into: as large as may be while all that run at a time have as much to do."""
        sizes: list[int] = []
        for size in self._compiled:
            number = images if size == 1 else images // (size * self._parallel) * self._parallel
            sizes += number * [size]
            images -= number * size
        return sizes


class SetNetwork:
    """A compiled network over the views of a hand, of as many hands at a time as the processor has room for.

    It is compiled for every number of views, which takes a fifth of a second: on two cores two hands in four views take
    1.4 ms, 2.0 ms where the number is left open, and 2.4 ms as one batch of which two threads share every layer.
    """

    def __init__(self, path: Path, precision: str | None = None, handed_over: Sequence[str] = ()) -> None:
        """Read an ONNX file.

        Args:
            path: its inputs are of (n, ...) crops, but for the last, (1, n): which of them are there, and -1 elsewhere.
            precision: bf16 or f32; None for what is best here.
            handed_over: inputs that come as a `Network` of the same precision hands them over.
        """
        self._precision = precision or inference_precision()
        model = core().read_model(path)
        self._model = _with_bf16(model, handed_over) if self._precision == "bf16" else model
        self._compiled: dict[int, ov.CompiledModel] = {}
        self._requests: dict[int, list[ov.InferRequest]] = {}

    def compile(self, views: int) -> None:
        """For so many views, unless that was done; for others, it is when they first come."""
        if views in self._compiled:
            return
        model = self._model.clone()
        *of_crops, places = model.inputs
        model.reshape({one: [views, *list(one.partial_shape)[1:]] for one in of_crops} | {places: [1, views]})
        self._compiled[views], self._requests[views] = compiled(model, self._precision), []

    def __call__(self, crops: Sequence[NDArray[Any]], places: NDArray[np.int64]) -> list[NDArray[np.float32]]:
        """Outputs (B, V, ...) of B hands in V views, in the file's order.

        Args:
            crops: the inputs (n, ...) but for the last, in the file's order.
            places: (B, V), B >= 1, which crop shows hand b in view v; -1 for none.

        Raises:
            TypeError: they are of a `Network` of another precision.
        """
        hands, views = places.shape
        self.compile(views)
        requests = self._requests[views]
        while len(requests) < hands:
            requests.append(self._compiled[views].create_infer_request())
        for request, own in zip(requests, places, strict=False):
            *of_crops, there = (tensor.data for tensor in request.input_tensors)
            for values, taken in zip(crops, of_crops, strict=True):
                if values.dtype != taken.dtype:
                    raise TypeError(
                        f"crops as {values.dtype} for a network that takes {taken.dtype}: of another precision"
                    )
                np.take(values, own, axis=0, out=taken, mode="clip")
            there[0] = np.where(own >= 0, np.arange(views), -1)
            request.start_async()
        for request in requests[:hands]:
            request.wait()
        outputs = zip(*([tensor.data for tensor in one.output_tensors] for one in requests[:hands]), strict=True)
        return [np.concatenate(values) for values in outputs]


def _with_bf16(model: ov.Model, names: Sequence[str]) -> ov.Model:
    """The model with inputs or outputs of these names in bf16."""
    import openvino as ov
    from openvino.preprocess import PrePostProcessor

    processor = PrePostProcessor(model)
    for ends, find in ((model.inputs, processor.input), (model.outputs, processor.output)):
        for index, end in enumerate(ends):
            if end.names & set(names):
                find(index).tensor().set_element_type(ov.Type.bf16)
    return processor.build()


def _for_bytes(model: ov.Model) -> ov.Model:
    """The model with uint8 BGR images as its input."""
    import openvino as ov
    from openvino.preprocess import ColorFormat, PrePostProcessor

    if model.inputs[0].element_type == ov.Type.u8:
        return model
    # Colour order and scale inside the graph: OpenVINO fuses them with the first convolution's reorder.
    processor = PrePostProcessor(model)
    processor.input().tensor().set_element_type(ov.Type.u8).set_layout(ov.Layout("NHWC"))
    processor.input().tensor().set_color_format(ColorFormat.BGR)
    processor.input().preprocess().convert_element_type(ov.Type.f32).convert_color(ColorFormat.RGB).scale(255.0)
    processor.input().model().set_layout(ov.Layout("NHWC"))
    return processor.build()


@cache
def inference_precision() -> str:
    """bf16 where the processor computes in it (twice as fast at equal accuracy of the landmarks), else f32."""
    capabilities = core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return "bf16" if "BF16" in capabilities else "f32"


def runtime_name(precision: str) -> str:
    """For reports: runtime, version, precision and device."""
    device = core().get_property("CPU", "FULL_DEVICE_NAME")
    version = core().get_versions("CPU")["CPU"].build_number.partition("-")[0]
    return f"OpenVINO {version} {precision} on {device}"
