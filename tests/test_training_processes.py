"""Several processes that train together."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from command_line import clean_environment
from small_training import small_config, write_drawn_hands

from hamuco.training.checkpoint import CheckpointError, load_checkpoint
from hamuco.training.config import config_text
from hamuco.training.curves import LOG, read_log
from hamuco.training.keeper import LAST
from hamuco.training.processes import this_process
from hamuco.training.trainer import train


def test_one_process_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with this_process("cpu") as here:
        assert (here.rank, here.ranks, here.device, here.first) == (0, 1, torch.device("cpu"), True)
        with here.before_the_others():
            pass


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_said() -> None:
    with pytest.raises(ValueError, match=r'run\.device is "cuda", but torch finds no GPU'), this_process("cuda"):
        pass


@pytest.mark.slow
def test_two_processes_train_one_network(tmp_path: Path) -> None:
    config = small_config(write_drawn_hands(tmp_path / "hands", 16))
    (tmp_path / "two.toml").write_text(config_text(config))
    command = [
        *(
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc-per-node",
            "2",
            "-m",
            "hamuco.app.cli",
        ),
        *("train", str(tmp_path / "two.toml"), "--out", str(tmp_path / "two")),
    ]
    for arguments, words in (([], "step 6 of 6; loss "), (["--resume"], "has all of its 6 steps already")):
        result = subprocess.run(
            [*command, *arguments], capture_output=True, text=True, cwd=sys.prefix, env=clean_environment(),
            timeout=240, check=False,
        )  # fmt: skip
        assert result.returncode == 0, result.stderr
        assert result.stdout.count(words) == 1  # only the first one speaks
    checkpoint = load_checkpoint(tmp_path / "two" / LAST)
    assert (checkpoint.step, checkpoint.processes) == (6, 2)
    rows = read_log(tmp_path / "two" / LOG)
    assert [row["step"] for row in rows] == [0, 2, 3, 4, 6]
    # Each has hands of its own, so that together they learn something else than one alone.
    train(config, tmp_path / "one")
    alone = load_checkpoint(tmp_path / "one" / LAST).network
    learnt = [name for name in alone if name.endswith("weight")]
    assert not all(torch.equal(alone[name], checkpoint.network[name]) for name in learnt)
    with pytest.raises(CheckpointError, match="was trained by 2 processes, these are 1"):
        train(config, tmp_path / "two", resume=True)
