"""The NVIDIA driver's library, by ctypes: which functions of it are used, and what its errors mean to a user.

By ctypes, and not pycuda, because pycuda 2026.1 captures no graphs, launches on no streams but its own, and has to be
compiled with a toolkit; these functions of libcuda have kept their meaning since CUDA 12.4, and nothing has to be installed.
"""

from __future__ import annotations

import ctypes
import sys
from ctypes import POINTER, byref, c_char_p, c_float, c_int, c_size_t, c_uint, c_uint64, c_ulonglong, c_void_p
from typing import Any

_OUT, _NUMBER = POINTER(c_void_p), POINTER(c_int)
# Names as the library exports them: cuda.h makes cuMemAlloc mean cuMemAlloc_v2, and so on. c_uint64 is an address on the
# device, c_void_p a handle or an address here.
FUNCTIONS: dict[str, tuple[Any, ...]] = {
    "cuInit": (c_uint,),
    "cuDriverGetVersion": (_NUMBER,),
    "cuGetErrorName": (c_int, POINTER(c_char_p)),
    "cuGetErrorString": (c_int, POINTER(c_char_p)),
    "cuDeviceGetCount": (_NUMBER,),
    "cuDeviceGet": (_NUMBER, c_int),
    "cuDeviceGetName": (c_char_p, c_int, c_int),
    "cuDeviceGetAttribute": (_NUMBER, c_int, c_int),
    "cuDevicePrimaryCtxRetain": (_OUT, c_int),
    "cuDevicePrimaryCtxRelease_v2": (c_int,),
    "cuCtxSetCurrent": (c_void_p,),
    "cuModuleLoadData": (_OUT, c_char_p),
    "cuModuleUnload": (c_void_p,),
    "cuModuleGetFunction": (_OUT, c_void_p, c_char_p),
    "cuFuncGetParamInfo": (c_void_p, c_size_t, POINTER(c_size_t), POINTER(c_size_t)),
    "cuLaunchKernel": (c_void_p, *7 * (c_uint,), c_void_p, _OUT, _OUT),
    "cuStreamCreate": (_OUT, c_uint),
    "cuStreamDestroy_v2": (c_void_p,),
    "cuStreamSynchronize": (c_void_p,),
    "cuStreamWaitEvent": (c_void_p, c_void_p, c_uint),
    "cuStreamBeginCapture_v2": (c_void_p, c_int),
    "cuStreamEndCapture": (c_void_p, _OUT),
    "cuEventCreate": (_OUT, c_uint),
    "cuEventRecord": (c_void_p, c_void_p),
    "cuEventSynchronize": (c_void_p,),
    "cuEventElapsedTime": (POINTER(c_float), c_void_p, c_void_p),
    "cuEventDestroy_v2": (c_void_p,),
    "cuMemAlloc_v2": (POINTER(c_uint64), c_size_t),
    "cuMemFree_v2": (c_uint64,),
    "cuMemHostAlloc": (_OUT, c_size_t, c_uint),
    "cuMemFreeHost": (c_void_p,),
    "cuMemcpyHtoDAsync_v2": (c_uint64, c_void_p, c_size_t, c_void_p),
    "cuMemcpyDtoHAsync_v2": (c_void_p, c_uint64, c_size_t, c_void_p),
    "cuMemcpyDtoDAsync_v2": (c_uint64, c_uint64, c_size_t, c_void_p),
    "cuGraphInstantiateWithFlags": (_OUT, c_void_p, c_ulonglong),
    "cuGraphLaunch": (c_void_p, c_void_p),
    "cuGraphExecDestroy": (c_void_p,),
    "cuGraphDestroy": (c_void_p,),
}

INVALID_VALUE, OUT_OF_MEMORY, NO_BINARY, _BAD_PTX = 1, 2, 209, 222

DRIVERS = "Ubuntu: sudo apt install nvidia-driver-580; others: https://www.nvidia.com/drivers"
REBUILD = "python -m hamuco.engine.kernels.build"
_RESTART = "Drivers give the GPU back to a program that is started again, and mostly not before"
_ADVICE = {
    OUT_OF_MEMORY: "end other programs on the GPU, which nvidia-smi lists, or use fewer views",
    34: "a CUDA toolkit's stub stands in for the driver: take the folder `stubs` out of LD_LIBRARY_PATH",
    46: "another program has it to itself: nvidia-smi lists it",
    100: "the driver sees no GPU: compare with what nvidia-smi lists, and with CUDA_VISIBLE_DEVICES",
    201: "a thread that did not open the device calls Device.make_current first",
    _BAD_PTX: f"update the driver ({DRIVERS}) or build for this GPU: {REBUILD}",
    700: f"a kernel went beyond its memory; compute-sanitizer says which. {_RESTART}",
    719: f"a kernel failed; compute-sanitizer may say which. {_RESTART}",
    802: "its services do not all run: sudo systemctl start nvidia-fabricmanager, which has to be of the driver's version",
    803: "the driver was updated while it was running: sudo reboot",
    804: "this GPU cannot run a newer CUDA than its driver's: take the cuda-compat folder out of LD_LIBRARY_PATH",
    999: "the driver gives no reason; sudo dmesg may, and a restart of the computer often helps",
}


class CudaError(OSError):
    """The driver is missing, too old, or refuses something; the message is one line and says what to do.

    Attributes:
        code: the driver's number for it; 0 where it did not come so far.
    """

    def __init__(self, message: str, code: int = 0) -> None:
        super().__init__(message)
        self.code = code


class Driver:
    """The functions of the driver's library.

    Attributes:
        version: newest CUDA that it knows, (13, 0) for instance.
    """

    def __init__(self, library: Any) -> None:
        """`library`: its loaded form. Raises CudaError where it is too old or finds no device."""
        self._library = library
        for name, types in FUNCTIONS.items():
            try:
                function = getattr(library, name)
            except AttributeError:
                raise CudaError(
                    f"the NVIDIA driver has no {name}, which is in CUDA 12.4: update it ({DRIVERS})"
                ) from None
            function.argtypes, function.restype = types, c_int
        number = c_int()
        self.call("cuDriverGetVersion", byref(number))
        self.version = number.value // 1000, number.value % 1000 // 10
        self.call("cuInit", 0)

    def call(self, name: str, *arguments: Any, doing: str = "") -> None:
        """Raises CudaError for whatever is not success; `doing` says what was to be done, for its message."""
        code = getattr(self._library, name)(*arguments)
        if code:
            advice = _ADVICE.get(code)
            message = f"{doing or name}: {self._said(code)}" + (f". {advice[0].upper()}{advice[1:]}" if advice else "")
            raise CudaError(message, code)

    def try_to(self, name: str, *arguments: Any) -> None:
        """Whether it works or not: of a device that is lost, nothing can be given back."""
        getattr(self._library, name)(*arguments)

    def _said(self, code: int) -> str:
        name, text = c_char_p(), c_char_p()
        if self._library.cuGetErrorName(code, byref(name)) or self._library.cuGetErrorString(code, byref(text)):
            return f"CUDA error {code}"  # of a driver that is newer than its library
        return f"{(text.value or b'').decode()} ({(name.value or b'').decode()})"


def load_driver() -> Driver:
    """The driver of this computer.

    Raises:
        CudaError: there is none, it is too old, or it finds no device.
    """
    name = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        library = ctypes.CDLL(name)  # also on Windows, whose 64-bit programs know one calling convention
    except OSError as error:
        raise CudaError(
            f"no NVIDIA driver here ({str(error).splitlines()[0]}): install it ({DRIVERS}). Tracking on the CPU, "
            "without --runtime, needs none"
        ) from None
    return Driver(library)
