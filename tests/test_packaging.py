from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("app", "calibration", "capture", "engine", "fusion", "streaming", "training")


def test_every_code_folder_is_listed() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    sources = [source for folder in FOLDERS for source in (ROOT / folder).rglob("*.py")]
    assert {"hamuco." + ".".join(source.parent.relative_to(ROOT).parts) for source in sources} == set(listed)


def test_every_folder_is_typed_and_linked() -> None:
    for folder in FOLDERS:
        assert (ROOT / folder / "py.typed").is_file()
        assert (ROOT / "tests/typed/hamuco" / folder).samefile(ROOT / folder)


def _loaded_by(statement: str, packages: tuple[str, ...]) -> str:
    code = f"import sys; {statement}; print(*[name for name in {packages!r} if name in sys.modules])"
    # From a folder without the packages beside it, as a user's program would.
    folder = Path(sys.prefix)
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=folder, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


@pytest.mark.parametrize("module", ["hamuco.streaming", "hamuco.streaming.subscriber", "hamuco.streaming.publisher"])
def test_a_subscriber_is_a_small_program(module: str) -> None:
    assert _loaded_by(f"import {module}", ("torch", "openvino", "cv2", "scipy", "rich", "typer", "rerun")) == ""


@pytest.mark.parametrize("module", ["hamuco.app.cli", "hamuco.app.live", "hamuco.capture.grabber"])
def test_the_live_path_loads_no_training_library(module: str) -> None:
    assert _loaded_by(f"import {module}", ("torch", "rerun", "tensorrt", "pycuda")) == ""


def test_nothing_reports_to_anybody() -> None:
    # openvino's telemetry, which is installed beside it, opens connections when openvino is imported.
    assert _loaded_by("import hamuco.engine.runtime", ("openvino_telemetry.main", "openvino_telemetry.backend")) == ""


def test_the_grabbers_start_without_the_inference_library() -> None:
    assert _loaded_by("import hamuco.app.cli", ("openvino", "scipy")) == ""


def test_nobody_imports_training_or_app() -> None:
    for folder in FOLDERS[1:-1]:
        for source in (ROOT / folder).rglob("*.py"):
            assert not re.search(r"^\s*(from|import) hamuco\.(training|app)", source.read_text(), re.MULTILINE), source
