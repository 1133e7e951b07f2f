from __future__ import annotations

import numpy as np
import pytest
import rigs

from hamuco.calibration.camera import Rig
from hamuco.fusion.triangulate import ray_residuals, triangulate


def _rays(rig: Rig, joints: rigs.FloatArray, noise_px: float = 0.0) -> tuple[rigs.FloatArray, rigs.FloatArray]:
    views = [rigs.view_hand(camera, joints, noise_px=noise_px, seed=i) for i, camera in enumerate(rig)]
    origins = np.stack([np.broadcast_to(camera.centre, (21, 3)) for camera in rig])
    return origins, np.stack([view.rays for view in views])


@pytest.mark.parametrize("count", [2, 3, 4, 8, 16])
def test_exact_rays_give_exact_points(count: int) -> None:
    rig, joints = rigs.ring_rig(count, arc=np.pi), rigs.hand_joints((0.05, -0.1, 0.02))
    origins, rays = _rays(rig, joints)
    result = triangulate(origins, rays, np.full(count, rigs.RAY_SIGMA))
    # Undistortion leaves 1e-9 of a unit at 1 m; two nearly opposite views amplify it at most a hundredfold.
    np.testing.assert_allclose(result.points, joints, atol=1e-6)
    np.testing.assert_allclose(result.inliers, 1, atol=1e-6)


def test_noise_is_averaged_as_the_information_says() -> None:
    rig, joints = rigs.ring_rig(6), rigs.hand_joints()
    squared = []
    for seed in range(40):
        views = [rigs.view_hand(c, joints, noise_px=3.0, seed=100 * seed + i) for i, c in enumerate(rig)]
        origins = np.stack([np.broadcast_to(camera.centre, (21, 3)) for camera in rig])
        result = triangulate(origins, np.stack([view.rays for view in views]), np.full(6, rigs.RAY_SIGMA))
        error = result.points - joints
        squared.append(np.einsum("ji,jik,jk->j", error, result.information, error))
    # Squared Mahalanobis distances of 3D points have mean 3. 840 samples of variance 6 give a standard error of 0.085;
    # 5 of them, and as much again for the few observations that reweighting takes for outliers.
    assert np.mean(squared) == pytest.approx(3, abs=0.85)


def test_a_view_of_something_else_is_left_out() -> None:
    rig, joints = rigs.ring_rig(4), rigs.hand_joints()
    origins, rays = _rays(rig, joints)
    wrong = rigs.view_hand(rig.cameras[2], rigs.hand_joints((0.1, 0.1, 0.05)))
    rays[2] = wrong.rays
    result = triangulate(origins, rays, np.full(4, rigs.RAY_SIGMA))
    assert result.inliers[2].max() < 0.05
    # The outlier keeps a weight below 0.05 at 0.1 m: less than a few millimetres of pull.
    np.testing.assert_allclose(result.points, joints, atol=0.004)


def test_a_wrong_view_of_cameras_close_together_is_left_out() -> None:
    # All cameras within 40 degrees: the middle of the cameras, unlike that of a ring, is far from the hand.
    rig, joints = rigs.ring_rig(4, arc=np.radians(53)), rigs.hand_joints()
    origins, rays = _rays(rig, joints)
    rays[3] = rigs.view_hand(rig.cameras[3], joints + [0.0, 0.06, 0.0]).rays
    result = triangulate(origins, rays, np.full(4, rigs.RAY_SIGMA))
    assert result.inliers[3].max() < 0.1
    # Three exact views within 27 degrees, pulled by a residual of 20 standard deviations that weighs 0.003.
    np.testing.assert_allclose(result.points, joints, atol=0.01)


def test_a_single_wrong_joint_does_not_cost_the_view() -> None:
    rig, joints = rigs.ring_rig(4), rigs.hand_joints()
    origins, rays = _rays(rig, joints)
    rays[1, 8] = rig.cameras[1].pixel_rays(rig.cameras[1].project(joints[8]) + [150.0, 0.0])
    result = triangulate(origins, rays, np.full(4, rigs.RAY_SIGMA))
    assert result.inliers[1, 8] < 0.05
    assert np.delete(result.inliers[1], 8).min() > 0.99


def test_a_single_view_keeps_the_expected_depth() -> None:
    rig, joints = rigs.ring_rig(1), rigs.hand_joints()
    origins, rays = _rays(rig, joints)
    result = triangulate(origins, rays, np.array([rigs.RAY_SIGMA]), start=joints)
    np.testing.assert_allclose(result.points, joints, atol=1e-9)
    along = np.einsum("ji,jik,jk->j", rays[0], result.information, rays[0])
    np.testing.assert_allclose(along, 0, atol=1e-6 * result.information.max())  # nothing is known about depth


def test_parallel_rays_stay_finite() -> None:
    rays = np.broadcast_to([0.0, 0.0, 1.0], (2, 21, 3)).copy()
    origins = np.zeros((2, 21, 3))
    origins[1, :, 0] = 0.1
    result = triangulate(origins, rays, np.full(2, rigs.RAY_SIGMA))
    assert np.isfinite(result.points).all()
    assert result.sigma.min() > 0.1  # says itself that it knows nothing


def test_residuals_are_angles() -> None:
    rays = np.broadcast_to([0.0, 0.0, 1.0], (1, 1, 3))
    point = np.array([[np.sin(0.01), 0.0, np.cos(0.01)]])
    # sin(x) / x is 1 - 1.7e-5 at 0.01 rad
    assert ray_residuals(point, np.zeros((1, 1, 3)), rays)[0, 0] == pytest.approx(0.01, rel=2e-5)


def test_no_view_is_an_error() -> None:
    with pytest.raises(ValueError, match="cannot triangulate from 0 views"):
        triangulate(np.zeros((0, 21, 3)), np.zeros((0, 21, 3)), np.zeros(0))
