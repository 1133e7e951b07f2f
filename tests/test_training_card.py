"""What the card of a bundle says of a training."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

from hamuco.training.card import accuracy, training_data
from hamuco.training.checkpoint import Checkpoint
from hamuco.training.config import TrainConfig, load_config
from hamuco.training.curves import TrainingLog


def packaged() -> TrainConfig:
    return load_config("hamuco-s", ["start.weights=runs/before/best.pt"])


def at_step(step: int, best: float = math.inf) -> Checkpoint:
    return Checkpoint(step, 2, {}, {}, {}, {}, best, "free hand", {})


def test_training_data_says_what_how_long_and_from_where() -> None:
    rendered = "10,000 rendered hands (room), 10,000 rendered hands (hard), 6,000 rendered hands (room)"
    rendered += ", 6,000 rendered hands (hard)"
    said = training_data(at_step(17_000), packaged())
    assert said == f"{rendered}; 17000 steps of 12 hands in 4 views; started from the weights best.pt"


def test_accuracy_is_that_of_the_very_step(tmp_path: Path) -> None:
    log = TrainingLog(tmp_path, 0)
    log.write({"step": 1700, "fused_pa_mpjpe_mm": 6.284, "fused_mpjpe_mm": 9.5, "single_mpjpe_mm": 14.0})
    log.write({"step": 1750, "learning_rate": 1e-3})
    log.close()
    hands = "on 192 hands of the validation (400 rendered hands (room), 400 rendered hands (hard))"
    best = "PA-MPJPE of the fused hand 6.28 mm"
    said = accuracy(tmp_path / "best.pt", at_step(1700, 6.284), packaged())
    assert said == f"{best}, MPJPE (root-relative) of the fused hand 9.5 mm, {hands}"
    # Between validations, and where the log is not beside the checkpoint, only the best so far is known.
    assert (
        accuracy(tmp_path / "last.pt", at_step(1750, 6.284), packaged())
        == f"{best} at its best until step 1750, {hands}"
    )
    moved = accuracy(tmp_path / "elsewhere" / "best.pt", at_step(1700, 6.284), packaged())
    assert moved == f"{best} at its best until step 1700, {hands}"


def test_errors_in_2d_are_said_as_such_and_nothing_is_made_up(tmp_path: Path) -> None:
    config = packaged()
    config = replace(config, validation=replace(config.validation, best="refined_2d"))
    said = accuracy(tmp_path / "best.pt", at_step(5, 0.0123), config)
    assert said.startswith("2D error of refined views 0.0123 of a crop's width at its best until step 5, on ")
    assert accuracy(tmp_path / "last.pt", at_step(5), config) == "not measured"
