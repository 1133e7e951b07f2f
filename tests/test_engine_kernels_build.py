"""Compiling the CUDA kernels; what needs nvcc is skipped where there is none."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from hamuco.engine.kernels import build
from hamuco.engine.kernels.build import BuildError, Usage, compile_kernels, find_nvcc, main, parse_usage, reject_spills

# Of nvcc 13.0 for kernels of ours, the second name shortened.
LOG = """\
ptxas info    : 24 bytes gmem
ptxas info    : Compiling entry function 'crop_normalized_half' for 'sm_90'
ptxas info    : Function properties for crop_normalized_half
    32 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 32 registers, used 0 barriers, 32 bytes cumulative stack size
ptxas info    : Compile time = 78.073 ms
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'fuse' for 'sm_120'
ptxas info    : Function properties for fuse
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 79 registers, used 1 barriers, 7168 bytes smem
ptxas info    : Compile time = 375.173 ms
"""

KERNEL = 'extern "C" __global__ void twice(float* x) { x[threadIdx.x] *= 2; }\n'


@pytest.fixture(scope="module")
def nvcc() -> None:
    try:
        find_nvcc()
    except BuildError as error:
        pytest.skip(str(error))


def test_the_log_of_ptxas_is_understood() -> None:
    usages = parse_usage(LOG)
    assert usages == [Usage("crop_normalized_half", "sm_90", 32, 0, 32, 0), Usage("fuse", "sm_120", 79, 7168, 0, 0)]
    reject_spills(usages)


@pytest.mark.parametrize(
    "spill", ["8 bytes spill stores, 0 bytes spill loads", "0 bytes spill stores, 8 bytes spill loads"]
)
def test_any_spill_is_an_error(spill: str) -> None:
    usages = parse_usage(LOG.replace("0 bytes spill stores, 0 bytes spill loads", spill))
    with pytest.raises(BuildError, match=r"spilled: crop_normalized_half on sm_90 8 bytes, fuse on sm_120 8 bytes"):
        reject_spills(usages)


def test_a_spill_in_a_function_that_was_not_inlined_is_the_kernels() -> None:
    called = "ptxas info    : Function properties for helper\n    40 bytes stack frame, 20 bytes spill stores, 16 bytes spill loads\n"
    first, second = parse_usage(LOG.replace("ptxas info    : Used 79", called + "ptxas info    : Used 79"))
    assert (first.spilled, second.spilled, second.stack) == (0, 36, 40)


@pytest.mark.parametrize(
    "missing", ["Used 79 registers", "0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads"]
)
def test_a_log_that_leaves_something_out_is_an_error(missing: str) -> None:
    with pytest.raises(BuildError, match=r"does not say what .* takes"):
        parse_usage(LOG.replace(missing, ""))
    with pytest.raises(BuildError, match="names no kernel"):
        parse_usage("ptxas info    : 24 bytes gmem\n")


def test_without_nvcc_it_is_said_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "cuda"))
    with pytest.raises(SystemExit) as exit_info:
        main([])
    message = str(exit_info.value)
    assert "no nvcc on the PATH or in " + str(tmp_path) in message
    assert "install the CUDA toolkit" in message
    assert "\n" not in message


def test_an_architecture_is_named_as_nvcc_names_it(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["--arch", "90"])
    assert "sm_90 for instance; it is 90" in capsys.readouterr().err


@pytest.mark.usefixtures("nvcc")
def test_a_kernel_of_ours_compiles_for_one_architecture(tmp_path: Path) -> None:
    source, fatbin = build.FOLDER / "crop.cu", tmp_path / "crop.fatbin"
    usages = compile_kernels(source, fatbin, ["sm_90"])
    names = set(re.findall(r"__global__ void (\w+)", source.read_text()))
    assert {usage.kernel for usage in usages} == names
    assert {usage.architecture for usage in usages} == {"sm_90"}
    reject_spills(usages)
    content = fatbin.read_bytes()
    assert all(name.encode() in content for name in names)


@pytest.mark.usefixtures("nvcc")
def test_a_kernel_that_spills_is_not_built(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """64 values at once in the 32 registers that a thread of two such blocks can have."""
    loop = "for (int i = 0; i < 64; ++i)"
    body = f"float v[64]; {loop} v[i] = x[i]; __syncthreads(); {loop} x[i] = v[63 - i];"
    source = tmp_path / "greedy.cu"
    source.write_text(f'extern "C" __global__ void __launch_bounds__(1024, 2) greedy(float* x) {{ {body} }}\n')
    with pytest.raises(SystemExit, match="registers are spilled: greedy on sm_90"):
        main(["--arch", "sm_90"], tmp_path)
    assert re.search(r"^greedy +sm_90 +32 ", capsys.readouterr().out, re.MULTILINE)
    assert list(tmp_path.iterdir()) == [source]


@pytest.mark.usefixtures("nvcc")
def test_a_failed_build_leaves_the_last_one_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, fatbin = tmp_path / "twice.cu", tmp_path / "twice.fatbin"
    source.write_text(KERNEL)
    main(["--arch", "sm_90"], tmp_path)
    built = fatbin.read_bytes()
    assert b"twice" in built
    assert str(len(built)) in capsys.readouterr().out
    source.write_text(KERNEL.replace("2;", "2"))
    with pytest.raises(SystemExit, match=r"nvcc does not compile twice.cu for sm_90:\n.*expected"):
        main(["--arch", "sm_90"], tmp_path)
    assert fatbin.read_bytes() == built
    assert set(tmp_path.iterdir()) == {source, fatbin}
