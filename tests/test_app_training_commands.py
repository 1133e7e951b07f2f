"""`hamuco train`, as a user starts it."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import pytest
from command_line import hamuco, interrupted, one_line
from small_training import small_config, write_drawn_hands

from hamuco.app.offline import DEMO_CLIP
from hamuco.app.training_commands import _folder_of
from hamuco.training.checkpoint import load_checkpoint
from hamuco.training.config import config_text
from hamuco.training.curves import LOG, read_log
from hamuco.training.keeper import LAST


def test_a_training_is_started_and_goes_on(tmp_path: Path) -> None:
    write_drawn_hands(tmp_path / "hands", 4)
    (tmp_path / "mine.toml").write_text(config_text(small_config(Path("hands"))))
    started = hamuco("train", "mine.toml", "--set", "steps=3", folder=tmp_path)
    assert started.returncode == 0, started.stderr
    assert started.stdout.splitlines()[0].startswith("step 0 of 3; single ")
    assert "step 3 of 3; loss " in started.stdout
    assert [row["step"] for row in read_log(tmp_path / "runs" / "mine" / LOG)] == [0, 2, 3]
    # It was of three steps; one of six would have had other learning rates.
    other = hamuco("train", "mine.toml", "--resume", folder=tmp_path)
    assert other.returncode == 1
    assert "runs/mine/last.pt is of another training: steps was 3 and is 6 now" in one_line(other.stderr)
    own = hamuco("train", "runs/mine/config.toml", "--resume", folder=tmp_path)
    assert (own.returncode, own.stdout) == (0, "runs/mine has all of its 3 steps already: nothing to do\n")
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["mine"]


def test_only_the_config_of_a_training_has_a_folder(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    assert _folder_of(config, 1) == Path("runs/config")
    (tmp_path / LOG).touch()
    assert _folder_of(config, 1) == tmp_path
    assert _folder_of(config, 3).resolve() == tmp_path.parent
    assert _folder_of(tmp_path / "mine.toml", 1) == Path("runs/mine")
    assert _folder_of(Path("hamuco-s"), 1) == Path("runs/hamuco-s")


def test_a_file_that_is_missing_is_said_before_torch_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise AssertionError('torch is loaded')\n")
    for arguments, words in (
        (("nope",), "there is no file nope, and no configuration of this name; known are hamuco-r18, "),
        (("my-rig", "--set", "steps"), "--set 'steps' is not KEY=VALUE"),
        (("--help",), ""),
    ):
        result = hamuco("train", *arguments, folder=tmp_path, environment={"PYTHONPATH": str(tmp_path)})
        assert result.returncode == (1 if words else 0)
        assert words in one_line(result.stderr)


def test_what_is_wrong_with_a_configuration_is_said(tmp_path: Path) -> None:
    result = hamuco("train", "hamuco-s", "--set", "stepz=3", folder=tmp_path)
    assert result.returncode == 1
    assert result.stderr == "error: configuration hamuco-s:\n  unknown key stepz, did you mean steps?\n"
    assert list(tmp_path.iterdir()) == []


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise ModuleNotFoundError('No module named torch', name='torch')\n")
    without = {"PYTHONPATH": str(tmp_path)}
    for command in (("train", "my-rig"), ("export", "best.pt", "out"), ("evaluate", "torch.py", str(DEMO_CLIP))):
        result = hamuco(*command, folder=tmp_path, environment=without)
        assert result.returncode == 1
        assert 'torch, which is not installed: pip install "hamuco[train]"' in one_line(result.stderr)
    assert {path.name for path in tmp_path.iterdir()} <= {"torch.py", "__pycache__"}


@pytest.mark.skipif(importlib.util.find_spec("timm") is not None, reason="timm is installed")
def test_a_backbone_that_needs_timm_says_so(tmp_path: Path) -> None:
    write_drawn_hands(tmp_path / "hands", 4)
    (tmp_path / "mine.toml").write_text(config_text(small_config(Path("hands"))))
    backbone = "model.estimator.backbone=timm:resnet18"
    result = hamuco("train", "mine.toml", "--set", backbone, folder=tmp_path)
    assert result.returncode == 1
    assert "timm:resnet18 needs the timm library: pip install timm" in one_line(result.stderr)
    assert not (tmp_path / "runs").exists()


def test_too_little_memory_is_said(tmp_path: Path) -> None:
    write_drawn_hands(tmp_path / "hands", 4)
    # 64 x 64 px x 3 bytes x 1e9 views are 12 TB, which no machine has.
    (tmp_path / "mine.toml").write_text(config_text(small_config(Path("hands"), views=1_000_000_000)))
    result = hamuco("train", "mine.toml", folder=tmp_path)
    assert result.returncode == 1
    assert "out of memory with batches of 4 hands in 1000000000 views of 64 px" in one_line(result.stderr)
    assert "lower batch" in result.stderr


@pytest.mark.slow
def test_ctrl_c_is_no_loss(tmp_path: Path) -> None:
    write_drawn_hands(tmp_path / "hands", 4)
    config = small_config(Path("hands"), steps=60, validation={"sources": []}, run={"checkpoint_every": 10})
    (tmp_path / "mine.toml").write_text(config_text(config))
    ended = interrupted("train", "mine.toml", folder=tmp_path, ready=lambda printed: "step 14 of 60" in printed)
    assert ended.returncode == 130
    saved = load_checkpoint(tmp_path / "runs" / "mine" / LAST).step
    assert 14 <= saved < 30  # not only the step 10 of the last checkpoint that was due
    assert one_line(ended.stderr) == (
        f"interrupted: with --resume it goes on after step {saved} of 60, from runs/mine/last.pt"
    )
    assert not list((tmp_path / "runs" / "mine").glob("*.unfinished"))
    resumed = hamuco("train", "mine.toml", "--resume", folder=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert resumed.stdout.startswith(f"going on after step {saved} of 60")
    assert [row["step"] for row in read_log(tmp_path / "runs" / "mine" / LOG)] == list(range(2, 61, 2))


@pytest.mark.slow
def test_ctrl_c_while_labelling_leaves_no_half_written_labels(tmp_path: Path) -> None:
    shutil.copytree(DEMO_CLIP, tmp_path / "rec")
    labels = tmp_path / "rec" / "labels"
    ended = interrupted("label", "rec", folder=tmp_path, ready=lambda printed: labels.is_dir())
    assert ended.returncode == 130
    assert one_line(ended.stderr).endswith("interrupted: the same command goes on from here")
    assert [path.name for path in labels.rglob("*")] == ["landmarks.partial"]


@pytest.mark.slow
def test_ctrl_c_while_measuring_saves_nothing(tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ("evaluate", "hamuco-s", str(DEMO_CLIP), "--out", "out")
    ended = interrupted(*arguments, folder=tmp_path, ready=lambda printed: out.is_dir())
    assert ended.returncode == 130
    assert one_line(ended.stderr).endswith("interrupted: nothing new is in out")
    assert list(out.iterdir()) == []
