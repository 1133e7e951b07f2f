"""Triangulated joints as a fit takes them, and the rigid alignment that starts a fit without a past."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.transform import Rotation

from hamuco.fusion.kinematics import Posed, Skeleton, pose

FloatArray = NDArray[np.float64]

_PALM = (0, 1, 5, 9, 13, 17)  # landmarks that hardly move against each other
_FINGER_IN_ALIGNMENT = 0.02  # what another landmark counts for in the rigid alignment, against 1 for the palm
_ALIGNMENT_ROUNDS = 8
_MIN_EXTENT_M = 0.005  # width of the observed joints across their line, below which a rotation about it is unknown


class FitError(ValueError):
    """Input that no hand can be fitted to."""


@dataclass(frozen=True, slots=True, eq=False)
class JointTargets:
    """Checked input; zeros where a joint is missing."""

    targets: FloatArray  # (H, 21, 3) m
    information: FloatArray  # (H, 21, 3, 3) m^-2
    seen: NDArray[np.bool_]  # (H, 21)

    @classmethod
    def of(cls, targets: ArrayLike, information: ArrayLike, hands: int) -> JointTargets:
        points, inverse = np.asarray(targets, np.float64), np.asarray(information, np.float64)
        if points.shape != (hands, 21, 3) or inverse.shape not in ((hands, 21), (hands, 21, 3, 3)):
            raise FitError(
                f"targets {points.shape} and information {inverse.shape} for {hands} hands; "
                f"expected ({hands}, 21, 3) and ({hands}, 21) or ({hands}, 21, 3, 3)"
            )
        if inverse.ndim == 2:
            inverse = inverse[..., None, None] * np.eye(3)
        own = inverse.reshape(hands, 21, 9)[..., ::4]
        if (own < 0).any():
            hand, joint = np.argwhere((own < 0).any(axis=2))[0]
            raise FitError(f"hand {hand}, joint {joint}: information {own[hand, joint].tolist()} m^-2 is negative")
        finite = np.isfinite(points).all(axis=2) & np.isfinite(inverse).all(axis=(2, 3))
        seen: NDArray[np.bool_] = np.asarray(finite & (own > 0).any(axis=2))
        if not seen.all():
            points = np.where(seen[..., None], points, 0.0)
            inverse = np.where(seen[..., None, None], inverse, 0.0)
        return cls(points, inverse, seen)

    def fixes_orientation(self) -> NDArray[np.bool_]:
        """(H,) whether three joints are not on a line."""
        count = np.maximum(self.seen.sum(axis=1), 1)[:, None]
        centred = np.where(self.seen[..., None], self.targets - (self.targets.sum(axis=1) / count)[:, None], 0.0)
        # The second singular value is the root of the summed squares of the distances from the best line.
        enough: NDArray[np.bool_] = np.linalg.svd(centred, compute_uv=False)[:, 1] > _MIN_EXTENT_M
        return enough


def can_align(targets: ArrayLike, information: ArrayLike) -> NDArray[np.bool_]:
    """Whether each of H hands (targets and information as for `fit_pose`) has three joints that are not on a line."""
    return JointTargets.of(targets, information, len(np.asarray(targets))).fixes_orientation()


def median(values: FloatArray, where: NDArray[np.bool_]) -> FloatArray:
    """(H, 1) lower median of each row of values (H, K) where true; 0 for a row with none."""
    count = where.sum(axis=1)
    ordered = np.sort(np.where(where, values, np.inf), axis=1)
    median = ordered[np.arange(len(count)), np.maximum(count - 1, 0) // 2]
    return np.where(count > 0, median, 0.0)[:, None]


def align_palm(skeleton: Skeleton, observed: JointTargets) -> Posed:
    """Hands in the mean pose, moved rigidly onto their palms. Reweighted, so that one bad joint does not turn a hand."""
    possible = observed.fixes_orientation()
    if not possible.all():
        hand = int(np.argmin(possible))
        raise FitError(
            f"hand {hand} has {int(observed.seen[hand].sum())} joints, which do not fix its orientation: three that are "
            f"more than {1000 * _MIN_EXTENT_M:.0f} mm off one line are needed; give a start pose, or leave it out "
            "(see can_align)"
        )
    targets, seen = observed.targets, observed.seen
    hands = len(skeleton)
    mean = pose(skeleton, np.zeros((hands, 3)), np.zeros((hands, 3)), skeleton.mean_angles)
    model = mean.landmarks.transpose(0, 2, 1)  # (H, 21, 3), from the wrist
    importance = np.full(21, _FINGER_IN_ALIGNMENT)
    importance[list(_PALM)] = 1.0
    base = importance * np.trace(observed.information, axis1=2, axis2=3)
    palm = seen & (importance == 1.0)
    judges = np.where(palm.sum(axis=1, keepdims=True) >= 3, palm, seen)  # whose distances say what is usual
    trust = np.ones((hands, 21))
    for _ in range(_ALIGNMENT_ROUNDS):
        weights = (base * trust)[..., None]
        weights = weights / weights.sum(axis=1, keepdims=True)
        model_centre, target_centre = (weights * model).sum(axis=1), (weights * targets).sum(axis=1)
        covariance = (weights * (targets - target_centre[:, None])).transpose(0, 2, 1) @ (model - model_centre[:, None])
        left, _, right = np.linalg.svd(covariance)
        left[:, :, 2] *= np.linalg.det(left @ right)[:, None]  # a rotation, not a reflection
        rotation = left @ right
        position = target_centre - (rotation @ model_centre[..., None])[..., 0]
        distance = np.linalg.norm(model @ rotation.transpose(0, 2, 1) + position[:, None] - targets, axis=2)
        scale = np.maximum(median(distance, judges), 1e-6)
        trust = (scale**2 / (scale**2 + distance**2)) ** 2
    return pose(skeleton, Rotation.from_matrix(rotation).as_rotvec(), position, skeleton.mean_angles)
