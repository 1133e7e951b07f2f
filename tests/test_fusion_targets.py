from __future__ import annotations

import numpy as np
from synthetic_hand import mixed_skeleton, random_hands

from hamuco.fusion.targets import JointTargets, align_palm, can_align


def test_a_hand_that_fixes_no_orientation_is_told_apart() -> None:
    targets = random_hands(mixed_skeleton(5), seed=0).landmarks.transpose(0, 2, 1).copy()
    weights = np.full((5, 21), 1e5)
    targets[1] = np.nan
    weights[2] = 0.0
    targets[3] = targets[3, 0] + np.linspace(0, 0.2, 21)[:, None] * [0.6, 0.0, 0.8]  # on a line
    weights[4, 3:] = np.nan  # the wrist and two thumb joints remain
    assert can_align(targets, weights).tolist() == [True, False, False, False, True]


def test_alignment_survives_one_wrong_palm_joint() -> None:
    skeleton = mixed_skeleton(50)
    # In the mean pose a rigid motion explains the joints exactly, all but the wrong one.
    mean = random_hands(skeleton, seed=1, span=0.0)
    posed = mean.moved(skeleton, np.concatenate([np.zeros((50, 6)), skeleton.mean_angles - mean.angles], axis=1))
    truth = posed.landmarks.transpose(0, 2, 1)
    targets = truth.copy()
    targets[:, 9] += 0.1
    aligned = align_palm(skeleton, JointTargets.of(targets, np.full((50, 21), 1e5), 50))
    # Reweighting shrinks the wrong joint's part with each round; 5 mm of its 173 leave any fit on the right side.
    assert np.linalg.norm(aligned.landmarks.transpose(0, 2, 1) - truth, axis=2).max() < 0.005
