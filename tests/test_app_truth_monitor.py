"""Tracked hands against the truth: which hand is which, how far apart, and at what time."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hands_for_streaming import example_hand, example_set
from scipy.spatial.transform import Rotation
from synthetic_hand import synthetic_hand

from hamuco.app.truth_monitor import TruthMatch, TruthMonitor
from hamuco.engine.hand_model import load_hand_model
from hamuco.fusion.hand import Hand, HandSet, Side
from hamuco.training.synthetic.truth import FloatArray, Trajectory, Truth, TruthError

MODEL = synthetic_hand()
FIRST_NS, EPOCH_NS = 5_000_000_000, 77_000_000_000
# One millisecond between samples, one second long.
T_NS = FIRST_NS + np.arange(1001) * 1_000_000


def trajectory(side: Side, x: float, velocity: float = 0.0) -> Trajectory:
    """A hand in its mean pose, wrist joint at (x, 0, 0.5) m at first, that moves along y with `velocity`, m/s."""
    parameters = np.zeros((len(T_NS), 51), np.float32)
    parameters[:, 48] = x
    parameters[:, 49] = velocity * (T_NS - FIRST_NS) * 1e-9
    parameters[:, 50] = 0.5
    return Trajectory(side, np.zeros(10, np.float32), T_NS, parameters)


TRUTH = Truth("synthetic", (trajectory("left", -0.15), trajectory("right", 0.15)), {})


def true_joints(truth: Truth, t_ns: int) -> list[FloatArray]:
    return [mesh.landmarks for mesh in truth.meshes_at(t_ns, MODEL, with_vertices=False)]


def tracked(track_id: int, side: Side, joints: FloatArray) -> Hand:
    return replace(example_hand(track_id), side=side, joints=joints)


def set_of(*hands: Hand, after_ns: int = 0) -> HandSet:
    return replace(example_set(0, hands), t_capture_ns=EPOCH_NS + after_ns)


def compare(truth: Truth, hands: HandSet) -> tuple[TruthMatch, ...]:
    matches = TruthMonitor(truth, MODEL, FIRST_NS).compare(hands, EPOCH_NS)
    assert matches is not None
    return matches


def test_each_true_hand_finds_its_own_in_any_order() -> None:
    left, right = true_joints(TRUTH, FIRST_NS)
    # 3-4-12 mm are 13 mm from every joint, and nothing once the hands are laid on each other.
    hands = set_of(tracked(7, "right", right + [0.003, 0.004, 0.012]), tracked(8, "left", left))
    of_left, of_right = compare(TRUTH, hands)
    assert (of_left.side, of_right.side) == ("left", "right")
    assert of_left.hand is not None
    assert of_right.hand is not None
    assert (of_left.hand.track_id, of_right.hand.track_id) == (8, 7)
    assert of_left.mpjpe_mm == pytest.approx(0, abs=1e-9)
    assert of_right.mpjpe_mm == pytest.approx(13, abs=1e-9)
    assert of_right.pa_mpjpe_mm == pytest.approx(0, abs=1e-9)
    assert not of_left.wrong_side
    assert not of_right.wrong_side
    np.testing.assert_array_equal(of_right.joints, right)


def test_turning_and_scaling_are_errors_until_the_hands_are_aligned() -> None:
    _, right = true_joints(TRUTH, FIRST_NS)
    turned = 1.1 * Rotation.from_rotvec([0.1, -0.2, 0.15]).apply(right - right.mean(axis=0)) + right.mean(axis=0)
    of_right = compare(TRUTH, set_of(tracked(0, "right", turned)))[1]
    assert of_right.mpjpe_mm == pytest.approx(1e3 * np.linalg.norm(turned - right, axis=1).mean())
    assert of_right.mpjpe_mm > 5
    assert of_right.pa_mpjpe_mm == pytest.approx(0, abs=1e-9)
    # A mirrored hand is not the same hand: no rotation makes a left of a right one.
    mirrored = right.mean(axis=0) + (right - right.mean(axis=0)) * [-1, 1, 1]
    assert compare(TRUTH, set_of(tracked(0, "right", mirrored)))[1].pa_mpjpe_mm > 5


def test_a_hand_of_the_wrong_side_is_found_and_said_to_be_wrong() -> None:
    left, right = true_joints(TRUTH, FIRST_NS)
    of_left, of_right = compare(TRUTH, set_of(tracked(0, "right", left + [0.02, 0, 0]), tracked(1, "right", right)))
    assert of_left.hand is not None
    assert of_left.hand.track_id == 0
    assert of_left.mpjpe_mm == pytest.approx(20)
    assert of_left.wrong_side
    assert not of_right.wrong_side


def test_the_nearer_of_two_tracked_hands_stands_for_the_true_one() -> None:
    truth = replace(TRUTH, trajectories=TRUTH.trajectories[1:])
    (right,) = true_joints(truth, FIRST_NS)
    hands = set_of(tracked(0, "right", right + [0, 0.03, 0]), tracked(1, "right", right + [0, 0, 0.01]))
    (match,) = compare(truth, hands)
    assert match.hand is not None
    assert match.hand.track_id == 1


def test_a_hand_far_away_is_none_of_the_true_ones() -> None:
    _, right = true_joints(TRUTH, FIRST_NS)
    for matches in (compare(TRUTH, set_of(tracked(0, "right", right + [0.2, 0, 0]))), compare(TRUTH, set_of())):
        assert [match.hand for match in matches] == [None, None]
        assert np.isnan([match.mpjpe_mm for match in matches]).all()
        assert np.isnan([match.pa_mpjpe_mm for match in matches]).all()


def test_truth_is_taken_at_the_time_of_the_set_on_the_clock_of_the_recording() -> None:
    truth = Truth("synthetic", (trajectory("right", 0.0, velocity=1.0),), {})
    (start,) = true_joints(truth, FIRST_NS)
    (match,) = compare(truth, set_of(tracked(0, "right", start), after_ns=30_500_000))
    assert match.mpjpe_mm == pytest.approx(30.5, abs=1e-4)  # parameters are float32: 1e-7 of half a metre
    np.testing.assert_allclose(match.joints, start + [0, 0.0305, 0], atol=1e-7)


def test_outside_the_truth_nothing_is_said() -> None:
    monitor = TruthMonitor(TRUTH, MODEL, FIRST_NS)
    for after_ns, known in ((-1, False), (0, True), (1_000_000_000, True), (1_000_000_001, False)):
        assert (monitor.compare(set_of(after_ns=after_ns), EPOCH_NS) is not None) == known


def test_truth_of_another_hand_model_is_refused() -> None:
    with pytest.raises(TruthError, match="'synthetic', tracked is 'free hand'"):
        TruthMonitor(TRUTH, load_hand_model(), FIRST_NS)
