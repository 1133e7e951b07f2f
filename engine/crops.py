"""Crops as cameras: each hand region becomes a virtual pinhole camera that looks straight at the hand.

What a network sees in such a crop is exact after a known rotation, wherever the hand stands in the image and however
strong the lens distortion is; landmarks found in it are rays of the real camera without any undistortion.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

from hamuco.calibration.camera import Camera

FloatArray = NDArray[np.float64]

# The map from crop to image is smooth, so it is computed on a grid of this spacing (px of the crop) and interpolated.
# The error is below 0.2 px at the rim of a webcam with k1 = -0.33, where landmarks are good to 3 px (tested).
_GRID_STEP = 16
_GRID_MARGIN = 2 * _GRID_STEP

# A crop that sees more than this half-angle (tangent) is no longer a picture of one hand: nearly touching the lens.
_MAX_HALF_EXTENT = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class CropCamera:
    """A virtual pinhole camera at the real camera's centre, with square pixels and its axis through the image centre.

    Attributes:
        crop_from_camera: (3, 3) rotation of directions.
        focal: px.
        size: width and height of the crop, px.
    """

    crop_from_camera: FloatArray
    focal: float
    size: int

    @property
    def half_angle(self) -> float:
        """Tangent of half the field of view, from edge to edge."""
        return self.size / 2 / self.focal

    def resized(self, size: int) -> CropCamera:
        """The same view with another number of pixels."""
        return CropCamera(self.crop_from_camera, self.focal * size / self.size, size)

    def project(self, points_camera: FloatArray) -> FloatArray:
        """Points or directions (..., 3) in the real camera's frame -> pixels (..., 2) of the crop."""
        points = points_camera @ self.crop_from_camera.T
        return self.focal * points[..., :2] / points[..., 2:] + (self.size - 1) / 2

    def directions(self, pixels: FloatArray) -> FloatArray:
        """Pixels (..., 2) of the crop -> directions (..., 3) in the real camera's frame, not normalized."""
        tangent = (pixels - (self.size - 1) / 2) / self.focal
        return np.concatenate([tangent, np.ones((*tangent.shape[:-1], 1))], axis=-1) @ self.crop_from_camera


@dataclass(frozen=True, slots=True)
class BoxRule:
    """How a square crop is laid around points: the largest side of their upright box times `scale`, moved by `shift`
    sides along the hand's up direction. The networks were trained with these numbers."""

    scale: float
    shift: float


def crops_around(points_camera: FloatArray, up_camera: FloatArray, rule: BoxRule, size: int) -> list[CropCamera | None]:
    """The crops that show n groups of points upright.

    Args:
        points_camera: (n, p, 3) points or directions in the camera frame.
        up_camera: (n, 2, 3) two points or directions each; the first to the second is up in the crop.
        rule: margin and shift.
        size: px.

    Returns:
        None for a group with a point behind the camera, or whose crop would be absurdly wide.
    """
    everything = np.concatenate([points_camera, up_camera], axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):  # bad groups are sorted out at the end
        directions = everything / np.linalg.norm(everything, axis=2, keepdims=True)
        towards = directions[:, -1] - directions[:, -2]
        # Two steps: look at the middle of the points, lay the box there, then look at the middle of the box.
        first = _look_at(directions[:, :-2].mean(axis=1), towards)
        turned = directions @ first.transpose(0, 2, 1)
        tangent = turned[:, :-2, :2] / turned[:, :-2, 2:]
        low, high = tangent.min(axis=1), tangent.max(axis=1)
        side = (high - low).max(axis=1)
        centre = np.concatenate([(low + high) / 2, np.ones((len(side), 1))], axis=1)
        centre[:, 1] -= rule.shift * side  # the crop's y axis points down, the hand's up
        final = _look_at((centre[:, None] @ first)[:, 0], towards)
    half = side * rule.scale / 2
    good = (everything[..., 2] > 0).all(axis=1) & (turned[..., 2] > 0.1).all(axis=1)
    good &= (half > 1e-6) & (half < _MAX_HALF_EXTENT) & np.isfinite(final).all(axis=(1, 2))
    return [
        CropCamera(final[index], size / 2 / float(half[index]), size) if good[index] else None
        for index in range(len(good))
    ]


def _look_at(axis: FloatArray, up: FloatArray) -> FloatArray:
    """Rotations (n, 3, 3) that bring `axis` (n, 3) to z and `up` (n, 3) into the half-plane of -y; NaN if parallel."""
    z = axis / np.linalg.norm(axis, axis=1, keepdims=True)
    y = z * (up * z).sum(axis=1, keepdims=True) - up
    length = np.linalg.norm(y, axis=1, keepdims=True)
    y = y / np.where(length > 1e-9, length, np.nan)
    return np.stack([np.cross(y, z), y, z], axis=1)


def warp_crops(image: NDArray[np.uint8], camera: Camera, crops: Sequence[CropCamera], out: NDArray[np.uint8]) -> None:
    """Sample crops of one size out of the camera's distorted image (height, width, 3) into `out` (n, size, size, 3)."""
    size = crops[0].size
    grid = _grid(size)
    directions = np.stack([crop.directions(grid) for crop in crops])
    nodes = camera.distort(directions[..., :2] / directions[..., 2:]).astype(np.float32)
    dense_size = len(grid) * _GRID_STEP
    inner = slice(_GRID_MARGIN, _GRID_MARGIN + size)
    for one, target in zip(nodes, out, strict=True):
        dense = cv2.resize(one, (dense_size, dense_size), interpolation=cv2.INTER_LINEAR)
        cv2.remap(  # x and y are in one map; the stubs do not know that None stands for the other
            image,
            dense[inner, inner],
            None,
            cv2.INTER_LINEAR,
            target,
            cv2.BORDER_REPLICATE,  # type: ignore[call-overload]
        )


@cache
def _grid(size: int) -> FloatArray:
    """Pixels (k, k, 2) of the crop where the map is computed, with nodes beyond the border: enough for interpolation."""
    node = (np.arange(-(-size // _GRID_STEP) + 4) + 0.5) * _GRID_STEP - 0.5 - _GRID_MARGIN
    return np.stack(np.meshgrid(node, node), axis=-1)
