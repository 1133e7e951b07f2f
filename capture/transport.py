"""How frames cross processes on one host: pixels in slots of a shared memory file, everything else in small messages.

The memory is a file in a RAM file system, made and removed by the process that receives the frames. Whoever maps it
needs only its path, a reader maps it read-only, and when a writer is killed nothing of it is lost or left over.

Each slot starts with an 8-byte generation: odd while the slot is written, even when its image is whole, and never the
same twice. A reader that does not own the slot (a viewer) compares it before and after copying.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Self

import msgpack
import numpy as np
from numpy.typing import NDArray

from hamuco.capture.source import Image

_ALIGNMENT = 64  # bytes; a cache line, and what vector loads like
_RAM_FOLDER = Path("/dev/shm")


def shared_folder() -> Path:
    """A new private folder, in RAM where the system has such a place."""
    return Path(tempfile.mkdtemp(prefix="hamuco-", dir=_RAM_FOLDER if _RAM_FOLDER.is_dir() else None))


class SharedFrames:
    """Slots for the images of one camera, in a file mapped by several processes."""

    def __init__(self, path: Path, size: tuple[int, int], slots: int, writable: bool = False) -> None:
        """Map an existing file; `size` is width and height in px. Raises OSError when it is not there (any more)."""
        self.path = path
        self.slots = slots
        width, height = size
        self._stride = _stride(size)
        with path.open("r+b" if writable else "rb") as file:
            access = mmap.ACCESS_WRITE if writable else mmap.ACCESS_READ
            # Never closed by hand: it goes when the last image that looks into it goes.
            memory = mmap.mmap(file.fileno(), self._stride * slots, access=access)
        rows = np.frombuffer(memory, np.uint8).reshape(slots, self._stride)
        self._generations: NDArray[np.uint64] = rows[:, :8].view(np.uint64)[:, 0]
        self._images: Image = rows[:, _ALIGNMENT : _ALIGNMENT + width * height * 3].reshape(slots, height, width, 3)

    @classmethod
    def create(cls, path: Path, size: tuple[int, int], slots: int) -> Self:
        """Make the file with all its memory and map it read-only. Raises OSError when there is not enough."""
        need = _stride(size) * slots
        with path.open("xb") as file:
            try:
                # Reserved now: memory that turns out to be missing later would kill the process that writes to it.
                if hasattr(os, "posix_fallocate"):  # not on macOS
                    os.posix_fallocate(file.fileno(), 0, need)
                file.truncate(need)
            except OSError as error:
                raise OSError(
                    error.errno,
                    f"{slots} frames of {size[0]}x{size[1]} px need {need >> 20} MiB of shared memory, which {path.parent} "
                    "does not have; use fewer slots, or enlarge it (in a container: --shm-size)",
                ) from error
        return cls(path, size, slots)

    def begin_write(self, slot: int) -> Image:
        """Mark a slot as being written; returns its image, (height, width, 3) uint8, to write in place."""
        self._generations[slot] |= np.uint64(1)
        image: Image = self._images[slot]
        return image

    def end_write(self, slot: int) -> int:
        """Mark a slot as whole; returns its new generation."""
        self._generations[slot] += np.uint64(1)
        return int(self._generations[slot])

    def image(self, slot: int) -> Image:
        """View of a slot that the caller owns, (height, width, 3) uint8; it changes after the slot is released."""
        image: Image = self._images[slot]
        return image

    def read_slot(self, slot: int, generation: int) -> Image | None:
        """Copy of a slot that the caller does not own; None if it was overwritten since that generation."""
        if int(self._generations[slot]) != generation:
            return None
        image = self._images[slot].copy()
        return image if int(self._generations[slot]) == generation else None


def _stride(size: tuple[int, int]) -> int:
    image_bytes = size[0] * size[1] * 3
    return _ALIGNMENT + -(-image_bytes // _ALIGNMENT) * _ALIGNMENT


@dataclass(frozen=True, slots=True)
class FrameNote:
    """What a grabber says about one frame; the counters are running totals of its camera."""

    slot: int
    generation: int
    sequence: int
    t_capture_ns: int
    t_uncertainty_ns: int
    t_arrival_ns: int
    t_device_ns: int | None
    dropped_no_slot: int
    undecodable: int
    missing: int


@dataclass(frozen=True, slots=True)
class StateNote:
    """A grabber's change of state: opened, failed (to open), ended or lost; the counters as in `FrameNote`."""

    state: str
    reason: str
    dropped_no_slot: int
    undecodable: int
    missing: int


@dataclass(frozen=True, slots=True)
class Order:
    """What a grabber is told: start (value: epoch, ns), release (value: slot) or stop."""

    action: str
    value: int = 0


Note = FrameNote | StateNote | Order
_KINDS: tuple[type[Note], ...] = (FrameNote, StateNote, Order)


def encode(note: Note) -> bytes:
    """A note as MessagePack: its kind's number, then its fields in order. Both ends run the same version."""
    return msgpack.packb((_KINDS.index(type(note)), *astuple(note)))  # type: ignore[no-any-return]


def decode(data: bytes) -> Note:
    """The inverse of `encode`."""
    kind, *values = msgpack.unpackb(data)
    note: Note = _KINDS[kind](*values)
    return note
