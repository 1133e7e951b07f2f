"""The hand model reduced to what a fit needs: a chain of 16 joints that carries the 21 landmarks.

The landmarks are a linear regressor on the skinned mesh, so without pose blend shapes each one is a fixed mixture of
points rigidly attached to bones (`landmark_anchors`), and posing them needs no mesh.

Conventions:

- Joint angles are the coordinates of a joint's axis-angle vector along its own anatomical axes: flexion (positive:
  the finger closes), abduction (positive: towards the thumb side) and twist about the bone. Zero is the rest pose.
  The axes come from the rest geometry, so they hold for any model in MANO layout, and a left hand's are the mirror
  image of a right hand's: the same angles make the mirrored pose.
- Pose increments: three for the wrist position (m, world), three for the wrist rotation (rad, axis-angle in world
  axes, applied on the left, so that no orientation is singular), then the 45 joint angles (rad).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hamuco.engine.hand_model import HandModel
from hamuco.engine.skinning import SKEW, landmark_anchors

FloatArray = NDArray[np.float64]

FINGERS = 5  # MANO order: index, middle, little, ring, thumb
_INDEX, _MIDDLE, _LITTLE, _RING, _THUMB = range(FINGERS)
_TIPS = (8, 12, 20, 16, 4)  # their tips among the landmarks

_IDENTITY = np.eye(3)
_EPSILON = np.zeros((3, 3, 3))  # (a x b)_i = sum_jk _EPSILON[i, j, k] a_j b_k
for _i, _j, _k in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):
    _EPSILON[_i, _j, _k], _EPSILON[_i, _k, _j] = 1.0, -1.0
# The three columns of a row-major 3x3 matrix -> their three cross product matrices, stacked: (9,) -> (27,).
_SKEW_COLUMNS = np.einsum("idk,ac->dacik", _EPSILON, np.eye(3)).reshape(9, 27).copy()
FROM_SKEW = 0.5 * SKEW.T  # the inverse; of any other matrix, its antisymmetric part's vector
_TRANSLATION_ROWS = np.repeat(np.eye(3), 21, axis=1)[None]  # (1, 3, 63)


@dataclass(frozen=True, slots=True, eq=False)
class Skeleton:
    """H hands of locked shape, left and right mixed. Build one with `of`, many with `stack`; constant until shapes change.

    Attributes:
        wrist: (H, 3) rest position of the wrist joint in the model frame, m.
        basis: (H, 16, 3, 3) columns: flexion, abduction and twist axis of each joint; identity for the wrist.
        relative: (H, 15, 3, 3) rest orientation of each finger joint's axes in its parent's.
        offset: (H, 15, 3) rest position of each finger joint in its parent's axes, m.
        anchors: (H, 16, 4, 21) each landmark's share of each bone: point times weight (m), then the weight.
        weight_beyond: (H, 16, 21) the part of each landmark that moves with each joint, 0 to 1.
        mean_angles: (H, 45) the model's mean pose as joint angles.
        straight: (H, 15) flexion at which a joint is straight, rad: where goniometers read zero.
    """

    wrist: FloatArray
    basis: FloatArray
    relative: FloatArray
    offset: FloatArray
    anchors: FloatArray
    weight_beyond: FloatArray
    mean_angles: FloatArray
    straight: FloatArray

    @classmethod
    def of(cls, model: HandModel, betas: ArrayLike) -> Skeleton:
        """One hand (H = 1) of shape `betas` (10,)."""
        anchors, joints = landmark_anchors(model, np.asarray(betas, np.float64))
        parents = np.asarray(model.parents)
        expected = np.array([-1, *(0 if joint % 3 == 1 else joint - 1 for joint in range(1, 16))])
        if not np.array_equal(parents, expected):
            raise ValueError(f"hand model {model.name!r}: joint parents {parents.tolist()} are not MANO's")

        tips = anchors.sum(axis=1)[_TIPS, :3]
        basis = np.concatenate([np.eye(3)[None], _anatomical_axes(joints, tips, model.side)])
        offset = joints[1:] - joints[parents[1:]]
        weights = anchors[:, :, 3].T  # (16, 21)
        points = anchors[:, :, :3].transpose(1, 2, 0) - joints[:, :, None] * weights[:, None]  # (16, 3, 21)
        beyond = weights.copy()
        chains = beyond[1:].reshape(FINGERS, 3, -1)  # a view: finger, level, landmark
        chains[:, 1] += chains[:, 2]
        chains[:, 0] += chains[:, 1]
        beyond[0] = 1.0
        return cls(
            wrist=joints[None, 0].copy(),
            basis=basis[None],
            relative=(basis[parents[1:]].transpose(0, 2, 1) @ basis[1:])[None],
            offset=_rotate_back(basis[parents[1:]], offset)[None],
            anchors=np.concatenate([basis.transpose(0, 2, 1) @ points, weights[:, None]], axis=1)[None],
            weight_beyond=beyond[None],
            mean_angles=_rotate_back(basis[1:], model.pose_mean.reshape(15, 3)).reshape(1, 45),
            straight=-_rest_flexion(joints, tips, basis[1:, :, 0])[None],
        )

    @classmethod
    def stack(cls, skeletons: Sequence[Skeleton]) -> Skeleton:
        """All hands of several skeletons as one batch, in order."""
        return cls(*(np.concatenate([getattr(one, part.name) for one in skeletons]) for part in fields(cls)))

    def __len__(self) -> int:
        return len(self.wrist)


@dataclass(frozen=True, slots=True, eq=False)
class Posed:
    """H posed hands, with what the Jacobian is made of. Coordinates come before landmarks, as the algebra wants them.

    Attributes:
        wrist_rotation: (H, 3, 3) world from model.
        wrist_position: (H, 3) m.
        angles: (H, 45) rad.
        landmarks: (H, 3, 21) m.
        axes: (H, 16, 3, 3) columns: world axis about which each of a joint's three increments turns.
        levers: (H, 16, 3, 21) from each joint to the part of each landmark that moves with it, m.
    """

    wrist_rotation: FloatArray
    wrist_position: FloatArray
    angles: FloatArray
    landmarks: FloatArray
    axes: FloatArray
    levers: FloatArray

    def moved(self, skeleton: Skeleton, increment: FloatArray) -> Posed:
        """The pose after an increment (H, 51)."""
        vectors = np.concatenate([increment[:, 3:6], self.angles + increment[:, 6:]], axis=1)
        return _pose(skeleton, self.wrist_rotation, self.wrist_position + increment[:, :3], vectors)

    def jacobian(self) -> FloatArray:
        """Transposed derivative of the landmarks by the increment: (H, 51, 63), the 63 being three rows of 21."""
        hands = len(self.angles)
        crosses = (self.axes.reshape(-1, 9) @ _SKEW_COLUMNS).reshape(hands, 16, 9, 3)
        turning = (crosses @ self.levers).reshape(hands, 48, 63)
        return np.concatenate([np.broadcast_to(_TRANSLATION_ROWS, (hands, 3, 63)), turning], axis=1)


def pose(skeleton: Skeleton, global_orient: FloatArray, wrist_position: FloatArray, angles: FloatArray) -> Posed:
    """Pose H hands: axis-angle (H, 3) rad, wrist position (H, 3) m and joint angles (H, 45) rad."""
    return _pose(skeleton, _IDENTITY, wrist_position, np.concatenate([global_orient, angles], axis=1))


def _pose(skeleton: Skeleton, wrist_rotation: FloatArray, wrist_position: FloatArray, vectors: FloatArray) -> Posed:
    """Forward kinematics; the first of the 16 axis-angle vectors (H, 48) turns the wrist on from `wrist_rotation`.

    All fingers of all hands advance together, one of three levels at a time.
    """
    hands = len(vectors)
    rotation, tangent = rotation_and_tangent(vectors.reshape(hands, 16, 3))
    # Per joint, in its parent's frame and then in the world: rotation (3x3), position, axes of the increments (3x3).
    step = np.empty((hands, 15, 3, 7))
    np.matmul(skeleton.relative, rotation[:, 1:], out=step[..., :3])
    step[..., 3] = skeleton.offset
    np.matmul(skeleton.relative, tangent[:, 1:], out=step[..., 4:])
    world = np.empty((hands, 16, 3, 7))
    np.matmul(rotation[:, 0], wrist_rotation, out=world[:, 0, :, :3])
    world[:, 0, :, 3] = wrist_position
    world[:, 0, :, 4:] = _IDENTITY
    by_level = step.reshape(hands, FINGERS, 3, 3, 7)
    fingers = world[:, 1:].reshape(hands, FINGERS, 3, 3, 7)
    parent = world[:, :1]
    for level in range(3):
        current = parent[..., :3] @ by_level[:, :, level]
        current[..., 3] += parent[..., 3]
        fingers[:, :, level] = current
        parent = current

    bones = world[..., :4]
    carried = bones @ skeleton.anchors  # (H, 16, 3, 21): the part of each landmark on each bone, then on all beyond it
    chains = carried[:, 1:].reshape(hands, FINGERS, 3, 3, 21)
    chains[:, :, 1] += chains[:, :, 2]
    chains[:, :, 0] += chains[:, :, 1]
    carried[:, 0] += chains[:, :, 0].sum(axis=1)
    landmarks = carried[:, 0].copy()
    carried -= world[..., 3:4] * skeleton.weight_beyond[:, :, None]
    return Posed(world[:, 0, :, :3], wrist_position, vectors[:, 3:], landmarks, world[..., 4:], carried)


def rotation_and_tangent(vectors: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Axis-angle (..., 3) -> its rotation R and left Jacobian J (..., 3, 3): R(v + d) = exp(J d) R(v) to first order."""
    squared = (vectors * vectors).sum(axis=-1)[..., None, None] + 1e-24  # keeps 0 / 0 away, far below rounding
    angle = np.sqrt(squared)
    sine = np.sin(angle) / angle
    half = np.sin(0.5 * angle) / angle
    versine = 2.0 * half * half  # (1 - cos) / angle^2 without cancellation
    skew = (vectors @ SKEW).reshape(*vectors.shape, 3)
    outer = vectors[..., :, None] * vectors[..., None, :]
    rotation = (1.0 - versine * squared) * _IDENTITY + sine * skew + versine * outer
    # The last factor cancels for tiny angles, where the outer product it scales is smaller than rounding.
    tangent = sine * _IDENTITY + versine * skew + ((1.0 - sine) / squared) * outer
    return rotation, tangent


def _rotate_back(basis: FloatArray, vectors: FloatArray) -> FloatArray:
    """Vectors (K, 3) -> their coordinates along the columns of each basis (K, 3, 3)."""
    rotated: FloatArray = (basis.transpose(0, 2, 1) @ vectors[:, :, None])[:, :, 0]
    return rotated


def _unit(vectors: FloatArray) -> FloatArray:
    unit: FloatArray = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    return unit


def _bones_beyond(joints: FloatArray, tips: FloatArray) -> FloatArray:
    """Unit direction (15, 3) from each finger joint to the next one or the tip."""
    chains = np.concatenate([joints[1:].reshape(FINGERS, 3, 3), tips[:, None]], axis=1)
    return _unit(np.diff(chains, axis=1).reshape(15, 3))


def _anatomical_axes(joints: FloatArray, tips: FloatArray, side: str) -> FloatArray:
    """Flexion, abduction and twist axes (15, 3, 3), as columns, from rest joints (16, 3) and tips (5, 3), m.

    A finger flexes about the line through its own and its neighbours' knuckles, which follows the transverse arch of
    the palm. The thumb flexes towards a point on the palm's side of the little finger's knuckle: a rest pose says
    little else about it, and the pad of a relaxed thumb faces there.
    """
    mirror = 1.0 if side == "right" else -1.0
    bases = joints[1:].reshape(FINGERS, 3, 3)
    knuckles = bases[:, 0]
    # About the direction from little finger to index, a right hand's fingers close; a left hand's about its opposite.
    across = mirror * np.gradient(knuckles[[_LITTLE, _RING, _MIDDLE, _INDEX]], axis=0)
    to_fingers = knuckles[_MIDDLE] - joints[0]
    out_of_palm = _unit(np.cross(across[2], to_fingers))
    target = knuckles[_LITTLE] + 0.4 * np.linalg.norm(to_fingers) * out_of_palm

    twist = _bones_beyond(joints, tips)
    lateral = np.empty((FINGERS, 3, 3))
    lateral[[_LITTLE, _RING, _MIDDLE, _INDEX]] = across[:, None]
    lateral[_THUMB] = np.cross(twist.reshape(FINGERS, 3, 3)[_THUMB], target - bases[_THUMB])
    sideways = lateral.reshape(15, 3)
    flexion = _unit(sideways - (sideways * twist).sum(axis=1, keepdims=True) * twist)
    abduction = np.cross(twist, flexion)
    return np.stack([flexion, mirror * abduction, mirror * twist], axis=-1)


def _rest_flexion(joints: FloatArray, tips: FloatArray, flexion_axes: FloatArray) -> FloatArray:
    """Angle (15,) rad of each finger joint about its flexion axis in the rest pose, zero where it is straight."""
    bases = joints[1:].reshape(FINGERS, 3, 3)
    outgoing = _bones_beyond(joints, tips)
    incoming = np.concatenate([np.broadcast_to(joints[0], (FINGERS, 1, 3)), bases], axis=1)
    before = np.diff(incoming, axis=1).reshape(15, 3)
    before = _unit(before - (before * flexion_axes).sum(axis=1, keepdims=True) * flexion_axes)
    turned: FloatArray = np.arctan2(
        (np.cross(before, outgoing) * flexion_axes).sum(axis=1), (before * outgoing).sum(axis=1)
    )
    return turned
