"""`hamuco train`, as a user starts it."""

from __future__ import annotations

from pathlib import Path

from command_line import hamuco, one_line
from small_training import small_config, write_drawn_hands

from hamuco.training.config import config_text
from hamuco.training.curves import LOG, read_log


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


def test_what_is_wrong_with_a_configuration_is_said(tmp_path: Path) -> None:
    result = hamuco("train", "hamuco-s", "--set", "stepz=3", folder=tmp_path)
    assert result.returncode == 1
    assert result.stderr == "error: configuration hamuco-s:\n  unknown key stepz, did you mean steps?\n"
    assert list(tmp_path.iterdir()) == []
