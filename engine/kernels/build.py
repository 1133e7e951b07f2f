"""Compiles the CUDA kernels: every .cu of this folder into a .fatbin beside it, which needs nvcc but no GPU.

    python engine/kernels/build.py [--arch sm_90]

A fatbin holds machine code for each architecture, and PTX of the newest, which drivers compile for GPUs that come later.
It is written only if no kernel spills registers: that is slow, and a sign that a kernel holds too much at once.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).resolve().parent

ARCHITECTURES = ("sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120")
"""A100; RTX 30; RTX 40 and L4; H100; B200; RTX 50."""


class BuildError(RuntimeError):
    """The kernels cannot be compiled, or not well."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What one kernel takes on one architecture.

    Attributes:
        kernel: name.
        architecture: sm_90 for instance.
        registers: of each thread.
        shared: bytes of each block.
        stack: bytes of each thread, in local memory; some functions of the mathematics library keep a rare case there.
        spilled: bytes that are written to and read from local memory for want of registers.
    """

    kernel: str
    architecture: str
    registers: int
    shared: int
    stack: int
    spilled: int


def find_nvcc() -> str:
    """On the PATH or in CUDA_HOME.

    Raises:
        BuildError: it is not there.
    """
    usual = Path(os.environ.get("CUDA_HOME") or "/usr/local/cuda") / "bin"
    nvcc = shutil.which("nvcc") or shutil.which("nvcc", path=str(usual))
    if nvcc is None:
        raise BuildError(
            f"no nvcc on the PATH or in {usual}: install the CUDA toolkit, 12.8 or newer, from "
            "https://developer.nvidia.com/cuda-downloads, or say where it is by CUDA_HOME"
        )
    return nvcc


def compile_kernels(source: Path, fatbin: Path, architectures: Sequence[str]) -> list[Usage]:
    """All kernels of a .cu for architectures from old to new.

    Raises:
        BuildError: nvcc is missing or does not like the source; warnings count.
    """
    codes = {architecture: [architecture] for architecture in architectures}
    codes[architectures[-1]].append(architectures[-1].replace("sm_", "compute_"))  # the PTX
    targets = [
        f"-gencode=arch={architecture.replace('sm_', 'compute_')},code=[{','.join(code)}]"
        for architecture, code in codes.items()
    ]
    command = [find_nvcc(), "-std=c++17", "--fatbin", "-Xptxas=-v", "--Werror=all-warnings", *targets]
    done = subprocess.run([*command, str(source), "-o", str(fatbin)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BuildError(f"nvcc does not compile {source.name} for {', '.join(architectures)}:\n{done.stderr.strip()}")
    return parse_usage(done.stderr)


def parse_usage(log: str) -> list[Usage]:
    """What `ptxas -v` says, kernel by kernel.

    Raises:
        BuildError: the log is not as expected, so that spills might be overlooked.
    """
    head, *parts = re.split(r"Compiling entry function '(\w+)' for '(\w+)'", log)
    usages = []
    for kernel, architecture, text in zip(parts[::3], parts[1::3], parts[2::3], strict=True):
        registers = re.search(r"Used (\d+) registers", text)
        # The kernel's own line, and one of each function that was not inlined.
        frames = re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", text)
        if registers is None or not frames:
            raise BuildError(f"ptxas does not say what {kernel} takes on {architecture}; it says:\n{text.strip()}")
        shared = re.search(r"(\d+) bytes smem", text)
        usages.append(
            Usage(
                kernel,
                architecture,
                registers=int(registers[1]),
                shared=int(shared[1]) if shared else 0,
                stack=max(int(stack) for stack, _, _ in frames),
                spilled=sum(int(stores) + int(loads) for _, stores, loads in frames),
            )
        )
    if not usages:
        raise BuildError(f"ptxas names no kernel; it says:\n{head.strip()}")
    return usages


def reject_spills(usages: Sequence[Usage]) -> None:
    """
    Raises:
        BuildError: a kernel spills.
    """
    spilling = [usage for usage in usages if usage.spilled]
    if spilling:
        what = ", ".join(f"{one.kernel} on {one.architecture} {one.spilled} bytes" for one in spilling)
        raise BuildError(
            f"registers are spilled: {what}. Hold fewer values at once, or allow more registers by smaller blocks "
            "(__launch_bounds__)"
        )


def build(source: Path, architectures: Sequence[str]) -> Path:
    """Compile a .cu into the .fatbin beside it, and print what its kernels take.

    Raises:
        BuildError: it does not compile, or spills; a fatbin that was there stays.
    """
    fatbin = source.with_suffix(".fatbin")
    partial = source.with_suffix(f".{os.getpid()}.fatbin")
    try:
        usages = compile_kernels(source, partial, architectures)
        for one in usages:
            print(
                f"{one.kernel:24} {one.architecture:8} {one.registers:9} {one.shared:8} {one.stack:7} {one.spilled:7}",
                flush=True,
            )
        reject_spills(usages)
        partial.replace(fatbin)
    finally:
        partial.unlink(missing_ok=True)
    return fatbin


def main(arguments: Sequence[str] | None = None, folder: Path = FOLDER) -> None:
    parser = argparse.ArgumentParser(description="Compiles the CUDA kernels into fatbins beside their sources.")
    parser.add_argument("--arch", help=f"one architecture, sm_90 for instance, in place of {', '.join(ARCHITECTURES)}")
    architecture = parser.parse_args(arguments).arch
    if architecture is not None and not re.fullmatch(r"sm_\d+[a-z]?", architecture):
        parser.error(f"--arch is sm_ and a number, sm_90 for instance; it is {architecture}")
    print(f"{'kernel':24} {'for':8} registers   shared   stack   spills")
    try:
        fatbins = [
            build(source, [architecture] if architecture else ARCHITECTURES) for source in sorted(folder.glob("*.cu"))
        ]
    except BuildError as error:
        raise SystemExit(f"error: {error}") from None
    for fatbin in fatbins:
        print(f"{fatbin.stat().st_size:9} bytes  {fatbin}")


if __name__ == "__main__":
    main()
