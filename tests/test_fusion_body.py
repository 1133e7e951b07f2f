from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from synthetic_hand import random_hands

from hamuco.engine.hand_model import load_hand_model
from hamuco.engine.skinning import forward
from hamuco.fusion.body import Body
from hamuco.fusion.kinematics import Skeleton
from hamuco.fusion.shape import bone_lengths
from hamuco.fusion.triangulate import Triangulation

FloatArray = NDArray[np.float64]

MODEL = load_hand_model()


def observed(joints: FloatArray, sigma: float = 0.003) -> Triangulation:
    """Joints (21, 3) m as triangulated with this standard deviation."""
    information = np.tile(np.eye(3) / sigma**2, (21, 1, 1))
    return Triangulation(joints, information, np.ones((2, 21)), np.zeros((2, 21)))


def hands(betas: FloatArray, count: int) -> FloatArray:
    """Joints (count, 21, 3) m of one person's hand in different poses."""
    skeleton = Skeleton.stack([Skeleton.of(MODEL, betas)] * count)
    return random_hands(skeleton, seed=1, span=0.4).landmarks.transpose(0, 2, 1)


def lengths_of(betas: FloatArray) -> FloatArray:
    return bone_lengths(forward(MODEL, np.zeros(3), np.zeros(45), betas, np.zeros(3), with_vertices=False).landmarks)


def test_the_shape_is_guessed_every_five_good_sets_and_locked_after_twenty() -> None:
    betas = 1.2 * np.random.default_rng(3).normal(size=10)
    body = Body(MODEL)
    changed_at = []
    for number, joints in enumerate(hands(betas, 30), start=1):
        before = body.betas
        body.measure(observed(joints, sigma=0.02))  # too uncertain to count
        body.measure(observed(joints))
        if (body.betas != before).any():
            changed_at.append(number)
    assert changed_at == [5, 10, 15, 20]
    # Joints are exact, but pose changes bones: to 2 mm of each the shape is taken to be known.
    error = lengths_of(body.betas) - lengths_of(betas)
    assert np.sqrt((error**2).mean()) < 2e-3
    assert np.sqrt(((lengths_of(np.zeros(10)) - lengths_of(betas)) ** 2).mean()) > 5e-3  # the mean shape is not it


def test_the_skeleton_has_the_shape() -> None:
    body = Body(MODEL)
    np.testing.assert_array_equal(body.betas, np.zeros(10))
    for joints in hands(np.full(10, 0.8), 5):
        body.measure(observed(joints))
    expected = Skeleton.of(MODEL, body.betas)
    np.testing.assert_array_equal(body.skeleton.offset, expected.offset)
    assert np.abs(expected.offset - Skeleton.of(MODEL, np.zeros(10)).offset).max() > 1e-3
