from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from command_line import clean_environment, hamuco
from true_footage import write_recording

ROOT = Path(__file__).parents[1]
FOLDERS = ("app", "calibration", "capture", "engine", "fusion", "streaming", "training")
SETUPTOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]

# Bytes. Code and the free hand are half a megabyte, the clip of the demo is 5, hamuco-s 7; everybody fetches it who installs.
LARGEST_WHEEL = 14_000_000

OPTIONAL = (
    "torch",
    "roma",
    "cattrs",
    "onnx",
    "rerun",
    "tensorrt",
    "tensorrt_rtx",
    "tensorrt_rtx_bindings",
    "moderngl",
    "glcontext",
    "matplotlib",
    "av",
)


def test_every_code_folder_is_listed() -> None:
    sources = [source for folder in FOLDERS for source in (ROOT / folder).rglob("*.py")]
    assert {"hamuco." + ".".join(source.parent.relative_to(ROOT).parts) for source in sources} == set(
        SETUPTOOLS["packages"]
    )


# What each room may import besides itself; app may import all.
IMPORTS: dict[str, set[str]] = {
    "calibration": set(),
    "capture": {"calibration"},
    "engine": {"calibration", "capture"},
    "fusion": {"calibration", "capture", "engine"},
    "streaming": {"fusion"},
    "training": {"calibration", "capture", "engine", "fusion"},
}


@pytest.mark.parametrize("room", IMPORTS)
def test_rooms_import_only_what_is_below_them(room: str) -> None:
    modules = {
        node.module or ""
        for source in (ROOT / room).rglob("*.py")
        for node in ast.walk(ast.parse(source.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom)
    }
    imported = {module.split(".")[1] for module in modules if module.startswith("hamuco.")}
    assert imported - {room} <= IMPORTS[room]


def test_every_data_file_is_packed() -> None:
    packed = {
        path
        for package in SETUPTOOLS["packages"]
        for pattern in [*SETUPTOOLS["package-data"]["*"], *SETUPTOOLS["package-data"].get(package, [])]
        for path in ROOT.joinpath(*package.split(".")[1:]).glob(pattern)
    }
    there = {path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.is_file()}
    assert {path for path in there if path.suffix not in (".py", ".pyc")} == packed


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, because setuptools leaves its own files beside the sources."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in FOLDERS:
        shutil.copytree(ROOT / name, folder / "source" / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, folder / "source")
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", str(folder), str(folder / "source")]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if "No matching distribution found for setuptools" in result.stderr:
        pytest.skip("pip cannot fetch setuptools here, which builds the wheel")
    assert result.returncode == 0, result.stderr
    return next(folder.glob("*.whl"))


@pytest.mark.slow
def test_the_wheel_is_whole_and_small(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        archive.extractall(tmp_path / "unpacked")
    sources = {path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.is_file()}
    expected = {f"hamuco/{path.relative_to(ROOT)}" for path in sources if path.suffix != ".pyc"}
    assert {name for name in names if ".dist-info/" not in name} == expected
    assert expected >= {f"hamuco/app/demo_clip/{name}" for name in ("rig.toml", "timestamps.csv", "truth.npz")}
    print(f"{wheel.name}: {wheel.stat().st_size / 1e6:.2f} MB")
    assert wheel.stat().st_size < LARGEST_WHEEL


@pytest.mark.slow
def test_what_is_in_the_wheel_renders_and_measures(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "unpacked")
    unpacked = {"PYTHONPATH": str(tmp_path / "unpacked")}
    where = subprocess.run(
        [sys.executable, "-c", "import hamuco.app.offline as offline; print(offline.__file__)"],
        capture_output=True, text=True, cwd=tmp_path, env=clean_environment() | unpacked, check=True,
    )  # fmt: skip
    assert where.stdout.strip() == str(tmp_path / "unpacked/hamuco/app/offline.py")
    options = ("--rig", "stereo", "--size", "160x120", "--seconds", "0.1", "--preset", "room", "--codec", "h264")
    rendered = hamuco("synth", "rec", *options, folder=tmp_path, environment=unpacked)
    assert rendered.returncode == 0, rendered.stderr
    measured = hamuco("bench", "accuracy", "--limit", "2", "--no-live", folder=tmp_path, environment=unpacked)
    assert measured.returncode == 0, measured.stderr
    assert "demo_clip, 2 moments" in measured.stdout


def test_every_folder_is_typed_and_linked() -> None:
    for folder in FOLDERS:
        assert (ROOT / folder / "py.typed").is_file()
        assert (ROOT / "tests/typed/hamuco" / folder).samefile(ROOT / folder)


def _loaded_by(statement: str, packages: tuple[str, ...]) -> str:
    code = f"import sys; {statement}; print('loaded:', *[name for name in {packages!r} if name in sys.modules])"
    # From a folder without the packages beside it, as a user's program would.
    folder = Path(sys.prefix)
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=folder, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout.rpartition("loaded:")[2].strip()


@pytest.mark.parametrize("module", ["hamuco.streaming", "hamuco.streaming.subscriber", "hamuco.streaming.publisher"])
def test_a_subscriber_is_a_small_program(module: str) -> None:
    assert _loaded_by(f"import {module}", ("torch", "openvino", "cv2", "scipy", "rich", "typer", "rerun")) == ""


@pytest.mark.parametrize("module", ["hamuco.app.cli", "hamuco.app.live", "hamuco.capture.grabber"])
def test_the_live_path_loads_no_training_library(module: str) -> None:
    assert _loaded_by(f"import {module}", OPTIONAL) == ""


def test_a_run_against_the_truth_loads_no_optional_library(tmp_path: Path) -> None:
    recording = write_recording(tmp_path / "rec", 3, cameras=2)
    arguments = ["live", "--replay", str(recording), "--fast"]
    run = f"from hamuco.app.cli import app; app({arguments!r}, standalone_mode=False)"
    assert _loaded_by(run, OPTIONAL) == ""
    assert _loaded_by(run, ("openvino",)) == "openvino"  # it did run


def test_nothing_reports_to_anybody() -> None:
    # openvino's telemetry, which is installed beside it, opens connections when openvino is imported.
    run = "from hamuco.engine.openvino_core import core; core()"
    assert _loaded_by(run, ("openvino", "openvino_telemetry.main", "openvino_telemetry.backend")) == "openvino"


def test_the_grabbers_start_without_the_inference_library() -> None:
    assert _loaded_by("import hamuco.app.cli", ("openvino", "scipy", "hamuco.engine.bundle")) == ""


def test_nobody_imports_training_or_app() -> None:
    for folder in FOLDERS[1:-1]:
        for source in (ROOT / folder).rglob("*.py"):
            assert not re.search(r"^\s*(from|import) hamuco\.(training|app)", source.read_text(), re.MULTILINE), source
