"""Crop sets: hands cut out of images once, so that training need not decode videos or look for hands.

A crop is a virtual camera, stored wider than what a network is shown by the set's margin: turning, shifting and scaling
it is then a change of that camera, exact for everything that is known about the hand. Hands are right ones; a left hand
is stored as a mirrored crop of a mirrored camera in a mirrored world (at x = 0). A set is a folder with

    crops.bin     JPEG images, and PNG masks where there are some, one after the other
    index.npz     size (px of the crops), margin, made_from (tells what a set was made of), and arrays:

    per view     sample (N,), offset (N, 2) and length (N, 2) of image and mask in crops.bin (length 0: no mask),
                 focal (N,) px, crop_from_world (N, 4, 4) m, pixels (N, 21, 2) px of the crop, confidence (N, 21)
    per sample   joints (M, 21, 3) m, world; global_orient (M, 3), hand_pose (M, 45), betas (M, 10), transl (M, 3)

A focal length is NaN where the camera is not known, everything else where it is not known: see `CropView` and `HandTruth`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, fields, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import cv2
import numpy as np
from numpy.typing import NDArray

from hamuco.capture.recording import partial_folder
from hamuco.engine.hand_model import mirror_axis_angle
from hamuco.fusion.hand import HandParameters
from hamuco.training.npz_file import load_arrays, save_arrays

FloatArray = NDArray[np.float64]

SIZE = 192
"""px of a stored crop: it shows as much detail as a network's crop of 128 px does."""
MARGIN = 1.5

_JPEG_QUALITY = 92
_MIRROR = np.array([-1.0, 1.0, 1.0])
_INDEX, _CROPS = "index.npz", "crops.bin"
_ADVICE = "build the crop set again"


class CropSetError(ValueError):
    """A folder that is not a crop set, or one that is damaged."""


@dataclass(frozen=True, slots=True, eq=False)
class CropView:
    """One hand in one crop, which is a square pinhole camera with its axis through the centre.

    Attributes:
        image: (S, S, 3) uint8 BGR.
        focal: px; NaN where the camera is not known.
        crop_from_world: (4, 4) m; NaN where it is not known.
        pixels: (21, 2) px of the crop, finite.
        confidence: (21,) 0 to 1; 0 where the joint's pixel is not known.
        mask: (S, S) bool, where the hand is seen; None where it is not known.
    """

    image: NDArray[np.uint8]
    focal: float
    crop_from_world: FloatArray
    pixels: FloatArray
    confidence: FloatArray
    mask: NDArray[np.bool_] | None = None

    def mirrored(self) -> CropView:
        """The crop in a mirror, in the mirrored world."""
        size = self.image.shape[1]
        signs = np.append(_MIRROR, 1.0)
        return CropView(
            np.ascontiguousarray(self.image[:, ::-1]),
            self.focal,
            signs[:, None] * self.crop_from_world * signs,
            np.stack([size - 1 - self.pixels[:, 0], self.pixels[:, 1]], axis=1),
            self.confidence,
            None if self.mask is None else np.ascontiguousarray(self.mask[:, ::-1]),
        )


@dataclass(frozen=True, slots=True, eq=False)
class HandTruth:
    """What is known of a hand beyond its labels; NaN where it is not.

    Attributes:
        joints: (21, 3) m, world; which points they are is the data set's `joint_definition`.
        parameters: of the hand model that comes with the package.
    """

    joints: FloatArray
    parameters: HandParameters

    def mirrored(self) -> HandTruth:
        """The same hand of the other side in the mirrored world."""
        own = self.parameters
        turned = mirror_axis_angle(own.global_orient), mirror_axis_angle(own.hand_pose)
        return HandTruth(self.joints * _MIRROR, HandParameters(*turned, own.betas, own.transl * _MIRROR))


UNKNOWN = HandTruth(np.full((21, 3), np.nan), HandParameters(*(np.full(count, np.nan) for count in (3, 45, 10, 3))))


class CropSetWriter:
    """Writes a crop set. A context manager: the set is whole when the block ends; until then, and after any error, it is
    the folder `<path>.partial`, which the next one replaces."""

    def __init__(self, path: Path, size: int = SIZE, margin: float = MARGIN, made_from: str = "") -> None:
        """
        Args:
            path: folder to make; must not exist or be empty.
            size: of every crop, px.
            margin: how much wider the crops are than what a network is shown.
            made_from: for whoever asks later whether the set is up to date.
        """
        self._path, self._size, self._margin, self._made_from = path, size, margin, made_from
        self._views: list[tuple[Any, ...]] = []
        self._truths: list[HandTruth] = []
        self._length = 0

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._folder = stack.enter_context(_new_folder(self._path))
            self._file = stack.enter_context((self._folder / _CROPS).open("wb"))
            self._open = stack.pop_all()
        return self

    def __len__(self) -> int:
        return len(self._truths)

    def write(self, views: Sequence[CropView], truth: HandTruth = UNKNOWN) -> None:
        """Append a right hand at one moment, as one view or several see it. Raises OSError where the disk is full."""
        if not views:
            raise ValueError("a sample of a crop set needs a view at least")
        for view in views:
            if view.image.shape != (self._size, self._size, 3):
                raise ValueError(f"a crop has shape {view.image.shape}, the crops of this set are {self._size} px wide")
            image = cv2.imencode(".jpg", view.image, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])[1].tobytes()
            mask = b"" if view.mask is None else _packed(view.mask)
            offsets = self._length, self._length + len(image)
            lengths = len(image), len(mask)
            self._put(image + mask)
            self._views.append(
                (len(self), offsets, lengths, view.focal, view.crop_from_world, view.pixels, view.confidence)
            )
        self._truths.append(truth)

    def _put(self, data: bytes) -> None:
        try:
            self._file.write(data)
        except OSError as error:
            raise self._full(error) from error
        self._length += len(data)

    def _full(self, error: OSError) -> OSError:
        return OSError(
            f"{self._folder / _CROPS} is cut off ({error.strerror}): make room on the disk and start again; until then "
            f"{self._folder} may be removed"
        )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            with suppress(OSError):  # what is not yet written of a set that is given up
                self._file.close()
            self._open.__exit__(kind, error, trace)
            return
        with self._open:
            try:
                self._file.close()
            except OSError as full:
                raise self._full(full) from full
            save_arrays(self._folder / _INDEX, self._index())

    def _index(self) -> dict[str, NDArray[Any]]:
        columns = list(zip(*self._views, strict=True)) or [()] * len(_VIEW_ARRAYS)
        arrays: dict[str, NDArray[Any]] = {
            name: np.array(column, dtype).reshape(-1, *shape)
            for (name, (dtype, shape)), column in zip(_VIEW_ARRAYS.items(), columns, strict=True)
        }
        arrays["joints"] = np.array([truth.joints for truth in self._truths], np.float64).reshape(-1, 21, 3)
        for field in fields(HandParameters):
            values = [getattr(truth.parameters, field.name) for truth in self._truths]
            arrays[field.name] = np.array(values, np.float64).reshape(-1, _SAMPLE_ARRAYS[field.name][1][0])
        single = {"size": self._size, "margin": self._margin, "made_from": self._made_from}
        return arrays | {name: np.asarray(value) for name, value in single.items()}


_VIEW_ARRAYS: dict[str, tuple[type, tuple[int, ...]]] = {
    "sample": (np.int64, ()),
    "offset": (np.int64, (2,)),
    "length": (np.int64, (2,)),
    "focal": (np.float64, ()),
    "crop_from_world": (np.float64, (4, 4)),
    "pixels": (np.float64, (21, 2)),
    "confidence": (np.float64, (21,)),
}
_SAMPLE_ARRAYS: dict[str, tuple[type, tuple[int, ...]]] = {
    "joints": (np.float64, (21, 3)),
    "global_orient": (np.float64, (3,)),
    "hand_pose": (np.float64, (45,)),
    "betas": (np.float64, (10,)),
    "transl": (np.float64, (3,)),
}


class CropSet:
    """A crop set for reading; crops are read and decoded when they are asked for. For any number of threads."""

    def __init__(self, path: Path) -> None:
        """
        Args:
            path: its folder.

        Raises:
            CropSetError: it is none, or is damaged.
            ArrayFileError: its index is damaged.
        """
        if not (path / _INDEX).is_file() or not (path / _CROPS).is_file():
            raise CropSetError(f"{path} is not a crop set: it has no {_INDEX} with {_CROPS} beside it; {_ADVICE}")
        kinds: dict[str, type] = {"size": np.integer, "margin": np.floating, "made_from": np.str_}
        known = _VIEW_ARRAYS | _SAMPLE_ARRAYS
        stored = load_arrays(path / _INDEX, kinds | {name: dtype for name, (dtype, _) in known.items()}, _ADVICE)
        self.path = path
        self.size, self.margin = int(stored["size"]), float(stored["margin"])
        self.made_from = str(stored["made_from"])
        for arrays, count in (
            (_VIEW_ARRAYS, len(np.atleast_1d(stored["sample"]))),
            (_SAMPLE_ARRAYS, len(np.atleast_1d(stored["joints"]))),
        ):
            for name, (_, shape) in arrays.items():
                if stored[name].shape != (count, *shape):
                    raise CropSetError(
                        f"{path / _INDEX}: {name} has shape {stored[name].shape}, expected {(count, *shape)}; {_ADVICE}"
                    )
        self._views = {name: stored[name] for name in _VIEW_ARRAYS}
        self._truths = {name: stored[name] for name in _SAMPLE_ARRAYS}
        expected, actual = int(self._views["length"].sum()), (path / _CROPS).stat().st_size
        if expected != actual:
            raise CropSetError(f"{path / _CROPS} has {actual} bytes, expected {expected}: it is cut off; {_ADVICE}")
        # Views of a sample follow each other.
        self._first = np.searchsorted(self._views["sample"], np.arange(len(self) + 1))
        self._file = np.memmap(path / _CROPS, np.uint8, "r") if actual else np.zeros(0, np.uint8)

    def __len__(self) -> int:
        return len(self._truths["joints"])

    @property
    def view_count(self) -> int:
        """Crops of all samples."""
        return len(self._views["sample"])

    def views_of(self, sample: int) -> range:
        """Numbers of a sample's views."""
        return range(int(self._first[sample]), int(self._first[sample + 1]))

    def view(self, number: int) -> CropView:
        """Read a view. Raises CropSetError where its image is damaged."""
        image = cv2.imdecode(self._bytes(number, 0), cv2.IMREAD_COLOR)
        if image is None or image.shape != (self.size, self.size, 3):
            raise CropSetError(f"{self.path / _CROPS}: crop {number} is not an image of {self.size} px; {_ADVICE}")
        known = {name: self._views[name][number] for name in ("crop_from_world", "pixels", "confidence")}
        view = CropView(np.asarray(image, np.uint8), float(self._views["focal"][number]), **known)
        if not self._views["length"][number, 1]:
            return view
        mask = cv2.imdecode(self._bytes(number, 1), cv2.IMREAD_GRAYSCALE)
        if mask is None or mask.shape != (self.size, self.size):
            raise CropSetError(f"{self.path / _CROPS}: mask {number} is not an image of {self.size} px; {_ADVICE}")
        return replace(view, mask=mask > 0)

    def truth(self, sample: int) -> HandTruth:
        """What is known of a sample's hand; NaN where it is not."""
        joints, *parameters = (self._truths[name][sample] for name in _SAMPLE_ARRAYS)
        return HandTruth(joints, HandParameters(*parameters))

    def _bytes(self, number: int, part: int) -> NDArray[np.uint8]:
        start, length = self._views["offset"][number, part], self._views["length"][number, part]
        return np.asarray(self._file[start : start + length])


def copy_with_labels(crops: CropSet, path: Path, pixels: FloatArray, confidence: FloatArray, made_from: str) -> CropSet:
    """A crop set with the same crops and other labels; where the file system can, the crops take no room again.

    Args:
        crops: the set.
        path: folder to make; must not exist or be empty.
        pixels, confidence: (N, 21, 2) px and (N, 21), of all views.
        made_from: of the new set.

    Raises:
        OSError: the set cannot be written.
    """
    index = load_arrays(crops.path / _INDEX, {}, _ADVICE)
    with _new_folder(path) as folder:
        try:
            os.link(crops.path / _CROPS, folder / _CROPS)
        except OSError:
            shutil.copyfile(crops.path / _CROPS, folder / _CROPS)
        labels = {"pixels": pixels, "confidence": confidence, "made_from": np.asarray(made_from)}
        save_arrays(folder / _INDEX, index | labels)
    return CropSet(path)


@contextmanager
def _new_folder(path: Path) -> Iterator[Path]:
    """`partial_folder` in the place of what an interrupted run left there: crops can be cut again."""
    shutil.rmtree(path.with_name(path.name + ".partial"), ignore_errors=True)
    with partial_folder(path) as folder:
        yield folder


def _packed(mask: NDArray[np.bool_]) -> bytes:
    data = cv2.imencode(".png", mask.astype(np.uint8) * 255, [cv2.IMWRITE_PNG_BILEVEL, 1])[1]
    return bytes(data.tobytes())
