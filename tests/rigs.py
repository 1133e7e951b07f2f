"""A synthetic rig with exact truth: cameras on a ring around a hand, and what they would see of it."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hamuco.calibration.camera import Camera, Rig
from hamuco.engine.crops import CropCamera
from hamuco.engine.hand_model import HandModel, load_hand_model
from hamuco.engine.skinning import forward
from hamuco.engine.view_hand import Region, ViewHand

FloatArray = NDArray[np.float64]

FOCAL = 900.0  # px
SIZE = (1280, 720)
RAY_SIGMA = 3.0 / FOCAL  # rad: what `view_hand` declares


def look_at(position: FloatArray, target: FloatArray) -> FloatArray:
    """camera_from_world (4, 4) of a camera that looks from one point at another, with world z up."""
    forward_axis = (target - position) / np.linalg.norm(target - position)
    right = np.cross(forward_axis, (0.0, 0.0, 1.0))
    right /= np.linalg.norm(right)
    rotation = np.stack([right, np.cross(forward_axis, right), forward_axis])
    transform = np.eye(4)
    transform[:3, :3], transform[:3, 3] = rotation, -rotation @ position
    return transform


def ring_rig(count: int, radius: float = 0.8, height: float = 0.3, arc: float = 2 * np.pi) -> Rig:
    """Cameras cam_0, ... evenly on an arc around the origin, m, all looking at it."""
    matrix = np.array([[FOCAL, 0, SIZE[0] / 2], [0, FOCAL, SIZE[1] / 2], [0, 0, 1]])
    cameras = []
    for index in range(count):
        angle = arc * index / count
        position = np.array([radius * np.cos(angle), radius * np.sin(angle), height])
        pose = look_at(position, np.zeros(3))
        cameras.append(Camera(f"cam_{index}", SIZE, matrix, np.array([-0.1, 0.02, 0.0, 0.0, 0.0]), pose))
    return Rig(tuple(cameras))


def hand_joints(centre: ArrayLike = (0, 0, 0), orient: ArrayLike = (0, 0, 0), side: str = "right") -> FloatArray:
    """Landmarks (21, 3) m of the embedded hand in its mean pose, the mean of its joints at `centre`."""
    model: HandModel = load_hand_model() if side == "right" else load_hand_model().mirrored()
    joints = forward(model, orient, np.zeros(45), np.zeros(10), np.zeros(3), with_vertices=False).landmarks
    centred: FloatArray = joints - joints.mean(axis=0) + np.asarray(centre, np.float64)
    return centred


def view_hand(
    camera: Camera,
    joints: FloatArray,
    *,
    t_ns: int = 0,
    track_id: int | None = None,
    right: float = 0.95,
    presence: float = 0.99,
    noise_px: float = 0.0,
    seed: int = 0,
) -> ViewHand:
    """What an estimator with Gaussian noise would say of a hand with these joints (21, 3) m, world."""
    pixels = camera.project(joints) + np.random.default_rng(seed).normal(0, noise_px, (21, 2))
    return ViewHand(
        region=Region(camera, CropCamera(np.eye(3), FOCAL, 224), track_id),
        t_capture_ns=t_ns,
        rays=camera.pixel_rays(pixels),
        ray_sigma=RAY_SIGMA,
        presence=presence,
        right=right,
    )
