"""Crops as cameras: each hand region becomes a virtual pinhole camera that looks straight at the hand.

What a network sees in such a crop is exact after a known rotation, wherever the hand stands in the image and however
strong the lens distortion is; landmarks found in it are rays of the real camera without any undistortion.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from hamuco.calibration.camera import Camera

FloatArray = NDArray[np.float64]

# The map from crop to image is smooth, so it is computed on a grid of this spacing (px of the crop) and interpolated.
# The error is below 0.2 px at the rim of a webcam with k1 = -0.33, where landmarks are good to 3 px (tested).
_GRID_STEP = 16

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


def crop_around(points_camera: FloatArray, up_camera: FloatArray, rule: BoxRule, size: int) -> CropCamera | None:
    """The crop that shows the given points upright.

    Args:
        points_camera: (n, 3) points or directions in the camera frame.
        up_camera: (2, 3) two points or directions; the first to the second is up in the crop.
        rule: margin and shift.
        size: px.

    Returns:
        None where a point is behind the camera, or the crop would be absurdly wide.
    """
    stacked = np.concatenate([points_camera, up_camera])
    if not np.isfinite(stacked).all() or (stacked[:, 2] <= 0).any():
        return None
    directions = stacked / np.linalg.norm(stacked, axis=1, keepdims=True)
    # Two steps: look at the middle of the points, lay the box there, then look at the middle of the box.
    axis = directions[: len(points_camera)].mean(axis=0)
    towards = directions[-1] - directions[-2]
    rotation = _look_at(axis, towards)
    if rotation is None:
        return None
    turned = directions @ rotation.T
    if (turned[:, 2] <= 0.1).any():
        return None
    tangent = turned[: len(points_camera), :2] / turned[: len(points_camera), 2:]
    low, high = tangent.min(axis=0), tangent.max(axis=0)
    side = float((high - low).max())
    centre = (low + high) / 2 + (0.0, -rule.shift * side)  # the crop's y axis points down, the hand's up
    half = side * rule.scale / 2
    if not 1e-6 < half < _MAX_HALF_EXTENT:
        return None
    final = _look_at(np.array([*centre, 1.0]) @ rotation, towards)
    return None if final is None else CropCamera(final, size / 2 / half, size)


def _look_at(axis: FloatArray, up: FloatArray) -> FloatArray | None:
    """Rotation (3, 3) that brings `axis` to z and `up` into the half-plane of -y; None where the two are parallel."""
    z = axis / np.linalg.norm(axis)
    y = -(up - z * (up @ z))
    length = np.linalg.norm(y)
    if length < 1e-9:
        return None
    y = y / length
    return np.stack([np.cross(y, z), y, z])


def warp_crop(image: NDArray[np.uint8], camera: Camera, crop: CropCamera, out: NDArray[np.uint8]) -> None:
    """Sample the crop (size, size, 3) out of the camera's distorted image (height, width, 3) into `out`."""
    margin = 2 * _GRID_STEP  # nodes beyond the border, so that the interpolation never runs into the grid's edge
    count = -(-crop.size // _GRID_STEP) + 4
    node = (np.arange(count) + 0.5) * _GRID_STEP - 0.5 - margin
    grid = np.stack(np.meshgrid(node, node), axis=-1)
    directions = crop.directions(grid)
    nodes = camera.distort(directions[..., :2] / directions[..., 2:]).astype(np.float32)
    dense = cv2.resize(nodes, (count * _GRID_STEP, count * _GRID_STEP), interpolation=cv2.INTER_LINEAR)
    inner = slice(margin, margin + crop.size)
    cv2.remap(image, dense[inner, inner], None, cv2.INTER_LINEAR, dst=out, borderMode=cv2.BORDER_REPLICATE)
