"""Exact views of one rigid hand: crops around it with known cameras."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Views:
    """V crops whose cameras stand around a hand of P points at 0.4 to 1 m, each rolled by some angle in its plane.

    Attributes:
        crop_from_world: (V, 4, 4) m.
        root: (3,) m, world.
        points: (P, 3) m, relative to the root, axes of the world.
        in_crops: (V, P, 3) the same in the axes of the crops.
        normalized: (V, P, 2) where they are seen, x / z and y / z.
    """

    crop_from_world: FloatArray
    root: FloatArray
    points: FloatArray
    in_crops: FloatArray
    normalized: FloatArray


def views_of_a_hand(views: int, points: int = 30, seed: int = 0) -> Views:
    rng = np.random.default_rng(seed)
    hand = rng.normal(0, [0.05, 0.03, 0.02], (points, 3)) @ Rotation.random(rng=rng).as_matrix()
    root = rng.uniform(-0.2, 0.2, 3)
    crop_from_world = np.tile(np.eye(4), (views, 1, 1))
    for transform in crop_from_world:
        position = root + rng.uniform(0.4, 1.0) * unit(rng.normal(size=3))
        # The optical axis passes near the root; the roll is any angle.
        z = unit(root + rng.normal(0, 0.02, 3) - position)
        x = unit(np.cross(z, rng.normal(size=3)))
        transform[:3, :3] = [x, np.cross(z, x), z]
        transform[:3, 3] = -transform[:3, :3] @ position
    rotations = crop_from_world[:, :3, :3]
    camera = (root + hand) @ rotations.mT + crop_from_world[:, None, :3, 3]
    return Views(crop_from_world, root, hand, hand @ rotations.mT, camera[..., :2] / camera[..., 2:])


def unit(vector: FloatArray) -> FloatArray:
    return np.asarray(vector / np.linalg.norm(vector))
