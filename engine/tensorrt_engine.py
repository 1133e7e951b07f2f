"""Engines of TensorRT and TensorRT for RTX: loaded, and run on addresses. Both have one interface; importing this loads neither.

library = TensorRT("tensorrt-rtx")
engine = library.engine(path.read_bytes(), device)
context = engine.context({"images": (16, 3, 128, 128)})
context.set_addresses({"images": ..., "pose": ...})  # and all the others
context.run(stream.handle)
"""

from __future__ import annotations

import importlib
import logging
import math
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import numpy as np

from hamuco.engine.cuda import Device
from hamuco.engine.cuda_driver import DRIVERS
from hamuco.engine.plans import RuntimeName

_log = logging.getLogger(__name__)

Shape = tuple[int, ...]

_MODULES: dict[RuntimeName, tuple[str, ...]] = {
    "tensorrt": ("tensorrt",),
    # The packages on PyPI bring the bindings alone; NVIDIA's own archive and a package that fetches it the other.
    "tensorrt-rtx": ("tensorrt_rtx", "tensorrt_rtx_bindings"),
}


class EngineError(ValueError):
    """An engine cannot be built, loaded or run; the message says why in one line."""


class TensorRT:
    """One of the two libraries, with what it says.

    Attributes:
        module: the library.
        runtime: its name; name: with its version.
        log: what it says; `last_error` and `forget`.
    """

    def __init__(self, runtime: RuntimeName) -> None:
        """Raises EngineError where it is not installed, or not whole."""
        self.module: Any = load_runtime(runtime)
        self.runtime, self.name = runtime, f"{runtime} {self.module.__version__}"
        self.log = _logger(self.module)

    def made(self, kind: Callable[[Any], Any]) -> Any:
        """The library's Builder or Runtime.

        Raises:
            EngineError: it cannot be made, mostly because the driver is older than the library.
        """
        self.log.forget()
        try:
            return kind(self.log)
        except TypeError as error:  # how a constructor that fails comes through pybind11
            raise EngineError(
                f"{self.name} does not start: {self.log.last_error()}. It may need a newer driver ({DRIVERS})"
            ) from error

    def engine(self, engine: bytes, device: Device) -> Engine:
        """Load an engine.

        Raises:
            EngineError: it does not load.
        """
        return Engine(self, engine, device)


class Engine:
    """A network on a device.

    Attributes:
        types: of its inputs and outputs, by name.
        shapes: likewise; -1 for sizes that inputs may choose.
    """

    def __init__(self, library: TensorRT, engine: bytes, device: Device) -> None:
        """See `TensorRT.engine`."""
        trt, self._library, self._device = library.module, library, device
        library.log.forget()
        self._runtime = library.made(trt.Runtime)
        self._engine = self._runtime.deserialize_cuda_engine(engine)
        if self._engine is None:
            raise EngineError(f"{library.name} cannot load it on {device.name}: {library.log.last_error()}")
        names = [self._engine.get_tensor_name(number) for number in range(self._engine.num_io_tensors)]
        self.types = {name: np.dtype(trt.nptype(self._engine.get_tensor_dtype(name))) for name in names}
        self.shapes: dict[str, Shape] = {name: tuple(self._engine.get_tensor_shape(name)) for name in names}

    def context(self, inputs: Mapping[str, Shape]) -> Context:
        """What runs it for inputs of these shapes, with memory of its own that lives until the device is closed.

        Raises:
            EngineError: it takes no such shapes, or the library refuses.
            CudaError: the device is out of memory.
        """
        trt, library, engine = self._library.module, self._library, self._engine
        library.log.forget()
        # Memory is ours, as much as these shapes need: what allocates when it runs cannot be captured.
        own = trt.ExecutionContextAllocationStrategy.USER_MANAGED
        if library.runtime == "tensorrt-rtx":
            config = engine.create_runtime_config()
            config.set_execution_context_allocation_strategy(own)
            # Else kernels for these shapes are compiled in the background, and a graph keeps those that stand in for them.
            config.dynamic_shapes_kernel_specialization_strategy = trt.DynamicShapesKernelSpecializationStrategy.EAGER
            context = engine.create_execution_context(config)
        else:
            context = engine.create_execution_context(own)
        if context is None:
            raise EngineError(
                f"{library.name} cannot prepare it on {self._device.name}: {library.log.last_error()}. If the GPU's memory "
                "is full, which nvidia-smi says, end other programs on it"
            )
        for name, shape in inputs.items():
            if not context.set_input_shape(name, shape):
                least, _, most = (tuple(one) for one in engine.get_tensor_profile_shape(name, 0))
                raise EngineError(
                    f"{library.name} cannot take {name} of shape {shape}: the engine was built for {least} to {most}"
                )
        if size := context.update_device_memory_size_for_shapes():
            context.set_device_memory(self._device.memory(size), size)
        return Context(context, library, {name: kind.itemsize for name, kind in self.types.items()})


class Context:
    """An engine for inputs of certain shapes."""

    def __init__(self, context: Any, library: TensorRT, item_sizes: Mapping[str, int]) -> None:
        """See `Engine.context`."""
        self._context, self._library, self._item_sizes = context, library, item_sizes

    def shape(self, name: str) -> Shape:
        """Of an input or output."""
        return tuple(self._context.get_tensor_shape(name))

    def size(self, name: str) -> int:
        """Of an input or output, bytes."""
        return math.prod(self.shape(name)) * self._item_sizes[name]

    def set_addresses(self, addresses: Mapping[str, int]) -> None:
        """Where inputs and outputs are, all of them, aligned to 256.

        Raises:
            EngineError: the library refuses one.
        """
        for name, address in addresses.items():
            if not self._context.set_tensor_address(name, address):
                raise EngineError(f"{self._library.name} refuses memory for {name}: {self._library.log.last_error()}")

    def run(self, stream: int) -> None:
        """Queue a run.

        Raises:
            EngineError: the library refuses.
        """
        if not self._context.execute_async_v3(stream):
            raise EngineError(f"{self._library.name} cannot run an engine: {self._library.log.last_error()}")

    def capturable(self, stream: int) -> bool:
        """Whether a CUDA graph can hold a run."""
        return self._library.runtime != "tensorrt-rtx" or bool(self._context.is_stream_capturable(stream))


def load_runtime(name: RuntimeName) -> ModuleType:
    """The library.

    Raises:
        EngineError: it is not installed, or not whole.
    """
    broken = ""
    for module in _MODULES[name]:
        try:
            return importlib.import_module(module)
        except ModuleNotFoundError as error:
            broken = broken or ("" if error.name == module else str(error))
        except (ImportError, OSError) as error:  # the bindings are here, their libraries are not
            broken = one_line(str(error))
    what = f"cannot be loaded ({broken})" if broken else "is not installed"
    raise EngineError(f'{name} {what}: pip install "hamuco[{name}]"')


def one_line(text: str) -> str:
    """The same without breaks."""
    return " ".join(text.split())


def _logger(trt: Any) -> Any:
    """Keeps the library's errors for our own messages, and passes all on at the level that nobody reads."""

    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.forget()

        def forget(self) -> None:
            self.errors: list[str] = []
            self.warnings: list[str] = []

        def last_error(self) -> str:
            return (self.errors or self.warnings or ["it says no reason"])[-1]

        def log(self, severity: Any, message: str) -> None:
            _log.debug("%s: %s", severity.name.lower(), one_line(message))
            if severity <= trt.ILogger.ERROR:
                self.errors.append(one_line(message))
            elif severity == trt.ILogger.WARNING:  # which CUDA's errors are while the library starts
                self.warnings.append(one_line(message))

    return Log()
