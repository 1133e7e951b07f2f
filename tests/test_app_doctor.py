"""The doctor's look at graphics and GPUs, with drivers that work, are missing, or crash."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from hamuco.app.doctor import Finding, examine
from hamuco.engine.bundle import HAMUCO_S, Bundle, load_bundle
from hamuco.engine.cuda_driver import FUNCTIONS
from hamuco.engine.hand_model import load_hand_model
from hamuco.engine.plans import (
    ESTIMATOR,
    INTERACTION,
    NOT_COMPARED,
    PlanCard,
    Platform,
    Profile,
    engines_folder,
    model_hash,
    new_plan,
    write_plan,
)
from hamuco.training.synthetic.renderer import GraphicsError, Renderer


def graphics() -> Finding:
    (finding,) = [finding for finding in examine() if finding.what == "OpenGL (EGL)"]
    return finding


def pretend(monkeypatch: pytest.MonkeyPatch, folder: Path, moderngl: str) -> None:
    """Put a module of this text in the place of moderngl, for processes that are started from now on."""
    (folder / "moderngl.py").write_text(moderngl)
    monkeypatch.setenv("PYTHONPATH", str(folder))


def test_the_doctor_finds_what_the_renderer_finds() -> None:
    try:
        Renderer(load_hand_model()).close()
        opens = True
    except GraphicsError:
        opens = False
    assert graphics().good == opens


@pytest.mark.parametrize(
    ("moderngl", "words"),
    [
        ("raise ModuleNotFoundError('No module named moderngl')", "No module named moderngl"),
        ("def create_context(**options): raise Exception('libEGL.so not found')", "libEGL.so not found"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "the driver crashed (SIGSEGV)"),
    ],
)
def test_broken_graphics_are_explained_and_nothing_needs_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moderngl: str, words: str
) -> None:
    pretend(monkeypatch, tmp_path, moderngl)
    finding = graphics()
    assert not finding.good
    assert not finding.needed
    assert words in finding.detail
    assert 'pip install "hamuco[synth]"' in finding.detail
    assert "libegl1 libgl1-mesa-dri" in finding.detail


# A driver that has one device, as libcuda.so.1 of this processor.
_DRIVER = """
#include <cstring>
extern "C" {
int cuDriverGetVersion(int *version) { *version = 13000; return 0; }
int cuDeviceGetCount(int *count) { *count = 1; return 0; }
int cuDeviceGetName(char *name, int size, int) { std::strncpy(name, "NVIDIA Stand-in 90", size); return 0; }
int cuDeviceGetAttribute(int *value, int attribute, int) { *value = attribute == 75 ? 9 : 0; return 0; }
"""


def _install_driver(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For processes that are started from now on; skips the test where there is no compiler."""
    compiler = shutil.which("g++")
    if compiler is None:
        assert "CI" not in os.environ, "this test needs g++, and where everything is checked nothing is skipped"
        pytest.skip("no g++ to make a driver with (Debian: apt install g++)")
    others = [f"int {name}() {{ return 0; }}" for name in FUNCTIONS if f"int {name}(" not in _DRIVER]
    source = folder / "driver.cpp"
    source.write_text("\n".join((_DRIVER, *others, "}")))
    subprocess.run([compiler, "-shared", "-fPIC", source, "-o", folder / "libcuda.so.1"], check=True)
    monkeypatch.setenv("LD_LIBRARY_PATH", str(folder))


def _install_tensorrt(folder: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    (folder / "tensorrt.py").write_text(text)
    monkeypatch.setenv("PYTHONPATH", str(folder))


def _write_engines(bundle: Bundle, device: str) -> Path:
    platform = Platform("tensorrt", "10.13.0", device, ("sm_90",))
    card = PlanCard(bundle.card.name, model_hash(bundle), platform, "fp16", Profile((1, 8, 16), 2), 1.0, NOT_COMPARED)
    path = engines_folder(bundle) / card.folder_name
    with new_plan(path, replace=False) as folder:
        (folder / ESTIMATOR).write_bytes(b"one")
        (folder / INTERACTION).write_bytes(b"other")
        write_plan(card, folder)
    return path


def _findings() -> dict[str, Finding]:
    found = {finding.what: finding for finding in examine()}
    names = ("NVIDIA GPU", "CUDA", "tensorrt", "tensorrt-rtx", "CUDA kernels", "engines", "tensorrt engine")
    return {name: found[name] for name in names if name in found}


def test_a_gpu_with_all_that_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    _install_driver(tmp_path, monkeypatch)
    _install_tensorrt(tmp_path, monkeypatch, "__version__ = '10.13.0'")
    before = _findings()
    assert (before["CUDA"].good, before["CUDA"].detail) == (True, "13.0 on NVIDIA Stand-in 90, sm_90")
    assert (before["tensorrt"].good, before["tensorrt"].detail) == (True, "10.13.0")
    assert not before["tensorrt engine"].good
    assert (
        "no engine of hamuco-s was built for tensorrt 10.13.0 on NVIDIA Stand-in 90" in before["tensorrt engine"].detail
    )
    assert "hamuco build hamuco-s --runtime tensorrt" in before["tensorrt engine"].detail
    path = _write_engines(load_bundle(HAMUCO_S), "NVIDIA Stand-in 90")
    after = _findings()["tensorrt engine"]
    assert (after.good, after.detail) == (True, f"hamuco-s, fp16, 1:8:16 views, 2 hands: {path}")
    assert not any(finding.needed for finding in before.values())


def test_engines_of_another_gpu_do_not_run_on_this_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    _install_driver(tmp_path, monkeypatch)
    _install_tensorrt(tmp_path, monkeypatch, "__version__ = '10.13.0'")
    _write_engines(load_bundle(HAMUCO_S), "NVIDIA Other")
    finding = _findings()["tensorrt engine"]
    assert not finding.good
    assert "was built for NVIDIA Other, this GPU is NVIDIA Stand-in 90 (sm_90)" in finding.detail


def test_without_a_gpu_the_doctor_says_what_is_there_and_that_nothing_needs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    # A library that is no driver, and a runtime that is not whole.
    (tmp_path / "libcuda.so.1").write_bytes(b"")
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    _install_tensorrt(tmp_path, monkeypatch, "raise OSError('libnvinfer.so.10: cannot open')")
    found = _findings()
    assert "CUDA" not in found
    assert found["NVIDIA GPU"].detail == "no driver for one here; tracking runs on the CPU"
    assert 'tensorrt cannot be loaded (libnvinfer.so.10: cannot open): pip install "hamuco[tensorrt]"' in (
        found["tensorrt"].detail
    )
    assert "none of hamuco-s built; only NVIDIA GPUs need them" in found["engines"].detail
    assert not any(
        finding.good or finding.needed for name, finding in found.items() if name in ("NVIDIA GPU", "tensorrt")
    )
    _write_engines(load_bundle(HAMUCO_S), "NVIDIA Other")
    assert "for other computers: tensorrt 10.13.0 on NVIDIA Other, fp16, " in _findings()["engines"].detail
    (engine,) = engines_folder(load_bundle(HAMUCO_S)).glob("*/estimator.engine")
    engine.write_bytes(engine.read_bytes()[:-1])
    damaged = _findings()["engines"]
    assert not damaged.good
    assert re.search(r"estimator.engine is not the file that was built, .*Build it again: hamuco build", damaged.detail)
