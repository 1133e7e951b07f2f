"""Room in memory that processes share: what is full shows itself too late, by a process that is killed (SIGBUS)."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

SHARED = Path("/dev/shm")
"""Where Linux keeps it; in a container it often has 64 MB."""


def check_room(size: int, what: str, or_temporary: bool = False) -> None:
    """Raise before memory is shared that there is no room for.

    Args:
        size: bytes that are needed.
        what: needs them, a plural, for the error.
        or_temporary: whether they may lie in the folder for temporary files instead, as those of `multiprocessing`.

    Raises:
        OSError: there is less room; the message says how to get more.
    """
    if not SHARED.is_dir():  # not Linux: shared memory has no folder, and no size of its own
        return
    free = shutil.disk_usage(SHARED).free
    if size > free and not (or_temporary and size <= shutil.disk_usage(tempfile.gettempdir()).free):
        raise full(f"{what} need {size / 1e6:.1f} MB of shared memory")


def full(what: str) -> OSError:
    """An error that says what there is, and what to do."""
    usage = shutil.disk_usage(SHARED)
    return OSError(
        f"{what}, and {SHARED} has {usage.free / 1e6:.1f} of its {usage.total / 1e6:.1f} MB free: enlarge it (mount -o "
        f"remount,size=2g {SHARED}; of a container, docker run --shm-size 2g), or train with --set run.workers=0"
    )
