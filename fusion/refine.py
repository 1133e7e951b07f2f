"""Refines a rig's extrinsics from the hands that it tracks.

A calibration that is off by a tenth of a degree moves a hand at one metre by several pixels in the views that were not
looked at when it was made. Every tracked hand says where the cameras disagree; collected over many hands this is a
bundle adjustment (Triggs et al. 2000) whose points are eliminated set by set (Schur complement), so that a single
system of six unknowns per camera remains, held in place by the calibration itself as a prior.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from hamuco.calibration.camera import Camera, Rig
from hamuco.engine.view_hand import ViewHand
from hamuco.fusion.triangulate import Triangulation

FloatArray = NDArray[np.float64]

# How wrong a careful calibration may be: standard deviations of rotation, rad, and of translation, m. A camera that was
# bumped is beyond this and shows as an alarm, not as a silent correction.
_ROTATION_SIGMA = 0.005
_TRANSLATION_SIGMA = 0.005
_ALARM_SIGMAS = 2.0
# Old hands fade with this time constant, counted in hands. It also bounds what the hands can say against the prior: with 2000
# the same 36 frame sets, fifty times over, turned a camera by 0.6 degrees and went on; with 100 it stays at 0.25.
_MEMORY_HANDS = 100.0


class RigRefiner:
    """Collects tracked hands and corrects the cameras' poses by what they say."""

    def __init__(self, rig: Rig) -> None:
        self._base = rig
        self._slices = {camera.name: slice(6 * i, 6 * i + 6) for i, camera in enumerate(rig)}
        self._information = np.zeros((6 * len(rig), 6 * len(rig)))
        self._gradient = np.zeros(6 * len(rig))
        sigma = np.array([_ROTATION_SIGMA] * 3 + [_TRANSLATION_SIGMA] * 3)
        self._prior = np.diag(np.tile(sigma**-2.0, len(rig)))

    def add(self, views: tuple[ViewHand, ...], triangulation: Triangulation) -> None:
        """Add one hand seen by several views at (nearly) the same time.

        Only the mean of its joints counts: what single joints say about the tilt of a camera is mostly the network's
        own error, magnified by the smallness of a hand.
        """
        fade = 1 - 1 / _MEMORY_HANDS
        self._information *= fade
        self._gradient *= fade

        size = len(self._gradient)
        by_point = np.zeros((3, 3))  # second derivatives: of the hand's place, of both, and the place's gradient
        by_both = np.zeros((3, size))
        point_gradient = np.zeros(3)
        for view, inlier in zip(views, triangulation.inliers, strict=True):
            base = self._base[view.camera.name]
            in_camera = base.to_camera(triangulation.points)
            rays = view.rays @ view.camera.camera_from_world[:3, :3].T  # refined or not, in the camera's own axes
            depth = np.linalg.norm(in_camera, axis=1)[:, None, None]
            across = (np.eye(3) - rays[:, :, None] * rays[:, None, :]) / depth
            share = (inlier / max(inlier.sum(), 1e-9))[:, None, None]
            residual = (share * across @ in_camera[:, :, None]).sum(axis=0)[:, 0]
            to_camera = (share * np.concatenate([-across @ _cross_matrix(in_camera), across], axis=2)).sum(axis=0)
            to_point = (share * across).sum(axis=0) @ base.camera_from_world[:3, :3]
            weight = float(inlier.mean()) / view.ray_sigma**2
            block = self._slices[view.camera.name]
            self._information[block, block] += weight * to_camera.T @ to_camera
            self._gradient[block] += weight * to_camera.T @ residual
            by_point += weight * to_point.T @ to_point
            by_both[:, block] += weight * to_point.T @ to_camera
            point_gradient += weight * to_point.T @ residual
        eliminated = np.linalg.pinv(by_point, hermitian=True)
        self._information -= by_both.T @ eliminated @ by_both
        self._gradient -= by_both.T @ eliminated @ point_gradient

    def corrections(self) -> dict[str, FloatArray]:
        """Per camera (6,): rotation vector, rad, and translation, m, of the correction in the camera's axes."""
        solution = np.linalg.solve(self._information + self._prior, -self._gradient)
        return {name: np.asarray(solution[block], np.float64) for name, block in self._slices.items()}

    def rig(self) -> Rig:
        """The refined rig; equal to the calibration as long as nothing was added."""
        corrections = self.corrections()
        return Rig(tuple(_corrected(camera, corrections[camera.name]) for camera in self._base))

    def alarms(self) -> dict[str, str]:
        """Cameras that disagree with their calibration beyond its plausible error, with the numbers."""
        sigma = np.array([_ROTATION_SIGMA] * 3 + [_TRANSLATION_SIGMA] * 3)
        return {
            name: f"is {np.rad2deg(np.linalg.norm(value[:3])):.2f} deg and {1e3 * np.linalg.norm(value[3:]):.1f} mm off "
            f"its calibration: was it moved? Calibrate again."
            for name, value in self.corrections().items()
            if (np.abs(value) > _ALARM_SIGMAS * sigma).any()
        }


def _corrected(camera: Camera, correction: FloatArray) -> Camera:
    move = np.eye(4)
    move[:3, :3] = Rotation.from_rotvec(correction[:3]).as_matrix()
    move[:3, 3] = correction[3:]
    return replace(camera, camera_from_world=move @ camera.camera_from_world)


def _cross_matrix(vectors: FloatArray) -> FloatArray:
    """(n, 3) -> (n, 3, 3) with matrix @ x = vector cross x."""
    x, y, z = vectors.T
    zero = np.zeros_like(x)
    return np.stack([zero, -z, y, z, zero, -x, -y, x, zero], axis=1).reshape(-1, 3, 3)
