"""A CUDA driver without a GPU: what `hamuco.engine.cuda_driver` calls, with this computer's memory as the device's.

Calls pass through ctypes as those of the real library do. Launches run the kernels' bodies that g++ compiled; they read
their arguments where the driver would, as many bytes of each as the kernel has. Captured work runs when its graph does.
Like the driver, it refuses what a thread asks for that has made no context current, and to allocate during a capture.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from host_kernels import KERNELS, load_host_kernels
from numpy.typing import NDArray

from hamuco.engine.cuda import Device
from hamuco.engine.cuda_driver import FUNCTIONS, Driver

FATBIN = b"\x50\xed\x55\xba Cuda compilation tools, release 13.0, V13.0.88"
NAMES = {
    1: "INVALID_VALUE",
    2: "OUT_OF_MEMORY",
    100: "NO_DEVICE",
    201: "INVALID_CONTEXT",
    500: "NOT_FOUND",
    700: "ILLEGAL_ADDRESS",
    900: "STREAM_CAPTURE_UNSUPPORTED",
}
_WITHOUT_CONTEXT = ("cuInit", "cuDriver", "cuGet", "cuDevice", "cuCtxSetCurrent")

# Bytes of the kernels' parameters; the sources assert those of the structures.
PARAMETERS = {"crop_normalized": (8, 8, 4, 8), "skin": (120, 32, 40), "sample": (72, 8, 8), "fuse": (80, 40)}


class FakeLibrary:
    """Stands in for the loaded libcuda.

    Attributes:
        calls: (name, arguments), in order; handles and addresses are integers.
        codes: what functions return instead of doing anything, by name.
        version: of the driver, as it says it.
        devices: how many there are.
        parameters: bytes of each kernel's parameters, by its name without _half or _float.
    """

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple[Any, ...]]] = []
        self.codes: dict[str, int] = {}
        self.version, self.devices = 13000, 1
        self.parameters = dict(PARAMETERS)
        self._memory: dict[int, NDArray[np.uint8]] = {}
        self._functions: dict[int, str] = {}
        self._graphs: dict[int, list[Callable[[], None]]] = {}
        self._capturing: dict[int, list[Callable[[], None]]] = {}
        self._current = threading.local()
        self._handles = iter(range(0x1000, 0x100000))
        for name, types in FUNCTIONS.items():
            # A text that comes back as bytes could not be written to.
            prototype = ctypes.CFUNCTYPE(
                ctypes.c_int, *(ctypes.c_void_p if one is ctypes.c_char_p else one for one in types)
            )
            setattr(self, name, prototype(self._answering(name)))

    def names(self) -> list[str]:
        """Of all calls so far."""
        return [name for name, _ in self.calls]

    def captures(self, stream: int) -> bool:
        """Whether the stream is being captured."""
        return stream in self._capturing

    def held(self) -> int:
        """How many pieces of memory were not given back."""
        return len(self._memory)

    def _answering(self, name: str) -> Callable[..., int]:
        def answer(*arguments: Any) -> int:
            self.calls.append((name, arguments))
            if name in self.codes:
                return self.codes[name]
            if not name.startswith(_WITHOUT_CONTEXT) and not getattr(self._current, "context", None):
                return 201
            does = getattr(self, f"_{name}", None)
            if does is not None:
                return int(does(*arguments) or 0)
            if name.endswith(("Create", "Retain")):  # the others need only succeed
                arguments[0][0] = next(self._handles)
            return 0

        return answer

    def _cuDriverGetVersion(self, version: Any) -> None:
        version[0] = self.version

    def _cuGetErrorName(self, code: int, text: Any) -> int:
        return self._text(text, f"CUDA_ERROR_{NAMES.get(code, 'OTHER')}")

    def _cuGetErrorString(self, code: int, text: Any) -> int:
        return 1 if code == 12345 else self._text(text, NAMES.get(code, "other").lower().replace("_", " "))

    def _text(self, text: Any, value: str) -> int:
        self._kept = getattr(self, "_kept", []) + [ctypes.c_char_p(value.encode())]
        text[0] = self._kept[-1]
        return 0

    def _cuDeviceGetCount(self, count: Any) -> None:
        count[0] = self.devices

    def _cuDeviceGet(self, device: Any, ordinal: int) -> None:
        device[0] = ordinal

    def _cuDeviceGetName(self, text: int, size: int, device: int) -> None:
        ctypes.memmove(text, b"Fake GPU\0", 9)

    def _cuDeviceGetAttribute(self, value: Any, attribute: int, device: int) -> int:
        value[0] = {75: 9, 76: 0}[attribute]
        return 0

    def _cuCtxSetCurrent(self, context: int) -> None:
        self._current.context = context

    def _cuModuleLoadData(self, module: Any, image: int) -> None:
        assert ctypes.string_at(image, 4) == FATBIN[:4]
        module[0] = next(self._handles)

    def _cuModuleGetFunction(self, function: Any, module: int, name: int) -> int:
        text = ctypes.string_at(name).decode()
        if text.rpartition("_")[0] not in self.parameters:
            return 500
        function[0] = next(self._handles)
        self._functions[function[0]] = text
        return 0

    def _cuFuncGetParamInfo(self, function: int, index: int, offset: Any, size: Any) -> int:
        sizes = self.parameters[self._functions[function].rpartition("_")[0]]
        if index >= len(sizes):
            return 1
        offset[0], size[0] = sum(sizes[:index]), sizes[index]
        return 0

    def _cuMemAlloc_v2(self, address: Any, size: int) -> int:
        return self._allocate(address, size)

    def _cuMemHostAlloc(self, address: Any, size: int, flags: int) -> int:
        return self._allocate(address, size)

    def _allocate(self, out: Any, size: int) -> int:
        if self._capturing or not size:
            return 900 if self._capturing else 1
        memory = np.full(size + 256, 0xFF, np.uint8)  # NaN: what is read before it is written shows
        address = -(-memory.ctypes.data // 256) * 256
        self._memory[address] = memory
        out[0] = address
        return 0

    def _cuMemFree_v2(self, address: int) -> None:
        del self._memory[address]

    def _cuMemFreeHost(self, address: int) -> None:
        del self._memory[address]

    def _cuMemcpyHtoDAsync_v2(self, to: int, source: int, size: int, stream: int) -> None:
        self.queue(stream, lambda: ctypes.memmove(to, source, size))

    def _cuMemcpyDtoDAsync_v2(self, to: int, source: int, size: int, stream: int) -> None:
        self.queue(stream, lambda: ctypes.memmove(to, source, size))

    def _cuMemcpyDtoHAsync_v2(self, to: int, source: int, size: int, stream: int) -> None:
        self.queue(stream, lambda: ctypes.memmove(to, source, size))

    def _cuLaunchKernel(self, function: int, *rest: Any) -> None:
        grid, block, stream, addresses = rest[:3], rest[3:6], rest[7], rest[8]
        assert rest[6] == 0  # dynamic shared memory, which no kernel of ours has
        name = self._functions[function]
        sizes = self.parameters[name.rpartition("_")[0]]
        arguments = [ctypes.string_at(addresses[index], size) for index, size in enumerate(sizes)]
        self.queue(stream, lambda: run_on_host(name, grid, block, arguments))

    def _cuStreamBeginCapture_v2(self, stream: int, mode: int) -> None:
        self._capturing[stream] = []

    def _cuStreamEndCapture(self, stream: int, graph: Any) -> None:
        graph[0] = next(self._handles)
        self._graphs[graph[0]] = self._capturing.pop(stream)

    def _cuGraphInstantiateWithFlags(self, executable: Any, graph: int, flags: int) -> None:
        executable[0] = next(self._handles)
        self._graphs[executable[0]] = self._graphs[graph]

    def _cuGraphLaunch(self, executable: int, stream: int) -> None:
        for work in self._graphs[executable]:
            work()

    def _cuEventElapsedTime(self, milliseconds: Any, start: int, end: int) -> None:
        milliseconds[0] = 1.5

    def queue(self, stream: int, work: Callable[[], Any]) -> None:
        """Work for a stream: done at once, or when the graph that captures it is launched."""
        if stream in self._capturing:
            self._capturing[stream].append(work)
        else:
            work()


def fake_device(library: FakeLibrary | None = None) -> Device:
    return Device(Driver(library or FakeLibrary()))


def write_fatbins(folder: Path) -> None:
    """Files that it takes for the compiled kernels."""
    for source in KERNELS.glob("*.cu"):
        (folder / f"{source.stem}.fatbin").write_bytes(FATBIN)


def run_on_host(name: str, grid: tuple[int, ...], block: tuple[int, ...], arguments: list[bytes]) -> None:
    """The body of a kernel for all blocks; the grid must be the one that the kernel's source asks for."""
    kind = name.rpartition("_")[0]
    source = {"crop_normalized": "crop", "skin": "skinning", "sample": "sampler", "fuse": "fusion"}[kind]
    function: Callable[..., None] = getattr(load_host_kernels(source), name)
    if kind == "crop_normalized":
        crops, cameras, out = (_address(arguments[index]) for index in (0, 1, 3))
        size = ctypes.c_int.from_buffer_copy(arguments[2]).value
        assert block == (32, 8, 1)
        assert all(0 <= blocks * width - size < width for blocks, width in zip(grid, block[:2], strict=False))
        function(crops, cameras, grid[2], size, out)
    elif kind == "skin":
        vertices = ctypes.c_int.from_buffer_copy(arguments[0], 13 * 8).value
        assert (block, grid[0], grid[2]) == ((128, 1, 1), -(-vertices // 128) + 1, 1)
        function(*arguments, grid[1], 0)
    elif kind == "sample":
        assert (block, grid[0] % 21, grid[1:]) == ((128, 1, 1), 0, (1, 1))
        function(arguments[0], _address(arguments[1]), _address(arguments[2]), grid[0] // 21)
    else:
        assert block[0] % 32 == 0
        assert block[0] <= 256
        assert (grid[1:], block[1:]) == ((1, 1), (1, 1))
        function(*arguments, grid[0], block[0])


def _address(argument: bytes) -> ctypes.c_void_p:
    return ctypes.c_void_p.from_buffer_copy(argument)
