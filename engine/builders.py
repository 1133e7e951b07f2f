"""TensorRT, and TensorRT for RTX: what builds engines of graphs. Both have one interface; importing this loads neither.

TensorRT tries kernels on the GPU that the engine is for. TensorRT for RTX chooses them when the engine is loaded, so it
builds on any computer, with or without a GPU, for many GPUs at once.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hamuco.engine.cuda import Device
from hamuco.engine.cuda_driver import CudaError, load_driver
from hamuco.engine.plans import Platform, RuntimeName

_log = logging.getLogger(__name__)

Shape = tuple[int, ...]
Array = NDArray[Any]
Run = Callable[[Mapping[str, Array]], dict[str, Array]]
"""Runs a network: inputs to outputs, by name."""
Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is."""

RTX_ARCHITECTURES = ("sm_80", "sm_86", "sm_89", "sm_120")
"""Those that TensorRT for RTX builds for if it is told nothing."""

_MODULES: dict[RuntimeName, tuple[str, ...]] = {
    "tensorrt": ("tensorrt",),
    # The packages on PyPI bring the bindings alone; NVIDIA's own archive and a package that fetches it the other.
    "tensorrt-rtx": ("tensorrt_rtx", "tensorrt_rtx_bindings"),
}


class BuildError(ValueError):
    """An engine cannot be built; the message says why in one line."""


class Builder:
    """Builds engines with one runtime for one platform.

    Attributes:
        platform: what the engines are for.
    """

    def __init__(self, runtime: RuntimeName, architectures: tuple[str, ...] = ()) -> None:
        """
        Args:
            runtime: what to build with.
            architectures: what to build for, sm_89 for instance; only TensorRT for RTX can choose.

        Raises:
            BuildError: the runtime is not installed or does not know an architecture; or it is TensorRT, and there is
                no GPU, or an architecture was given.
        """
        trt: Any = load_runtime(runtime)
        self._trt = trt
        if runtime == "tensorrt-rtx":
            platform = Platform(runtime, trt.__version__, "", architectures or RTX_ARCHITECTURES)
            known = {name.replace("SM", "sm_"): value for name, value in trt.ComputeCapability.__members__.items()}
            self._capabilities = [known.get(one) for one in platform.architectures]
            if None in self._capabilities:
                unknown = platform.architectures[self._capabilities.index(None)]
                listed = ", ".join(name for name in known if name.startswith("sm_"))
                raise BuildError(f"tensorrt-rtx {trt.__version__} knows no {unknown}: it builds for {listed}")
        else:
            if architectures:
                raise BuildError("tensorrt builds for the GPU that is here: leave --arch out, or use tensorrt-rtx")
            platform = _platform_here(runtime, trt.__version__)
        self.platform = platform
        self._log = _logger(trt)
        self._builder = trt.Builder(self._log)

    def build(
        self,
        graph: bytes,
        shapes: Mapping[str, tuple[Shape, Shape, Shape]],
        progress: Progress,
        timings: bytes = b"",
    ) -> tuple[bytes, bytes]:
        """Build an engine.

        Args:
            graph: an ONNX file, with the precision of every layer.
            shapes: of its inputs: smallest, usual, largest.
            progress: see `Progress`.
            timings: what an earlier build measured, or nothing.

        Returns:
            The engine; and what was measured, nothing by TensorRT for RTX, which measures when it loads.

        Raises:
            BuildError: a node of the graph is not known, or the builder fails.
        """
        trt, builder, config = self._trt, self._builder, self._builder.create_builder_config()
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = trt.OnnxParser(network, self._log)
        if not parser.parse(graph):
            error = parser.get_error(0)
            raise BuildError(
                f"{self._name} does not know node {error.node_name()} ({error.node_operator()}): {_one_line(error.desc())}"
            )
        profile = builder.create_optimization_profile()
        for index in range(network.num_inputs):
            name = network.get_input(index).name
            profile.set_shape(name, *shapes[name])
        config.add_optimization_profile(profile)
        config.progress_monitor = monitor = _monitor(trt, progress)
        if self.platform.runtime == "tensorrt-rtx":
            config.num_compute_capabilities = len(self._capabilities)
            for index, capability in enumerate(self._capabilities):
                config.set_compute_capability(capability, index)
        else:
            # Of another version or device, or damaged, it is not taken, and the build starts without.
            config.set_timing_cache(config.create_timing_cache(timings) or config.create_timing_cache(b""), False)
        engine = builder.build_serialized_network(network, config)
        if monitor.interrupted:
            raise KeyboardInterrupt
        if engine is None:
            raise BuildError(f"{self._name} could not build: {self._log.last_error()}")
        measured = b"" if self.platform.runtime == "tensorrt-rtx" else bytes(config.get_timing_cache().serialize())
        return bytes(engine), measured

    def loaded(self, engine: bytes, device: Device) -> Run:
        """An engine on a device, to be run now and then: every run takes memory until the device is closed.

        Raises:
            BuildError: it does not load.
        """
        trt = self._trt
        runtime = trt.Runtime(self._log)
        loaded = runtime.deserialize_cuda_engine(engine)
        if loaded is None:
            raise BuildError(f"{self._name} cannot load it on {device.name}: {self._log.last_error()}")
        context, stream = loaded.create_execution_context(), device.stream()
        names = [loaded.get_tensor_name(index) for index in range(loaded.num_io_tensors)]

        def run(inputs: Mapping[str, Array]) -> dict[str, Array]:
            given = {
                name: np.ascontiguousarray(inputs[name], trt.nptype(loaded.get_tensor_dtype(name)))
                for name in names
                if name in inputs
            }
            for name, array in given.items():
                context.set_input_shape(name, array.shape)
            results = {
                name: np.empty(tuple(context.get_tensor_shape(name)), trt.nptype(loaded.get_tensor_dtype(name)))
                for name in names
                if name not in given
            }
            addresses = {name: device.memory(array.nbytes) for name, array in (given | results).items()}
            for name, array in given.items():
                device.upload(addresses[name], array, stream.handle)
            for name, address in addresses.items():
                context.set_tensor_address(name, address)
            if not context.execute_async_v3(stream.handle):
                raise BuildError(f"{self._name} cannot run it on {device.name}: {self._log.last_error()}")
            for name, array in results.items():
                device.download(array, addresses[name], stream.handle)
            stream.synchronize()
            return results

        return run

    @property
    def _name(self) -> str:
        return f"{self.platform.runtime} {self.platform.version}"


def load_runtime(name: RuntimeName) -> ModuleType:
    """The library.

    Raises:
        BuildError: it is not installed, or not whole.
    """
    broken = ""
    for module in _MODULES[name]:
        try:
            return importlib.import_module(module)
        except ModuleNotFoundError as error:
            broken = broken or ("" if error.name == module else str(error))
        except (ImportError, OSError) as error:  # the bindings are here, their libraries are not
            broken = _one_line(str(error))
    what = f"cannot be loaded ({broken})" if broken else "is not installed"
    raise BuildError(f'{name} {what}: pip install "hamuco[{name}]"')


def _platform_here(runtime: RuntimeName, version: str) -> Platform:
    try:
        device = Device(load_driver())
    except CudaError as error:
        raise BuildError(
            f"tensorrt builds on the GPU that the engine is for, and {error}; --runtime tensorrt-rtx builds without one"
        ) from None
    device.close()
    return Platform(runtime, version, device.name, (device.architecture,))


def _logger(trt: Any) -> Any:
    """Keeps the library's errors for our own messages, and passes all on at the level that nobody reads."""

    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def last_error(self) -> str:
            return self.errors[-1] if self.errors else "it says no reason"

        def log(self, severity: Any, message: str) -> None:
            _log.debug("%s: %s", severity.name.lower(), _one_line(message))
            if severity <= trt.ILogger.ERROR:
                self.errors.append(_one_line(message))

    return Log()


def _monitor(trt: Any, progress: Progress) -> Any:
    """Tells how far a phase is. An interruption ends the build, since no exception can pass through the library."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.interrupted = False
            self._steps: dict[str, int] = {}

        def phase_start(self, name: str, parent: str | None, steps: int) -> None:
            self._steps[name] = steps

        def step_complete(self, name: str, step: int) -> bool:
            try:
                progress(name, step + 1, self._steps[name])
            except KeyboardInterrupt:
                self.interrupted = True
            return not self.interrupted

        def phase_finish(self, name: str) -> None:
            pass

    return Monitor()


def _one_line(text: str) -> str:
    return " ".join(text.split())
