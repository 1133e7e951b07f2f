from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from numpy.typing import NDArray

from hamuco.engine.hand_model import HandModel, load_hand_model, mirror_axis_angle
from hamuco.engine.skinning import forward
from hamuco.fusion.shape import bone_lengths
from hamuco.training.synthetic.contact import TOLERATED_DEPTH
from hamuco.training.synthetic.poses import FAMILIES, draw_angles, draw_betas, fingers_of

SEEDS = range(6)
WRIST, THUMB, INDEX, MIDDLE, RING, LITTLE = 0, 1, 5, 9, 13, 17  # first landmarks


@cache
def model() -> HandModel:
    return load_hand_model()


def landmarks(family: str, seed: int) -> NDArray[np.float64]:
    """(21, 3) m of a drawn adult hand: fingers along -x, palm towards -y, thumb on the side of +z."""
    rng = np.random.default_rng(seed)
    betas = np.zeros(10)
    pose = fingers_of(model()).hand_pose(draw_angles(model(), betas, rng, family))
    return forward(model(), np.zeros(3), pose, betas, np.zeros(3), with_vertices=False).landmarks


def stretched(hand: NDArray[np.float64], finger: int) -> float:
    """Distance from a finger's knuckle to its tip over the length of the bones between them: 1 for a straight finger."""
    chain = hand[finger : finger + 4]
    return float(np.linalg.norm(chain[3] - chain[0]) / np.linalg.norm(np.diff(chain, axis=0), axis=1).sum())


@pytest.mark.parametrize("family", [*FAMILIES, None])
def test_poses_are_within_limits_and_keep_fingers_apart(family: str | None) -> None:
    fingers = fingers_of(model())
    for seed in range(20):
        rng = np.random.default_rng(seed)
        betas = draw_betas(rng)
        angles = draw_angles(model(), betas, rng, family)
        assert (angles >= fingers.lower).all()
        assert (angles <= fingers.upper).all()
        assert fingers.depth(model(), angles[None], betas)[0] <= TOLERATED_DEPTH


@pytest.mark.parametrize(
    ("family", "straight"),
    [
        ("open", {INDEX, MIDDLE, RING, LITTLE}),
        ("spread", {INDEX, MIDDLE, RING, LITTLE}),
        ("fist", set()),
        ("point", {INDEX}),
        ("two", {INDEX, MIDDLE}),
        ("three", {INDEX, MIDDLE, RING}),
        ("four", {INDEX, MIDDLE, RING, LITTLE}),
        ("thumbs up", set()),
    ],
)
def test_families_hold_up_the_fingers_they_should(family: str, straight: set[int]) -> None:
    for seed in SEEDS:
        hand = landmarks(family, seed)
        for finger in (INDEX, MIDDLE, RING, LITTLE):
            # Bent by 20 degrees at both joints a finger still has 0.95 of its length, by 60 at both 0.67.
            assert (stretched(hand, finger) > 0.93) == (finger in straight)
            if finger not in straight:
                assert stretched(hand, finger) < 0.8


def test_open_and_spread_differ_by_the_angle_between_fingers() -> None:
    def fan(hand: NDArray[np.float64]) -> float:
        index, little = (hand[finger + 3] - hand[finger] for finger in (INDEX, LITTLE))
        return float(np.degrees(np.arccos(index @ little / np.linalg.norm(index) / np.linalg.norm(little))))

    for seed in SEEDS:
        assert fan(landmarks("spread", seed)) > fan(landmarks("open", seed)) + 10


def test_pinch_brings_thumb_and_index_tips_together() -> None:
    gaps = [np.linalg.norm(hand[THUMB + 3] - hand[INDEX + 3]) for hand in (landmarks("pinch", s) for s in range(20))]
    # Tip landmarks lie some 8 to 10 mm inside the tips' far sides; noise of 5 degrees at five joints moves them by 10 mm.
    assert np.median(gaps) < 0.025
    assert max(gaps) < 0.045
    open_gap = min(np.linalg.norm(hand[THUMB + 3] - hand[INDEX + 3]) for hand in (landmarks("open", s) for s in SEEDS))
    assert open_gap > 0.06


def test_fist_has_fingertips_at_the_palm_and_the_thumb_across() -> None:
    for seed in SEEDS:
        hand = landmarks("fist", seed)
        palm = hand[[WRIST, INDEX, LITTLE]].mean(axis=0)
        for finger in (INDEX, MIDDLE, RING, LITTLE):
            assert np.linalg.norm(hand[finger + 3] - palm) < 0.07
        # The thumb lies on the palm's side, before the fingers, its tip no more than its width and noise beside the index.
        assert hand[THUMB + 3, 1] < hand[INDEX, 1]
        assert hand[THUMB + 3, 2] < hand[INDEX, 2] + 0.04


def test_thumbs_up_points_away_from_the_fingers() -> None:
    for seed in SEEDS:
        hand = landmarks("thumbs up", seed)
        assert stretched(hand, THUMB) > 0.95
        assert hand[THUMB + 3, 2] > hand[:, 2][[INDEX, INDEX + 1, INDEX + 3]].max() + 0.025


def test_grasps_leave_room_for_what_they_hold() -> None:
    for seed in SEEDS:
        for family, least in (("cylinder grasp", 0.03), ("power grasp", 0.012)):
            hand = landmarks(family, seed)
            assert np.linalg.norm(hand[THUMB + 3] - hand[MIDDLE + 3]) > least
            assert 0.7 < stretched(hand, MIDDLE) < 0.97


def test_left_hands_do_the_same_in_a_mirror() -> None:
    fingers, left = fingers_of(model()), fingers_of(model().mirrored())
    angles = draw_angles(model(), np.zeros(10), np.random.default_rng(0))
    np.testing.assert_allclose(left.hand_pose(angles), mirror_axis_angle(fingers.hand_pose(angles)), atol=1e-12)


def test_sizes_are_those_of_people() -> None:
    hands = np.array([draw_betas(np.random.default_rng(seed)) for seed in range(400)])
    zeros = np.zeros(3)
    points = forward(model(), zeros, np.zeros(45), hands, zeros, with_vertices=False).landmarks
    lengths = bone_lengths(points)
    palm = 1e3 * np.linalg.norm(points[:, MIDDLE] - points[:, WRIST], axis=1)
    index = 1e3 * lengths[:, 5:8].sum(axis=1)
    # Hands measured with the landmark network: 96 mm from wrist to middle knuckle, an adult's mean; the hand lengths of
    # the 5th percentile of women and the 95th of men are 11 % below and above that of adults (Garrett, Hum. Factors
    # 1971). A child of six has two thirds to three quarters of an adult's hand.
    assert 92 < np.median(palm) < 98
    assert 65 < palm.min() < 80
    assert 103 < palm.max() < 115
    assert 84 < np.median(index) < 96
    assert index.min() > 50
    assert index.max() < 118
    assert (lengths > 0.01).all()
    children = palm < 83
    assert 0.05 < children.mean() < 0.3


def test_same_seed_same_pose() -> None:
    one, same = (draw_angles(model(), np.zeros(10), np.random.default_rng(7)) for _ in range(2))
    np.testing.assert_array_equal(one, same)
