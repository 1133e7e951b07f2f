"""CUDA kernels on a computer without a GPU: their bodies, compiled by g++, in plain loops over blocks and threads."""

from __future__ import annotations

import atexit
import ctypes
import os
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import pytest

import hamuco.engine

KERNELS = Path(hamuco.engine.__file__).parent / "kernels"


@cache
def load_host_kernels(name: str) -> ctypes.CDLL:
    """The functions of `engine/kernels/host_<name>.cpp`, compiled once in a session.

    Skips the calling test where there is no g++; a source that does not compile, or not without warnings, fails it.
    """
    compiler = shutil.which("g++")
    if compiler is None:
        assert "CI" not in os.environ, "the kernels' tests need g++, and where everything is checked nothing is skipped"
        pytest.skip("no g++ to compile the kernels' bodies with (Debian: apt install g++)")
    library = _folder() / f"{name}.so"
    options = ["-std=c++17", "-O2", "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"]
    command = [compiler, *options, str(KERNELS / f"host_{name}.cpp"), "-o", str(library)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return ctypes.CDLL(str(library))


@cache
def _folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="hamuco-kernels-"))
    atexit.register(shutil.rmtree, folder)
    return folder
