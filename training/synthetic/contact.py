"""Where flesh would meet flesh: hands as capsules, good to a few millimetres and quick enough to be asked often.

Every phalanx is a capsule, a segment with a radius, fitted to the mesh around it; so are the four metacarpals of the
palm and, for the sake of the other hand, a forearm that goes straight on behind the wrist.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from hamuco.engine.hand_model import HandModel
from hamuco.engine.skinning import pose_rotations, rest_joints
from hamuco.fusion.hand import HandParameters

FloatArray = NDArray[np.float64]

TOLERATED_DEPTH = 0.002
"""Depth, m, to which capsules may be in each other: flesh gives way, and capsules are no better."""

_PHALANGES, _METACARPALS, _FOREARM = 15, 4, 19  # capsules: 15 phalanges in MANO order, 4 metacarpals, the forearm
_KNUCKLES = (1, 4, 7, 10)  # model joints: index, middle, little, ring finger
_OUTER = 75  # per cent of the vertices around a bone are within its radius
_BLUNT = 0.75  # of the radius by which a capsule's segment ends before the fingertip
_YIELDING = 0.9  # of the radius is left where fingers of one hand lie on each other
_PALM_HOLLOW = 0.55  # of a palm's thickness is left where a hand's own fingertips sink into it
_TOUCH = 0.0005  # m
_PUSHES = 30  # by the depth that is left; hands part after some
_CHUNK = 64  # moments at a time, for the sake of the cache
_FOREARM_LENGTH, _FOREARM_RADIUS = 0.22, 0.028  # m, at the wrist a little thinner, at the elbow thicker


@dataclass(frozen=True, slots=True, eq=False)
class Flesh:
    """The capsules of one model, C = 20, in the rest pose of the mean shape, with how they change with shape.

    Attributes:
        bone: (C,) the model joint with which each moves.
        ends: (C, 2, 3) m.
        ends_by_shape: (C, 2, 3, 10) m.
        radius: (C,) m.
        radius_by_shape: (C, 10) m.
        joints: (16, 3) m, and joints_by_shape (16, 3, 10).
    """

    bone: NDArray[np.int64]
    ends: FloatArray
    ends_by_shape: FloatArray
    radius: FloatArray
    radius_by_shape: FloatArray
    joints: FloatArray
    joints_by_shape: FloatArray

    def joints_at(self, betas: FloatArray) -> FloatArray:
        """Joints (16, 3) m of the rest pose, as `rest_joints` but quicker."""
        return np.asarray(self.joints + self.joints_by_shape @ betas)


@dataclass(frozen=True, slots=True, eq=False)
class Capsules:
    """Posed capsules of K moments: ends (K, C, 2, 3) m and radii (C,) m."""

    ends: FloatArray
    radius: FloatArray

    def mirrored(self) -> Capsules:
        """Their mirror image at x = 0: a left hand's, if they were a right hand's."""
        return Capsules(self.ends * np.array([-1.0, 1.0, 1.0]), self.radius)


@lru_cache(maxsize=8)
def flesh_of(model: HandModel) -> Flesh:
    """Fit the capsules to a model's mesh; kept, as a model never changes."""
    joints = rest_joints(model, np.zeros(10))
    groups = [np.flatnonzero(model.weights[:, joint] > 0.5) for joint in range(1, 16)]
    palm = np.flatnonzero(model.weights[:, 0] > 0.6)
    shares, offs = zip(
        *(_along(model.v_template[palm], joints[0], joints[knuckle]) for knuckle in _KNUCKLES), strict=True
    )
    nearest = np.argmin(offs, axis=0)
    for index, share in enumerate(shares):
        groups.append(palm[(nearest == index) & (share > 0.0) & (share < 1.0)])

    fits = [_fit(model, groups, shape) for shape in np.concatenate([np.zeros((1, 10)), np.eye(10)])]
    ends, radii = np.array([fit[0] for fit in fits]), np.array([fit[1] for fit in fits])
    back = joints[0] - joints[_KNUCKLES[1]]
    back = back / np.linalg.norm(back)
    forearm = np.stack([joints[0] - 0.02 * back, joints[0] + _FOREARM_LENGTH * back])
    return Flesh(
        bone=np.array([*range(1, 16), 0, 0, 0, 0, 0]),
        ends=np.concatenate([ends[0], forearm[None]]),
        ends_by_shape=np.concatenate([np.moveaxis(ends[1:] - ends[0], 0, -1), np.zeros((1, 2, 3, 10))]),
        radius=np.append(radii[0], _FOREARM_RADIUS),
        radius_by_shape=np.concatenate([(radii[1:] - radii[0]).T, np.zeros((1, 10))]),
        joints=joints,
        joints_by_shape=np.tensordot(model.J_regressor, model.shapedirs, axes=1),
    )


def _along(points: FloatArray, start: FloatArray, stop: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Of points (n, 3): how far along a segment they are, 0 to 1 within it, and their distance (n,) from its line."""
    axis = stop - start
    share = (points - start) @ axis / (axis @ axis)
    return share, np.linalg.norm(points - start - share[:, None] * axis, axis=1)


def _fit(model: HandModel, groups: Sequence[NDArray[np.int64]], betas: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Capsules (ends (C, 2, 3), radius (C,)) of one shape, in the middle of the groups of vertices."""
    vertices, joints = model.v_template + model.shapedirs @ betas, rest_joints(model, betas)
    tips = vertices[model.fingertips[[1, 2, 4, 3, 0]]]
    knuckles = joints[list(_KNUCKLES)]
    start = np.concatenate([joints[1:], 0.9 * joints[0] + 0.1 * knuckles])
    beyond = np.stack([joints[2::3], joints[3::3], tips], axis=1)
    stop = np.concatenate([beyond.reshape(15, 3), knuckles])
    normal = np.cross(knuckles[0] - knuckles[2], knuckles[1] - joints[0])  # of the palm
    normal = normal / np.linalg.norm(normal)
    ends, radii = np.empty((len(groups), 2, 3)), np.empty(len(groups))
    for index, group in enumerate(groups):
        axis = stop[index] - start[index]
        share, _ = _along(vertices[group], start[index], stop[index])
        aside = vertices[group] - start[index] - share[:, None] * axis
        middle = aside.mean(axis=0)
        off = np.linalg.norm(aside - middle, axis=1)
        if index >= _PHALANGES:  # a palm is flatter than a row of round columns
            off = np.abs((aside - middle) @ normal)
        radius = np.percentile(off, _OUTER)
        if index < _PHALANGES and index % 3 == 2:  # a fingertip is blunter than the end of its capsule
            axis = axis * (1.0 - _BLUNT * radius / np.linalg.norm(axis))
        ends[index, 0] = start[index] + middle
        ends[index, 1] = ends[index, 0] + axis
        radii[index] = radius
    return ends, radii


def capsules(model: HandModel, hand: HandParameters) -> Capsules:
    """Capsules of a hand at K moments: global_orient (K, 3), hand_pose (K, 45), betas (10,), transl (K, 3)."""
    flesh = flesh_of(model)
    betas = np.asarray(hand.betas, np.float64)
    joints = flesh.joints_at(betas)
    rotations = pose_rotations(model, hand.global_orient, hand.hand_pose)
    # `bone_transforms` goes from bone to bone; here all fingers advance together, a level at a time.
    turns = rotations.copy()
    places = np.empty((*rotations.shape[:-3], 16, 3))
    places[..., 0, :] = joints[0] + hand.transl
    for first in (1, 2, 3):
        level = np.arange(first, 16, 3)
        parent = level - 1 if first > 1 else 0 * level
        offset = (joints[level] - joints[parent])[..., None]
        places[..., level, :] = places[..., parent, :] + (turns[..., parent, :, :] @ offset)[..., 0]
        turns[..., level, :, :] = turns[..., parent, :, :] @ rotations[..., level, :, :]
    ends = flesh.ends + flesh.ends_by_shape @ betas - joints[flesh.bone, None]
    posed = ends @ np.swapaxes(turns[..., flesh.bone, :, :], -1, -2) + places[..., flesh.bone, None, :]
    return Capsules(posed, flesh.radius + flesh.radius_by_shape @ betas)


def own_penetration(hand: Capsules) -> FloatArray:
    """How deep (K,) m parts of a hand are in each other, at the worst place; negative: the smallest gap."""
    radius = hand.radius * _YIELDING
    radius[_PHALANGES:_FOREARM] *= _PALM_HOLLOW / _YIELDING
    depth: FloatArray = _depth(hand.ends, radius, hand.ends, radius, _OWN_PAIRS).max(axis=-1)
    return depth


def mutual_penetration(one: Capsules, other: Capsules) -> FloatArray:
    """How deep (K,) m two hands are in each other, at the worst place; negative: the gap between them."""
    moments = len(one.ends)
    depth = np.empty(moments)
    for first in range(0, moments, _CHUNK):
        part = slice(first, first + _CHUNK)
        depth[part] = _depth(one.ends[part], one.radius, other.ends[part], other.radius, _ALL_PAIRS).max(axis=-1)
    return depth


def separation(one: Capsules, other: Capsules, away: FloatArray, start: FloatArray) -> FloatArray:
    """How far (K,) m one hand has to move in directions (K, 3) until it only just touches the other.

    Args:
        one: the hand that moves.
        other: the hand that stays.
        away: (K, 3) unit vectors.
        start: (K,) m, the least distance to move.
    """
    moved, active = start.copy(), np.arange(len(start))
    for _ in range(_PUSHES):
        shift = (moved[active, None] * away[active])[:, None, None]
        depth = mutual_penetration(
            Capsules(one.ends[active] + shift, one.radius), Capsules(other.ends[active], other.radius)
        )
        active, depth = active[depth > _TOUCH], depth[depth > _TOUCH]
        if not len(active):
            break
        moved[active] += depth
    return moved


def _own_pairs() -> NDArray[np.int64]:
    """Capsules (2, P) of a hand that could meet and are not joined by skin in the first place."""
    pairs = []
    for a in range(_PHALANGES):
        for b in range(a + 1, _PHALANGES):
            one, other = sorted((a % 3, b % 3))
            # Proximal phalanges of neighbours are joined by the web; the thumb's first is part of the palm.
            if a // 3 == b // 3 or (one == 0 and other == 0) or (b == 12):
                continue
            pairs.append((a, b))
        for metacarpal in range(_METACARPALS):
            if a % 3 == 2 or (a % 3 == 1 and a // 3 == 4 and metacarpal != 0):
                pairs.append((a, _PHALANGES + metacarpal))
    return np.array(pairs).T


_OWN_PAIRS = _own_pairs()
_ALL_PAIRS = np.stack(np.meshgrid(np.arange(_FOREARM + 1), np.arange(_FOREARM + 1))).reshape(2, -1)


def _depth(
    ends: FloatArray, radius: FloatArray, other_ends: FloatArray, other_radius: FloatArray, pairs: NDArray[np.int64]
) -> FloatArray:
    first, second = pairs
    distance = segment_distance(ends[..., first, :, :], other_ends[..., second, :, :])
    return np.asarray(radius[first] + other_radius[second] - distance)


def segment_distance(one: FloatArray, other: FloatArray) -> FloatArray:
    """Distance (...) between segments (..., 2, 3) and (..., 2, 3).

    The closest points on two lines, moved back into the segments one after the other: Ericson, Real-Time Collision
    Detection (2005), 5.1.9.
    """
    u, v = one[..., 1, :] - one[..., 0, :], other[..., 1, :] - other[..., 0, :]
    between = one[..., 0, :] - other[..., 0, :]
    uu, vv, uv = (u * u).sum(-1), (v * v).sum(-1), (u * v).sum(-1)
    ub, vb = (u * between).sum(-1), (v * between).sum(-1)
    determinant = uu * vv - uv * uv
    parallel = determinant <= 1e-9 * uu * vv
    s = np.clip(np.where(parallel, 0.0, uv * vb - ub * vv) / np.where(parallel, 1.0, determinant), 0.0, 1.0)
    t = np.clip((uv * s + vb) / vv, 0.0, 1.0)
    s = np.clip((uv * t - ub) / uu, 0.0, 1.0)
    return np.asarray(np.linalg.norm(between + s[..., None] * u - t[..., None] * v, axis=-1))
