"""Files that are written whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path


def write_whole(path: Path, data: bytes | memoryview, advice: str) -> None:
    """Write a file. Until it is whole on the disk, what was at its place stays there, also after Ctrl-C.

    Args:
        path: of the file; its folder exists.
        data: its bytes.
        advice: what to do where it cannot be written, for the error.

    Raises:
        OSError: the disk is full, or the folder cannot be written.
    """
    unfinished = path.with_name(path.name + ".unfinished")
    try:
        with unfinished.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())  # or a power cut could leave the new name with the old disk
        unfinished.replace(path)
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        before = "what was there before is whole" if path.exists() else "nothing is there"
        raise OSError(
            f"{path} cannot be written ({error.strerror or error}; {len(data) / 1e6:.3f} MB): {before}; {advice}"
        ) from error
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
