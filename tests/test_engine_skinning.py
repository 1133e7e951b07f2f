"""Posing hands: the forward pass against a slow one, landmarks without the mesh, leading dimensions, mirroring."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from hamuco.engine.hand_model import HandModel, load_hand_model, mirror_axis_angle
from hamuco.engine.skinning import (
    HandMesh,
    axis_angle_to_matrix,
    bone_transforms,
    forward,
    landmark_anchors,
    pose_rotations,
    rest_joints,
    skin,
)

FloatArray = NDArray[np.float64]

# Sums of some thousand products of numbers below 1 m in double precision.
ROUNDING = 1e-12


@pytest.fixture(scope="module")
def model() -> HandModel:
    return load_hand_model()


def random_parameters(seed: int, *leading: int) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    rng = np.random.default_rng(seed)
    return (
        rng.normal(0, 1.0, (*leading, 3)),
        rng.normal(0, 0.3, (*leading, 45)),
        rng.normal(0, 1.0, (*leading, 10)),
        rng.normal(0, 0.5, (*leading, 3)),
    )


def slow_forward(
    model: HandModel, orient: FloatArray, pose: FloatArray, betas: FloatArray, transl: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """The published formula bone by bone and vertex by vertex, with 4x4 matrices, as smplx arranges it."""
    shaped = model.v_template.copy()
    for k in range(10):
        shaped += model.shapedirs[:, :, k] * betas[k]
    joints = model.J_regressor @ shaped
    rotations = [Rotation.from_rotvec(orient).as_matrix()]
    rotations += [Rotation.from_rotvec(vector).as_matrix() for vector in (pose + model.pose_mean).reshape(15, 3)]
    posed = shaped.copy()
    if model.posedirs is not None:
        feature = np.concatenate([(rotation - np.eye(3)).ravel() for rotation in rotations[1:]])
        for k in range(135):
            posed += model.posedirs[:, :, k] * feature[k]
    world: list[FloatArray] = []
    for bone in range(16):
        local = np.eye(4)
        local[:3, :3] = rotations[bone]
        parent = int(model.parents[bone])
        local[:3, 3] = joints[bone] if parent < 0 else joints[bone] - joints[parent]
        world.append(local if parent < 0 else world[parent] @ local)
    vertices = np.zeros_like(posed)
    for index, vertex in enumerate(posed):
        for bone in np.flatnonzero(model.weights[index]).tolist():
            out_of_rest = world[bone].copy()
            out_of_rest[:3, 3] -= world[bone][:3, :3] @ joints[bone]
            vertices[index] += model.weights[index, bone] * (out_of_rest @ [*vertex, 1.0])[:3]
    vertices += transl
    return vertices, np.array([matrix[:3, 3] for matrix in world]) + transl, model.landmark_regressor @ vertices


def vertices_of(mesh: HandMesh) -> FloatArray:
    assert mesh.vertices is not None
    return mesh.vertices


@pytest.mark.parametrize("pose_dependent", [False, True])
@pytest.mark.parametrize("seed", [0, 1])
def test_forward_is_the_published_formula(
    model: HandModel, with_posedirs: HandModel, pose_dependent: bool, seed: int
) -> None:
    chosen = with_posedirs if pose_dependent else model
    parameters = random_parameters(seed)
    vertices, joints, landmarks = slow_forward(chosen, *parameters)
    mesh = forward(chosen, *parameters)
    np.testing.assert_allclose(vertices_of(mesh), vertices, atol=ROUNDING)
    np.testing.assert_allclose(mesh.joints, joints, atol=ROUNDING)
    np.testing.assert_allclose(mesh.landmarks, landmarks, atol=ROUNDING)


def test_landmarks_do_not_need_the_mesh(with_posedirs: HandModel) -> None:
    parameters = random_parameters(4, 3)
    few = forward(with_posedirs, *parameters, with_vertices=False)
    assert few.vertices is None
    full = forward(with_posedirs, *parameters)
    np.testing.assert_allclose(few.landmarks, full.landmarks, atol=ROUNDING)
    np.testing.assert_allclose(few.joints, full.joints, atol=ROUNDING)


@pytest.mark.parametrize("pose_dependent", [False, True])
def test_single_precision_skinning_is_forward_rounded(
    model: HandModel, with_posedirs: HandModel, pose_dependent: bool
) -> None:
    chosen = with_posedirs if pose_dependent else model
    parameters = random_parameters(8, 3)
    vertices = skin(chosen, *parameters)
    assert vertices.dtype == np.float32
    # Within two metres of the origin single precision has steps of 1.2e-7 m; sums of some 200 products add up a few of them.
    np.testing.assert_allclose(vertices, vertices_of(forward(chosen, *parameters)), atol=1e-6)


def test_landmark_anchors_give_the_landmarks_of_forward(model: HandModel) -> None:
    orient, pose, betas, transl = random_parameters(5)
    anchors, joints = landmark_anchors(model, betas)
    np.testing.assert_allclose(anchors[..., 3].sum(axis=1), 1, atol=ROUNDING)
    transforms = bone_transforms(pose_rotations(model, orient, pose), joints)
    landmarks = np.einsum("bck,jbk->jc", transforms, anchors) + transl
    np.testing.assert_allclose(landmarks, forward(model, orient, pose, betas, transl).landmarks, atol=ROUNDING)


@pytest.mark.parametrize("leading", [(), (3,), (2, 3), (0,)])
def test_leading_dimensions(model: HandModel, leading: tuple[int, ...]) -> None:
    parameters = random_parameters(6, *leading)
    mesh = forward(model, *parameters)
    count = len(model.v_template)
    assert vertices_of(mesh).shape == (*leading, count, 3)
    assert mesh.joints.shape == (*leading, 16, 3)
    assert mesh.landmarks.shape == (*leading, 21, 3)
    for index in np.ndindex(*leading):
        single = forward(model, *(value[index] for value in parameters))
        np.testing.assert_allclose(vertices_of(mesh)[index], vertices_of(single), atol=ROUNDING)
        np.testing.assert_allclose(mesh.landmarks[index], single.landmarks, atol=ROUNDING)


def test_one_shape_broadcasts_over_many_poses(model: HandModel) -> None:
    orient, pose, _, transl = random_parameters(7, 4)
    betas = np.ones(10)
    mesh = forward(model, orient, pose, betas, transl[0])
    single = forward(model, orient[2], pose[2], betas, transl[0])
    np.testing.assert_allclose(vertices_of(mesh)[2], vertices_of(single), atol=ROUNDING)


@pytest.mark.parametrize("pose_dependent", [False, True])
def test_the_hand_moves_rigidly_about_its_wrist(
    model: HandModel, with_posedirs: HandModel, pose_dependent: bool
) -> None:
    chosen = with_posedirs if pose_dependent else model
    orient, pose, betas, transl = random_parameters(8)
    still = forward(chosen, np.zeros(3), pose, betas, np.zeros(3))
    moved = forward(chosen, orient, pose, betas, transl)
    rotation, wrist = axis_angle_to_matrix(orient), rest_joints(chosen, betas)[0]
    for before, after in (
        (vertices_of(still), vertices_of(moved)),
        (still.joints, moved.joints),
        (still.landmarks, moved.landmarks),
    ):
        np.testing.assert_allclose(after, (before - wrist) @ rotation.T + wrist + transl, atol=ROUNDING)


@pytest.mark.parametrize("pose_dependent", [False, True])
def test_the_left_hand_is_the_right_one_in_a_mirror(
    model: HandModel, with_posedirs: HandModel, pose_dependent: bool
) -> None:
    right = with_posedirs if pose_dependent else model
    left = right.mirrored()
    orient, pose, betas, transl = random_parameters(9)
    flip = np.array([-1.0, 1.0, 1.0])
    a = forward(right, orient, pose, betas, transl)
    b = forward(left, mirror_axis_angle(orient), mirror_axis_angle(pose), betas, transl * flip)
    np.testing.assert_allclose(vertices_of(b), vertices_of(a) * flip, atol=ROUNDING)
    np.testing.assert_allclose(b.joints, a.joints * flip, atol=ROUNDING)
    np.testing.assert_allclose(b.landmarks, a.landmarks * flip, atol=ROUNDING)


@pytest.mark.parametrize("angle", [0.0, 1e-12, 1e-4, 1.0, np.pi, 3 * np.pi])
def test_axis_angle_to_matrix(angle: float) -> None:
    vector = angle * np.array([2.0, -1.0, 2.0]) / 3
    np.testing.assert_allclose(axis_angle_to_matrix(vector), Rotation.from_rotvec(vector).as_matrix(), atol=1e-14)
