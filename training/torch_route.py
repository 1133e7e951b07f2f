"""Engines from torch, by torch-tensorrt: `hamuco build --route torch`, beside the route through ONNX.

Engines of both routes have the tensors of `hamuco.engine.device_graphs`, so that the same code runs them. What is converted
is `DeviceNetworks`, exported for any number of crops, hands and views. torch-tensorrt 2.14 builds strongly typed networks, so
every layer computes in the type that it has here: as by the other route, normalization and heads in single precision; the
locator's softmax too, which ONNX halves.

torch-tensorrt wants CUDA and TensorRT when it is imported. This has not run on a GPU yet: tests have a stand-in for it.
"""

from __future__ import annotations

import importlib
import inspect
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from hamuco.engine.build import extremes
from hamuco.engine.builders import Progress
from hamuco.engine.bundle import Bundle
from hamuco.engine.hand_model import JOINTS, LANDMARKS
from hamuco.engine.plans import Platform, Precision, Profile, RouteName
from hamuco.engine.tensorrt_engine import EngineError, one_line
from hamuco.training.gpu_networks import DeviceNetworks
from hamuco.training.networks.hamuco import HaMuCo
from hamuco.training.weights import bundle_network

if TYPE_CHECKING:
    from hamuco.engine.device_graphs import GraphPrecision

TensorType = tuple[tuple[str | int, ...], torch.dtype]
"""Of an input: its shape, in which `crops`, `hands` and `views` vary, and what it is made of."""

_TYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "f32": torch.float32}
_EXAMPLE = {"crops": 3, "hands": 2, "views": 4}  # a size of 1 would be fixed
_MOST = 4096  # of each of them; what an engine takes is in its profile
_INSTALL = 'pip install "hamuco[torch-tensorrt]"'
_MOST_SAID = 300  # of errors that may hold a whole graph
_STEPS = 3
_LOGGERS = ("torch_tensorrt", "torch_tensorrt [TensorRT Conversion Context]")  # its own, and TensorRT's


@dataclass(frozen=True, slots=True, eq=False)
class Exported:
    """A network as torch-tensorrt takes it.

    Attributes:
        name: for people.
        program: with the dimensions that vary.
        inputs: by name, in the program's order.
        outputs: names, likewise.
    """

    name: str
    program: ExportedProgram
    inputs: Mapping[str, TensorType]
    outputs: tuple[str, ...]


class TorchRoute:
    """See `hamuco.engine.build.Route`."""

    name: RouteName = "torch"

    def __init__(self, library: Any, platform: Platform, device: str = "cuda") -> None:
        """
        Args:
            library: as `load_torch_tensorrt` gives it.
            platform: that TensorRT builds for here.
            device: torch's name of it; "cpu" in tests.
        """
        self.platform, self._library, self._device = platform, library, torch.device(device)

    def engines(
        self, bundle: Bundle, precision: Precision, profile: Profile, timings: Path, progress: Progress
    ) -> tuple[bytes, bytes]:
        """See `Route`.

        Raises:
            EngineError: it cannot be built.
            BundleError, CheckpointError: the bundle does not tell its networks.
            OSError: a file cannot be read or written.
        """
        progress("exporting", 1, _STEPS)
        networks = exported(bundle_network(bundle), precision, self._device, profile)
        engines = []
        for number, network in enumerate(networks, start=2):
            progress(f"building the {network.name}", number, _STEPS)
            engines.append(self._engine(network, profile, timings))
        estimator, interaction = engines
        return estimator, interaction

    def _engine(self, network: Exported, profile: Profile, timings: Path) -> bytes:
        library = self._library
        with _listening() as heard:
            try:
                engine = library.dynamo.convert_exported_program_to_serialized_trt_engine(
                    network.program,
                    arg_inputs=[self._input(name, *kind, profile) for name, kind in network.inputs.items()],
                    arg_input_binding_names=tuple(network.inputs),
                    output_binding_names=network.outputs,
                    require_full_compilation=True,
                    disable_tf32=True,  # what is to be in single precision has a reason
                    decompose_attention=True,  # into the layers of the ONNX graphs; else it depends on TensorRT's version
                    timing_cache_path=str(timings),
                )
            except OSError:
                raise
            except Exception as error:  # RuntimeError, AssertionError, TypeError and more: nothing of its own
                cause = error.__cause__ or error  # what it wraps this in may print the whole graph
                reason = one_line(str(cause)) or heard.error or type(cause).__name__
                raise EngineError(
                    f"torch-tensorrt {library.__version__} could not build the {network.name}: "
                    f"{shorten(reason, _MOST_SAID, placeholder=' ...')}. Build it with --route onnx"
                ) from error
        return bytes(engine)

    def _input(self, name: str, shape: Sequence[str | int], dtype: torch.dtype, profile: Profile) -> Any:
        least, usual, most = extremes(shape, profile)
        return self._library.Input(min_shape=least, opt_shape=usual, max_shape=most, dtype=dtype, name=name)


def load_torch_tensorrt() -> Any:
    """The library.

    Raises:
        EngineError: it is not installed, cannot be loaded, is too old, or there is no GPU.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            library = importlib.import_module("torch_tensorrt")
    except ModuleNotFoundError as error:
        needs = "" if error.name == "torch_tensorrt" else f"needs {error.name}, which "
        raise EngineError(f"torch-tensorrt {needs}is not installed: {_INSTALL}") from error
    except (ImportError, OSError, RuntimeError) as error:  # libraries of CUDA that are missing, or of other versions
        reason = shorten(one_line(str(error)), _MOST_SAID, placeholder=" ...")
        raise EngineError(f"torch-tensorrt cannot be loaded ({reason}): {_INSTALL}") from error
    convert = library.dynamo.convert_exported_program_to_serialized_trt_engine
    if "output_binding_names" not in inspect.signature(convert).parameters:
        raise EngineError(f"torch-tensorrt {library.__version__} cannot name what engines take and give: {_INSTALL}")
    if not torch.cuda.is_available():
        raise EngineError(
            f"torch-tensorrt builds on the GPU that the engine is for, and torch {torch.__version__} finds none; "
            "--runtime tensorrt-rtx builds without one"
        )
    return library


def exported(
    network: HaMuCo, precision: GraphPrecision, device: torch.device, profile: Profile
) -> tuple[Exported, Exported]:
    """The estimator and the interaction network for as many crops, hands and views as a profile takes, on a device.

    Args:
        network: trained; it is not changed.
        precision: f32 is for comparisons.
        device: to run on.
        profile: what is only one number in it is fixed in the programs: torch-tensorrt's `expand` takes a size for 1 that
            varies in the program, but not in the engine.

    Raises:
        EngineError: its weights are beyond the precision.
    """
    networks = DeviceNetworks(network, device, _TYPES[precision])
    _keep_norms_single(networks, network, device)
    for name, weights in networks.named_parameters():
        if not weights.isfinite().all():
            raise EngineError(f"{name} has numbers beyond {precision}: build with --precision bf16")
    seam = torch.float32 if precision == "f32" else torch.float16
    size, last = network.config.estimator.image_size, networks.estimator.backbone.channels[3]
    look: dict[str, TensorType] = {"images": (("crops", 3, size, size), seam)}
    refine: dict[str, TensorType] = {
        "map_32": (("crops", last, size // 32, size // 32), seam),
        "location": (("crops", LANDMARKS, 3), torch.float32),
        "single_pose": (("crops", JOINTS, 6), torch.float32),
        "half_angle": (("crops",), torch.float32),
        "places": (("hands", "views"), torch.int64),
        "sampled": (("crops", LANDMARKS, networks.sampled), seam),
    }
    maps = ("map_4", "map_8", "map_16", "map_32")
    program = partial(_program, device=device, profile=profile)
    return (
        Exported("estimator", program(_Look(networks, seam), look), look, ("pose", "betas", "camera", *maps)),
        Exported("interaction network", program(_Refine(networks), refine), refine, ("pose", "camera")),
    )


def _program(
    module: nn.Module, inputs: Mapping[str, TensorType], device: torch.device, profile: Profile
) -> ExportedProgram:
    least, _, most = extremes(tuple(_EXAMPLE), profile)
    fixed = {name: low for name, low, high in zip(_EXAMPLE, least, most, strict=True) if low == high}
    examples, varying = [], {}
    for name, (shape, dtype) in inputs.items():
        sizes = [(_EXAMPLE | fixed)[size] if isinstance(size, str) else size for size in shape]
        examples.append(torch.zeros(sizes, dtype=dtype, device=device))
        varying[name] = {
            index: Dim(size, min=1, max=_MOST)
            for index, size in enumerate(shape)
            if isinstance(size, str) and size not in fixed
        }
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of how torch copies its own programs
        return torch.export.export(module.eval(), tuple(examples), dynamic_shapes=varying)


class _Look(nn.Module):
    """The estimator."""

    def __init__(self, networks: DeviceNetworks, seam: torch.dtype) -> None:
        super().__init__()
        self._networks, self._seam = networks, seam

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        hands, maps = self._networks.look(images.to(self._networks.dtype))
        return hands.pose, hands.betas, hands.camera, *(level.to(self._seam) for level in maps)


class _Refine(nn.Module):
    """The interaction network; views of a hand are found by their places among the crops, -1 for none."""

    def __init__(self, networks: DeviceNetworks) -> None:
        super().__init__()
        self._networks = networks

    def forward(
        self, map_32: Tensor, location: Tensor, single_pose: Tensor, half_angle: Tensor, places: Tensor, sampled: Tensor
    ) -> tuple[Tensor, Tensor]:
        dtype = self._networks.dtype
        known = torch.cat([location.flatten(1), single_pose[:, 1:].flatten(1), half_angle[:, None]], dim=1)
        tokens = self._networks.tokens(map_32.to(dtype), sampled.to(dtype), known)
        hands = self._networks.interaction.refine(tokens[places.clamp(min=0)], places >= 0)
        return hands.pose, hands.camera


class _SingleNorm(nn.Module):
    """Layer normalization in single precision. Torch's sums in it whatever it is given; TensorRT's must be told so."""

    def __init__(self, norm: nn.LayerNorm) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(x.float())
        return y.to(x.dtype)


def _keep_norms_single(networks: DeviceNetworks, network: HaMuCo, device: torch.device) -> None:
    """Those of the interaction network, with weights that were never rounded."""
    for name, module in network.interaction.named_modules():
        if isinstance(module, nn.LayerNorm):
            parent, _, own = name.rpartition(".")
            norm = deepcopy(module).to(device).requires_grad_(False)
            setattr(networks.interaction.get_submodule(parent), own, _SingleNorm(norm))


class _Errors(logging.Handler):
    """Remembers what TensorRT's last error says; that there is a handler keeps all the rest from stderr."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.error = ""

    def emit(self, record: logging.LogRecord) -> None:
        if record.name == _LOGGERS[-1]:
            self.error = one_line(record.getMessage())


@contextmanager
def _listening() -> Iterator[_Errors]:
    """torch-tensorrt logs and warns at length, with tracebacks."""
    heard, loggers = _Errors(), [logging.getLogger(name) for name in _LOGGERS]
    for logger in loggers:
        logger.addHandler(heard)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield heard
    finally:
        for logger in loggers:
            logger.removeHandler(heard)
