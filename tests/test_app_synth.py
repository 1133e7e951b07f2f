"""`hamuco synth` and what follows it, as a user meets them: wrong use, missing libraries, interrupted runs."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest
from command_line import COMMAND, clean_environment, hamuco, one_line
from true_footage import write_recording
from typer.testing import CliRunner

from hamuco.app.cli import app
from hamuco.capture.recording import Recording

EXTRAS = ("moderngl", "av", "matplotlib", "rerun")


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment in which no optional library is there, in subprocesses of subprocesses too."""
    folder = tmp_path_factory.mktemp("bare")
    for name in EXTRAS:
        (folder / f"{name}.py").write_text(f"raise ModuleNotFoundError({name!r} + ' is not here')\n")
    return {"PYTHONPATH": str(folder)}


NO_DRIVER = {"__EGL_VENDOR_LIBRARY_DIRS": "/nonexistent"}
"""The environment of a machine whose EGL knows no driver."""


@pytest.fixture(scope="module")
def grey(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recording with truth in which nobody can see the hands."""
    return write_recording(tmp_path_factory.mktemp("grey") / "grey", 3, cameras=2)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--rig ring0", "a ring rig has 1 to 64 views, not 0"),
        ("--rig ring999", "a ring rig has 1 to 64 views, not 999"),
        ("--rig blob4", "rig 'blob4' is none of ring, dome, table, stereo, random followed by a number of views"),
        ("--rig ring", "such as ring4, dome8"),
        ("--hands 0", "hands is 0, expected 1 or 2"),
        ("--hands -1", "hands is -1, expected 1 or 2"),
        ("--hands 3", "hands is 3, expected 1 or 2"),
        ("--seconds 0", "seconds is 0, expected more than 0 and at most 1800"),
        ("--seconds 0.01", "less than two frames: ask for at least 0.0667 s"),
        ("--size nonsense", "--size 'nonsense' is not WIDTHxHEIGHT, such as 1280x720"),
        ("--size 641x480", "641x480 px, expected an even width and height"),
        ("--size 100000x100000", "100000x100000 px, expected at most 4096 px a side"),
        ("--fps 0.5", "fps is 0.5, expected 1 to 1000"),
        ("--preset easy", "preset 'easy' is none of plain, room, hard"),
        ("--board --hands 1", "--board moves a board through the rig, and no --hands"),
        ("--codec mpeg4", "codec 'mpeg4' is none of mjpeg, h264"),
    ],
)
def test_wrong_use_gets_one_clear_error(options: str, words: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["synth", str(tmp_path / "out"), *options.split()], env={"COLUMNS": "200"})
    assert result.exit_code == 2
    assert words in one_line(result.output)
    assert "synth --help' for help" in one_line(result.output)
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_is_said_before_anything_is_drawn(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("")
    # Without a driver the first frame would be an error of its own.
    occupied = hamuco("synth", "mine", folder=tmp_path, environment=NO_DRIVER)
    assert occupied.returncode == 1
    assert one_line(occupied.stderr) == "error: mine exists and is not an empty folder; choose another name"
    below = hamuco("synth", "mine/file/out", folder=tmp_path, environment=NO_DRIVER)
    assert below.returncode == 1
    assert one_line(below.stderr) == (
        "error: folder mine/file/out.partial cannot be made (Not a directory): choose a place where you may write"
    )
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "mine"]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("nothing-here",), 1, "nothing-here is not a recording"),
        (("--dataset", "hanco"), 2, "needs the folder that it is in: hamuco bench accuracy --dataset hanco FOLDER"),
        (("--dataset", "interhand", "."), 2, "data set 'interhand' is not known; choose one of hanco, freihand"),
        (("--dataset", "hanco", "."), 1, "is not HanCo, or a part of it: it has no meta.json"),
        ((".", "--protocol", "h36m"), 2, "'h36m' is not one of 'metric', 'hamuco'"),
        ((".", "--limit", "0"), 2, "greater than or equal to 1"),
    ],
)
def test_what_cannot_be_measured_gets_one_clear_error(
    arguments: tuple[str, ...], code: int, words: str, tmp_path: Path
) -> None:
    result = hamuco("bench", "accuracy", *arguments, folder=tmp_path)
    assert result.returncode == code, result.stderr
    assert words in one_line(result.stderr)
    assert list(tmp_path.iterdir()) == []


def test_two_cameras_without_truth_cannot_be_measured(tmp_path: Path) -> None:
    write_recording(tmp_path / "rec", 3, cameras=2, truth=False)
    result = hamuco("bench", "accuracy", "rec", folder=tmp_path)
    assert result.returncode == 1
    assert one_line(result.stderr).startswith("error: rec has no truth, and 2 cameras: ")
    assert list(tmp_path.iterdir()) == [tmp_path / "rec"]


def test_a_place_for_tables_that_cannot_be_is_said_before_anything_is_measured(grey: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = hamuco("bench", "accuracy", str(grey), "--out", "file", folder=tmp_path)
    assert result.returncode == 1
    assert one_line(result.stderr).startswith("error: folder file cannot be made, ")
    assert result.stdout == ""


def test_without_moderngl_one_line_says_what_to_install(bare: dict[str, str], tmp_path: Path) -> None:
    result = hamuco("synth", "out", "--seconds", "0.1", folder=tmp_path, environment=bare)
    assert result.returncode == 1
    error = one_line(result.stderr)
    assert error.startswith("error: the Python package moderngl cannot be imported (moderngl is not here)")
    assert "libegl1 libgl1-mesa-dri" in error
    assert 'pip install "hamuco[synth]"' in error
    assert len(result.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_without_a_driver_one_line_says_what_to_install(tmp_path: Path) -> None:
    result = hamuco("synth", "out", "--seconds", "0.1", folder=tmp_path, environment=NO_DRIVER)
    assert result.returncode == 1
    assert one_line(result.stderr).startswith("error: OpenGL 3.3 cannot be opened without a window (")
    assert "libegl1 libgl1-mesa-dri" in one_line(result.stderr)
    assert len(result.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_boards_are_recorded_without_opengl(bare: dict[str, str], tmp_path: Path) -> None:
    options = ("--board", "--rig", "stereo", "--seconds", "0.2", "--size", "160x120")
    result = hamuco("synth", "board", *options, folder=tmp_path, environment=bare | NO_DRIVER)
    assert result.returncode == 0, result.stderr
    said, where = result.stdout.splitlines()
    assert said == "board: 2 cameras, 12 frames, 0.2 s, with truth."
    assert where.endswith("board/board_truth.npz")
    assert {path.name for path in (tmp_path / "board").iterdir()} >= {"board_truth.npz", "rig.toml", "cam_1.mkv"}


def test_doctor_finds_what_is_missing_for_synthetic_recordings_only(bare: dict[str, str]) -> None:
    result = hamuco("doctor", "--json", environment=bare | NO_DRIVER)
    assert result.returncode == 0, result.stderr
    findings = {finding["what"]: finding for finding in json.loads(result.stdout)}
    assert not findings["OpenGL (EGL)"]["good"]
    assert "moderngl is not here" in findings["OpenGL (EGL)"]["detail"]
    assert "Only synthetic recordings need it" in findings["OpenGL (EGL)"]["detail"]


def test_recordings_are_measured_without_opengl_and_plots(bare: dict[str, str], grey: Path, tmp_path: Path) -> None:
    result = hamuco("bench", "accuracy", str(grey), folder=tmp_path, environment=bare | NO_DRIVER)
    assert result.returncode == 0, result.stderr
    assert "grey, 3 moments" in result.stdout
    assert 'no plots: they need matplotlib: pip install "hamuco[bench]"' in result.stdout
    assert result.stderr.strip() == ""


def test_h264_is_played_without_its_encoder(bare: dict[str, str], tmp_path: Path) -> None:
    write_recording(tmp_path / "small", 3, cameras=2, codec="h264")
    result = hamuco(
        "live", "--replay", "small", "--fast", "--report", "r.json", folder=tmp_path, environment=bare | NO_DRIVER
    )
    assert result.returncode == 0, result.stderr
    report = json.loads((tmp_path / "r.json").read_text())
    assert (report["sets"]["seen"], report["truth"]["hands"]) == (3, 6)


@pytest.mark.slow
def test_the_demo_needs_no_optional_library(bare: dict[str, str], tmp_path: Path) -> None:
    result = hamuco("demo", "--report", "r.json", folder=tmp_path, environment=bare | NO_DRIVER)
    assert result.returncode == 0, result.stderr
    assert "no display here" in result.stderr
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["truth"]["coverage"] > 0.5
    assert report["truth"]["mpjpe_mm"]["median"] < 24  # twice what a view is said to be good to, as in the bench's test


class Terminal:
    """A run of the command at a terminal, on which its progress is seen."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        own, theirs = pty.openpty()
        self.process = subprocess.Popen(
            [*COMMAND, *arguments],
            cwd=folder, env=clean_environment() | {"TERM": "xterm"}, stdin=theirs, stdout=theirs, stderr=theirs,
            start_new_session=True,
        )  # fmt: skip
        os.close(theirs)
        self._terminal = own
        self.text = ""

    def read_until(self, pattern: str) -> None:
        """Until it is printed. Raises AssertionError when the program ends first."""
        while not re.search(pattern, self.text):
            assert self._read(), self.text

    def end(self, kind: signal.Signals) -> int:
        """Send a signal, as a terminal does to all processes of the run, and wait."""
        if kind == signal.SIGKILL:
            self.process.kill()
        else:
            os.killpg(self.process.pid, kind)
        while self._read():
            pass
        os.close(self._terminal)
        return self.process.wait(60)

    def _read(self) -> bool:
        part = b""
        with suppress(OSError):  # Linux's answer when all other ends are closed
            part = os.read(self._terminal, 4096)
        self.text += part.decode(errors="replace")
        return bool(part)


SMALL = ("--rig", "stereo", "--size", "160x120", "--hands", "1", "--preset", "plain")
SHORT, LONG = (*SMALL, "--seconds", "0.2"), (*SMALL, "--seconds", "60")
SOME_OF_THEM = r"[1-9]\d*/3600"  # of the frames of LONG


@pytest.mark.slow
def test_ctrl_c_leaves_nothing_and_says_so(tmp_path: Path) -> None:
    run = Terminal(tmp_path, "synth", "clip", *LONG)
    run.read_until(SOME_OF_THEM)
    assert (tmp_path / "clip.partial").is_dir()
    assert run.end(signal.SIGINT) == 130
    assert "interrupted: nothing is left of clip" in run.text
    assert "Traceback" not in run.text
    assert list(tmp_path.iterdir()) == []
    assert hamuco("synth", "clip", *SHORT, folder=tmp_path).returncode == 0


@pytest.mark.slow
def test_what_a_killed_run_leaves_is_not_taken_for_a_recording(tmp_path: Path) -> None:
    run = Terminal(tmp_path, "synth", "clip", *LONG)
    run.read_until(SOME_OF_THEM)
    assert run.end(signal.SIGKILL) == -signal.SIGKILL
    assert [path.name for path in tmp_path.iterdir()] == ["clip.partial"]
    for command in (("live", "--replay"), ("bench", "accuracy")):
        for name in ("clip", "clip.partial"):
            result = hamuco(*command, name, folder=tmp_path)
            assert result.returncode == 1, result.stdout
            assert f"error: {name}" in one_line(result.stderr)
    again = hamuco("synth", "clip", *SHORT, folder=tmp_path)
    assert again.returncode == 1
    assert "clip.partial is left from an interrupted run; look at it, then remove or rename it" in one_line(
        again.stderr
    )
    shutil.rmtree(tmp_path / "clip.partial")
    assert hamuco("synth", "clip", *SHORT, folder=tmp_path).returncode == 0
    assert Recording.open(tmp_path / "clip").warnings == ()
