from __future__ import annotations

from functools import cache
from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial import KDTree
from scipy.spatial.transform import Rotation

from hamuco.engine.hand_model import HandModel, load_hand_model, mirror_axis_angle
from hamuco.engine.skinning import HandMesh, forward
from hamuco.fusion.hand import HandParameters, Side
from hamuco.training.synthetic import motion
from hamuco.training.synthetic.contact import capsules, mutual_penetration, own_penetration
from hamuco.training.synthetic.encounters import ENCOUNTERS, Hands, closest_step, draw_encounter
from hamuco.training.synthetic.motion import draw_hand, draw_hands, draw_trajectories
from hamuco.training.synthetic.placing import draw_turns, global_orient
from hamuco.training.synthetic.poses import draw_betas, fingers_of
from hamuco.training.synthetic.truth import Trajectory, Truth

FloatArray = NDArray[np.float64]

START = 5_000_000_000  # ns
SECONDS = 6.0
STEP = 1e-3  # s, between the times at which the spline is looked at: ten of them between two samples
CASES = [(hands, seed) for hands in (1, 2) for seed in range(4)]


@cache
def model(side: Side = "right") -> HandModel:
    return load_hand_model() if side == "right" else load_hand_model().mirrored()


@cache
def trajectories(hands: int, seed: int) -> tuple[Trajectory, ...]:
    return draw_trajectories(model(), hands, SECONDS, START, np.random.default_rng(seed))


def between_samples(trajectory: Trajectory, step: float = STEP) -> HandParameters:
    return trajectory.at(START + np.arange(0, SECONDS * 1e9, step * 1e9).astype(np.int64))


def derivatives(values: NDArray[np.floating]) -> tuple[FloatArray, FloatArray]:
    """First and second differences of values (K, D), per second: of a cubic spline exact to a step."""
    return np.diff(values, axis=0) / STEP, np.diff(values, 2, axis=0) / STEP**2


def posed(side: Side, hand: HandParameters) -> HandMesh:
    return forward(model(side), hand.global_orient, hand.hand_pose, hand.betas, hand.transl)


@pytest.mark.parametrize(("hands", "seed"), CASES)
def test_wrist_is_no_faster_than_a_hand(hands: int, seed: int) -> None:
    for trajectory in trajectories(hands, seed):
        speed, acceleration = (np.linalg.norm(d, axis=1) for d in derivatives(between_samples(trajectory).transl))
        assert 0.3 < speed.max() < motion.MAX_SPEED  # m/s
        assert acceleration.max() < motion.MAX_ACCELERATION
        assert np.mean(speed < 0.03) > 0.02  # it rests now and then, if never quite
        assert speed.min() > 0


@pytest.mark.parametrize(("hands", "seed"), CASES)
def test_orientation_turns_smoothly(hands: int, seed: int) -> None:
    for trajectory in trajectories(hands, seed):
        turns = Rotation.from_rotvec(between_samples(trajectory).global_orient)
        velocity = (turns[1:] * turns[:-1].inv()).as_rotvec() / STEP  # rad/s, in world axes
        assert 0.5 < np.linalg.norm(velocity, axis=1).max() < motion.MAX_TURNING
        acceleration = np.linalg.norm(np.diff(velocity, axis=0), axis=1) / STEP
        assert acceleration.max() < motion.MAX_TURNING_ACCELERATION


@pytest.mark.parametrize(("hands", "seed"), CASES)
def test_fingers_bend_smoothly_within_their_limits(hands: int, seed: int) -> None:
    fingers = fingers_of(model())
    for trajectory in trajectories(hands, seed):
        pose = between_samples(trajectory).hand_pose
        speed, acceleration = derivatives(pose)
        assert 1.0 < np.abs(speed).max() < motion.MAX_BENDING
        assert np.abs(acceleration).max() < motion.MAX_BENDING_ACCELERATION
        right = pose if trajectory.side == "right" else mirror_axis_angle(pose)
        axes = fingers.skeleton.basis[0, 1:].transpose(0, 2, 1)
        angles = (axes @ right.reshape(-1, 15, 3, 1)).reshape(-1, 45) + fingers.skeleton.mean_angles[0]
        # Between samples a cubic overshoots its convex hull by a quarter of acceleration times step squared over two.
        slack = motion.MAX_BENDING_ACCELERATION * 0.01**2 / 8
        assert (angles > fingers.lower - slack).all()
        assert (angles < fingers.upper + slack).all()


@pytest.mark.parametrize(("hands", "seed"), CASES)
def test_hands_stay_in_the_workspace_and_out_of_themselves(hands: int, seed: int) -> None:
    for trajectory in trajectories(hands, seed):
        hand = between_samples(trajectory, 0.013)
        far = np.linalg.norm(posed(trajectory.side, hand).landmarks, axis=-1)
        # Hands that make way for each other leave the ball of 0.25 m for moments.
        assert far.max() < (0.25 if hands == 1 else 0.36)
        assert np.mean(far > 0.25) < (0.001 if hands == 1 else 0.1)
        assert (
            own_penetration(capsules(model(trajectory.side), hand)).max() < 0.003
        )  # 2 mm, and between samples a little


@pytest.mark.parametrize("seed", range(6))
def test_two_hands_come_close_but_not_into_each_other(seed: int) -> None:
    pair = draw_trajectories(model(), 2, SECONDS, START, np.random.default_rng(100 + seed))
    assert [trajectory.side for trajectory in pair] == ["right", "left"]
    np.testing.assert_array_equal(pair[0].betas, pair[1].betas)
    right, left = (capsules(model(trajectory.side), between_samples(trajectory, 0.013)) for trajectory in pair)
    depth = mutual_penetration(right, left)
    assert depth.max() < 0.005
    assert depth.max() > -0.05
    # The meshes themselves at the closest moment: capsules are good to some millimetres.
    closest = int(depth.argmax())
    time = START + round(closest * 0.013e9)
    meshes = Truth(model().name, pair, {}).meshes_at(time, model())
    one, other = (mesh.vertices for mesh in meshes)
    assert one is not None
    assert other is not None
    assert mesh_depth(one, other, model("left").faces) < 0.005
    assert mesh_depth(other, one, model().faces) < 0.005


def mesh_depth(points: FloatArray, vertices: FloatArray, faces: NDArray[np.int32]) -> float:
    """How deep, m and up to 12 mm, points (n, 3) are inside a closed mesh: winding numbers, and a cloud on the surface."""
    corners = vertices[faces]
    cloud = np.concatenate([vertices, corners.mean(axis=1), 0.5 * (corners[:, 0] + corners[:, 1])])
    distance = np.asarray(KDTree(cloud).query(points)[0])
    near = points[distance < 0.012]
    a, b, c = np.moveaxis(corners[None] - near[:, None, None], 2, 0)
    x, y, z = (np.linalg.norm(side, axis=-1) for side in (a, b, c))
    # The solid angle of a triangle: van Oosterom and Strackee, IEEE Trans. Biomed. Eng. 1983.
    above = (a * np.cross(b, c)).sum(-1)
    below = x * y * z + (a * b).sum(-1) * z + (b * c).sum(-1) * x + (c * a).sum(-1) * y
    inside = np.arctan2(above, below).sum(axis=1) / (2 * np.pi) > 0.5
    return float(distance[distance < 0.012][inside].max(initial=0.0))


@pytest.mark.parametrize("kind", ENCOUNTERS)
def test_encounters_are_close(kind: str) -> None:
    gaps = []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        pair = Hands(model(), draw_betas(rng))
        step = closest_step(draw_encounter(pair, rng, kind))
        push = pair.push(step)
        hands = [place.coordinates[None].copy() for place in (step.right, step.left)]
        hands[0][:, 5:8] += push * step.away
        right, left = pair.bodies(*(type(step.right).of(hand) for hand in hands))
        gaps.append(-mutual_penetration(right, left)[0])
    # All but the crossing touch, within what counts as touching; hands that cross keep clear by less than a hand.
    assert max(gaps) < (0.25 if kind == "cross" else 0.03)
    assert min(gaps) > -0.001


def test_orientation_vectors_are_true_and_far_from_singular() -> None:
    rng = np.random.default_rng(0)
    turns = np.array([draw_turns(rng) for _ in range(2000)])
    left, up, pronation, flexion, deviation = turns.T
    expected = (
        Rotation.from_euler("z", left[:, None])
        * Rotation.from_euler("x", up[:, None])
        * Rotation.from_euler("z", -np.pi / 2)
        * Rotation.from_euler("x", pronation[:, None])
        * Rotation.from_euler("z", flexion[:, None])
        * Rotation.from_euler("y", deviation[:, None])
    )
    vectors = global_orient(turns)
    np.testing.assert_allclose(Rotation.from_rotvec(vectors).as_matrix(), expected.as_matrix(), atol=1e-12)
    assert np.linalg.norm(vectors, axis=1).max() < np.radians(240)
    # Continuous along any line through the ranges, also where the angle passes half a turn.
    for one, other in pairwise(turns[:200]):
        line = global_orient(np.linspace(one, other, 200))
        rate = 3.0 * np.abs(other - one).sum() / 199  # half the angle over its sine is below 3 up to 240 degrees
        assert np.linalg.norm(np.diff(line, axis=0), axis=1).max() < rate


def test_neutral_hand_points_ahead_with_the_thumb_up() -> None:
    landmarks = posed(
        "right", HandParameters(global_orient(np.zeros(5)), np.zeros(45), np.zeros(10), np.zeros(3))
    ).landmarks
    assert landmarks[9, 1] > 0.1  # m, middle knuckle
    assert landmarks[4, 2] > 0.05  # thumb tip
    assert landmarks[12, 0] < -0.03  # the relaxed fingers bend to the left, where the palm faces


def test_samples_cover_the_time_and_are_the_same_for_the_same_seed() -> None:
    (one,), (same,), (other,) = (
        draw_trajectories(model(), 1, 0.505, START, np.random.default_rng(s)) for s in (3, 3, 4)
    )
    assert one.parameters.dtype == one.betas.dtype == np.float32
    assert one.parameters.shape == (52, 51)  # 100 samples per second, up to 0.51 s
    np.testing.assert_array_equal(np.diff(one.t_ns), 10_000_000)
    assert one.covers(START)
    assert one.covers(START + 505_000_000)
    np.testing.assert_array_equal(one.parameters, same.parameters)
    np.testing.assert_array_equal(one.betas, same.betas)
    assert not np.array_equal(one.parameters, other.parameters)
    assert {draw_trajectories(model(), 1, 0.1, 0, np.random.default_rng(s))[0].side for s in range(8)} == {
        "left",
        "right",
    }


def test_left_and_right_models_make_the_same_motion() -> None:
    one, other = (draw_trajectories(model(side), 2, 0.5, START, np.random.default_rng(0)) for side in ("right", "left"))
    for a, b in zip(one, other, strict=True):
        np.testing.assert_allclose(a.parameters, b.parameters, atol=1e-6)


def test_hands_for_pictures() -> None:
    orients = []
    for seed in range(40):
        hand, same = (draw_hand(model(), np.random.default_rng(seed)) for _ in range(2))
        for name in ("global_orient", "hand_pose", "betas", "transl"):
            value = getattr(hand, name)
            np.testing.assert_array_equal(value, getattr(same, name))
            np.testing.assert_array_equal(value, np.float32(value))
        assert np.linalg.norm(posed("right", hand).joints[0]) < 0.06
        orients.append(Rotation.from_rotvec(hand.global_orient).apply((-1.0, 0.0, 0.0)))
    assert np.linalg.norm(np.mean(orients, axis=0)) < 0.4  # fingers point anywhere: 1 / sqrt(40) = 0.16 expected


def test_pairs_for_pictures() -> None:
    for seed in range(3):
        for (first, right), (second, left) in draw_hands(model(), np.random.default_rng(seed), 2, 3):
            assert (first, second) == ("right", "left")
            assert np.linalg.norm(posed("right", right).joints[0]) < 0.06
            one, other = posed("right", right).vertices, posed("left", left).vertices
            assert one is not None
            assert other is not None
            assert np.min(KDTree(one).query(other)[0]) < 0.25
            assert mesh_depth(one, other, model("left").faces) < 0.005
            assert mesh_depth(other, one, model().faces) < 0.005


def test_hands_of_several_pictures_differ() -> None:
    for hands in (1, 2):
        drawn = draw_hands(model(), np.random.default_rng(0), hands, 4)
        assert [[side for side, _ in one] for one in drawn] == [["right", "left"][:hands]] * 4
        assert len({tuple(hand.transl) for one in drawn for _, hand in one}) == 4 * hands


def test_impossible_requests() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="3 hands: there can be 1 or 2"):
        draw_trajectories(model(), 3, 1.0, 0, rng)
    with pytest.raises(ValueError, match="0 hands"):
        draw_hands(model(), rng, 0, 1)
    for seconds in (0.0, -1.0, np.nan, np.inf):
        with pytest.raises(ValueError, match=f"{seconds:g} s of motion"):
            draw_trajectories(model(), 1, seconds, 0, rng)
