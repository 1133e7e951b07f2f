"""`hamuco train`, as a user starts it."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import pytest
from command_line import hamuco, interrupted, one_line
from small_training import small_config, write_drawn_hands

from hamuco.app.offline import DEMO_CLIP
from hamuco.app.training_commands import _folder_of, _how_to_go_on
from hamuco.training.checkpoint import load_checkpoint
from hamuco.training.config import config_from, config_text
from hamuco.training.config_file import read_values
from hamuco.training.curves import LOG, read_log
from hamuco.training.keeper import CONFIG, LAST
from hamuco.training.rounds import train_rounds


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
    # Whatever comes first: crops are cut before there is a log.
    config.write_text(config_text(small_config(tmp_path / "hands")))
    for made in ("crops", LOG, LAST, "round-1"):
        (tmp_path / made).mkdir()
        assert _folder_of(config, 1) == tmp_path
        assert _folder_of(tmp_path / "mine.toml", 1) == Path("runs/mine")
        (tmp_path / made).rmdir()
    config.write_text("steps = 3\n")  # somebody's own, beside crops of theirs
    (tmp_path / "crops").mkdir()
    assert _folder_of(config, 1) == Path("runs/config")
    assert _folder_of(Path("hamuco-s"), 1) == Path("runs/hamuco-s")


def test_rounds_go_on_by_the_config_of_the_whole_training(tmp_path: Path) -> None:
    write_drawn_hands(tmp_path / "hands", 4)
    config = small_config(
        tmp_path / "hands", rounds=2, steps=2, validation={"sources": []}, run={"checkpoint_every": 1}
    )
    folder = tmp_path / "runs"

    def stop(what: str, done: int, total: int) -> None:
        if what.startswith("training") and (folder / "round-2").exists() and done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_rounds(config, folder, progress=stop)
    assert load_checkpoint(folder / "round-2" / LAST).step == 1
    with pytest.raises(
        ValueError, match=rf"round-2/{CONFIG} is of one round, not of .* of 2: go on with {folder}/{CONFIG}, or"
    ):
        _folder_of(folder / "round-2" / CONFIG, 2)
    whole = config_from(read_values(str(folder / CONFIG)), CONFIG)
    told: list[str] = []
    train_rounds(whole, _folder_of(folder / CONFIG, whole.rounds), resume=True, tell=told.append)
    assert "going on after step 1 of 2" in told
    assert load_checkpoint(folder / "round-2" / LAST).step == 2
    assert {path.name for path in tmp_path.iterdir()} == {"hands", "runs"}
    assert {path.name for path in folder.iterdir()} == {"round-1", "round-2", CONFIG}


def test_what_an_interrupted_training_goes_on_from_is_said(tmp_path: Path) -> None:
    config = small_config(write_drawn_hands(tmp_path / "hands", 4), validation={"sources": []})
    assert _how_to_go_on(config, tmp_path / "out") == (
        "nothing was saved yet; checkpoints come every 3 steps (run.checkpoint_every)"
    )

    def stop(what: str, done: int, total: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_rounds(config, tmp_path / "out", progress=stop)
    last = tmp_path / "out" / LAST
    assert _how_to_go_on(config, tmp_path / "out") == f"with --resume it goes on after step 3 of 6, from {last}"
    last.write_bytes(last.read_bytes()[:100])
    assert _how_to_go_on(config, tmp_path / "out") == f"the last checkpoint is {last}"


@pytest.mark.slow
@pytest.mark.parametrize("rank", ["0", "1"])
def test_of_several_processes_one_says_that_they_were_interrupted(
    tmp_path: Path, rank: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", rank)  # as torchrun does
    # Of so many batches it reads for minutes, before the first step.
    config = small_config(write_drawn_hands(tmp_path / "hands", 4), validation={"batches": 100_000})
    (tmp_path / "mine.toml").write_text(config_text(config))
    begun = tmp_path / "runs" / "mine" / CONFIG
    ended = interrupted("train", "mine.toml", folder=tmp_path, ready=lambda printed: begun.is_file())
    assert ended.returncode == 130
    said = "interrupted: nothing was saved yet; checkpoints come every 3 steps (run.checkpoint_every)"
    assert one_line(ended.stderr) == (said if rank == "0" else "")


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
@pytest.mark.parametrize("terminated", [False, True], ids=["Ctrl-C", "SIGTERM"])
def test_being_stopped_is_no_loss(terminated: bool, tmp_path: Path) -> None:
    write_drawn_hands(tmp_path / "hands", 4)
    config = small_config(
        Path("hands"), steps=200, validation={"sources": []}, run={"checkpoint_every": 150, "workers": 1}
    )
    (tmp_path / "mine.toml").write_text(config_text(config))
    ended = interrupted(
        "train", "mine.toml", folder=tmp_path, ready=lambda printed: "step 14 of 200" in printed, terminated=terminated
    )
    assert ended.returncode == 130
    saved = load_checkpoint(tmp_path / "runs" / "mine" / LAST).step
    assert 14 <= saved < 150  # no checkpoint was due
    assert one_line(ended.stderr).endswith(
        f"interrupted: with --resume it goes on after step {saved} of 200, from runs/mine/last.pt"
    )
    assert not list((tmp_path / "runs" / "mine").glob("*.unfinished"))
    resumed = hamuco("train", "mine.toml", "--resume", folder=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert resumed.stdout.startswith(f"going on after step {saved} of 200")
    assert [row["step"] for row in read_log(tmp_path / "runs" / "mine" / LOG)] == list(range(2, 201, 2))


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
    ended = interrupted(*arguments, folder=tmp_path, ready=lambda printed: "demo_clip: " in printed)
    assert ended.returncode == 130
    assert one_line(ended.stderr).endswith("interrupted: nothing new is in out")
    assert not out.exists()
