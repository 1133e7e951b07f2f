from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation
from synthetic_hand import mixed_skeleton, poses_of, random_hands

from hamuco.engine.hand_model import load_hand_model, mirror_axis_angle
from hamuco.fusion.anatomy import Anatomy
from hamuco.fusion.fit import FitOptions, HandPoses, PosePrior, _cost, _Problem, fit_pose
from hamuco.fusion.kinematics import Posed, Skeleton
from hamuco.fusion.targets import FitError, JointTargets

FloatArray = NDArray[np.float64]

TIGHT = FitOptions(model_sigma_m=0.0, tolerance=1e-9, max_iterations=100)
MIRROR = np.array([-1.0, 1.0, 1.0])
NOISE_M = 0.005


def joints_of(posed: Posed) -> FloatArray:
    return posed.landmarks.transpose(0, 2, 1).copy()


def error_m(fitted: FloatArray, truth: FloatArray) -> FloatArray:
    distance: FloatArray = np.linalg.norm(fitted - truth, axis=-1)
    return distance


def angles_of(skeleton: Skeleton, poses: HandPoses) -> FloatArray:
    turned = skeleton.basis[:, 1:].transpose(0, 1, 3, 2) @ poses.hand_pose.reshape(-1, 15, 3, 1)
    return turned.reshape(-1, 45) + skeleton.mean_angles


def test_gradient_matches_central_differences_of_the_cost() -> None:
    skeleton = mixed_skeleton(2)
    rng = np.random.default_rng(0)
    # Beyond limits, off its prior by a large turn, with correlated joint errors and one gross outlier.
    posed, expected = random_hands(skeleton, seed=1, span=1.3), random_hands(skeleton, seed=2)
    targets = joints_of(posed) + rng.normal(0, NOISE_M, (2, 21, 3))
    targets[0, 8] += 0.2
    root = rng.normal(size=(2, 21, 3, 3))
    observed = JointTargets.of(targets, 1e4 * root @ root.transpose(0, 1, 3, 2), 2)
    prior = PosePrior(poses_of(skeleton, expected), np.array([50.0, 3.0]), np.array([20.0, 4.0]), np.array([9.0, 2.0]))
    problem = _Problem.of(skeleton, observed, posed, prior, FitOptions())

    state = problem.at(posed)
    scale = problem.squared_scale(state)
    gradient, _ = problem.normal_equations(state, (scale / (scale + state.squared_distance)) ** 2)
    numeric = np.empty_like(gradient)
    step = 1e-6
    for parameter in range(51):
        increment = np.zeros((2, 51))
        increment[:, parameter] = step
        ahead, behind = (_cost(problem.at(posed.moved(skeleton, sign * increment)), scale) for sign in (1.0, -1.0))
        numeric[:, parameter] = (ahead - behind) / (2 * step)
    # Rounding: a cost of order 1e3 over a step of 1e-6 leaves 1e3 * 1e-16 / 1e-6 = 1e-7; gradients go to 1e5, whose
    # third derivatives times the squared step are below 1e-6 of them.
    np.testing.assert_allclose(gradient, numeric, rtol=1e-6, atol=1e-4)


def test_exact_joints_are_recovered() -> None:
    skeleton = mixed_skeleton(50)
    truth = joints_of(random_hands(skeleton, seed=3))
    fit = fit_pose(skeleton, truth, np.full((50, 21), 1e6))
    # No outliers: giving up a joint costs 8, and the most probable hand would do so to avoid an extreme angle.
    options = replace(TIGHT, outlier_scale=1e9)
    for weight in (1e8, 1e10, 1e13):  # in one leap, the valley of such precise joints is too narrow to walk along
        fit = fit_pose(skeleton, truth, np.full((50, 21), weight), fit.poses, options=options)
    # A prior of precision p that is d off moves a landmark of weight w at lever l by p d l / (w l^2 + p), at most
    # d / 2 sqrt(p / w). Twist: p = (3 degrees)^-2 and d = 8 degrees give 4e-7 m.
    assert error_m(fit.landmarks, truth).max() < 1e-6
    assert np.nanmax(fit.residual_m) < 1e-6


@pytest.mark.parametrize("case", ["complete", "four joints missing", "four missing and one wrong by 150 mm"])
def test_noisy_hands_are_found_from_nothing(case: str) -> None:
    hands = 200
    skeleton = mixed_skeleton(hands)
    posed = random_hands(skeleton, seed=4)
    truth = joints_of(posed)
    rng = np.random.default_rng(5)
    targets = truth + rng.normal(0, NOISE_M, truth.shape)
    order = rng.permuted(np.tile(np.arange(21), (hands, 1)), axis=1)
    wrong_way = rng.normal(size=(hands, 3))
    good = np.ones((hands, 21), np.bool_)
    if case != "complete":
        good[order < 4] = False
        targets[order < 4] = np.nan
    if "wrong" in case:
        good[order == 4] = False
        targets[order == 4] += 0.15 * wrong_way / np.linalg.norm(wrong_way, axis=1, keepdims=True)
    weights = np.full((hands, 21), NOISE_M**-2)

    cold = fit_pose(skeleton, targets, weights)
    best = fit_pose(skeleton, targets, weights, poses_of(skeleton, posed))
    assert np.isfinite(cold.landmarks).all()
    mean = np.array([error_m(cold.landmarks[hand], truth[hand])[good[hand]].mean() for hand in range(hands)])
    mean_best = np.array([error_m(best.landmarks[hand], truth[hand])[good[hand]].mean() for hand in range(hands)])
    # A fit must beat the joints it was given, whose errors average sqrt(8 / pi) sigma = 8.0 mm.
    assert (mean > 8.0e-3).mean() <= 0.01
    # It ends where a start at the truth ends: a worse optimum is off by a whole finger, several mm in the mean.
    assert (mean - mean_best > 2e-3).mean() <= 0.01
    if "wrong" in case:
        assert np.median(cold.trust[order == 4]) < 0.05


def test_a_warm_start_finds_a_finger_that_moved() -> None:
    skeleton = Skeleton.of(load_hand_model(), np.zeros(10))
    before = random_hands(skeleton, seed=6, span=0.0)
    increment = np.zeros((1, 51))
    increment[0, [6, 9, 12]] = -0.6  # the index opens by 100 degrees in all
    truth = joints_of(before.moved(skeleton, increment))
    fit = fit_pose(skeleton, truth, np.full((1, 21), 0.003**-2), poses_of(skeleton, before))
    # The priors may hold it back by what they weigh: (40 degrees)^-2 against two joints of 3 mm at 40 mm lever: < 1 %.
    assert fit.residual_m.max() < 0.003
    assert fit.trust.min() > 0.9


def test_left_is_the_mirror_image_of_right() -> None:
    right = load_hand_model()
    betas = np.random.default_rng(7).normal(size=10)
    skeleton, mirrored = Skeleton.of(right, betas), Skeleton.of(right.mirrored(), betas)
    rng = np.random.default_rng(8)
    targets = joints_of(random_hands(skeleton, seed=9)) + rng.normal(0, NOISE_M, (1, 21, 3))
    weights = np.full((1, 21), NOISE_M**-2)
    options = FitOptions(tolerance=1e-12)
    one, other = (
        fit_pose(skeleton, targets, weights, options=options),
        fit_pose(mirrored, targets * MIRROR, weights, options=options),
    )
    # Both walk the same path; rounding of 1e-15 grows by the condition number, some 1e5.
    np.testing.assert_allclose(one.landmarks * MIRROR, other.landmarks, atol=1e-9)
    np.testing.assert_allclose(mirror_axis_angle(one.poses.hand_pose), other.poses.hand_pose, atol=1e-9)
    np.testing.assert_allclose(mirror_axis_angle(one.poses.global_orient), other.poses.global_orient, atol=1e-9)
    np.testing.assert_allclose(one.poses.transl * MIRROR, other.poses.transl, atol=1e-9)


def test_limits_hold_against_impossible_joints() -> None:
    skeleton = mixed_skeleton(20)
    anatomy = Anatomy.of(skeleton)
    targets = joints_of(random_hands(skeleton, seed=10, span=2.0))
    fit = fit_pose(skeleton, targets, np.full((20, 21), NOISE_M**-2))
    angles = angles_of(skeleton, fit.poses)
    beyond = np.maximum(angles - anatomy.upper, anatomy.lower - angles)
    # A spring of (3 degrees)^-2 = 365 / rad^2 against a joint pulling with at most 0.65 * 4 standard deviations
    # (the robust loss) / 5 mm at a lever of 60 mm: 31 / rad, 0.09 rad; twice that where the pull of two joints adds.
    assert beyond.max() < 0.18


def test_a_missing_finger_is_placed_by_the_prior() -> None:
    skeleton = mixed_skeleton(2)
    truth = random_hands(skeleton, seed=11, span=0.3)
    targets = joints_of(truth)
    targets[:, 6:9] = np.nan  # the index beyond its knuckle
    fit = fit_pose(skeleton, targets, np.full((2, 21), 0.002**-2), options=FitOptions(tolerance=1e-9))
    angles = angles_of(skeleton, fit.poses)
    anatomy = Anatomy.of(skeleton)
    most_probable = np.linalg.solve(anatomy.information, anatomy.vector[..., None])[..., 0]
    # Joints 2 and 3 of the index touch no landmark that was seen.
    np.testing.assert_allclose(angles[:, 3:9], most_probable[:, 3:9], atol=1e-6)
    assert np.isnan(fit.residual_m[:, 6:9]).all()
    assert (fit.trust[:, 6:9] == 0).all()


def test_a_tip_follows_its_middle_joint() -> None:
    skeleton = mixed_skeleton(2)
    tips = []
    for bend in (0.0, 1.2):
        increment = np.zeros((2, 51))
        increment[:, 9] = bend
        targets = joints_of(random_hands(skeleton, seed=12, span=0.0).moved(skeleton, increment))
        targets[:, 8] = np.nan
        tips.append(angles_of(skeleton, fit_pose(skeleton, targets, np.full((2, 21), 0.002**-2)).poses)[:, 6])
    # Sigmas of 20 (coupling) and 30 degrees (mean): 2/3 of the bend times 30^2 / (20^2 + 30^2) = 0.46 of it.
    np.testing.assert_allclose(tips[1] - tips[0], 0.46 * 1.2, rtol=0.2)


def test_batch_equals_single() -> None:
    skeletons = [mixed_skeleton(4, seed) for seed in range(3)]
    everyone = Skeleton.stack(skeletons)
    rng = np.random.default_rng(13)
    targets = joints_of(random_hands(everyone, seed=14)) + rng.normal(0, NOISE_M, (12, 21, 3))
    weights = np.full((12, 21), NOISE_M**-2)
    options = FitOptions(tolerance=1e-12, max_iterations=200)
    together = fit_pose(everyone, targets, weights, options=options)
    for hand in range(12):
        alone = Skeleton.stack([skeletons[hand // 4]])
        part = slice(hand // 4 * 4, hand // 4 * 4 + 4)
        single = fit_pose(alone, targets[part], weights[part], options=options)
        # A remaining gain of 1e-12 is 1e-6 standard deviations, of some 5 mm (or 1 rad where nothing is seen).
        np.testing.assert_allclose(together.landmarks[part], single.landmarks, atol=1e-6)


def test_depth_is_trusted_as_little_as_it_is_known() -> None:
    skeleton = mixed_skeleton(2)
    posed = random_hands(skeleton, seed=15, span=0.4)
    truth = joints_of(posed)
    direction = np.array([0.0, 0.0, 1.0])
    precise = 0.002**-2 * (np.eye(3) - np.outer(direction, direction)) + 0.03**-2 * np.outer(direction, direction)
    depth_noise = np.random.default_rng(16).normal(0, 0.03, (2, 21, 1))
    targets = truth + depth_noise * direction
    information = np.broadcast_to(precise, (2, 21, 3, 3))
    across = error_m(fit_pose(skeleton, targets, information).landmarks, truth)
    same = error_m(fit_pose(skeleton, targets, np.full((2, 21), np.trace(precise) / 3)).landmarks, truth)
    assert across.mean() < 0.6 * same.mean()


def test_an_unseen_hand_stays_where_it_was_and_a_prior_moves_it() -> None:
    skeleton = mixed_skeleton(1)
    start = poses_of(skeleton, random_hands(skeleton, seed=17, span=0.0))
    nothing = np.full((1, 21, 3), np.nan)
    unseen = fit_pose(skeleton, nothing, np.zeros((1, 21)), start)
    assert np.isfinite(unseen.landmarks).all()
    np.testing.assert_allclose(unseen.poses.transl, start.transl, atol=1e-12)

    turn = Rotation.from_rotvec([0.3, -0.2, 0.1])
    elsewhere = HandPoses(
        (turn * Rotation.from_rotvec(start.global_orient)).as_rotvec(), start.hand_pose + 0.05, start.transl + 0.1
    )
    strong = np.array([1e8])
    moved = fit_pose(skeleton, nothing, np.zeros((1, 21)), start, PosePrior(elsewhere, strong, strong, strong), TIGHT)
    # Anatomy pulls with at most 365 / rad^2 against 1e8: 4e-6.
    np.testing.assert_allclose(moved.poses.transl, elsewhere.transl, atol=1e-6)
    np.testing.assert_allclose(moved.poses.global_orient, elsewhere.global_orient, atol=1e-6)
    np.testing.assert_allclose(moved.poses.hand_pose, elsewhere.hand_pose, atol=1e-5)


def test_a_prior_keeps_a_hand_with_few_joints_in_place() -> None:
    skeleton = mixed_skeleton(1)
    posed = random_hands(skeleton, seed=18, span=0.3)
    truth = joints_of(posed)
    targets = np.full((1, 21, 3), np.nan)
    targets[:, (0, 5)] = truth[:, (0, 5)] + 0.002
    start = poses_of(skeleton, posed)
    prior = PosePrior(start, np.array([1e4]), np.array([400.0]), np.array([400.0]))
    fit = fit_pose(skeleton, targets, np.full((1, 21), 0.003**-2), start, prior)
    # Two joints off by 3.5 mm cannot move the rest by more than a rotation of 3.5 mm over the palm's 90 mm does at
    # the 200 mm of the farthest tip, and the shift itself: 3.5 * (1 + 200 / 90) = 11 mm.
    assert error_m(fit.landmarks, truth).max() < 0.011


def test_bad_input_is_refused() -> None:
    skeleton = mixed_skeleton(2)
    targets = joints_of(random_hands(skeleton, seed=19))
    weights = np.full((2, 21), 1e5)
    with pytest.raises(FitError, match=r"expected \(2, 21, 3\)"):
        fit_pose(skeleton, targets[:1], weights)
    with pytest.raises(FitError, match="hand 1, joint 3"):
        fit_pose(skeleton, targets, np.where(np.arange(42).reshape(2, 21) == 24, -1.0, weights))
    with pytest.raises(FitError, match="hand 0 has 0 joints"):
        fit_pose(skeleton, np.full((2, 21, 3), np.nan), weights)
    targets[1] = np.linspace(0, 1, 21)[:, None] * np.ones(3)
    with pytest.raises(FitError, match="hand 1 has 21 joints"):
        fit_pose(skeleton, targets, weights)
