from __future__ import annotations

import numpy as np
import pytest
from synthetic_hand import synthetic_hand

from hamuco.engine.hand_model import HandModel, load_hand_model
from hamuco.fusion.anatomy import Anatomy
from hamuco.fusion.kinematics import Skeleton


@pytest.mark.parametrize("model", [synthetic_hand(), load_hand_model()])
def test_mean_pose_is_within_limits_and_a_flat_hand_too(model: HandModel) -> None:
    skeleton = Skeleton.of(model, np.zeros(10))
    anatomy = Anatomy.of(skeleton)
    mean, flat = skeleton.mean_angles, np.zeros((1, 36))  # the thumb's rest pose is not a flat one
    assert ((mean > anatomy.lower) & (mean < anatomy.upper)).all()
    assert ((flat > anatomy.lower[:, :36]) & (flat < anatomy.upper[:, :36])).all()
    np.testing.assert_allclose(
        np.degrees(anatomy.upper - anatomy.lower)[0, [0, 1, 3, 6]], [125, 40, 120, 105], atol=1e-9
    )


def test_prior_is_proper_and_couples_fingertips_only() -> None:
    anatomy = Anatomy.of(Skeleton.of(synthetic_hand(), np.zeros(10)))
    assert np.linalg.eigvalsh(anatomy.information).min() > 0
    coupled = np.argwhere(np.triu(anatomy.information, 1))
    assert coupled.tolist() == [[9 * finger + 3, 9 * finger + 6] for finger in range(4)]


def test_sides_share_their_prior() -> None:
    right = load_hand_model()
    one, other = (Anatomy.of(Skeleton.of(model, np.zeros(10))) for model in (right, right.mirrored()))
    np.testing.assert_allclose(one.vector, other.vector, atol=1e-12)
    np.testing.assert_allclose(one.lower, other.lower, atol=1e-12)


def test_coupling_is_at_rest_when_the_finger_is_straight() -> None:
    skeleton = Skeleton.of(load_hand_model(), np.zeros(10))
    anatomy = Anatomy.of(skeleton)
    angles = skeleton.mean_angles[0].copy()
    angles[::3] = skeleton.straight[0]
    pull = anatomy.information @ angles - anatomy.vector[0]
    # What remains at the index's middle and last joint is the pull to the mean pose, of sigma 40 and 30 degrees.
    to_mean = (angles - skeleton.mean_angles[0])[[3, 6]] / np.radians([40, 30]) ** 2
    np.testing.assert_allclose(pull[[3, 6]], to_mean, atol=1e-12)
