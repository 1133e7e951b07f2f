"""Fusion of views: exact cases, invariances, placement, wrong views."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation
from views_of_a_hand import Views, views_of_a_hand

from hamuco.fusion.alignment import (
    Similarity,
    align_views,
    fused_parameters,
    fused_points,
    fused_points_in_world,
    mean_rotation,
    nearest_rotation,
    procrustes_rotations,
    ransac_centre,
    relative_rotations,
    solve_centre,
)

FloatArray = NDArray[np.float64]

# Some hundred roundings of numbers around 1 in double precision.
ROUNDING = 1e-13


def fuse(points: FloatArray, rotations: FloatArray, weights: FloatArray) -> FloatArray:
    similarity = align_views(points, rotations, weights > 0)
    return fused_points(similarity.apply(points[..., None, :, :, :]), weights)


@pytest.mark.parametrize("calibrated", [True, False])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_exact_views_of_one_hand_fuse_without_error(count: int, calibrated: bool) -> None:
    """Every crop is rolled by its own angle."""
    views = views_of_a_hand(count)
    rotations = relative_rotations(views.crop_from_world) if calibrated else procrustes_rotations(views.in_crops)
    similarity = align_views(views.in_crops, rotations, np.ones(count, np.bool_))
    np.testing.assert_allclose(similarity.scale, 1, rtol=0, atol=ROUNDING)
    np.testing.assert_allclose(similarity.translation, 0, rtol=0, atol=ROUNDING)
    np.testing.assert_allclose(similarity.rotation, relative_rotations(views.crop_from_world), atol=1e-12)
    fused = fuse(views.in_crops, rotations, np.ones(count))
    np.testing.assert_allclose(fused, views.in_crops, rtol=0, atol=ROUNDING)
    world = fused_points_in_world(fused, views.crop_from_world, np.ones(count))
    np.testing.assert_allclose(world, views.points, rtol=0, atol=ROUNDING)


def test_one_view_is_its_own_fused_hand_bit_by_bit() -> None:
    points = views_of_a_hand(1).in_crops
    assert np.array_equal(fuse(points, procrustes_rotations(points), np.ones(1)), points)


def test_size_and_place_of_a_view_are_aligned_away() -> None:
    views = views_of_a_hand(3)
    distorted = views.in_crops * np.array([1.0, 1.2, 0.7])[:, None, None] + np.array([0.0, 0.03, -0.02])[:, None, None]
    similarity = align_views(distorted, relative_rotations(views.crop_from_world), np.ones(3, np.bool_))
    np.testing.assert_allclose(similarity.scale[0], [1, 1 / 1.2, 1 / 0.7], rtol=1e-12)
    fused = fused_points(similarity.apply(distorted[None]), np.ones(3))
    np.testing.assert_allclose(fused, distorted, rtol=0, atol=ROUNDING)


def test_the_inverse_of_a_similarity() -> None:
    rng = np.random.default_rng(1)
    rotation = Rotation.random(4, rng=rng).as_matrix()
    similarity = Similarity(rotation, rng.uniform(0.5, 2, 4), rng.normal(size=(4, 3)))
    points = rng.normal(size=(4, 7, 3))
    target = similarity.apply(points)
    np.testing.assert_allclose(similarity.inverse().apply(target), points, rtol=0, atol=ROUNDING)
    by_formula = (target - similarity.translation[:, None]) @ rotation / similarity.scale[:, None, None]
    np.testing.assert_allclose(by_formula, points, rtol=0, atol=ROUNDING)


def test_the_order_of_the_views_does_not_matter() -> None:
    views = views_of_a_hand(4, seed=3)
    rng = np.random.default_rng(2)
    noisy = views.in_crops + rng.normal(0, 0.01, views.in_crops.shape)
    weights, order = rng.uniform(0.2, 1, 4), np.array([2, 0, 3, 1])
    for rotations, shuffled in (
        (relative_rotations(views.crop_from_world), relative_rotations(views.crop_from_world[order])),
        (procrustes_rotations(noisy), procrustes_rotations(noisy[order])),
    ):
        fused = fuse(noisy, rotations, weights)
        np.testing.assert_allclose(
            fuse(noisy[order], shuffled, weights[order]), fused[order], rtol=0, atol=10 * ROUNDING
        )
    world = fused_points_in_world(fused, views.crop_from_world, weights)
    again = fused_points_in_world(fused[order], views.crop_from_world[order], weights[order])
    np.testing.assert_allclose(again, world, rtol=0, atol=ROUNDING)


def test_views_without_weight_do_not_count() -> None:
    views = views_of_a_hand(4)
    points, crop_from_world = views.in_crops.copy(), views.crop_from_world.copy()
    points[2], crop_from_world[2] = 7.0, np.nan
    weights = np.array([1.0, 0.5, 0.0, 2.0])
    seen = weights > 0
    fused = fuse(points, relative_rotations(crop_from_world), weights)
    np.testing.assert_allclose(fused[seen], views.in_crops[seen], rtol=0, atol=ROUNDING)
    world = fused_points_in_world(fused, crop_from_world, weights)
    np.testing.assert_allclose(world, views.points, rtol=0, atol=ROUNDING)
    nothing = fuse(points, relative_rotations(crop_from_world), np.zeros(4))
    assert not nothing.any()


def test_procrustes_never_mirrors() -> None:
    rng = np.random.default_rng(4)
    points = rng.normal(size=(6, 12, 3))
    points[3] *= [1, 1, -1]  # the best fit to a mirror image would be a reflection
    points[4, :, 2] = 0  # flat: both fit
    points[5] = points[3]
    rotations = procrustes_rotations(points)
    np.testing.assert_allclose(np.linalg.det(rotations), 1, atol=1e-12)
    np.testing.assert_allclose(rotations @ rotations.mT, np.broadcast_to(np.eye(3), rotations.shape), atol=1e-12)
    mirrored = align_views(points, rotations, np.ones(6, np.bool_))
    assert (mirrored.scale > 0).all()


def test_contradicting_views_do_not_turn_the_hand_inside_out() -> None:
    """A view that has the hand the wrong way round would fit best with a negative scale."""
    points = views_of_a_hand(2).in_crops
    rotations = np.broadcast_to(np.eye(3), (2, 2, 3, 3))
    points[1] = -points[0]
    assert align_views(points, rotations, np.ones(2, np.bool_)).scale.min() == 0.1


def test_fused_parameters_of_agreeing_views_are_those_of_the_hand() -> None:
    rng = np.random.default_rng(5)
    views = views_of_a_hand(3)
    hand = Rotation.random(16, rng=rng).as_matrix()
    betas = rng.normal(size=10)
    in_crops = np.tile(hand, (3, 1, 1, 1))
    crop_rotations = views.crop_from_world[:, :3, :3]
    in_crops[:, 0] = crop_rotations @ hand[0]
    rotations, shape = fused_parameters(in_crops, np.tile(betas, (3, 1)), crop_rotations.mT, np.array([1, 0.1, 3.0]))
    np.testing.assert_allclose(rotations, hand, rtol=0, atol=ROUNDING)
    np.testing.assert_allclose(shape, betas, rtol=0, atol=ROUNDING)


def test_fused_parameters_are_weighted_means() -> None:
    rng = np.random.default_rng(6)
    rotations = Rotation.from_rotvec(rng.normal(0, 0.4, (48, 3))).as_matrix().reshape(3, 16, 3, 3)
    betas, weights = rng.normal(size=(3, 10)), np.array([0.5, 2.0, 0.0])
    rotations[2], betas[2] = np.nan, np.nan
    mean, shape = fused_parameters(rotations, betas, np.broadcast_to(np.eye(3), (3, 3, 3)), weights)
    for bone in range(16):
        expected = Rotation.from_matrix(rotations[:2, bone]).mean(weights[:2]).as_matrix()
        np.testing.assert_allclose(mean[bone], expected, rtol=0, atol=1e-10)
    np.testing.assert_allclose(shape, np.average(betas[:2], axis=0, weights=weights[:2]))


def test_the_mean_without_weights_is_the_identity() -> None:
    rotations = Rotation.random(3, rng=np.random.default_rng(7)).as_matrix()
    np.testing.assert_array_equal(mean_rotation(rotations, np.zeros(3)), np.eye(3))
    np.testing.assert_allclose(nearest_rotation(3 * rotations), rotations, rtol=0, atol=ROUNDING)


def place(views: Views, weights: FloatArray, scale: float | None = None) -> FloatArray:
    placement = solve_centre(
        views.points / (scale or 1), views.normalized, views.crop_from_world, weights, scale is not None
    )
    np.testing.assert_allclose(placement.scale, scale or 1, rtol=1e-9)
    return placement.centre


@pytest.mark.parametrize("scale", [None, 1.0, 1.3])
def test_any_two_views_place_the_hand_exactly(scale: float | None) -> None:
    views = views_of_a_hand(4, points=21)
    for first in range(4):
        for second in range(first):
            weights = np.zeros((4, 21))
            weights[[first, second]] = np.random.default_rng(8).uniform(0.1, 1, (2, 21))
            # Rounding of 1e-16, amplified by a condition of less than 1e6.
            np.testing.assert_allclose(place(views, weights, scale), views.root, rtol=0, atol=1e-10)


def test_one_view_places_a_hand_whose_size_is_known() -> None:
    views = views_of_a_hand(1, points=21)
    np.testing.assert_allclose(place(views, np.ones((1, 21))), views.root, rtol=0, atol=1e-9)
    asked = solve_centre(views.points, views.normalized, views.crop_from_world, np.ones((1, 21)), with_scale=True)
    assert asked.scale == pytest.approx(1)
    np.testing.assert_allclose(asked.centre, views.root, rtol=0, atol=1e-9)


@pytest.mark.parametrize("observations", [0, 1])
def test_too_few_observations_give_no_place(observations: int) -> None:
    views = views_of_a_hand(2, points=5)
    weights = np.zeros((2, 5))
    weights[0, :observations] = 1
    for solve in (solve_centre, ransac_centre):
        assert np.isnan(solve(views.points, views.normalized, views.crop_from_world, weights).centre).all()


def test_what_is_missing_is_left_out() -> None:
    views = views_of_a_hand(4, points=21)
    normalized, crop_from_world, weights = views.normalized.copy(), views.crop_from_world.copy(), np.ones((4, 21))
    crop_from_world[0] = np.nan
    normalized[1, 3], normalized[2, 5], weights[2, 5] = np.nan, 99.0, 0
    for solve in (solve_centre, ransac_centre):
        placement = solve(views.points, normalized, crop_from_world, weights)
        np.testing.assert_allclose(placement.centre, views.root, rtol=0, atol=1e-10)
        assert placement.inliers.sum() == 3 * 21 - 2
        assert not placement.inliers[0].any()


@pytest.mark.parametrize("with_scale", [False, True])
def test_a_wrong_view_and_wrong_points_are_voted_out(with_scale: bool) -> None:
    views = views_of_a_hand(5, points=21, seed=9)
    rng = np.random.default_rng(10)
    wrong = np.zeros((5, 21), np.bool_)
    wrong[2] = True  # looks at another hand
    wrong[[0, 1, 3, 4], rng.integers(0, 21, 4)] = True
    normalized = views.normalized + np.where(wrong[..., None], 0.1, 0.0)
    arguments = (views.points, normalized, views.crop_from_world, np.ones((5, 21)), with_scale)
    assert np.linalg.norm(solve_centre(*arguments).centre - views.root) > 0.01
    placement = ransac_centre(*arguments)
    np.testing.assert_array_equal(placement.inliers, ~wrong)
    np.testing.assert_allclose(placement.centre, views.root, rtol=0, atol=1e-10)
    np.testing.assert_allclose(placement.scale, 1, rtol=0, atol=1e-9)


def test_many_views_and_batches_are_solved_at_once() -> None:
    """Twelve views make more pairs than are tried."""
    hands = [views_of_a_hand(12, points=21, seed=seed) for seed in range(3)]
    normalized = np.stack([hand.normalized for hand in hands])
    normalized[:, [0, 3, 7]] += 0.2
    placement = ransac_centre(
        np.stack([hand.points for hand in hands]),
        normalized,
        np.stack([hand.crop_from_world for hand in hands]),
        np.ones((3, 12, 21)),
    )
    np.testing.assert_allclose(placement.centre, [hand.root for hand in hands], rtol=0, atol=1e-10)
    assert placement.inliers.sum() == 3 * 9 * 21


def test_noise_moves_the_hand_as_much_as_it_should() -> None:
    views = views_of_a_hand(6, points=21, seed=11)
    rng = np.random.default_rng(12)
    sigma = 0.005  # 3 px in a crop of 256 px that sees a hand at half a metre
    errors = [
        ransac_centre(
            views.points,
            views.normalized + rng.normal(0, sigma, views.normalized.shape),
            views.crop_from_world,
            np.ones((6, 21)),
            threshold=4 * sigma,
        ).centre
        - views.root
        for _ in range(50)
    ]
    # 126 observations from all sides, each good to at most 5 mm at 1 m in two of three directions: the information about
    # each of the three coordinates is 2/3 of theirs.
    bound = sigma * 1.0 * np.sqrt(3 / (126 * 2 / 3))
    assert np.sqrt(np.mean(np.square(errors).sum(axis=1))) < bound
