from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from hamuco.capture.transport import FrameNote, Order, SharedFrames, StateNote, decode, encode, shared_folder

SIZE = (7, 5)  # an image of 105 bytes, so that slots need padding


def test_notes_survive_the_wire() -> None:
    for note in (
        FrameNote(3, 2, 2**40, -(2**62), 5, 2**62, None, 1, 2, 3),
        FrameNote(0, 4, 0, 1, 2, 3, 4, 0, 0, 0),
        StateNote("lost", "cable", 1, 2, 3),
        Order("start", 123),
    ):
        assert decode(encode(note)) == note


def test_slots_are_apart_and_seen_by_a_reader(tmp_path: Path) -> None:
    reader = SharedFrames.create(tmp_path / "frames", SIZE, slots=3)
    writer = SharedFrames(reader.path, SIZE, slots=3, writable=True)
    generations = []
    for slot in range(3):
        writer.begin_write(slot)[...] = slot + 1
        generations.append(writer.end_write(slot))
    for slot in range(3):
        image = reader.read_slot(slot, generations[slot])
        assert image is not None
        assert image.shape == (5, 7, 3)
        assert (image == slot + 1).all()
        assert (reader.image(slot) == slot + 1).all()
    assert not reader.image(0).flags.writeable


def test_an_overwritten_slot_is_noticed(tmp_path: Path) -> None:
    reader = SharedFrames.create(tmp_path / "frames", SIZE, slots=2)
    writer = SharedFrames(reader.path, SIZE, slots=2, writable=True)
    writer.begin_write(0)
    first = writer.end_write(0)
    assert reader.read_slot(0, first) is not None
    writer.begin_write(0)
    assert reader.read_slot(0, first) is None  # while it is written
    second = writer.end_write(0)
    assert reader.read_slot(0, first) is None
    assert reader.read_slot(0, second) is not None
    writer.begin_write(0)
    writer.begin_write(0)  # the writer gave up and starts again: still not whole
    assert reader.read_slot(0, second) is None
    assert writer.end_write(0) > second


def test_images_outlive_the_file(tmp_path: Path) -> None:
    reader = SharedFrames.create(tmp_path / "frames", SIZE, slots=1)
    writer = SharedFrames(reader.path, SIZE, slots=1, writable=True)
    writer.begin_write(0)[...] = 9
    writer.end_write(0)
    image = reader.image(0)
    reader.path.unlink()
    del reader, writer
    assert (np.asarray(image) == 9).all()


def test_too_little_memory_is_told_at_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Filling the real RAM disk would starve everything else on the machine.
    def refuse(descriptor: int, offset: int, length: int) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    with pytest.raises(OSError, match=r"8 frames of 1920x1080 px need 47 MiB of shared memory.*use fewer slots"):
        SharedFrames.create(tmp_path / "frames", (1920, 1080), slots=8)


def test_the_shared_folder_is_private() -> None:
    folder = shared_folder()
    assert folder.stat().st_mode & 0o777 == 0o700
    folder.rmdir()
