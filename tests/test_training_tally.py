"""Figures of estimates that are wrong in a known way."""

from __future__ import annotations

import numpy as np
import pytest
from hands_in_the_air import true_hand
from numpy.typing import NDArray
from rigs import hand_joints

from hamuco.training.tally import METRIC, REST_SPEED, Estimate, Tally, TruePose

FloatArray = NDArray[np.float64]

JOINTS = hand_joints()
PERIOD_NS = 33_000_000
# Distances of some 10 mm between coordinates of 0.1 m: 1e-17 m each.
ROUNDING_MM = 1e-10


def true(number: int = 0, joints: FloatArray = JOINTS) -> TruePose:
    return TruePose(joints, None, number * PERIOD_NS, None)


def moved(metres: float) -> Estimate:
    return Estimate(JOINTS + (metres, 0.0, 0.0))


def test_means_are_over_joints_that_were_estimated() -> None:
    tally = Tally(METRIC, 2)
    few = moved(0.030).joints.copy()
    few[7:] = np.nan
    tally.add("hand", true(0), moved(0.010))
    tally.add("hand", true(1), Estimate(few))
    tally.add("hand", true(2), None)
    scores = tally.scores()
    assert (scores.hands, scores.estimated, scores.joints_missing) == (3, 2, 14)
    assert scores.coverage == pytest.approx(2 / 3)
    assert scores.mpjpe == pytest.approx((21 * 10 + 7 * 30) / 28)
    np.testing.assert_allclose(scores.by_joint, [20.0] * 7 + [10.0] * 14)
    # A shift is no error once roots, or all joints, are aligned.
    assert max(scores.root_mpjpe, scores.n_mpjpe, scores.pa_mpjpe) < ROUNDING_MM
    # Of 28 errors, 21 of 10 mm and 7 of 30: shares within 9.5, 10.5, 29.5 and 30.5 mm, and 1 - e / 50 mm on average.
    np.testing.assert_allclose(scores.pck[[19, 21, 59, 61]], [0, 0.75, 0.75, 1])
    assert scores.auc == pytest.approx(0.75 * 0.8 + 0.25 * 0.4)
    assert scores.pa_auc == pytest.approx(1)
    assert scores.pa_pck[1] == 1
    assert scores.root_auc_20_50 == pytest.approx(1)


def test_areas_count_from_their_own_lower_threshold() -> None:
    tally = Tally(METRIC, 2)
    joints = moved(0.035).joints.copy()
    joints[0] = JOINTS[0]
    tally.add("hand", true(), Estimate(joints))
    # All but the wrist are 35 mm off: of 0 to 50 mm 0.3 remain above, of 20 to 50 mm half.
    assert tally.scores().auc == pytest.approx((1 + 20 * 0.3) / 21)
    assert tally.scores().root_auc_20_50 == pytest.approx((1 + 20 * 0.5) / 21)


def test_nothing_added_makes_no_figure() -> None:
    scores = Tally(METRIC, 2).scores()
    assert (scores.hands, scores.estimated) == (0, 0)
    assert np.isnan([scores.coverage, scores.mpjpe, scores.pa_mpjpe, scores.auc, scores.rest, scores.f5]).all()
    assert np.isnan(scores.pck).all()


def test_identities_may_not_change_within_a_track_nor_over_a_gap() -> None:
    tally = Tally(METRIC, 2)
    for number, identity in enumerate((7, 7, None, 8, 8, 7)):
        tally.add("right", true(number), None if identity is None else Estimate(JOINTS, None, identity))
        tally.add("left", true(number), Estimate(JOINTS, None, 3, wrong_side=number == 1))
    tally.add_extra(2)
    tally.end_tracks()
    tally.add("right", true(6), Estimate(JOINTS, None, 9))  # another hand
    scores = tally.scores()
    assert (scores.identity_changes, scores.wrong_side, scores.extra_hands) == (2, 1, 2)


def test_no_acceleration_is_taken_across_a_gap() -> None:
    def acceleration(estimated: tuple[bool, ...]) -> float:
        tally = Tally(METRIC, 2)
        for number, one in enumerate(estimated):
            tally.add("hand", true(number), moved(0.001 * number**2) if one else None)
        return tally.scores().acceleration

    # 1 mm * k^2 has second differences of 2 mm.
    assert acceleration((True, True, True)) == pytest.approx(0.002 / 0.033**2)
    assert np.isnan(acceleration((True, True, False, True, True)))


def test_rest_is_the_spread_of_errors_and_not_the_motion_of_the_true_hand() -> None:
    drift = 0.9 * REST_SPEED * PERIOD_NS * 1e-9  # m per moment, slow enough to count as rest
    for speed, known in ((0.0, True), (drift, True), (2 * drift, False)):
        tally = Tally(METRIC, 2)
        for number in range(21):
            joints = JOINTS + (speed * number, 0.0, 0.0)
            # 5 mm beside, which is no jitter, and 2 mm to and fro; rest is known from the second moment on.
            error = 0.005 + 0.002 * (-1) ** number
            tally.add("hand", true(number, joints), Estimate(joints + (error, 0.0, 0.0)))
        rest = tally.scores().rest
        assert np.isfinite(rest) == known
        if known:
            assert rest == pytest.approx(2 * np.sqrt(20 / 19))


def test_a_short_stop_is_no_rest() -> None:
    tally = Tally(METRIC, 2)
    for number in range(8):  # seven at rest: it is known from the second moment on
        tally.add("hand", true(number), moved(0.002 * (-1) ** number))
    assert np.isnan(tally.scores().rest)


def test_surfaces_are_compared_where_both_are_of_one_kind() -> None:
    hand = true_hand()
    assert hand.vertices is not None
    tally = Tally(METRIC, 2)
    pose = TruePose(hand.joints, hand.vertices, None, None)
    tally.add("hand", pose, Estimate(hand.joints, hand.vertices + (0.0, 0.0, 0.02)))
    tally.add("hand", pose, Estimate(hand.joints, hand.vertices[:778]))  # another model: no figure
    scores = tally.scores()
    assert scores.mpvpe == pytest.approx(20)
    assert scores.pa_mpvpe < ROUNDING_MM
    assert scores.pa_f5 == scores.pa_f15 == 1
    assert scores.f5 < scores.f15 < 1
