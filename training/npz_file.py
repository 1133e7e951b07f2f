"""Files of named arrays: written whole or not at all, and read with errors that say what to do."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hamuco.training.whole_file import write_whole


class ArrayFileError(ValueError):
    """An .npz file that is damaged, of another kind, or contradicts itself."""


def save_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write an .npz; a reader sees the old file or the new one, never a part. The same arrays make the same bytes.

    Raises:
        OSError: the folder does not exist or cannot be written, or the disk is full.
    """
    memory = io.BytesIO()
    np.savez_compressed(memory, allow_pickle=False, **arrays)
    write_whole(path, memory.getbuffer(), "make room on the disk, or choose a place where you may write")


def load_arrays(path: Path, dtypes: Mapping[str, type], advice: str) -> dict[str, NDArray[Any]]:
    """Read an .npz.

    Args:
        path: the file.
        dtypes: the arrays that it must have, and their kinds of numbers.
        advice: what to do about a damaged one.

    Raises:
        ArrayFileError: it is damaged, lacks an array, or has one of another kind.
        FileNotFoundError: there is no such file.
    """
    with path.open("rb") as stream:
        try:
            archive = np.load(stream, allow_pickle=False)
            stored = dict(archive) if isinstance(archive, np.lib.npyio.NpzFile) else {}
        except (zipfile.BadZipFile, zlib.error, ValueError, EOFError, OSError) as error:
            raise ArrayFileError(f"{path} is damaged ({error}): {advice}") from error
    for name, dtype in dtypes.items():
        if name not in stored:
            raise ArrayFileError(f"{path} has no array {name!r}: {advice}")
        if not np.issubdtype(stored[name].dtype, dtype):
            raise ArrayFileError(
                f"{path}: array {name!r} is of {stored[name].dtype}, not of {dtype.__name__}: {advice}"
            )
    return stored
