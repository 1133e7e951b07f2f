"""Training: it learns, goes on exactly, and stops where it must."""

from __future__ import annotations

import os
import signal
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from full_disk import room_for
from made_up_datasets import write_hanco
from small_training import small_config, write_drawn_hands

from hamuco.training import keeper
from hamuco.training.augment import PLAIN
from hamuco.training.checkpoint import Checkpoint, CheckpointError, load_checkpoint, save_checkpoint
from hamuco.training.config import config_values, load_config
from hamuco.training.crop_set import CropSet, CropSetWriter
from hamuco.training.curves import LOG, read_log
from hamuco.training.keeper import BEST, CONFIG, LAST
from hamuco.training.structuring import unstructure
from hamuco.training.trainer import BAD_BATCH, TrainingError, train
from hamuco.training.weights import load_network


@pytest.fixture(scope="module")
def crops(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_drawn_hands(tmp_path_factory.mktemp("trainer") / "hands", 16)


@pytest.fixture(scope="module")
def trained(crops: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six steps in a row."""
    out = tmp_path_factory.mktemp("trainer") / "out"
    train(small_config(crops), out)
    return out


def until(step: int) -> Any:
    """Stops a training like Ctrl-C, after a step."""

    def stop(what: str, done: int, total: int) -> None:
        if what.startswith("training") and done == step:
            raise KeyboardInterrupt

    return stop


def same_weights(one: Path, other: Path) -> bool:
    """Bit by bit, with the optimizer's."""
    ours, theirs = load_checkpoint(one / LAST), load_checkpoint(other / LAST)
    moments = zip(ours.optimizer["state"].values(), theirs.optimizer["state"].values(), strict=True)
    return all(torch.equal(value, theirs.network[name]) for name, value in ours.network.items()) and all(
        torch.equal(mine[name], yours[name]) for mine, yours in moments for name in mine
    )


def test_it_learns(crops: Path, tmp_path: Path) -> None:
    config = small_config(
        crops,
        steps=20,
        batch=8,
        learning_rate=2e-3,
        cosine=False,
        loss={"weights": {"true_joints": 1.0, "true_rotations": 0.5}},
        augmentation=unstructure(PLAIN),
        validation={"every": 20, "batches": 2},
        run={"log_every": 5, "checkpoint_every": 20},
    )
    told: list[str] = []
    train(config, tmp_path, tell=told.append)
    rows = read_log(tmp_path / LOG)
    assert [row["step"] for row in rows] == [0, 5, 10, 15, 20]
    # With three seeds, the loss fell to 0.81 to 0.84 and the errors to 0.76, 0.86 and 0.64 or less.
    assert rows[-1]["total"] < 0.9 * rows[1]["total"]
    assert rows[-1]["single_mpjpe_mm"] < 0.85 * rows[0]["single_mpjpe_mm"]
    assert rows[-1]["fused_mpjpe_mm"] < 0.95 * rows[0]["fused_mpjpe_mm"]
    assert rows[-1]["single_2d"] < 0.8 * rows[0]["single_2d"]
    assert len(told) == 6
    assert told[-1] == f"20 steps done. Next: hamuco export {tmp_path / BEST} BUNDLE"
    assert told[-2].startswith("step 20 of 20; loss ")
    assert told[-2].endswith("the best so far")


def test_what_is_left_is_whole(trained: Path, crops: Path) -> None:
    files = {path.name for path in trained.iterdir()}
    assert files - {"tensorboard"} == {LAST, BEST, CONFIG, LOG, "curves.png"}
    assert load_config(str(trained / CONFIG)) == small_config(crops)
    network, config = load_network(trained / BEST)
    assert config == small_config(crops)
    checkpoint = load_checkpoint(trained / LAST)
    assert checkpoint.step == 6
    rows = read_log(trained / LOG)
    figures = {row["fused_mpjpe_mm"]: row["step"] for row in rows[1:] if row["fused_mpjpe_mm"] > 0}
    assert checkpoint.best == pytest.approx(min(figures), rel=1e-5)  # six digits are logged
    assert load_checkpoint(trained / BEST).step == figures[min(figures)]
    assert [row["learning_rate"] for row in rows[1:]] == pytest.approx([config.rate(step - 1) for step in (2, 3, 4, 6)])
    assert all(value.isfinite().all() for value in network.state_dict().values())


def test_a_training_goes_on_exactly(trained: Path, crops: Path, tmp_path: Path) -> None:
    config = small_config(crops)
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path, progress=until(5))  # two steps after the checkpoint, which are lost
    assert load_checkpoint(tmp_path / LAST).step == 3
    told: list[str] = []
    train(config, tmp_path, resume=True, tell=told.append)
    assert told[0] == "going on after step 3 of 6"
    assert same_weights(trained, tmp_path)
    drop = ("crops_per_s",)
    ours, theirs = ([{**row, **dict.fromkeys(drop, 0.0)} for row in read_log(out / LOG)] for out in (trained, tmp_path))
    assert len(ours) == len(theirs)
    for one, other in zip(ours[2:], theirs[2:], strict=True):  # the row at step 4 has a mean over steps 3 and 4
        np.testing.assert_array_equal(list(one.values())[-8:], list(other.values())[-8:])


def test_ctrl_c_saves_after_the_step(trained: Path, crops: Path, tmp_path: Path) -> None:
    def press(what: str, done: int, total: int) -> None:
        if what.startswith("training") and done == 4:
            os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        train(small_config(crops), tmp_path, progress=press)
    assert signal.getsignal(signal.SIGINT) is before
    assert load_checkpoint(tmp_path / LAST).step == 4  # due are 3 and 6
    train(small_config(crops), tmp_path, resume=True)
    assert same_weights(trained, tmp_path)


def test_a_second_ctrl_c_does_not_wait(crops: Path, tmp_path: Path) -> None:
    def press(what: str, done: int, total: int) -> None:
        if what.startswith("training") and done == 4:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(small_config(crops), tmp_path, progress=press)
    assert load_checkpoint(tmp_path / LAST).step == 3


def test_a_full_disk_costs_no_more_than_the_steps(trained: Path, crops: Path, tmp_path: Path) -> None:
    config = small_config(crops)
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path, progress=until(4))
    with (
        room_for(1_000_000),
        pytest.raises(OSError, match=r"last\.pt cannot be written .* what was there before is whole"),
    ):
        train(config, tmp_path, resume=True)
    train(config, tmp_path, resume=True)
    assert same_weights(trained, tmp_path)
    told: list[str] = []
    train(config, tmp_path, resume=True, tell=told.append)
    assert told == [f"{tmp_path} has all of its 6 steps already: nothing to do"]


def test_the_best_is_kept_before_the_last_says_so(crops: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved: list[str] = []

    def only_the_first_finds_room(path: Path, checkpoint: Checkpoint) -> None:
        saved.append(path.name)
        with room_for(1000) if len(saved) > 1 else nullcontext():
            save_checkpoint(path, checkpoint)

    monkeypatch.setattr(keeper, "save_checkpoint", only_the_first_finds_room)
    config = small_config(crops, steps=1)
    with pytest.raises(OSError, match="cannot be written"):
        train(config, tmp_path)
    monkeypatch.undo()
    assert len(saved) == 2
    train(config, tmp_path, resume=True)
    assert load_checkpoint(tmp_path / BEST).step == 1


# What the estimator learns by itself: no loss is about refined hands.
FIRST_STAGE = {
    "loss": {"weights": {"refined_pixels": 0.0, "consistency": 0.0, "distillation": 0.0, "refined_pose_prior": 0.0}}
}


def test_a_first_stage_is_not_judged_by_a_network_that_learns_nothing(crops: Path, tmp_path: Path) -> None:
    for best, advised in (("fused_pa_mpjpe_mm", "single_pa_mpjpe_mm"), ("refined_2d", "single_2d")):
        with pytest.raises(TrainingError, match=rf'best is "{best}", but .* learns nothing: choose "{advised}"'):
            train(small_config(crops, **FIRST_STAGE, validation={"best": best}), tmp_path / "out")
        assert not (tmp_path / "out").exists()
    config = small_config(crops, **FIRST_STAGE, validation={"best": "single_mpjpe_mm"})
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "out", progress=until(4))
    assert (tmp_path / "out" / BEST).is_file()
    assert all(np.isnan(row["fused_mpjpe_mm"]) for row in read_log(tmp_path / "out" / LOG))
    # One that was begun when nobody minded goes on.
    before = load_checkpoint(tmp_path / "out" / LAST)
    config = small_config(crops, **FIRST_STAGE, validation={"best": "fused_mpjpe_mm"})
    save_checkpoint(tmp_path / "out" / LAST, replace(before, config=config_values(config), best=30.0))
    train(config, tmp_path / "out", resume=True)
    assert load_checkpoint(tmp_path / "out" / LAST).step == 6
    assert load_checkpoint(tmp_path / "out" / LAST).best == 30.0
    assert load_checkpoint(tmp_path / "out" / BEST).step == 3


def test_what_is_missing_is_said_before_anything_takes_long(crops: Path, tmp_path: Path) -> None:
    rendered = {"synthetic": {"preset": "plain", "seed": 3, "samples": 1000}}
    for changes, words in (
        ({"sources": [rendered, {"recording": str(tmp_path)}]}, "is not a recording: it has no rig.toml"),
        ({"sources": [rendered, {"crops": str(tmp_path)}]}, "is not a crop set"),
        ({"sources": [rendered], "validation": {"sources": [{"hanco": "nowhere"}]}}, "nowhere"),
        ({"sources": [rendered], "start": {"weights": "nowhere.pt"}}, r"nowhere\.pt is not there"),
        ({"sources": [rendered], "start": {"weights": str(crops)}}, "is no bundle: it has no model.toml"),
        ({"sources": [rendered], "start": {"backbone": "nowhere.pth"}}, r"nowhere\.pth: this is not there"),
        ({"sources": [rendered], "start": {"backbone": __file__}}, "is not a torch file of plain tensors"),
        (
            {"run": {"threads": 100_000}},
            r"run\.threads is 100000, which is too many for \d+ cores, at most \d+: 0 takes",
        ),
        ({"run": {"workers": 100_000}}, r"run\.workers is 100000, which is too many for \d+ cores"),
        (
            {"sources": [rendered], "model": {"estimator": {"backbone": "resnet99"}}},
            "no backbone 'resnet99'; known are",
        ),
    ):
        with pytest.raises((ValueError, OSError), match=words):
            train(small_config(crops, **changes), tmp_path / "out")
        assert not (tmp_path / "out").exists()
    (tmp_path / "file").touch()
    with pytest.raises(
        OSError, match=r"folder .*file/out cannot be made \(Not a directory\): choose another with --out"
    ):
        train(small_config(crops), tmp_path / "file" / "out")


def test_a_batch_larger_than_the_memory_is_refused_before_anything_is_made(crops: Path, tmp_path: Path) -> None:
    # 1e9 hands in 2 views of 64 px, 15 bytes each px: more than any machine has, but as much as the system would promise.
    with pytest.raises(MemoryError, match=r"their images alone take 122880\.0 GB, this machine has \d+\.\d GB"):
        train(small_config(crops, batch=1_000_000_000), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_true_joints_that_are_other_points_are_warned_of(tmp_path: Path) -> None:
    write_hanco(tmp_path / "hanco", {110: 1})

    def stop(what: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    for weight, warned in ((0.5, True), (0.0, False)):
        config = small_config(
            tmp_path, sources=[{"hanco": str(tmp_path / "hanco")}], validation={"sources": []}, batch=1,
            loss={"weights": {"true_joints": weight}},
        )  # fmt: skip
        told: list[str] = []
        with pytest.raises(KeyboardInterrupt):
            train(config, tmp_path / "out", progress=stop, tell=told.append)
        assert [line[:60] for line in told] == ["warning: loss.weights.true_joints is 0.5, and the true joint"] * warned


def test_what_is_never_better_than_what_it_started_from_is_not_the_best(
    trained: Path, crops: Path, tmp_path: Path
) -> None:
    # The first steps of AdamW move every weight by the learning rate, here about as large as they are.
    config = small_config(crops, start={"weights": str(trained / LAST)}, steps=3, learning_rate=0.03, cosine=False)
    told: list[str] = []
    train(config, tmp_path, tell=told.append)
    rows = read_log(tmp_path / LOG)
    assert rows[-1]["fused_mpjpe_mm"] > rows[0]["fused_mpjpe_mm"]
    assert not (tmp_path / BEST).exists()
    assert load_checkpoint(tmp_path / LAST).best == pytest.approx(rows[0]["fused_mpjpe_mm"], rel=1e-5)
    assert told[-1].startswith("3 steps done. None was better than the start by fused_mpjpe_mm")
    assert not any("the best so far" in line for line in told)


def test_figures_that_need_truth_are_not_asked_of_recordings_without(crops: Path, tmp_path: Path) -> None:
    config = small_config(crops, validation={"sources": [{"recording": "rec"}], "best": "fused_mpjpe_mm"})
    with pytest.raises(TrainingError, match=r'best is "fused_mpjpe_mm", which needs truth, .* choose "refined_2d"'):
        train(config, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_one_view_is_enough(tmp_path: Path) -> None:
    crops = write_drawn_hands(tmp_path / "hands", 4, views=1)
    config = small_config(crops, steps=2, views=1, validation={"every": 2})
    train(config, tmp_path / "out")
    last = read_log(tmp_path / "out" / LOG)[-1]
    assert all(np.isfinite(last[name]) for name in ("total", "single_mpjpe_mm", "fused_mpjpe_mm", "refined_2d"))
    assert load_network(tmp_path / "out" / BEST)[1].views == 1


@pytest.mark.slow
def test_labels_in_2d_teach_hands_in_3d(crops: Path, tmp_path: Path) -> None:
    config = small_config(
        crops, steps=120, batch=8, learning_rate=2e-3, cosine=False, augmentation=unstructure(PLAIN),
        validation={"every": 120, "batches": 2}, run={"log_every": 120, "checkpoint_every": 120},
    )  # fmt: skip
    assert config.loss.weights.true_joints == config.loss.weights.true_rotations == config.loss.weights.true_betas == 0
    train(config, tmp_path)
    first, last = read_log(tmp_path / LOG)
    assert last["fused_mpjpe_mm"] < 0.85 * first["fused_mpjpe_mm"]  # it fell to 0.73, from 70.5 to 51.6 mm


def test_seeds_differ(trained: Path, crops: Path, tmp_path: Path) -> None:
    train(small_config(crops, seed=2), tmp_path)
    assert not same_weights(trained, tmp_path)


def test_nothing_is_trained_over(trained: Path, crops: Path) -> None:
    before = (trained / LAST).read_bytes()
    with pytest.raises(TrainingError, match=r"has a training already: go on with --resume, or choose another folder"):
        train(small_config(crops), trained)
    with pytest.raises(CheckpointError, match=r"of another training: batch was 4 and is 3 now"):
        train(small_config(crops, batch=3), trained, resume=True)
    assert (trained / LAST).read_bytes() == before


def test_a_training_without_a_checkpoint_begins_anew(crops: Path, tmp_path: Path) -> None:
    told: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        train(small_config(crops), tmp_path, resume=True, progress=until(1), tell=told.append)
    assert told[0] == f"{tmp_path} has no checkpoint yet: the training begins anew"


def test_a_loss_that_is_no_number_stops_it(crops: Path, tmp_path: Path) -> None:
    hands = CropSet(crops)
    with CropSetWriter(tmp_path / "bad", hands.size, hands.margin) as writer:
        for sample in range(4):
            views = [hands.view(view) for view in hands.views_of(sample)]
            if sample == 2:
                views[1] = replace(views[1], confidence=np.full(21, np.inf))
            writer.write(views, hands.truth(sample))
    with pytest.raises(TrainingError, match=r"the loss single_pixels is inf at step 0.*not finite in it: confidence"):
        train(small_config(tmp_path / "bad", validation={"sources": []}), tmp_path / "out")
    kept = torch.load(tmp_path / "out" / BAD_BATCH.format(0), weights_only=True)
    assert kept["step"] == 0
    assert kept["batch"]["images"].shape == (4, 2, 64, 64, 3)
    assert not kept["batch"]["confidence"].isfinite().all()
    assert not (tmp_path / "out" / LAST).exists()


def test_a_gradient_that_is_no_number_stops_it(crops: Path, tmp_path: Path) -> None:
    # The loss is some 1e25, which single precision holds; squares of its gradient are not held.
    config = small_config(crops, loss={"weights": {"single_pixels": 1e25}}, validation={"sources": []})
    with pytest.raises(
        TrainingError, match=r"the gradient is inf of losses .*e\+2\d\} at step 0: the training stopped"
    ):
        train(config, tmp_path)
    assert (tmp_path / BAD_BATCH.format(0)).is_file()
    # What it was about is not lost in what came after.
    with (
        room_for(10_000),
        pytest.raises(TrainingError, match=r"gradient is inf .* are lost: .*bad_batch-0\.pt cannot be w"),
    ):
        train(config, tmp_path / "full")


@pytest.mark.slow
def test_half_precision_does_not_leave_out_steps_for_ever(crops: Path, tmp_path: Path) -> None:
    config = small_config(
        crops, steps=100, batch=1, precision="fp16", loss={"weights": {"single_pixels": 1e25}},
        validation={"sources": []}, run={"log_every": 1000, "checkpoint_every": 1000},
    )  # fmt: skip
    with pytest.raises(TrainingError, match=r"the gradient is (inf|nan) .* as in the 50 steps before at step 50: the"):
        train(config, tmp_path)


def test_what_decides_must_be_known(tmp_path: Path) -> None:
    hands = CropSet(write_drawn_hands(tmp_path / "hands", 4))
    with CropSetWriter(tmp_path / "unknown", hands.size, hands.margin) as writer:
        for sample in range(4):
            writer.write([hands.view(view) for view in hands.views_of(sample)])
    with pytest.raises(ValueError, match=r'best is "fused_mpjpe_mm", but .* are known only: single_2d, refined_2d'):
        train(small_config(tmp_path / "unknown"), tmp_path / "out")
    train(small_config(tmp_path / "unknown", steps=1, validation={"best": "refined_2d"}), tmp_path / "out")
    assert (tmp_path / "out" / BEST).is_file()


@pytest.mark.parametrize("precision", ["bf16", pytest.param("fp16", marks=pytest.mark.slow)])
def test_half_precision_trains_and_goes_on(precision: str, crops: Path, tmp_path: Path) -> None:
    config = small_config(crops, steps=2, precision=precision, validation={"sources": []}, run={"checkpoint_every": 1})
    train(config, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "parts", progress=until(2))
    train(config, tmp_path / "parts", resume=True)
    checkpoint = load_checkpoint(tmp_path / "whole" / LAST)
    assert bool(checkpoint.scaler) == (precision == "fp16")
    assert all(value.dtype in (torch.float32, torch.int64) for value in checkpoint.network.values())
    assert same_weights(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.parametrize("part", ["weights", "estimator"])
def test_weights_of_another_training_are_taken(part: str, trained: Path, crops: Path, tmp_path: Path) -> None:
    config = small_config(
        crops, steps=1, learning_rate=1e-30, weight_decay=0.0, validation={"sources": []},
        start={part: str(trained / LAST)},
    )  # fmt: skip
    train(config, tmp_path)
    before, after = load_checkpoint(trained / LAST).network, load_checkpoint(tmp_path / LAST).network
    # All but the statistics of batches, which the step brought up to date.
    learnt = [name for name in before if "running" not in name and "num_batches" not in name]
    same = {name for name in learnt if torch.equal(before[name], after[name])}
    taken = {name for name in learnt if part == "weights" or name.startswith("estimator.")}
    assert taken
    assert taken <= same
    assert (same == set(learnt)) == (part == "weights")
