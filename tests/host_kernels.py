"""CUDA kernels on a computer without a GPU: their bodies, compiled by g++, in plain loops over blocks and threads."""

from __future__ import annotations

import atexit
import ctypes
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import pytest

import hamuco.engine

KERNELS = Path(hamuco.engine.__file__).parent / "kernels"


@cache
def load_host_kernels(name: str) -> ctypes.CDLL:
    """The functions of `tests/kernels_on_the_host/<name>.cpp`, compiled once in a session.

    Skips the calling test where there is no g++; a source that does not compile, or not without warnings, fails it.
    """
    return _compiled(Path(__file__).parent / "kernels_on_the_host" / f"{name}.cpp", _folder() / f"{name}.so")


def host_numbers(source: str, expressions: Sequence[str]) -> list[int]:
    """What constants, sizeof and offsetof for instance, are for g++ in `engine/kernels/<source>`; skips as above."""
    path = _folder() / "numbers.cpp"
    values = ", ".join(f"static_cast<long>({one})" for one in expressions)
    lines = ["#include <cstddef>", f'#include "{source}"', f'extern "C" const long numbers[] = {{{values}}};']
    path.write_text("\n".join(lines) + "\n")
    library = _compiled(path, _folder() / f"numbers-{len(list(_folder().iterdir()))}.so")
    return list((ctypes.c_long * len(expressions)).in_dll(library, "numbers"))


def _compiled(source: Path, library: Path) -> ctypes.CDLL:
    compiler = shutil.which("g++")
    if compiler is None:
        assert "CI" not in os.environ, "the kernels' tests need g++, and where everything is checked nothing is skipped"
        pytest.skip("no g++ to compile the kernels' bodies with (Debian: apt install g++)")
    options = ["-std=c++17", "-O2", "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"]
    command = [compiler, *options, f"-I{KERNELS}", str(source), "-o", str(library)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return ctypes.CDLL(str(library))


@cache
def _folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="hamuco-kernels-"))
    atexit.register(shutil.rmtree, folder)
    return folder
