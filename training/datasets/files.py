"""Files of published data sets; every error names the file and what to do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]


class DatasetError(ValueError):
    """A folder that is not the data set, or a file in it that is missing or damaged."""


def read_json(path: Path, archive: str) -> Any:
    """Content of a JSON file; `archive` is the download that it comes from.

    Raises:
        DatasetError: it is missing or damaged.
    """
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise DatasetError(f"{path} is missing: unpack {archive} again") from error
    except ValueError as error:  # JSONDecodeError and UnicodeDecodeError
        raise DatasetError(f"{path} is damaged ({error}): unpack {archive} again") from error


def entry(content: Any, key: str, path: Path) -> Any:
    """`content[key]`, where the content of `path` should be a table that has it. Raises DatasetError."""
    if not isinstance(content, dict) or key not in content:
        found = f"the keys {', '.join(map(repr, content))}" if isinstance(content, dict) else type(content).__name__
        raise DatasetError(f"{path} should have an entry {key!r}, but holds {found}: is it a file of this data set?")
    return content[key]


def to_array(values: Any, shape: tuple[int, ...], what: str) -> FloatArray:
    """Nested lists of numbers as an array of that shape; -1 stands for any length. Raises DatasetError."""
    try:
        array = np.asarray(values, np.float64)
    except (TypeError, ValueError) as error:
        raise DatasetError(f"{what} is not an array of numbers ({error}), expected shape {shape}") from error
    if len(array.shape) != len(shape) or any(
        size not in (-1, found) for size, found in zip(shape, array.shape, strict=True)
    ):
        raise DatasetError(f"{what} has shape {array.shape}, expected {shape}")
    return array


def read_image(path: Path, size: tuple[int, int], archive: str) -> NDArray[np.uint8]:
    """An image (height, width, 3) BGR of the size that the calibration is for.

    Raises:
        DatasetError: it is missing, damaged or of another size.
    """
    if not path.is_file():
        raise DatasetError(f"{path} is missing: unpack {archive} again")
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise DatasetError(f"{path} is not an image that OpenCV can read: unpack {archive} again")
    height, width = image.shape[:2]
    if (width, height) != size:
        raise DatasetError(
            f"{path} is {width}x{height} px, but its calibration is for {size[0]}x{size[1]}: use the images as published"
        )
    return np.asarray(image, np.uint8)
