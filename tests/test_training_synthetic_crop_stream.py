from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import time
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from hamuco.engine.hand_model import load_hand_model
from hamuco.training.synthetic.crop_stream import CropStream, CropWorkerError
from hamuco.training.synthetic.crops import SCENE_SAMPLES, CropBatch, CropOptions
from hamuco.training.synthetic.renderer import GraphicsError

OPTIONS = CropOptions(preset="plain", views=2, size=48, seed=7)
BATCH = 2 * SCENE_SAMPLES + 3  # at least two scenes, so that both of two workers draw in every batch


def assert_same(one: CropBatch, other: CropBatch, rows: slice = slice(None)) -> None:
    for name in (field.name for field in fields(CropBatch) if field.name != "parameters"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name)[rows], err_msg=name)
    for name in ("global_orient", "hand_pose", "betas", "transl"):
        np.testing.assert_array_equal(getattr(one.parameters, name), getattr(other.parameters, name)[rows])


@pytest.fixture(scope="module")
def batches() -> list[CropBatch]:
    with CropStream(OPTIONS, BATCH, workers=0) as stream:
        return [next(stream) for _ in range(4)]


@pytest.mark.parametrize("workers", [1, 2])
def test_batches_do_not_depend_on_the_workers(batches: list[CropBatch], workers: int) -> None:
    # Four batches in three slots: the first slot is used again, and what was received stays.
    with CropStream(OPTIONS, BATCH, workers) as stream:
        time.sleep(1.0)  # for workers to run ahead as far as they are let: every slot is full
        for process in stream.process_ids:
            os.kill(process, signal.SIGINT)  # Ctrl-C reaches all of them, and is for the consumer to handle
        received = [next(stream) for _ in range(4)]
        assert stream.position == 4 * BATCH
    for one, other in zip(received, batches, strict=True):
        assert_same(one, other)
    received[0].images[...] = 0  # not a view of memory that is gone


def test_a_training_goes_on_where_it_stopped(batches: list[CropBatch]) -> None:
    start = BATCH + 5  # in the middle of a scene, and with batches of another size
    with CropStream(OPTIONS, 6, workers=2, start=start) as stream:
        assert_same(next(stream), batches[1], slice(5, 11))


def test_a_killed_worker_is_told() -> None:
    with CropStream(OPTIONS, BATCH, workers=2) as stream:
        os.kill(stream.process_ids[1], signal.SIGKILL)
        # It may have finished what is in the slots, not more.
        with pytest.raises(CropWorkerError, match=r"crop worker 2 of 2 died \(SIGKILL\)"):
            list(zip(range(10), stream, strict=False))
        with pytest.raises(ValueError, match="closed"):
            next(stream)


def test_a_worker_without_graphics_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("__EGL_VENDOR_LIBRARY_FILENAMES", "/nowhere")
    with pytest.raises(GraphicsError) as caught:
        CropStream(OPTIONS, 2, workers=1)
    assert "in crop worker 1 of 1" in caught.value.__notes__[0]


def children() -> set[int]:
    """Processes that have this one as their parent, zombies included."""
    own = {int(text) for task in Path("/proc/self/task").iterdir() for text in (task / "children").read_text().split()}
    return own


def left_in_memory() -> set[str]:
    """Files of shared memory with a name; others on the machine may make some of their own."""
    return {name for name in os.listdir("/dev/shm") if name.startswith(("pym-", "psm_"))}


def shared_mappings() -> int:
    return sum("/pym-" in line for line in Path("/proc/self/maps").read_text().splitlines())


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="looks into /proc")
@pytest.mark.parametrize("how", ["closed", "garbage"])
def test_nothing_is_left_behind(how: str) -> None:
    gc.collect()
    files, mappings, open_files = left_in_memory(), shared_mappings(), set(os.listdir("/proc/self/fd"))
    # Shared memory below 4 MB is kept for the next by the standard library.
    stream = CropStream(replace(OPTIONS, size=256), 8, workers=1)
    workers = set(stream.process_ids)
    next(stream)  # and the worker is busy with the next
    assert workers <= children()
    assert shared_mappings() == mappings + 1
    if how == "closed":
        stream.close()
        stream.close()
    else:
        del stream
        gc.collect()
    assert not workers & children()
    assert shared_mappings() == mappings
    assert left_in_memory() == files
    assert set(os.listdir("/proc/self/fd")) == open_files


SCRIPT = """
import sys
from hamuco.training.synthetic.crop_stream import CropStream
from hamuco.training.synthetic.crops import CropOptions
if __name__ == "__main__":
    with CropStream(CropOptions(preset="plain", views=2, size=48), 8, workers=2) as stream:
        print(*stream.process_ids, flush=True)
        for batch in stream:
            pass
"""


@pytest.mark.parametrize("how", [signal.SIGINT, pytest.param(signal.SIGKILL, marks=pytest.mark.slow)])
def test_workers_end_with_their_consumer(tmp_path: Path, how: signal.Signals) -> None:
    script = tmp_path / "training.py"
    script.write_text(SCRIPT)
    process = subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None
    workers = [int(text) for text in process.stdout.readline().split()]
    assert len(workers) == 2
    if how == signal.SIGINT:
        os.killpg(process.pid, how)  # as the terminal does
    else:
        process.kill()
    _, errors = process.communicate(timeout=30)
    assert process.returncode == -how
    if how == signal.SIGINT:
        assert errors.count("KeyboardInterrupt") == errors.count("Traceback") == 1  # the consumer's own
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{worker}").exists() for worker in workers):
        assert time.monotonic() < deadline, "workers live on without their consumer"
        time.sleep(0.02)


def test_wrong_numbers_are_named() -> None:
    with pytest.raises(ValueError, match="batch is 0, expected 1 or more"):
        CropStream(OPTIONS, 0)
    with pytest.raises(ValueError, match="workers is -1, expected 0 or more"):
        CropStream(OPTIONS, 1, workers=-1)
    with pytest.raises(ValueError, match=r"model is a left one: give model.mirrored\(\)"):
        CropStream(OPTIONS, 1, model=load_hand_model().mirrored())


def test_torch_is_not_imported() -> None:
    code = "import sys, hamuco.training.synthetic.crop_stream; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
