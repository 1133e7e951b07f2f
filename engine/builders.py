"""TensorRT, and TensorRT for RTX: what builds engines of graphs. Both have one interface; importing this loads neither.

TensorRT tries kernels on the GPU that the engine is for. TensorRT for RTX chooses them when the engine is loaded, so it
builds on any computer, with or without a GPU, for many GPUs at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hamuco.capture.interruption import postponed_interruption
from hamuco.engine.cuda import Device
from hamuco.engine.cuda_driver import CudaError, load_driver
from hamuco.engine.plans import RTX_ARCHITECTURES, Platform, RuntimeName
from hamuco.engine.tensorrt_engine import Context, EngineError, Shape, TensorRT, one_line

Array = NDArray[Any]
Run = Callable[[Mapping[str, Array]], dict[str, Array]]
"""Runs a network: inputs to outputs, by name."""
Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is."""

_TURING = "sm_75"
"""TensorRT for RTX lists it, but has no products of matrices in single precision for it, nor bfloat16."""


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
            EngineError: the runtime is not installed or does not build for an architecture; or it is TensorRT, and there
                is no GPU, or an architecture was given.
        """
        self._library = TensorRT(runtime)
        trt = self._library.module
        if runtime == "tensorrt-rtx":
            platform = Platform(runtime, trt.__version__, "", architectures or RTX_ARCHITECTURES)
            members = trt.ComputeCapability.__members__.items()
            known = {name.replace("SM", "sm_"): value for name, value in members if name.startswith("SM")}
            known.pop(_TURING, None)
            for one in platform.architectures:
                if one not in known:
                    raise EngineError(
                        f"tensorrt-rtx {trt.__version__} cannot build these networks for {one}, only for {', '.join(known)}"
                    )
            self._capabilities = [known[one] for one in platform.architectures]
        else:
            if architectures:
                raise EngineError("tensorrt builds for the GPU that is here: leave --arch out, or use tensorrt-rtx")
            platform = _platform_here(runtime, trt.__version__)
        self.platform = platform
        self._builder = self._library.made(trt.Builder)

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
            EngineError: a node of the graph is not known, or the builder fails.
        """
        trt, builder, config = self._library.module, self._builder, self._builder.create_builder_config()
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = trt.OnnxParser(network, self._library.log)
        if not parser.parse(graph):
            error = parser.get_error(0)
            raise EngineError(
                f"{self._library.name} does not know node {error.node_name()} ({error.node_operator()}): {one_line(error.desc())}"
            )
        profile = builder.create_optimization_profile()
        for index in range(network.num_inputs):
            name = network.get_input(index).name
            profile.set_shape(name, *shapes[name])
        config.add_optimization_profile(profile)
        if self.platform.runtime == "tensorrt-rtx":
            config.num_compute_capabilities = len(self._capabilities)
            for index, capability in enumerate(self._capabilities):
                config.set_compute_capability(capability, index)
            config.set_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION)  # what allocates when it runs, no graph can hold
        else:
            empty = config.create_timing_cache(b"")
            # One that is of another version or device, or damaged, is not taken, and the build starts without.
            if not config.set_timing_cache(config.create_timing_cache(timings) or empty, False):
                config.set_timing_cache(empty, False)
        config.clear_flag(trt.BuilderFlag.TF32)  # what is to be in single precision has a reason
        # The library swallows what is raised while it calls back.
        with postponed_interruption("stopping the build") as interrupted:
            config.progress_monitor = monitor = _monitor(trt, progress, interrupted)
            engine = builder.build_serialized_network(network, config)
        if monitor.interrupted or interrupted():
            raise KeyboardInterrupt
        if engine is None:
            raise EngineError(f"{self._library.name} could not build: {self._library.log.last_error()}")
        measured = b"" if self.platform.runtime == "tensorrt-rtx" else bytes(config.get_timing_cache().serialize())
        return bytes(engine), measured

    def loaded(self, engine: bytes, device: Device) -> Run:
        """An engine on a device, to be run now and then: every run takes memory until the device is closed.

        Raises:
            EngineError: it does not load.
        """
        loaded, stream = self._library.engine(engine, device), device.stream()
        contexts: dict[tuple[Shape, ...], Context] = {}

        def run(inputs: Mapping[str, Array]) -> dict[str, Array]:
            given = {
                name: np.ascontiguousarray(inputs[name], kind) for name, kind in loaded.types.items() if name in inputs
            }
            shapes = {name: array.shape for name, array in given.items()}
            key = tuple(shapes.values())
            context = contexts[key] = contexts.get(key) or loaded.context(shapes)
            results = {
                name: np.empty(context.shape(name), kind) for name, kind in loaded.types.items() if name not in given
            }
            addresses = {name: device.memory(array.nbytes) for name, array in (given | results).items()}
            for name, array in given.items():
                device.upload(addresses[name], array, stream.handle)
            context.set_addresses(addresses)
            context.run(stream.handle)
            for name, array in results.items():
                device.download(array, addresses[name], stream.handle)
            stream.synchronize()
            return results

        return run


def _platform_here(runtime: RuntimeName, version: str) -> Platform:
    try:
        device = Device(load_driver())
    except CudaError as error:
        raise EngineError(
            f"tensorrt builds on the GPU that the engine is for, and {error}; --runtime tensorrt-rtx builds without one"
        ) from None
    device.close()
    return Platform(runtime, version, device.name, (device.architecture,))


def _monitor(trt: Any, progress: Progress, interrupted: Callable[[], bool]) -> Any:
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
            return not (self.interrupted or interrupted())

        def phase_finish(self, name: str) -> None:
            pass

    return Monitor()
