"""What the crop kernel is told, in the bytes that engine/kernels/crop.cuh has it in; and arrays that travel in one block."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from hamuco.calibration.camera import Camera
from hamuco.engine.view_hand import Region

CAMERA_FRAME = np.dtype(
    [
        ("pixels", "u8"), ("chroma", "u8"), ("width", "i4"), ("height", "i4"), ("stride", "i4"), ("fisheye", "i4"),
        ("intrinsics", "f4", 4), ("max_tangent", "f4"), ("distortion", "f4", 14),
    ],
    align=True,
)  # fmt: skip
"""`CameraFrame`; intrinsics are fx, fy, cx, cy."""

CROP_VIEW = np.dtype([("camera", "i4"), ("mirrored", "i4"), ("focal", "f4"), ("crop_from_camera", "f4", (3, 3))])
"""`CropView`."""

_ALIGNMENT = 256  # what the driver gives to each of its own; kernels need 16
_WIDEST = 100.0
_ANGLES = 10_000


def camera_frame(camera: Camera, shape: Sequence[int], stride: int, address: int) -> NDArray[np.void]:
    """A camera and where its frame lies.

    Args:
        camera: its lens, and the size of its frames.
        shape: of the frame: BGR (height, width, 3), or NV12 (height * 3 / 2, width).
        stride: bytes from a row to the next.
        address: of its first byte.

    Raises:
        ValueError: the frame is of another size than the camera's, or of another kind; or of NV12 and odd size.
    """
    width, height = camera.size
    bgr = tuple(shape) == (height, width, 3)
    nv12 = tuple(shape) == (height * 3 // 2, width) and width % 2 == height % 2 == 0
    if not bgr and not nv12:
        raise ValueError(
            f"a frame of camera {camera.name!r} has shape {tuple(shape)}; calibrated is {width} x {height}, so "
            f"{(height, width, 3)} for BGR or {(height * 3 // 2, width)} for NV12 of even size is expected"
        )
    packed = np.zeros((), CAMERA_FRAME)
    packed["pixels"], packed["chroma"] = address, 0 if bgr else address + height * stride
    packed["width"], packed["height"], packed["stride"], packed["fisheye"] = width, height, stride, camera.fisheye
    packed["intrinsics"] = camera.matrix[[0, 1, 0, 1], [0, 1, 2, 2]]
    packed["max_tangent"] = max_tangent(camera)
    packed["distortion"][: len(camera.distortion)] = camera.distortion
    return packed


def crop_view(region: Region, camera: int, size: int) -> NDArray[np.void]:
    """A region as a crop of `size` px of the camera of that number; a left hand's is mirrored."""
    packed = np.zeros((), CROP_VIEW)
    packed["camera"], packed["mirrored"] = camera, region.right is False
    packed["focal"], packed["crop_from_camera"] = region.crop.resized(size).focal, region.crop.crop_from_camera
    return packed


@lru_cache(maxsize=256)
def max_tangent(camera: Camera) -> float:
    """Of the angle up to which the radial part of the lens model grows, at most 100: beyond, it folds over."""
    tangent = np.tan(np.linspace(0, np.arctan(_WIDEST), _ANGLES))
    if camera.fisheye:
        theta = np.arctan(tangent)
        image = theta * np.polyval([*camera.distortion[::-1], 1], theta**2)
    else:
        k = np.zeros(14)
        k[: len(camera.distortion)] = camera.distortion
        image = tangent * np.polyval([k[4], k[1], k[0], 1], tangent**2) / np.polyval([k[7], k[6], k[5], 1], tangent**2)
    folds = np.flatnonzero(np.diff(image) <= 0)
    return float(tangent[folds[0]] if len(folds) else tangent[-1])


class Block:
    """Arrays with names in one block of memory, so that one copy moves them all.

    Attributes:
        size: bytes.
        offsets: of each array, bytes.
    """

    def __init__(self, arrays: Mapping[str, tuple[DTypeLike, tuple[int, ...]]]) -> None:
        """`arrays`: name -> type and shape."""
        self._arrays = {name: (np.dtype(kind), shape) for name, (kind, shape) in arrays.items()}
        self.size, self.offsets = 0, {}
        for name, (kind, shape) in self._arrays.items():
            self.offsets[name] = self.size
            self.size += -(-kind.itemsize * int(np.prod(shape)) // _ALIGNMENT) * _ALIGNMENT

    def views(self, memory: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
        """The arrays in memory (size,), which they share."""
        return {
            name: np.ndarray(shape, kind, memory.data, self.offsets[name])
            for name, (kind, shape) in self._arrays.items()
        }

    def addresses(self, start: int) -> dict[str, int]:
        """Of the arrays in memory that starts there."""
        return {name: start + offset for name, offset in self.offsets.items()}
