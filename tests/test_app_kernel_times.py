"""The bench of kernels: what is launched is what is counted. Times are of a stand-in for the driver, whose clock stands."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fake_driver import FakeLibrary, fake_device
from typer.testing import CliRunner

from hamuco.app.cli import app
from hamuco.app.kernel_times import cpu_times, kernel_times
from hamuco.engine.hand_model import load_hand_model
from hamuco.engine.kernel_launch import Kernels

MODEL = load_hand_model()


def test_every_kernel_is_measured_for_every_size(fatbins: Path) -> None:
    library = FakeLibrary()
    # Counted, and not run: what kernels compute has its own tests, and a thousand copies of 270 MB take half a minute.
    library._cuLaunchKernel = lambda *arguments: None  # type: ignore[method-assign]
    library._cuMemcpyDtoDAsync_v2 = lambda *arguments: None  # type: ignore[method-assign]
    device = fake_device(library)
    times = list(kernel_times(device, Kernels(device, np.float16, fatbins), MODEL, (1, 16)))
    assert [(one.kernel, one.hands) for one in times] == [
        ("crop", 1), ("skin", 1), ("sample", 1), ("fuse", 1), ("crop", 16), ("skin", 16), ("sample", 16), ("fuse", 2)
    ]  # fmt: skip
    launches = library.names().count("cuLaunchKernel")
    assert launches == (1 + 20) * len(times)  # of each, and of each graph
    copies = [arguments[:3] for name, arguments in library.calls if name == "cuMemcpyDtoDAsync_v2"]
    assert len(copies) == 1 + 20
    ((target, source, size),) = set(copies)
    assert (target != source, size) == (True, 2**28)
    assert min(library._memory[address].nbytes for address in (target, source)) >= size
    for small, large in zip(times[:3], times[4:7], strict=True):
        assert small.moved is not None
        assert large.moved is not None
        assert small.moved < large.moved <= 16 * small.moved
    skin = times[1]
    # As the source says: N (72 + 3 K) bytes and A (137) + 2112 of constants, 6 N + 1020 of results and 252 of places.
    vertices = len(MODEL.v_template)
    assert skin.moved == pytest.approx(vertices * (72 + 3 * 4) + 6 * vertices + 17_000, rel=0.05)
    assert all(one.microseconds == pytest.approx(1500 / 20) for one in times)  # 1.5 ms between any two events
    assert all(one.copy == pytest.approx(one.moved / (2**29 / 75)) for one in times if one.moved)


def test_hands_are_skinned_on_the_cpu() -> None:
    times = {one.kernel: one for one in cpu_times(MODEL)}
    assert {"skin, numpy, single", "skin, torch"} <= set(times)
    assert all(one.hands == 8 and one.microseconds > 0 for one in times.values())


def test_kernels_command_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hamuco.engine.cuda_driver.ctypes.CDLL", _no_library)
    result = CliRunner().invoke(app, ["bench", "kernels"])
    assert result.exit_code == 0, result.output
    assert "skin, numpy, single" in result.output
    assert "CUDA kernels not measured: no NVIDIA driver here" in result.output


def _no_library(name: str) -> None:
    raise OSError(f"{name}: cannot open shared object file")
