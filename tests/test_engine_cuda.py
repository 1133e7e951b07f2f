"""The driver's functions and what is made of them; without a driver through a stand-in."""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_driver import FATBIN, FakeLibrary, fake_device

from hamuco.engine.cuda import Device
from hamuco.engine.cuda_driver import FUNCTIONS, OUT_OF_MEMORY, CudaError, Driver, load_driver

OTHER_GPU = FATBIN.replace(b"13.0", b"12.8")


def _refusal(library: FakeLibrary, fatbin: bytes = FATBIN) -> CudaError:
    """What a user is told who opens a device and loads a kernel."""
    with pytest.raises(CudaError) as caught:
        fake_device(library).module("skinning.fatbin", fatbin).kernel("skin_half")
    assert "\n" not in str(caught.value)
    return caught.value


def test_without_a_driver_it_is_said_how_to_get_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file\nand more")

    monkeypatch.setattr(ctypes, "CDLL", missing)
    with pytest.raises(CudaError) as caught:
        load_driver()
    message = str(caught.value)
    assert re.match(
        r"no NVIDIA driver here \((libcuda.so.1|nvcuda.dll): cannot open.*\): install it \(Ubuntu: sudo", message
    )
    assert message.endswith("Tracking on the CPU, without --runtime, needs none")
    assert "\n" not in message


def test_this_computer_has_a_driver_or_says_that_it_has_none() -> None:
    try:
        driver = load_driver()
    except CudaError as error:
        assert re.search(r"sudo|nvidia-smi|LD_LIBRARY_PATH", str(error))  # noqa: PT017
    else:
        assert driver.version >= (12, 4)


def test_a_driver_from_before_our_functions_is_too_old() -> None:
    library = FakeLibrary()
    del library.cuFuncGetParamInfo  # type: ignore[attr-defined]
    assert "has no cuFuncGetParamInfo, which is in CUDA 12.4: update it (Ubuntu: sudo apt" in str(_refusal(library))


@pytest.mark.parametrize(
    ("function", "code", "said"),
    [
        ("cuInit", 100, r"cuInit: no device \(CUDA_ERROR_NO_DEVICE\)\. The driver sees no GPU.*nvidia-smi"),
        ("cuInit", 34, r"stub.*LD_LIBRARY_PATH"),
        ("cuInit", 802, r"systemctl start nvidia-fabricmanager"),
        ("cuInit", 803, r"sudo reboot"),
        ("cuInit", 12345, r"^cuInit: CUDA error 12345$"),
        ("cuDevicePrimaryCtxRetain", 2, r"^opening Fake GPU: out of memory .*\. End other programs on the GPU"),
        ("cuDevicePrimaryCtxRetain", 46, r"another program has it to itself|Another program has it"),
        (
            "cuModuleLoadData",
            209,
            r"skinning.fatbin has no code for Fake GPU, which is sm_90.*kernels.build --arch sm_90",
        ),
        ("cuModuleLoadData", 222, r"^loading skinning.fatbin: .* Update the driver \(.*kernels.build"),
        (
            "cuModuleGetFunction",
            500,
            r"finding skin_half in skinning.fatbin; if it is older.*kernels.build makes it anew",
        ),
        ("cuFuncGetParamInfo", 700, r"cuFuncGetParamInfo: illegal address .*a program that is started again"),
    ],
)
def test_errors_say_what_to_do(function: str, code: int, said: str) -> None:
    library = FakeLibrary()
    library.codes[function] = code
    error = _refusal(library)
    assert re.search(said, str(error)), str(error)
    assert error.code == code


def test_a_driver_that_is_older_than_the_kernels_is_named_with_both_versions() -> None:
    library = FakeLibrary()
    library.version = 12040
    assert re.search(
        r"driver knows CUDA 12\.4, skinning.fatbin was built by CUDA 13\.0: update the driver to 580 or newer \(Ubuntu",
        str(_refusal(library)),
    )
    assert "cuModuleLoadData" not in library.names()
    # Machine code of any 12.x runs on any 12.y; so does what says nothing of its origin.
    for fatbin in (OTHER_GPU, FATBIN[:4]):
        assert fake_device(library).module("other", fatbin).kernel("skin_half").sizes == (120, 32, 40)


@pytest.mark.parametrize("ordinal", [-1, 2])
def test_a_device_that_is_not_there(ordinal: int, monkeypatch: pytest.MonkeyPatch) -> None:
    library = FakeLibrary()
    library.devices = 2
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5")
    with pytest.raises(CudaError, match=rf"no CUDA device {ordinal}: 2 are here.*CUDA_VISIBLE_DEVICES is '4,5'"):
        Device(Driver(library), ordinal)


def test_a_device_and_its_memory() -> None:
    library = FakeLibrary()
    device = fake_device(library)
    assert (device.name, device.architecture, device.driver.version) == ("Fake GPU", "sm_90", (13, 0))
    stream = device.stream()
    address, pinned, back = device.memory(1000), device.pinned(1000), np.zeros(250, np.float32)
    pinned.view(np.float32)[:] = np.arange(250)
    device.upload(address, pinned, stream.handle)
    device.download(back[:125], address + 500, stream.handle)
    stream.synchronize()
    np.testing.assert_array_equal(back[:125], np.arange(125, 250))
    assert not back[125:].any()
    with pytest.raises(ValueError, match=r"strides \(8,\) is not contiguous"):
        device.upload(address, back[::2], stream.handle)
    library.codes["cuMemAlloc_v2"] = 2
    with pytest.raises(CudaError, match=r"^3\.0 MiB of Fake GPU's memory: out of memory") as caught:
        device.memory(3 * 2**20)
    assert caught.value.code == OUT_OF_MEMORY


def test_arguments_reach_the_driver_as_they_lie_in_memory() -> None:
    library = FakeLibrary()
    library.parameters["mixed"] = (8, 4, 5)
    seen: list[Any] = []
    kernel = fake_device(library).module("mixed.fatbin", FATBIN).kernel("mixed_half")

    def launch(*given: Any) -> int:
        seen.append((given[1:9], [ctypes.string_at(given[9][index], size) for index, size in enumerate((8, 4, 5))]))
        return 0

    library.__dict__["cuLaunchKernel"] = ctypes.CFUNCTYPE(ctypes.c_int, *FUNCTIONS["cuLaunchKernel"])(launch)
    arguments = [b"12345678", b"abcd", b"vwxyz"]
    kernel((7, 2), (64,), arguments, 0x55)
    assert seen == [((7, 2, 1, 64, 1, 1, 0, 0x55), arguments)]
    for wrong in (arguments[:2], [*arguments, b""], [b"1234", b"abcd", b"vwxyz"]):
        with pytest.raises(
            CudaError, match=r"mixed_half of mixed.fatbin takes arguments of \(8, 4, 5\) bytes, given are"
        ):
            kernel((1,), (1,), wrong, 0)
    assert len(seen) == 1


def test_captured_work_runs_when_its_graph_does() -> None:
    device = fake_device()
    stream = device.stream()
    address, given, back = device.memory(4), np.array([5], np.int32), np.zeros(1, np.int32)

    def work() -> None:
        device.upload(address, given, stream.handle)
        device.download(back, address, stream.handle)

    graph = device.capture(stream, work)
    assert back[0] == 0
    for number in (5, 6):
        given[0] = number
        graph.launch(stream)
        assert back[0] == number


def test_a_capture_that_fails_ends() -> None:
    library = FakeLibrary()
    device = fake_device(library)
    stream = device.stream()

    def fails() -> None:
        raise RuntimeError("half-way")

    with pytest.raises(RuntimeError, match="half-way"):
        device.capture(stream, fails)
    assert library.names()[-2:] == ["cuStreamEndCapture", "cuGraphDestroy"]  # what there is of a graph is given back
    device.capture(stream, lambda: None)
    library.codes["cuStreamEndCapture"] = 901
    with pytest.raises(CudaError, match=r"^capturing a CUDA graph: "):
        device.capture(stream, lambda: None)


def test_streams_wait_for_events_and_events_measure() -> None:
    library = FakeLibrary()
    device = fake_device(library)
    one, other, begin, end = device.stream(), device.stream(), device.event(), device.event()
    begin.record(one)
    other.wait(begin)
    end.record(other)
    end.synchronize()
    assert end.seconds_since(begin) == 0.0015
    assert library.calls[-5:] == [
        ("cuEventRecord", (begin.handle, one.handle)),
        ("cuStreamWaitEvent", (other.handle, begin.handle, 0)),
        ("cuEventRecord", (end.handle, other.handle)),
        ("cuEventSynchronize", (end.handle,)),
        ("cuEventElapsedTime", (library.calls[-1][1][0], begin.handle, end.handle)),
    ]


@pytest.mark.parametrize("lost", [False, True])
def test_closing_gives_everything_back_in_reverse(lost: bool) -> None:
    library = FakeLibrary()
    device = fake_device(library)
    stream = device.stream()
    device.event(), device.memory(10), device.pinned(10), device.module("m", FATBIN)
    device.capture(stream, lambda: None)
    if lost:
        library.codes |= dict.fromkeys(FUNCTIONS, 700)
    made = len(library.calls)
    device.close()
    assert library.names()[made:] == [
        "cuCtxSetCurrent", "cuGraphExecDestroy", "cuModuleUnload", "cuMemFreeHost", "cuMemFree_v2", "cuEventDestroy_v2",
        "cuStreamDestroy_v2", "cuDevicePrimaryCtxRelease_v2", "cuCtxSetCurrent",
    ]  # fmt: skip
    assert library.calls[-1][1] == (None,)  # whoever shares the thread finds no context that is gone
    device.close()  # nothing is left
    assert library.names()[made + 9 :] == 2 * ["cuCtxSetCurrent"]


def test_importing_loads_no_driver() -> None:
    modules = ("cuda", "cuda_driver", "kernel_launch", "kernel_structs")
    code = f"import ctypes; ctypes.CDLL = None; {'; '.join(f'import hamuco.engine.{name}' for name in modules)}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=sys.prefix, check=False)
    assert done.returncode == 0, done.stderr


# What a type of cuda.h is to ctypes.
_KINDS = {
    "int": ctypes.c_int, "unsigned int": ctypes.c_uint, "size_t": ctypes.c_size_t, "float": ctypes.c_float,
    "unsigned long long": ctypes.c_ulonglong, "CUdeviceptr": ctypes.c_uint64, "CUdevice": ctypes.c_int,
    "CUresult": ctypes.c_int, "CUdevice_attribute": ctypes.c_int, "CUstreamCaptureMode": ctypes.c_int,
    **dict.fromkeys(("CUcontext", "CUmodule", "CUfunction", "CUstream", "CUevent", "CUgraph", "CUgraphExec"), ctypes.c_void_p),
}  # fmt: skip


def _declared(parameter: str) -> Any:
    kind, stars = parameter.replace("const", "").strip(), parameter.count("*")
    name = re.sub(r"\s*\**\s*\w+$", "", kind).strip(" *") if kind != "void" else ""
    if name in ("void", "char"):
        return ctypes.POINTER(ctypes.c_void_p if name == "void" else ctypes.c_char_p) if stars == 2 else ctypes.c_void_p
    return ctypes.POINTER(_KINDS[name]) if stars else _KINDS[name]


def test_functions_are_declared_as_in_the_toolkits_header() -> None:
    header = Path(os.environ.get("CUDA_HOME") or "/usr/local/cuda") / "include/cuda.h"
    if not header.is_file():
        pytest.skip(f"no CUDA toolkit to compare with at {header}")
    text = header.read_text()
    for name, types in FUNCTIONS.items():
        plain = re.sub(r"WithFlags$|_v2$", "", name)
        declaration = re.search(rf"^CUresult CUDAAPI {plain}\((.*?)\);", text, re.MULTILINE | re.DOTALL)
        assert declaration is not None, name
        parameters = [] if declaration[1] == "void" else declaration[1].split(",")
        ours = [ctypes.c_void_p if one is ctypes.c_char_p else one for one in types]
        assert ours == [_declared(one) for one in parameters], name
        # A name with a suffix is what the header's macro makes of the plain one.
        exported = re.search(rf"#\s*define {plain}\s+(?:__CUDA_API_PTSZ\()?(\w+)", text)
        if name != "cuEventElapsedTime":  # the older one, which drivers from before 12.8 have as well
            assert (exported[1] if exported else plain) == name
