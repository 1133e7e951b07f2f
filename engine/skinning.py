"""Hands from their parameters: forward kinematics and linear blend skinning, the reference implementation.

In numpy and float64. With v = v_template + shapedirs · betas and J = J_regressor v:

    bone b:    rotates by R_b about its joint J_b, in the frame of its parent; R_0 = global_orient
    posed v:   sum over b of weights[b] (T_b v) + transl, T_b the bone's motion out of the rest pose

so the hand turns about its own wrist joint, and zero parameters leave it where the file has it, in its mean pose.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hamuco.engine.hand_model import JOINTS, LANDMARKS, SHAPES, FloatArray, HandModel

_Planes = tuple[NDArray[np.floating], NDArray[np.floating], NDArray[np.floating], NDArray[np.floating]]

# All fingers advance together: of each level its bones and their parents.
_LEVELS = ((slice(1, 16, 3), slice(0, 1)), (slice(2, 16, 3), slice(1, 16, 3)), (slice(3, 16, 3), slice(2, 16, 3)))

_IDENTITY = np.eye(3)
# A vector (3,) times this is its cross product matrix, row-major (9,).
SKEW = np.array([[0, 0, 0, 0, 0, -1, 0, 1, 0], [0, 0, 1, 0, 0, 0, -1, 0, 0], [0, -1, 0, 1, 0, 0, 0, 0, 0]], np.float64)


@dataclass(frozen=True, slots=True, eq=False)
class HandMesh:
    """A posed hand, or hands with leading dimensions (...), metres, in the frame that `transl` is in.

    Attributes:
        vertices: (..., N, 3), or None where they were not asked for.
        joints: (..., 16, 3) the skeleton's, in MANO order.
        landmarks: (..., 21, 3) the landmark network's, in its order.
    """

    vertices: FloatArray | None
    joints: FloatArray
    landmarks: FloatArray


def forward(
    model: HandModel,
    global_orient: ArrayLike,
    hand_pose: ArrayLike,
    betas: ArrayLike,
    transl: ArrayLike,
    *,
    with_vertices: bool = True,
) -> HandMesh:
    """Pose the hand. Leading dimensions (...) of the parameters broadcast against each other.

    Args:
        model: the hand.
        global_orient: (..., 3) axis-angle about the wrist joint, rad.
        hand_pose: (..., 45) axis-angle of the 15 finger joints, rad; the model's mean pose is added to it.
        betas: (..., 10) shape.
        transl: (..., 3) m, added last.
        with_vertices: False skins no vertex: landmarks are mixtures of points that are fixed to bones.
    """
    rotations = pose_rotations(model, global_orient, hand_pose)
    return forward_rotations(model, rotations, betas, transl, with_vertices=with_vertices)


def forward_rotations(
    model: HandModel,
    rotations: FloatArray,
    betas: ArrayLike,
    transl: ArrayLike,
    *,
    with_vertices: bool = True,
) -> HandMesh:
    """`forward` from rotations (..., 16, 3, 3) of all bones in their parents' frames, with the mean pose in them."""
    betas, transl = np.asarray(betas, np.float64), np.asarray(transl, np.float64)[..., None, :]
    joints_rest = rest_joints(model, betas)
    transforms = bone_transforms(rotations, joints_rest)
    joints = (transforms[..., :3] @ joints_rest[..., None])[..., 0] + transforms[..., 3]
    feature = _pose_feature(model, rotations)
    anchors = _anchors(model, betas, feature)
    flat_anchors = anchors.reshape(*anchors.shape[:-2], 4 * JOINTS)
    flat = transforms.swapaxes(-2, -3).reshape(*transforms.shape[:-3], 3, 4 * JOINTS)
    landmarks = flat_anchors @ flat.mT
    vertices = None
    if with_vertices:
        vertices = np.asarray((_skinned(_planes(model), transforms, betas, feature) + transl.mT).mT, np.float64)
    return HandMesh(vertices, joints + transl, landmarks + transl)


def skin(
    model: HandModel, global_orient: ArrayLike, hand_pose: ArrayLike, betas: ArrayLike, transl: ArrayLike
) -> NDArray[np.float32]:
    """The vertices (..., N, 3) of `forward` alone, in single precision, which is faster: for streams and pictures."""
    shapes, moved = np.asarray(betas, np.float64), np.asarray(transl, np.float32)[..., None]
    rotations = pose_rotations(model, global_orient, hand_pose)
    transforms = bone_transforms(rotations, rest_joints(model, shapes))
    vertices = _skinned(_single_planes(model), transforms, shapes, _pose_feature(model, rotations))
    return np.asarray((vertices + moved).mT, np.float32)


def _pose_feature(model: HandModel, rotations: FloatArray) -> FloatArray | None:
    """What posedirs are multiplied with, (..., 135), if there are some."""
    if model.posedirs is None:
        return None
    return (rotations[..., 1:, :, :] - _IDENTITY).reshape(*rotations.shape[:-3], model.posedirs.shape[-1])


def _skinned(
    planes: _Planes, transforms: FloatArray, betas: FloatArray, feature: FloatArray | None
) -> NDArray[np.floating]:
    """Vertices (..., 3, N): with each coordinate in a row of its own, numpy is over twice as fast."""
    template, shapedirs, posedirs, weights = planes
    dtype, count = template.dtype, weights.shape[1]
    rest = template + betas.astype(dtype) @ shapedirs
    if feature is not None:
        rest = rest + feature.astype(dtype) @ posedirs
    rest = rest.reshape(*rest.shape[:-1], 3, 1, count)
    columns = np.moveaxis(transforms, (-1, -3), (-3, -1)).astype(dtype)  # (..., 4, 3, 16)
    blended = columns.reshape(*columns.shape[:-3], 12, JOINTS) @ weights
    blended = blended.reshape(*columns.shape[:-1], count)
    blended[..., :3, :, :] *= rest
    moved = blended[..., 3, :, :]
    for turned in range(3):
        moved += blended[..., turned, :, :]
    return np.asarray(moved)


@lru_cache(maxsize=8)
def _planes(model: HandModel) -> _Planes:
    """v_template (3 N,), shapedirs (10, 3 N), posedirs (135 or 0, 3 N) and weights (16, N), the vertices last."""
    count = len(model.v_template)
    posedirs = np.zeros((count, 3, 0)) if model.posedirs is None else model.posedirs
    return (
        np.ascontiguousarray(model.v_template.T).ravel(),
        np.ascontiguousarray(model.shapedirs.T).reshape(-1, 3 * count),
        np.ascontiguousarray(posedirs.T).reshape(-1, 3 * count),
        np.ascontiguousarray(model.weights.T),
    )


@lru_cache(maxsize=8)
def _single_planes(model: HandModel) -> _Planes:
    template, shapedirs, posedirs, weights = (plane.astype(np.float32) for plane in _planes(model))
    return template, shapedirs, posedirs, weights


def landmark_anchors(model: HandModel, betas: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Landmarks as points fixed to bones, for fitting: with the shape known, no vertex has to be skinned.

    landmark_j = sum over b of T_b @ anchors[j, b] + transl, with T_b from `bone_transforms`. Exact for a model without
    posedirs; with them, the pose-dependent correction is left out.

    Args:
        model: the hand.
        betas: (10,) shape.

    Returns:
        anchors (21, 16, 4), whose last column sums to 1 over the bones, and the joints of the rest pose (16, 3) m.
    """
    shape = np.asarray(betas, np.float64)
    return _anchors(model, shape, None), rest_joints(model, shape)


def _anchors(model: HandModel, betas: FloatArray, feature: FloatArray | None) -> FloatArray:
    """Anchors (..., 21, 16, 4) of shapes (..., 10) and pose features (..., 135), as `landmark_anchors` says."""
    constant, shapes, poses = _anchor_basis(model)
    flat = constant + betas @ shapes
    if feature is not None:
        flat = flat + feature @ poses
    return np.asarray(flat.reshape(*flat.shape[:-1], LANDMARKS, JOINTS, 4))


@lru_cache(maxsize=8)
def _anchor_basis(model: HandModel) -> tuple[FloatArray, FloatArray, FloatArray]:
    """What all anchors, flat, are a linear combination of: a constant part, of each shape and of each pose feature."""

    def anchors(points: FloatArray) -> FloatArray:
        """(..., 1344) of offsets of the vertices that landmarks are made of, homogeneous (used, ..., 4)."""
        weighted = np.einsum("ju,ub,u...k->...jbk", regressor, model.weights[used], points, optimize=True)
        return np.asarray(weighted.reshape(*weighted.shape[:-3], -1))

    used = np.flatnonzero(model.landmark_regressor.any(axis=0))
    regressor = model.landmark_regressor[:, used]
    directions = [model.shapedirs[used], *([] if model.posedirs is None else [model.posedirs[used]])]
    moved = [np.pad(one.mT, ((0, 0), (0, 0), (0, 1))) for one in directions]  # directions end in a 0
    parts = [anchors(one) for one in (np.pad(model.v_template[used], ((0, 0), (0, 1)), constant_values=1), *moved)]
    return parts[0], parts[1], parts[-1]


@lru_cache(maxsize=8)
def _rest_joint_basis(model: HandModel) -> tuple[FloatArray, FloatArray]:
    """Rest joints, flat (48,), of the mean shape, and what each shape adds to them (10, 48)."""
    shapes = np.einsum("jv,vcs->sjc", model.J_regressor, model.shapedirs, optimize=True)
    return (model.J_regressor @ model.v_template).ravel(), shapes.reshape(SHAPES, -1)


def rest_joints(model: HandModel, betas: ArrayLike) -> FloatArray:
    """Skeleton joints (..., 16, 3) m of the rest pose for shapes (..., 10)."""
    shape = np.asarray(betas, np.float64)
    constant, shapes = _rest_joint_basis(model)
    return (constant + shape @ shapes).reshape(*shape.shape[:-1], JOINTS, 3)


def pose_rotations(model: HandModel, global_orient: ArrayLike, hand_pose: ArrayLike) -> FloatArray:
    """Rotations (..., 16, 3, 3) of all bones in their parents' frames, the mean pose added."""
    orient = np.asarray(global_orient, np.float64)
    fingers = np.asarray(hand_pose, np.float64) + model.pose_mean
    theta = np.empty((*np.broadcast_shapes(orient.shape[:-1], fingers.shape[:-1]), 3 * JOINTS))
    theta[..., :3], theta[..., 3:] = orient, fingers
    return axis_angle_to_matrix(theta.reshape(*theta.shape[:-1], JOINTS, 3))


def bone_transforms(rotations: FloatArray, joints_rest: FloatArray) -> FloatArray:
    """Forward kinematics along MANO's tree.

    Args:
        rotations: (..., 16, 3, 3) in the parents' frames.
        joints_rest: (..., 16, 3) m.

    Returns:
        transforms (..., 16, 3, 4) that carry points of the rest pose along with each bone, before any translation of the
        hand; each bone's own carries its joint, too.
    """
    transforms = np.zeros((*np.broadcast_shapes(rotations.shape[:-3], joints_rest.shape[:-2]), JOINTS, 4, 4))
    # A bone turns about its joint, which itself stays where it is; its parents then carry both.
    transforms[..., :3, :3] = rotations
    transforms[..., :3, 3] = joints_rest - np.einsum("...ij,...j->...i", rotations, joints_rest)
    transforms[..., 3, 3] = 1
    for level, parents in _LEVELS:
        transforms[..., level, :, :] = transforms[..., parents, :, :] @ transforms[..., level, :, :]
    return transforms[..., :3, :]


def axis_angle_to_matrix(axis_angle: ArrayLike) -> FloatArray:
    """Rotation matrices (..., 3, 3) of axis-angle vectors (..., 3), rad (Rodrigues); exact to rounding at any angle."""
    vector = np.asarray(axis_angle, np.float64)
    squared = np.einsum("...i,...i->...", vector, vector)[..., None, None]
    half = 0.5 * np.sqrt(squared)
    ratio = np.divide(np.sin(half), half, out=np.ones_like(half), where=half > 0)
    linear, quadratic = ratio * np.cos(half), 0.5 * ratio**2  # sin(a) / a and (1 - cos(a)) / a^2, with no cancellation
    cross = (vector @ SKEW).reshape(*vector.shape, 3)
    outer = vector[..., :, None] * vector[..., None, :]
    return np.asarray((1 - quadratic * squared) * _IDENTITY + linear * cross + quadratic * outer)
