"""Metrics against cases whose answer is known in closed form."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from rigs import hand_joints
from scipy.spatial.transform import Rotation

from hamuco.training import metrics

FloatArray = NDArray[np.float64]

TRUE = hand_joints()
# Sums of some hundred products of lengths around 0.1 m, each rounded to 1e-16 of itself.
ROUNDING = 1e-14


def test_absolute_error_aligns_nothing() -> None:
    shift = np.array([0.003, 0.004, 0.0])
    np.testing.assert_allclose(metrics.joint_errors(TRUE + shift, TRUE), 0.005, atol=ROUNDING)


@pytest.mark.parametrize("root", [metrics.WRIST, metrics.MIDDLE_MCP])
def test_root_alignment_takes_out_the_place_and_nothing_else(root: int) -> None:
    aligned = metrics.root_aligned(1.1 * TRUE + 0.2, TRUE, root)
    # What is left is a tenth of each joint's distance from the root.
    expected = 0.1 * np.linalg.norm(TRUE - TRUE[root], axis=-1)
    np.testing.assert_allclose(metrics.joint_errors(aligned, TRUE), expected, atol=ROUNDING)


@pytest.mark.parametrize("root", [metrics.WRIST, metrics.MIDDLE_MCP])
def test_both_scale_alignments_take_out_a_scale(root: int) -> None:
    for aligned in (
        metrics.scale_aligned(1.3 * TRUE + 0.2, TRUE, root),
        metrics.bone_scale_aligned(1.3 * TRUE + 0.2, TRUE, root, (0, 9)),
    ):
        np.testing.assert_allclose(aligned, TRUE, atol=ROUNDING)


def test_the_least_squares_scale_is_the_best_one_and_the_bone_scale_keeps_the_bone() -> None:
    estimate = TRUE + np.random.default_rng(0).normal(0, 0.01, TRUE.shape)
    best = metrics.scale_aligned(estimate, TRUE, 0)

    def squared(points: FloatArray) -> float:
        return float((metrics.joint_errors(points, TRUE) ** 2).sum())

    for factor in (0.99, 1.01):
        assert squared(best) < squared((best - TRUE[0]) * factor + TRUE[0])
    by_bone = metrics.bone_scale_aligned(estimate, TRUE, 9, (0, 9))
    assert np.linalg.norm(by_bone[9] - by_bone[0]) == pytest.approx(np.linalg.norm(TRUE[9] - TRUE[0]), abs=ROUNDING)
    np.testing.assert_allclose(by_bone[9], TRUE[9], atol=ROUNDING)


def test_procrustes_takes_out_a_similarity_in_every_batch_entry() -> None:
    rng = np.random.default_rng(1)
    rotation = Rotation.random(6, rng=rng).as_matrix().reshape(2, 3, 3, 3)
    scale, shift = rng.uniform(0.5, 2, (2, 3, 1, 1)), rng.normal(0, 1, (2, 3, 1, 3))
    moved = scale * TRUE @ np.swapaxes(rotation, -1, -2) + shift
    # Shifts of metres leave 1e-16 m of each coordinate; the scale of 2 and the sums make it some ten times that.
    np.testing.assert_allclose(metrics.procrustes_aligned(moved, TRUE), np.broadcast_to(TRUE, moved.shape), atol=1e-14)


def test_procrustes_does_not_reflect() -> None:
    mirrored = TRUE * (-1, 1, 1)
    # A left hand is no right hand: turned over it still differs by its thickness, millimetres.
    assert metrics.mean(metrics.joint_errors(metrics.procrustes_aligned(mirrored, TRUE), TRUE)) > 0.003


def test_procrustes_is_no_worse_than_any_other_alignment() -> None:
    estimate = TRUE + np.random.default_rng(2).normal(0, 0.01, TRUE.shape)
    squares = [
        (metrics.joint_errors(aligned, TRUE) ** 2).sum()
        for aligned in (
            metrics.procrustes_aligned(estimate, TRUE),
            metrics.scale_aligned(estimate, TRUE, 0),
            metrics.root_aligned(estimate, TRUE, 0),
            estimate,
        )
    ]
    assert squares[0] == min(squares)


def test_missing_joints_are_left_out_and_stay_missing() -> None:
    estimate = 1.2 * TRUE + 0.1
    estimate[4] = np.nan
    for aligned in (metrics.procrustes_aligned(estimate, TRUE), metrics.scale_aligned(estimate, TRUE, 0)):
        errors = metrics.joint_errors(aligned, TRUE)
        assert np.flatnonzero(np.isnan(errors)).tolist() == [4]
        np.testing.assert_allclose(np.delete(errors, 4), 0.0, atol=ROUNDING)
    assert metrics.mean(np.array([np.nan, 1.0, 3.0])) == 2.0
    assert np.isnan(metrics.mean(np.full(3, np.nan)))


def test_two_joints_fix_no_similarity() -> None:
    estimate = TRUE.copy()
    estimate[2:] = np.nan
    assert np.isnan(metrics.procrustes_aligned(estimate, TRUE)).all()


def test_an_estimate_in_one_point_has_no_scale() -> None:
    for aligned in (
        metrics.procrustes_aligned(np.zeros((21, 3)), TRUE),
        metrics.scale_aligned(np.zeros((21, 3)), TRUE, 0),
    ):
        assert np.isnan(aligned).all()


def test_pck_counts_what_is_within_each_threshold() -> None:
    errors = np.array([[0.001, 0.010], [0.020, np.nan]])
    np.testing.assert_allclose(metrics.pck(errors, [0.0, 0.001, 0.015, 0.05]), [0, 1 / 3, 2 / 3, 1])
    assert np.isnan(metrics.pck(np.full(2, np.nan), [0.01])).all()


def test_auc_is_the_integral_of_the_pck_curve() -> None:
    errors = np.random.default_rng(3).gamma(2.0, 0.012, 500)
    for low, high in ((0.0, 0.05), (0.02, 0.05)):
        thresholds = np.linspace(low, high, 100_001)
        numeric = np.trapezoid(metrics.pck(errors, thresholds), thresholds) / (high - low)
        # Each step of the curve is misplaced by at most half an interval: 5e-6 of the area.
        assert metrics.auc(errors, low, high) == pytest.approx(numeric, abs=5e-6)
        # And FreiHAND's sum over 100 thresholds is as near as the docstring says.
        coarse = np.linspace(low, high, 100)
        theirs = np.trapezoid(metrics.pck(errors, coarse), coarse) / (high - low)
        assert metrics.auc(errors, low, high) == pytest.approx(theirs, abs=0.5 / 99)


def test_auc_of_no_error_is_one_and_of_large_errors_zero() -> None:
    assert metrics.auc(np.zeros(3), 0.0, 0.05) == 1.0
    assert metrics.auc(np.full(3, 0.06), 0.0, 0.05) == 0.0


def test_f_score_is_the_harmonic_mean_of_both_directions() -> None:
    grid = np.stack(np.meshgrid(np.arange(5), np.arange(4), [0.0]), axis=-1).reshape(-1, 3)  # 1 m apart
    half = grid[:10] + (0, 0, 0.010)
    # All ten estimated points are near, ten of twenty true ones: 2 * 1 * 0.5 / 1.5. At 5 mm none is.
    np.testing.assert_allclose(metrics.f_scores(half, grid), [0.0, 2 / 3])
    np.testing.assert_allclose(metrics.f_scores(grid, half), [0.0, 2 / 3])
    np.testing.assert_array_equal(metrics.f_scores(grid, grid), [1.0, 1.0])


def test_acceleration_of_a_parabola_is_exact_at_uneven_times() -> None:
    t_ns = np.array([0, 30, 70, 95, 140]) * 1_000_000 + 10**15  # days of uptime cost no precision
    seconds = (t_ns - t_ns[0])[:, None, None] * 1e-9
    points = TRUE + 0.5 * np.array([3.0, -2.0, 1.0]) * seconds**2 + np.array([0.3, 0.0, 0.1]) * seconds
    # Coordinates of 0.1 m carry 1e-17 m; divided by the squared steps of 25 ms that is 1e-13 m/s^2.
    np.testing.assert_allclose(
        metrics.accelerations(points, t_ns), np.broadcast_to([3.0, -2.0, 1.0], (3, 21, 3)), atol=1e-12
    )
    still = np.broadcast_to(TRUE, points.shape)
    np.testing.assert_allclose(metrics.acceleration_errors(points, still, t_ns), np.sqrt(14.0), atol=1e-12)
