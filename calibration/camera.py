"""Cameras and rigs.

Conventions of the whole project:

- metres, radians; axes right-handed, OpenCV camera axes (x right, y down, z forward);
- pixel centres at integer coordinates: the top left pixel's centre is (0, 0), the image spans -0.5 to width - 0.5;
- transforms are named target from source: `camera_from_world` maps world points to camera points;
- "normalized" image coordinates are (x / z, y / z) of a camera-frame point, before distortion.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]

# Numbers of coefficients that OpenCV's pinhole model takes; the fisheye model takes exactly four.
_PINHOLE_COEFFICIENTS = (0, 4, 5, 8, 12, 14)
# Converged points come back to 1e-12 px, diverged ones miss by whole pixels.
_UNDISTORT_TOLERANCE_PX = 1e-3


class CalibrationError(ValueError):
    """A calibration that cannot be right: wrong shape, not finite, not a rotation."""


@dataclass(frozen=True, slots=True, eq=False)
class Camera:
    """One calibrated camera.

    Attributes:
        name: unique in its rig.
        size: image width and height, px; `matrix` belongs to this size.
        matrix: 3x3 pinhole matrix K, px.
        distortion: OpenCV coefficients: k1 k2 p1 p2 [k3 [k4 k5 k6 [s1 s2 s3 s4 [tx ty]]]], or fisheye k1 k2 k3 k4.
        camera_from_world: 4x4 rigid transform, metres.
        fisheye: True for OpenCV's equidistant (Kannala-Brandt) model.
        source: where live frames come from: a device index, a file, a URL; None when that is said elsewhere.
    """

    name: str
    size: tuple[int, int]
    matrix: FloatArray
    distortion: FloatArray
    camera_from_world: FloatArray
    fisheye: bool = False
    source: str | None = None

    def __post_init__(self) -> None:
        def reject(what: str) -> None:
            raise CalibrationError(f"camera {self.name!r}: {what}")

        for attribute, shape in (("matrix", (3, 3)), ("camera_from_world", (4, 4))):
            value = np.array(getattr(self, attribute), np.float64)
            if value.shape != shape:
                reject(f"{attribute} has shape {value.shape}, expected {shape}")
            object.__setattr__(self, attribute, value)
        object.__setattr__(self, "distortion", np.array(self.distortion, np.float64).ravel())

        if len(self.size) != 2 or min(self.size) < 1:
            reject(f"size is {self.size}, expected width and height in px")
        for attribute in ("matrix", "distortion", "camera_from_world"):
            if not np.isfinite(getattr(self, attribute)).all():
                reject(f"{attribute} has entries that are not finite: {getattr(self, attribute).tolist()}")
        if min(self.matrix[0, 0], self.matrix[1, 1]) <= 0 or self.matrix[2].tolist() != [0, 0, 1]:
            reject(f"matrix is not a pinhole matrix (positive focal lengths, last row 0 0 1): {self.matrix.tolist()}")
        count = len(self.distortion)
        if self.fisheye and count != 4:
            reject(f"a fisheye camera has 4 distortion coefficients, got {count}")
        if not self.fisheye and count not in _PINHOLE_COEFFICIENTS:
            reject(f"{count} distortion coefficients; OpenCV's model takes one of {_PINHOLE_COEFFICIENTS}")
        # 1e-3 lets through a rotation written with four decimals and nothing that was estimated wrongly.
        rotation = self.camera_from_world[:3, :3]
        deviation = float(np.abs(rotation @ rotation.T - np.eye(3)).max())
        if deviation > 1e-3 or np.linalg.det(rotation) < 0 or self.camera_from_world[3].tolist() != [0, 0, 0, 1]:
            reject(
                f"camera_from_world is not a rigid transform: |R Rt - 1| = {deviation:.2g}, "
                f"det R = {np.linalg.det(rotation):.4f}; world -> camera, metres, is expected"
            )

    @property
    def centre(self) -> FloatArray:
        """Optical centre in the world, (3,) m."""
        rotation, translation = self.camera_from_world[:3, :3], self.camera_from_world[:3, 3]
        return -rotation.T @ translation

    def to_camera(self, points_world: ArrayLike) -> FloatArray:
        """World points (..., 3) m -> camera points (..., 3) m."""
        points = np.asarray(points_world, np.float64)
        return points @ self.camera_from_world[:3, :3].T + self.camera_from_world[:3, 3]

    def project(self, points_world: ArrayLike) -> FloatArray:
        """World points (..., 3) m -> pixels (..., 2) of the distorted image; NaN behind the camera."""
        return self.project_camera(self.to_camera(points_world))

    def project_camera(self, points_camera: ArrayLike) -> FloatArray:
        """Camera points (..., 3) m -> pixels (..., 2) of the distorted image; NaN behind the camera."""
        points = np.asarray(points_camera, np.float64)
        depth = points[..., 2:]
        in_front = depth > 0
        return self.distort(points[..., :2] / np.where(in_front, depth, np.nan))

    def distort(self, normalized: ArrayLike) -> FloatArray:
        """Normalized coordinates (..., 2) -> pixels (..., 2) of the distorted image."""
        points = np.asarray(normalized, np.float64)
        flat = points.reshape(1, -1, 2)
        if flat.size == 0:
            return points.copy()
        if self.fisheye:
            pixels = cv2.fisheye.distortPoints(flat, self.matrix, self.distortion)
        else:
            homogeneous = np.concatenate([flat[0], np.ones((flat.shape[1], 1))], axis=1)
            pixels, _ = cv2.projectPoints(homogeneous, np.zeros(3), np.zeros(3), self.matrix, self.distortion)
        return np.asarray(pixels, np.float64).reshape(points.shape)

    def undistort(self, pixels: ArrayLike) -> FloatArray:
        """Pixels (..., 2) of the distorted image -> normalized coordinates (..., 2); NaN where no ray meets the pixel.

        Some distortion polynomials fold over outside the image: no point projects to the pixels beyond the fold.
        """
        points = np.asarray(pixels, np.float64)
        flat = points.reshape(-1, 1, 2)
        if flat.size == 0:
            return points.copy()
        # OpenCV's default of five iterations leaves tenths of a pixel on strong lenses.
        criteria = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 50, 1e-12)
        if self.fisheye:
            normalized = cv2.fisheye.undistortPoints(flat, self.matrix, self.distortion, criteria=criteria)
        else:
            normalized = cv2.undistortPoints(flat, self.matrix, self.distortion, criteria=criteria)
        normalized = np.asarray(normalized, np.float64).reshape(points.shape)
        # Where the iteration does not converge OpenCV returns some number or -1e6, without a flag.
        error = np.linalg.norm(self.distort(normalized) - points, axis=-1, keepdims=True)
        return np.where(error < _UNDISTORT_TOLERANCE_PX, normalized, np.nan)

    def world_rays(self, directions_camera: ArrayLike) -> FloatArray:
        """Camera-frame directions (..., 3) -> unit directions (..., 3) in the world; they start at `centre`."""
        directions = np.asarray(directions_camera, np.float64) @ self.camera_from_world[:3, :3]
        return np.asarray(directions / np.linalg.norm(directions, axis=-1, keepdims=True))

    def pixel_rays(self, pixels: ArrayLike) -> FloatArray:
        """Pixels (..., 2) of the distorted image -> unit directions (..., 3) in the world."""
        normalized = self.undistort(pixels)
        return self.world_rays(np.concatenate([normalized, np.ones((*normalized.shape[:-1], 1))], axis=-1))


@dataclass(frozen=True, slots=True, eq=False)
class Rig:
    """Cameras that share one world frame, in a fixed order."""

    cameras: tuple[Camera, ...]

    def __post_init__(self) -> None:
        if not self.cameras:
            raise CalibrationError("a rig needs at least one camera")
        names = [camera.name for camera in self.cameras]
        if len(set(names)) != len(names):
            raise CalibrationError(f"camera names are not unique: {', '.join(names)}")

    def __iter__(self) -> Iterator[Camera]:
        return iter(self.cameras)

    def __len__(self) -> int:
        return len(self.cameras)

    def __getitem__(self, name: str) -> Camera:
        for camera in self.cameras:
            if camera.name == name:
                return camera
        raise CalibrationError(f"no camera {name!r} in the rig, which has {', '.join(self.names)}")

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(camera.name for camera in self.cameras)
