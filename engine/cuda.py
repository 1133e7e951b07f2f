"""CUDA: devices, memory, streams, events, kernels and graphs, through the driver alone.

    device = Device(load_driver())
    stream, numbers = device.stream(), device.memory(4096)
    kernel = device.module("skinning.fatbin", Path("skinning.fatbin").read_bytes()).kernel("skin_half")
    kernel((13, 8), (128,), [structure, struct.pack("@P", numbers)], stream.handle)
    stream.synchronize()

Importing this loads nothing; `load_driver` does. Addresses and handles are plain integers, so that memory and streams of
torch and TensorRT serve as well as those made here: all share the device's primary context. A thread that did not make the
`Device` calls `make_current` first. Whatever a device made lives until it is closed.
"""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from ctypes import byref, c_float, c_int, c_size_t, c_uint64, c_void_p
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hamuco.engine.cuda_driver import DRIVERS, INVALID_VALUE, NO_BINARY, REBUILD, CudaError, Driver

_CAPABILITY = (75, 76)  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR
_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING: does not wait for the default stream
_THREAD_LOCAL = 1  # CU_STREAM_CAPTURE_MODE_THREAD_LOCAL: other threads may allocate in the meantime
_FIRST_DRIVERS = {12: 525, 13: 580}  # of each CUDA, on Linux


class Device:
    """One GPU, whose primary context is current in the thread that opened it.

    Attributes:
        name: as nvidia-smi has it.
        architecture: sm_90 for instance.
    """

    def __init__(self, driver: Driver, ordinal: int = 0) -> None:
        """
        Args:
            driver: from `load_driver`.
            ordinal: among the devices that CUDA_VISIBLE_DEVICES leaves.

        Raises:
            CudaError: there is no such device, or it cannot be used.
        """
        self.driver = driver
        number, self._cleanup = c_int(), ExitStack()
        driver.call("cuDeviceGetCount", byref(number))
        if not 0 <= ordinal < number.value:
            visible = os.environ.get("CUDA_VISIBLE_DEVICES")
            limit = "" if visible is None else f" (CUDA_VISIBLE_DEVICES is {visible!r})"
            raise CudaError(f"there is no CUDA device {ordinal}: {number.value} are here, counted from 0{limit}")
        driver.call("cuDeviceGet", byref(number), ordinal)
        handle, text = number.value, ctypes.create_string_buffer(256)
        driver.call("cuDeviceGetName", text, len(text), handle)
        self.name = text.value.decode()
        capability = []
        for attribute in _CAPABILITY:
            driver.call("cuDeviceGetAttribute", byref(number), attribute, handle)
            capability.append(number.value)
        self.architecture = f"sm_{capability[0]}{capability[1]}"
        context = c_void_p()
        driver.call("cuDevicePrimaryCtxRetain", byref(context), handle, doing=f"opening {self.name}")
        self._cleanup.callback(driver.try_to, "cuDevicePrimaryCtxRelease_v2", handle)
        self._context = context.value
        self.make_current()

    def make_current(self) -> None:
        """For this thread."""
        self.driver.call("cuCtxSetCurrent", self._context)

    def close(self) -> None:
        """Give back all that was made here, working or not; pinned arrays must not be touched any more."""
        self.driver.try_to("cuCtxSetCurrent", self._context)
        self._cleanup.close()
        self.driver.try_to("cuCtxSetCurrent", None)  # else the next library to come finds a context that is gone
        self._context = None

    def memory(self, size: int) -> int:
        """The address of `size` bytes on the device, aligned to 256."""
        address = c_uint64()
        self.driver.call("cuMemAlloc_v2", byref(address), size, doing=f"{size / 2**20:.1f} MiB of {self.name}'s memory")
        self._cleanup.callback(self.driver.try_to, "cuMemFree_v2", address.value)
        return address.value

    def pinned(self, size: int) -> NDArray[np.uint8]:
        """`size` bytes here that copies go to and from while the processor does something else."""
        address = c_void_p()
        self.driver.call("cuMemHostAlloc", byref(address), size, 0, doing=f"{size / 2**20:.1f} MiB of pinned memory")
        self._cleanup.callback(self.driver.try_to, "cuMemFreeHost", address.value)
        return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address.value or 0))

    def upload(self, address: int, array: NDArray[Any], stream: int) -> None:
        """Queue a copy of a contiguous array; one that is pinned must stay as it is until the copy is done."""
        self.driver.call("cuMemcpyHtoDAsync_v2", address, _contiguous(array), array.nbytes, stream)

    def download(self, array: NDArray[Any], address: int, stream: int) -> None:
        """Queue a copy into a contiguous array."""
        self.driver.call("cuMemcpyDtoHAsync_v2", _contiguous(array), address, array.nbytes, stream)

    def copy(self, to: int, source: int, size: int, stream: int) -> None:
        """Queue a copy of `size` bytes on the device."""
        self.driver.call("cuMemcpyDtoDAsync_v2", to, source, size, stream)

    def stream(self) -> Stream:
        """A new one."""
        return Stream(self.driver, self._made("cuStreamCreate", "cuStreamDestroy_v2", _NON_BLOCKING))

    def event(self) -> Event:
        """A new one."""
        return Event(self.driver, self._made("cuEventCreate", "cuEventDestroy_v2", 0))

    def module(self, name: str, fatbin: bytes) -> Module:
        """Load machine code.

        Raises:
            CudaError: the driver is too old for it, or it has no code for this device.
        """
        built = re.search(rb"Cuda compilation tools, release (\d+)\.(\d+)", fatbin)
        if built and self.driver.version[0] < int(built[1]):
            needed = _FIRST_DRIVERS.get(int(built[1]))
            raise CudaError(
                f"the NVIDIA driver knows CUDA {'.'.join(map(str, self.driver.version))}, {name} was built by CUDA "
                f"{built[1].decode()}.{built[2].decode()}: update the driver{f' to {needed} or newer' if needed else ''} "
                f"({DRIVERS})"
            )
        try:
            handle = self._made("cuModuleLoadData", "cuModuleUnload", fatbin, doing=f"loading {name}")
        except CudaError as error:
            if error.code != NO_BINARY:
                raise
            raise CudaError(
                f"{name} has no code for {self.name}, which is {self.architecture}: build it with the CUDA toolkit: "
                f"{REBUILD} --arch {self.architecture}", error.code
            ) from None  # fmt: skip
        return Module(self.driver, name, handle)

    def capture(self, stream: Stream, work: Callable[[], None]) -> Graph:
        """What `work` queues on the stream, as a graph; nothing of it runs.

        Raises:
            CudaError: it does what graphs cannot hold, such as waiting for the device.
        """
        graph = c_void_p()
        self.driver.call("cuStreamBeginCapture_v2", stream.handle, _THREAD_LOCAL)
        try:
            try:
                work()
            except BaseException:
                self.driver.try_to("cuStreamEndCapture", stream.handle, byref(graph))
                raise
            self.driver.call("cuStreamEndCapture", stream.handle, byref(graph), doing="capturing a CUDA graph")
            return Graph(self.driver, self._made("cuGraphInstantiateWithFlags", "cuGraphExecDestroy", graph, 0))
        finally:
            if graph:
                self.driver.try_to("cuGraphDestroy", graph)

    def _made(self, maker: str, destroyer: str, *arguments: Any, doing: str = "") -> int:
        handle = c_void_p()
        self.driver.call(maker, byref(handle), *arguments, doing=doing)
        self._cleanup.callback(self.driver.try_to, destroyer, handle.value)
        return handle.value or 0


class Stream:
    """Work in order."""

    def __init__(self, driver: Driver, handle: int) -> None:
        self._driver, self.handle = driver, handle

    def wait(self, event: Event) -> None:
        """What is queued from now on begins when what was recorded is done."""
        self._driver.call("cuStreamWaitEvent", self.handle, event.handle, 0)

    def synchronize(self) -> None:
        """Wait here for all that is queued. Raises CudaError also for what failed before, on any stream."""
        self._driver.call("cuStreamSynchronize", self.handle)


class Event:
    """A moment in a stream."""

    def __init__(self, driver: Driver, handle: int) -> None:
        self._driver, self.handle = driver, handle

    def record(self, stream: Stream) -> None:
        self._driver.call("cuEventRecord", self.handle, stream.handle)

    def synchronize(self) -> None:
        self._driver.call("cuEventSynchronize", self.handle)

    def seconds_since(self, earlier: Event) -> float:
        """Between two events that are over."""
        milliseconds = c_float()
        self._driver.call("cuEventElapsedTime", byref(milliseconds), earlier.handle, self.handle)
        return milliseconds.value / 1000


class Graph:
    """Captured work."""

    def __init__(self, driver: Driver, handle: int) -> None:
        self._driver, self.handle = driver, handle

    def launch(self, stream: Stream) -> None:
        self._driver.call("cuGraphLaunch", self.handle, stream.handle)


class Module:
    """Loaded machine code."""

    def __init__(self, driver: Driver, name: str, handle: int) -> None:
        self._driver, self.name, self._handle = driver, name, handle

    def kernel(self, name: str) -> Kernel:
        """Raises CudaError where there is none of that name."""
        handle, place, size = c_void_p(), c_size_t(), c_size_t()
        sizes: list[int] = []
        self._driver.call(
            "cuModuleGetFunction", byref(handle), self._handle, name.encode(),
            doing=f"finding {name} in {self.name}; if it is older than the package, {REBUILD} makes it anew",
        )  # fmt: skip
        while True:
            try:
                self._driver.call("cuFuncGetParamInfo", handle, len(sizes), byref(place), byref(size))
            except CudaError as error:
                if error.code != INVALID_VALUE:
                    raise
                return Kernel(self._driver, f"{name} of {self.name}", handle.value or 0, sizes)
            sizes.append(size.value)


class Kernel:
    """A function on the device."""

    def __init__(self, driver: Driver, name: str, handle: int, sizes: Sequence[int]) -> None:
        """`sizes`: bytes of its parameters."""
        self._driver, self.name, self._handle, self.sizes = driver, name, handle, tuple(sizes)

    def __call__(self, grid: Sequence[int], block: Sequence[int], arguments: Sequence[bytes], stream: int) -> None:
        """Queue a launch.

        Args:
            grid: blocks, up to three numbers, all at least 1.
            block: threads, likewise.
            arguments: each as it lies in memory: struct.pack("@P", address), or a structure's bytes.
            stream: handle.

        Raises:
            CudaError: the arguments are not those of the kernel, or the device refuses.
        """
        given = tuple(map(len, arguments))
        if given != self.sizes:
            raise CudaError(
                f"{self.name} takes arguments of {self.sizes} bytes, given are {given}: it is not of this package; "
                f"{REBUILD} makes it anew"
            )
        buffers = [ctypes.create_string_buffer(argument, len(argument)) for argument in arguments]
        addresses = (c_void_p * len(buffers))(*map(ctypes.addressof, buffers))
        sizes = [*grid, *(3 - len(grid)) * [1], *block, *(3 - len(block)) * [1]]
        self._driver.call(
            "cuLaunchKernel", self._handle, *sizes, 0, stream, addresses, None, doing=f"launching {self.name}"
        )


def _contiguous(array: NDArray[Any]) -> int:
    if not array.flags.c_contiguous:
        raise ValueError(
            f"an array of shape {array.shape} and strides {array.strides} is not contiguous: copy it first"
        )
    return array.ctypes.data
