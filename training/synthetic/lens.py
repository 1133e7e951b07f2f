"""Lens distortion of drawn pictures: a pinhole picture with enough margin, and where in it the camera's pixels look."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from hamuco.calibration.camera import Camera

FloatArray = NDArray[np.float64]

_DENSITY = 1.25  # samples per pixel of the camera, each way
_MAX_TANGENT = 4.0  # a pinhole picture of more than 150 degrees would be mostly margin


@dataclass(frozen=True, slots=True, eq=False)
class Lens:
    """A pinhole picture that covers a camera's, and where its pixels lie in it.

    Attributes:
        matrix, size: of the pinhole picture, whose pixels are called samples.
        map: (height, width, 2) float32 places of the camera's pixels among the samples, or None where both are the same.
    """

    matrix: FloatArray
    size: tuple[int, int]
    map: NDArray[np.float32] | None


@lru_cache(maxsize=64)  # as many views as rigs have
def lens_of(camera: Camera) -> Lens:
    """The pinhole picture for a camera. Cameras are compared by identity: a clip uses the same ones all along."""
    if not camera.fisheye and not camera.distortion.any():
        return Lens(camera.matrix, camera.size, None)
    width, height = camera.size
    pixels = np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1).astype(np.float64)
    rays = camera.undistort(pixels)
    with np.errstate(invalid="ignore"):
        rays[~(np.abs(rays) < _MAX_TANGENT).all(axis=-1)] = np.nan
    if not np.isfinite(rays).any():
        raise ValueError(f"camera {camera.name!r}: no pixel sees anything, check its distortion {camera.distortion}")
    low, high = np.nanmin(rays, axis=(0, 1)), np.nanmax(rays, axis=(0, 1))
    focal = _DENSITY * np.diag(camera.matrix)[:2]
    centre = 2 - focal * low  # a margin of two samples, so that interpolation at the rim finds neighbours
    matrix = np.array([[focal[0], 0, centre[0]], [0, focal[1], centre[1]], [0, 0, 1]])
    size = np.ceil(centre + focal * high).astype(int) + 3
    mapped = rays * focal + centre
    return Lens(matrix, (int(size[0]), int(size[1])), np.nan_to_num(mapped, nan=-10.0).astype(np.float32))
