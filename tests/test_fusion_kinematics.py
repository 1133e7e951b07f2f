from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from synthetic_hand import mixed_skeleton, poses_of, random_hands, synthetic_hand

from hamuco.engine.hand_model import HandModel, load_hand_model, mirror_axis_angle
from hamuco.engine.skinning import forward
from hamuco.fusion.kinematics import Skeleton, rotation_and_tangent

MIRROR = np.array([-1.0, 1.0, 1.0])


@pytest.mark.parametrize("model", [synthetic_hand("right"), synthetic_hand("left"), load_hand_model()])
def test_landmarks_are_those_of_the_skinned_mesh(model: HandModel) -> None:
    betas = np.random.default_rng(1).normal(size=10)
    skeleton = Skeleton.stack([Skeleton.of(model, betas)] * 4)
    posed = random_hands(skeleton, seed=2)
    poses = poses_of(skeleton, posed)
    mesh = forward(model, poses.global_orient, poses.hand_pose, betas, poses.transl)
    # Sums of some 50 products of numbers of order 1 m, each rounded to 1e-16.
    np.testing.assert_allclose(posed.landmarks.transpose(0, 2, 1), mesh.landmarks, atol=1e-13)


def test_jacobian_matches_central_differences() -> None:
    skeleton = mixed_skeleton(3)
    posed = random_hands(skeleton, seed=3)
    analytic = posed.jacobian().reshape(3, 51, 3, 21)
    # The step's square times third derivatives (below 1 m / rad^3) is 1e-10, rounding 1e-16 / 1e-5 is 1e-11.
    step = 1e-5
    for parameter in range(51):
        increment = np.zeros((3, 51))
        increment[:, parameter] = step
        ahead, behind = posed.moved(skeleton, increment), posed.moved(skeleton, -increment)
        numeric = (ahead.landmarks - behind.landmarks) / (2 * step)
        np.testing.assert_allclose(analytic[:, parameter], numeric, atol=3e-10, err_msg=f"parameter {parameter}")


@pytest.mark.parametrize("angle", [0.0, 1e-12, 1e-8, 1e-4, 0.1, 2.0, np.pi, 6.0])
def test_rotation_and_its_tangent(angle: float) -> None:
    vector = angle * np.array([2.0, -3.0, 6.0]) / 7.0
    rotation, tangent = rotation_and_tangent(vector)
    expected = Rotation.from_rotvec(vector)
    np.testing.assert_allclose(rotation, expected.as_matrix(), atol=1e-15)
    for axis in range(3):
        # Central differences: step^2 / 6 is 2e-11, rounding 1e-16 / 1e-5 is 1e-11.
        ahead, behind = (Rotation.from_rotvec(vector + sign * 1e-5 * np.eye(3)[axis]) for sign in (1, -1))
        np.testing.assert_allclose(tangent[:, axis], (ahead * behind.inv()).as_rotvec() / 2e-5, atol=1e-9)


@pytest.mark.parametrize("right", [synthetic_hand("right"), load_hand_model()])
def test_same_angles_make_the_mirrored_pose_of_the_other_side(right: HandModel) -> None:
    betas = np.random.default_rng(4).normal(size=10)
    skeletons = [Skeleton.of(model, betas) for model in (right, right.mirrored())]
    posed = [random_hands(skeleton, seed=5) for skeleton in skeletons]
    np.testing.assert_allclose(posed[0].angles, posed[1].angles, atol=1e-13)
    poses = [poses_of(skeleton, one) for skeleton, one in zip(skeletons, posed, strict=True)]
    np.testing.assert_allclose(mirror_axis_angle(poses[0].hand_pose), poses[1].hand_pose, atol=1e-13)


@pytest.mark.parametrize("model", [synthetic_hand("right"), synthetic_hand("left"), load_hand_model()])
def test_flexion_closes_and_abduction_goes_to_the_thumb(model: HandModel) -> None:
    skeleton = Skeleton.of(model, np.zeros(10))
    flat = random_hands(skeleton, seed=6, span=0.0)
    tips, knuckles = (4, 8, 12, 16, 20), (2, 5, 9, 13, 17)
    across = flat.landmarks[0, :, 5] - flat.landmarks[0, :, 17]

    def after(joint: int, angle: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
        increment = np.zeros((1, 51))
        increment[0, 6 + 3 * joint + angle] = 0.2
        landmarks: np.ndarray[tuple[int, ...], np.dtype[np.float64]] = flat.moved(skeleton, increment).landmarks[0]
        return landmarks

    for finger, tip, knuckle in zip((4, 0, 1, 3, 2), tips, knuckles, strict=True):
        closed = after(3 * finger + 1, 0)
        reach = [np.linalg.norm(points[:, tip] - points[:, knuckle]) for points in (flat.landmarks[0], closed)]
        assert reach[1] < reach[0]
        if tip != 4:
            assert (after(3 * finger, 1)[:, tip] - flat.landmarks[0, :, tip]) @ across > 0


def test_other_joint_trees_are_refused() -> None:
    model = synthetic_hand()
    parents = model.parents.copy()
    parents[2] = 0
    with pytest.raises(ValueError, match="parents"):
        Skeleton.of(replace(model, parents=parents), np.zeros(10))
