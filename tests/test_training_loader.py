"""Batches: what they hold is true, and a function of seed and step."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections import Counter
from contextlib import closing, suppress
from dataclasses import fields, replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from labelled_footage import write_labelled

from hamuco.engine.hand_model import load_hand_model
from hamuco.engine.skinning import axis_angle_to_matrix
from hamuco.training.augment import PLAIN, Augmentation
from hamuco.training.batch import Batch
from hamuco.training.crop_builders import crop_set_of_recording, crop_set_of_stream
from hamuco.training.crop_set import CropSet, CropSetError, CropSetWriter
from hamuco.training.loader import LoaderOptions, Source, batches
from hamuco.training.synthetic.crop_stream import CropWorkerError
from hamuco.training.synthetic.crops import CropOptions

OPTIONS = LoaderOptions(batch=5, views=3, size=64, seed=3, workers=0)
STREAM = CropOptions(preset="plain", second_hand=0.0, seed=4)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight samples of three views, with labels and truth."""
    recording = write_labelled(tmp_path_factory.mktemp("loader") / "rec", frames=4)
    return crop_set_of_recording(recording, with_truth=True).path


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four samples of two views, with masks and truth."""
    path = tmp_path_factory.mktemp("loader") / "rendered"
    return crop_set_of_stream(replace(STREAM, views=2), path, 4, "truth", workers=0).path


def take(sources: list[Source], options: LoaderOptions, steps: int, start: int = 0, plain: bool = False) -> list[Batch]:
    with closing(batches(sources, options, PLAIN if plain else Augmentation(), start)) as endless:
        return list(islice(endless, steps))


def tensors(batch: Batch) -> list[torch.Tensor]:
    inner = [getattr(batch.views, field.name) for field in fields(batch.views)]
    return inner + [getattr(batch, field.name) for field in fields(batch) if field.name != "views"]


def same(one: Batch, other: Batch) -> bool:
    pairs = zip(tensors(one), tensors(other), strict=True)
    return all(torch.equal(a.nan_to_num(-9.0), b.nan_to_num(-9.0)) for a, b in pairs)


def errors(batch: Batch) -> torch.Tensor:
    """(B, V, 21) distance of labels from the truth seen by the crops' cameras, u, v; by the formula of HandPrediction
    for a point relative to the camera: u = X / (Z h)."""
    pose = batch.crop_from_world.double()
    points = torch.einsum("bvij,bkj->bvki", pose[..., :3, :3], batch.joints.double()) + pose[..., None, :3, 3]
    seen = points[..., :2] / points[..., 2:] / batch.views.half_angle.double()[..., None, None]
    distances: torch.Tensor = torch.linalg.norm(seen - batch.pixels, dim=-1)
    return distances


def test_shapes_and_kinds(recorded: Path) -> None:
    (batch,) = take([Source(recorded)], replace(OPTIONS, views=4), 1)
    shapes = [tuple(tensor.shape) for tensor in tensors(batch)]
    assert shapes == [
        (5, 4, 64, 64, 3), (5, 4), (5, 4), (5, 4, 4, 4), (5, 4, 21, 2), (5, 4, 21), (5, 21, 3), (5, 16, 3, 3), (5, 10)
    ]  # fmt: skip
    kinds = [tensor.dtype for tensor in tensors(batch)]
    assert kinds == [torch.uint8, torch.bool] + [torch.float32] * 7
    # Samples have three views: the fourth is not valid and empty.
    assert batch.views.valid.tolist() == [[True, True, True, False]] * 5
    assert (batch.views.images[:, 3] == 0).all()
    assert batch.crop_from_world[:, 3].isnan().all()


def test_labels_are_the_projected_truth(recorded: Path, rendered: Path) -> None:
    for batch in take([Source(recorded, 3), Source(rendered, 2)], OPTIONS, 4):
        valid = batch.views.valid
        assert valid.tolist() == [[True] * 3] * 3 + [[True, True, False]] * 2
        # Single precision: a length of 1 m is rounded by 6e-8 m and is seen at some 10 half crops per metre; some ten
        # such roundings. Rendered crops have labels of 1e-3 px of 224 px to begin with (see their test): 9e-6.
        assert errors(batch)[valid].max() < 1e-4
        assert batch.views.half_angle[valid].min() > 0.05


def test_rotations_are_those_of_the_hand_model(recorded: Path) -> None:
    (batch,) = take([Source(recorded)], OPTIONS, 1)
    # The hands are in their mean pose: the bones of the fingers are turned by it, and the hand is not.
    mean = axis_angle_to_matrix(load_hand_model().pose_mean.reshape(15, 3))
    np.testing.assert_allclose(batch.rotations[0, 0].numpy(), np.eye(3), atol=1e-7)
    np.testing.assert_allclose(batch.rotations[0, 1:].numpy(), mean, atol=1e-7)
    assert (batch.betas == 0).all()


def test_a_batch_is_a_function_of_seed_and_step(recorded: Path, rendered: Path) -> None:
    sources = [Source(recorded, 3), Source(rendered, 2)]
    whole = take(sources, OPTIONS, 4)
    resumed = take(sources, OPTIONS, 2, start=2)
    assert all(same(one, other) for one, other in zip(whole[2:], resumed, strict=True))
    assert not same(whole[0], whole[1])
    (other,) = take(sources, replace(OPTIONS, seed=4), 1)
    assert not torch.equal(other.views.images, whole[0].views.images)


@pytest.mark.slow
def test_batches_do_not_depend_on_the_workers(recorded: Path, rendered: Path) -> None:
    sources = [Source(recorded, 2), Source(rendered, 2), Source(STREAM, 1)]
    alone = take(sources, OPTIONS, 4, start=1)
    for workers in (1, 2):
        helped = take(sources, replace(OPTIONS, workers=workers), 4, start=1)
        assert all(same(one, other) for one, other in zip(alone, helped, strict=True))


def test_every_sample_comes_once_in_an_epoch(recorded: Path) -> None:
    crops = CropSet(recorded)
    known = [crops.truth(sample).joints[0] for sample in range(len(crops))]

    def numbers(found: list[Batch]) -> list[int]:
        wrists = np.concatenate([batch.joints[:, 0].numpy() for batch in found])
        return [int(np.argmin(np.linalg.norm(known - wrist, axis=1))) for wrist in wrists]

    # The left hand rests at the mirror image of where the right one begins: its four samples and the first have the same
    # truth; those of the right hand on its way differ.
    order = numbers(take([Source(recorded)], replace(OPTIONS, batch=4), 4))
    first, second = Counter(order[:8]), Counter(order[8:])
    assert first == second
    assert sorted(first.values()) == [1, 1, 1, 5]
    assert order[:8] != order[8:]
    # Two processes share an epoch.
    ranks = [numbers(take([Source(recorded)], replace(OPTIONS, batch=4, ranks=2, rank=rank), 1)) for rank in (0, 1)]
    assert Counter(ranks[0] + ranks[1]) == first


def test_the_stream_comes_along(recorded: Path) -> None:
    batch, _ = take([Source(recorded, 3), Source(STREAM, 2)], OPTIONS, 2)
    assert batch.views.valid.all()
    assert (batch.confidence[3:] == 1).all()
    # 1e-3 px of 64 px, see the test of rendered crops: 3e-5.
    assert errors(batch)[3:].max() < 1e-4
    assert batch.views.images[3:].float().std(dim=(2, 3)).min() > 0


def test_a_stream_goes_on_where_it_was() -> None:
    whole = take([Source(STREAM)], replace(OPTIONS, batch=2, views=1), 3)
    (last,) = take([Source(STREAM)], replace(OPTIONS, batch=2, views=1), 1, start=2)
    assert same(whole[2], last)
    (other,) = take([Source(STREAM)], replace(OPTIONS, batch=2, views=1, rank=1, ranks=2), 1, start=2)
    assert not same(other, last)


def test_processes_render_no_hands_of_another_seed() -> None:
    options = replace(OPTIONS, batch=1, views=1, ranks=2)
    hands = [
        take([Source(replace(STREAM, seed=STREAM.seed + seed))], replace(options, rank=rank), 1)[0].joints
        for seed in (0, 1)
        for rank in (0, 1)
    ]
    assert len({tuple(joints.flatten().tolist()) for joints in hands}) == 4


def test_views_are_drawn_where_there_are_more(recorded: Path) -> None:
    found = take([Source(recorded)], replace(OPTIONS, views=2), 12, plain=True)
    confidences = torch.cat([batch.confidence[..., 0].flatten() for batch in found])
    # The last camera's labels have confidence 0.5: one in three views is of it. 120 draws: four deviations are 0.17.
    assert abs(float((confidences == 0.5).float().mean()) - 1 / 3) < 0.17


def test_what_makes_no_sense_is_said(recorded: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected one source or more, all above 0"):
        take([], OPTIONS, 1)
    with pytest.raises(ValueError, match="expected one source or more, all above 0"):
        take([Source(recorded, 0)], OPTIONS, 1)
    with pytest.raises(ValueError, match=r"a batch of 5 has no sample of source 1 with its share of 0.0099"):
        take([Source(recorded, 100), Source(recorded, 1)], OPTIONS, 1)
    with pytest.raises(ValueError, match="rank is 2, but there are 2 processes"):
        replace(OPTIONS, rank=2, ranks=2)
    with pytest.raises(ValueError, match="batch is 0, expected 1 or more"):
        replace(OPTIONS, batch=0)
    with pytest.raises(CropSetError, match="is not a crop set"):
        take([Source(tmp_path)], OPTIONS, 1)
    with CropSetWriter(tmp_path / "empty"):
        pass
    with pytest.raises(ValueError, match="empty has no sample: was a hand found"):
        take([Source(tmp_path / "empty")], OPTIONS, 1)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_crop_is_told_in_one_line(workers: int, recorded: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(recorded, tmp_path / "damaged"))
    size = (path / "crops.bin").stat().st_size
    (path / "crops.bin").write_bytes(bytes(size))
    with pytest.raises(CropSetError, match=r"crop \d+ is not an image of 192 px; build") as caught:
        take([Source(path)], replace(OPTIONS, workers=workers), 1)
    assert "\n" not in str(caught.value)


def test_a_reader_that_is_killed_is_told(recorded: Path) -> None:
    before = set(multiprocessing.active_children())
    with closing(batches([Source(recorded)], replace(OPTIONS, workers=1), PLAIN)) as feed:
        next(feed)
        (reader,) = set(multiprocessing.active_children()) - before
        assert reader.pid is not None
        os.kill(reader.pid, signal.SIGKILL)
        # It has made two batches ahead at most.
        with pytest.raises(
            CropWorkerError, match=r"a worker that reads crops died .*: memory ran out, mostly"
        ) as caught:
            list(islice(feed, 4))
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_workers_end_quietly(rendered: Path, tmp_path: Path) -> None:
    script = tmp_path / "read.py"
    script.write_text(
        f"""
from contextlib import closing, suppress
from pathlib import Path
from hamuco.training.augment import PLAIN
from hamuco.training.loader import LoaderOptions, Source, batches

if __name__ == "__main__":
    for _ in range(4):  # one spawned worker in three aborts
        with closing(batches([Source(Path({str(rendered)!r}))], LoaderOptions(batch=2, workers=1), PLAIN)) as feed:
            next(feed)
"""
    )
    ended = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_workers_do_not_outlive_a_training_that_is_killed(rendered: Path, tmp_path: Path) -> None:
    """They hold on to the fork server, whose end they would notice."""
    script = tmp_path / "killed.py"
    script.write_text(
        textwrap.dedent(f"""
        import multiprocessing, os, signal
        from pathlib import Path
        from hamuco.training.augment import PLAIN
        from hamuco.training.loader import LoaderOptions, Source, batches

        if __name__ == "__main__":
            feed = batches([Source(Path({str(rendered)!r}))], LoaderOptions(batch=2, workers=2), PLAIN)
            next(feed)
            pids = [str(child.pid) for child in multiprocessing.active_children()]
            Path({str(tmp_path / "workers")!r}).write_text(" ".join(pids))
            os.kill(os.getpid(), signal.SIGKILL)
        """)
    )
    assert subprocess.run([sys.executable, str(script)], check=False).returncode == -signal.SIGKILL
    workers = [int(number) for number in (tmp_path / "workers").read_text().split()]
    assert len(workers) == 2
    deadline = time.monotonic() + 20
    while any(_runs(worker) for worker in workers) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(_runs(worker) for worker in workers)


def _runs(process: int) -> bool:
    """A dead one that nobody has waited for yet does not run."""
    with suppress(OSError):
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False
