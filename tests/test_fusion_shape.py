from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from synthetic_hand import random_hands

from hamuco.engine.hand_model import load_hand_model
from hamuco.engine.skinning import forward
from hamuco.fusion.kinematics import Skeleton
from hamuco.fusion.shape import ShapeEstimator, bone_lengths, fit_shape

FloatArray = NDArray[np.float64]

MODEL = load_hand_model()


def lengths_of(betas: FloatArray) -> FloatArray:
    return bone_lengths(forward(MODEL, np.zeros(3), np.zeros(45), betas, np.zeros(3)).landmarks)


@pytest.mark.parametrize("seed", range(5))
def test_measured_lengths_are_recovered(seed: int) -> None:
    truth = lengths_of(np.random.default_rng(seed).normal(size=10))
    # The prior moves a length by its own share: 20 lengths of 0.1 mm outweigh it unless a direction of shape hardly
    # changes lengths, and then it hardly matters.
    np.testing.assert_allclose(lengths_of(fit_shape(MODEL, truth, np.full(20, 1e-4**-2))), truth, atol=2e-4)


def test_missing_lengths_follow_from_the_others() -> None:
    rng = np.random.default_rng(0)
    error: list[float] = []
    spread: list[float] = []
    for _ in range(20):
        truth = lengths_of(rng.normal(size=10))
        missing = rng.permutation(20)[:6]
        partly = truth.copy()
        partly[missing] = np.nan
        error.extend((lengths_of(fit_shape(MODEL, partly, np.full(20, 1e-3**-2))) - truth)[missing])
        spread.extend((lengths_of(np.zeros(10)) - truth)[missing])
    assert np.square(error).mean() < 0.5**2 * np.square(spread).mean()


def test_without_measurements_the_mean_shape_is_most_probable() -> None:
    assert (fit_shape(MODEL, np.full(20, np.nan), np.full(20, 1e6)) == 0).all()
    assert (fit_shape(MODEL, np.full(20, 0.05), np.zeros(20)) == 0).all()


@pytest.mark.parametrize("factor", [0.75, 1.3])
def test_small_and_large_hands_are_within_reach(factor: float) -> None:
    measured = factor * lengths_of(np.zeros(10))
    fitted = lengths_of(fit_shape(MODEL, measured, np.full(20, 0.002**-2)))
    # The prior's pull may show by less than the stated 2 mm.
    np.testing.assert_allclose(fitted, measured, atol=2e-3)


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match="expected 20"):
        fit_shape(MODEL, np.zeros(21), np.zeros(20))
    with pytest.raises(ValueError, match="below zero"):
        fit_shape(MODEL, np.zeros(20), np.full(20, -1.0))
    with pytest.raises(ValueError, match="sets_needed"):
        ShapeEstimator(MODEL, sets_needed=2)


def test_estimator_measures_moving_noisy_hands_once() -> None:
    rng = np.random.default_rng(0)
    betas = 1.2 * rng.normal(size=10)
    skeleton = Skeleton.stack([Skeleton.of(MODEL, betas)] * 40)
    joints = random_hands(skeleton, seed=1, span=0.4).landmarks.transpose(0, 2, 1)
    joints = joints + rng.normal(0, 0.003, joints.shape)
    estimator = ShapeEstimator(MODEL, sets_needed=30)
    assert (estimator.betas() == 0).all()
    for hand in range(40):
        sigma = np.full(21, 0.003)
        if hand % 8 == 0:
            sigma[4:14] = np.nan  # half of the hand unseen
        elif hand % 8 == 1:
            joints[hand, 8] += 0.1  # and an outlier that claims to be certain
        estimator.add(joints[hand], sigma)
    assert estimator.ready
    assert (estimator.used, estimator.rejected) == (30, 5)
    # Per bone: the median of 30 lengths of sigma 3 * sqrt(2) mm is good to 1.25 * 4.2 / sqrt(30) = 1.0 mm, pose moves
    # it by 0.5, noise across the bone lengthens it by sigma^2 / length = 0.4 (2 x 9 / 2 / 25): root mean square 1.2.
    error = lengths_of(estimator.betas()) - lengths_of(betas)
    assert np.sqrt((error**2).mean()) < 1.2e-3

    before = estimator.betas()
    estimator.add(2 * joints[2], np.full(21, 0.001))
    np.testing.assert_array_equal(estimator.betas(), before)
