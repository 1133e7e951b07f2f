"""The command as a user types it: exit codes, and errors that say what to do."""

from __future__ import annotations

import errno
import json
from importlib.metadata import version
from pathlib import Path

import pytest
import rigs
from capture_footage import SIZE, make_recording
from command_line import hamuco, one_line

from hamuco.app.cli import _said
from hamuco.calibration.rig_file import save_rig
from hamuco.streaming.publisher import Publisher


def test_help_teaches() -> None:
    result = hamuco("--help")
    assert result.returncode == 0
    for command in (
        "synth",
        "import",
        "label",
        "train",
        "export",
        "evaluate",
        "live",
        "demo",
        "subscribe",
        "doctor",
        "bench",
    ):
        assert f" {command} " in result.stdout
    assert "Start with: hamuco doctor, then hamuco demo" in result.stdout


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (
            ("synth",),
            ("ring4, dome8, table3, stereo, random6", "plain, room or hard", "mjpeg", "h264", "webcam", "--board",
             "Example: hamuco synth rec --rig ring4"),
        ),
        (
            ("bench", "accuracy"),
            ("or freihand", "metric, or hamuco", "--limit", "hamuco bench accuracy --dataset hanco ~/HanCo"),
        ),
        (("demo",), ("the clip that comes with the package", "--calibration")),
        (("live",), ("--runtime", "openvino on the CPU", "hamuco live --replay rec --model hamuco-s --runtime tensorrt")),
    ],
)  # fmt: skip
def test_the_help_of_commands_names_what_can_be_given(command: tuple[str, ...], words: tuple[str, ...]) -> None:
    result = hamuco(*command, "--help")
    assert result.returncode == 0
    for word in words:
        assert word in result.stdout


def test_the_version_is_printed() -> None:
    result = hamuco("--version")
    assert (result.returncode, result.stdout) == (0, f"hamuco {version('hamuco')}\n")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError("its own words"), "its own words"),
        (ValueError(28), "28"),
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device: make room on that disk"),
        (OSError(errno.EACCES, "Permission denied", "a/b"), "a/b: Permission denied: choose one that you may use"),
        (OSError(errno.ENOSPC, "No space left", "a", None, "b"), "a -> b: No space left: make room on that disk"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "a"), "a: No such file or directory"),
    ],
)
def test_what_the_system_says_is_a_sentence(error: ValueError | OSError, said: str) -> None:
    assert _said(error) == said


def test_doctor_finds_what_is_needed() -> None:
    result = hamuco("doctor", "--json")
    assert result.returncode == 0, result.stdout
    findings = {finding["what"]: finding for finding in json.loads(result.stdout)}
    assert findings["CPU runtime"]["good"]
    assert "OpenVINO" in findings["CPU runtime"]["detail"]


def test_live_on_a_recording_without_hands_reports_none(tmp_path: Path) -> None:
    recording = make_recording(tmp_path, ["a", "b"], count=6)
    result = hamuco("live", "--replay", str(tmp_path / "recording"), "--fast", "--report", str(tmp_path / "r.json"))
    assert result.returncode == 0, result.stderr
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["sets"]["seen"] == 6
    assert report["hands"]["by_views"] == {"1": 0, "2": 0}
    assert report["reprojection_px"] == {"median": None, "p95": None}
    assert recording.rig.names == ("a", "b")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("live",), 2, "either --replay RECORDING, or --camera"),
        (("live", "--replay", "nothing-here"), 1, "is not a recording"),
        (("live", "--camera", "0"), 2, "need their --calibration"),
        (("live", "--replay", "x", "--camera", "0"), 2, "brings its own cameras"),
        (
            ("live", "--replay", "x", "--runtime", "tensorrt"),
            2,
            "--runtime tensorrt needs --model, hamuco-s for instance",
        ),
        (("live", "--replay", "x", "--model", "hamuco-s", "--runtime", "cuda"), 2, "'tensorrt-rtx'"),
        (("live", "--camera", "0", "--calibration", "nothing.toml"), 1, "nothing.toml"),
        (("subscribe", "nonsense"), 1, "expected tcp://HOST:PORT"),
        (("subscribe", "tcp://127.0.0.1:59999", "--timeout", "0.3"), 1, "is `hamuco live` running"),
        (("subscribe", "--timeout", "-1"), 2, "greater than or equal to 0"),
        (("demo", "nothing-here"), 1, "nothing-here is not a recording"),
        (("demo", "--report", "."), 1, "cannot write the report to .: it is a folder, name a file"),
        (("demo", "--report", "absent/r.json"), 1, "cannot write the report to absent/r.json: there is no folder"),
        (
            ("bench", "latency", "--out", f"{__file__}/figures"),
            1,
            f"figures cannot be made, {__file__} is a file: choose",
        ),
        (("import", "out", "--calibration", "absent.toml", "--video", "{camera}.mp4", "--fps", "30"), 1, "absent.toml"),
    ],
)
def test_wrong_use_gets_one_clear_error(arguments: tuple[str, ...], code: int, words: str, tmp_path: Path) -> None:
    result = hamuco(*arguments, folder=tmp_path)
    assert result.returncode == code, result.stderr
    assert words in one_line(result.stderr)


@pytest.mark.parametrize("runtime", ["tensorrt", "tensorrt-rtx"])
def test_a_gpu_that_is_asked_for_and_not_there_is_an_error_before_the_run(tmp_path: Path, runtime: str) -> None:
    make_recording(tmp_path, ["a", "b"], count=4)
    arguments = ("--replay", str(tmp_path / "recording"), "--model", "hamuco-s", "--runtime", runtime)
    result = hamuco("live", *arguments, folder=tmp_path, environment={"CUDA_VISIBLE_DEVICES": ""})
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert "no NVIDIA driver here" in line or "the driver sees no GPU" in line.lower()


def test_cameras_of_the_rig_must_be_given_and_be_there(tmp_path: Path) -> None:
    save_rig(rigs.ring_rig(2), tmp_path / "rig.toml")
    none = hamuco("demo", "--calibration", "rig.toml", folder=tmp_path)
    assert none.returncode == 2
    assert 'Put source = "DEVICE" into the file, or say hamuco live --camera' in one_line(none.stderr)
    one = hamuco("live", "--camera", "0", "--calibration", "rig.toml", folder=tmp_path)
    assert one.returncode == 2
    assert "1 --camera for a rig of 2" in one_line(one.stderr)
    absent = hamuco(
        "live", "--camera", "/dev/video98", "--camera", "/dev/video99", "--calibration", "rig.toml", folder=tmp_path
    )
    assert absent.returncode == 1
    assert "does not open: check that it is connected" in absent.stderr


def test_a_video_of_another_size_than_the_calibration_is_refused(tmp_path: Path) -> None:
    recording = make_recording(tmp_path, ["a", "b"], count=4)
    save_rig(rigs.ring_rig(2), tmp_path / "rig.toml")  # 1280x720
    videos = [str(recording.videos[name]) for name in ("a", "b")]
    result = hamuco("live", "--camera", videos[0], "--camera", videos[1], "--calibration", str(tmp_path / "rig.toml"))
    assert result.returncode == 1
    assert f"delivers {SIZE[0]}x{SIZE[1]} px but its calibration is for 1280x720" in result.stderr


def test_an_occupied_port_is_said_before_the_run(tmp_path: Path) -> None:
    make_recording(tmp_path, ["a", "b"], count=4)
    with Publisher("tcp://127.0.0.1:*") as other:
        result = hamuco("live", "--replay", str(tmp_path / "recording"), "--publish", other.endpoint)
    assert result.returncode == 1
    assert "another program publishes there" in result.stderr
