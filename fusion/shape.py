"""A person's hand shape from triangulated joints: measured once over the first good sets, then locked."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hamuco.engine.hand_model import HandModel
from hamuco.engine.skinning import forward
from hamuco.fusion.hand import JOINT_EDGES

FloatArray = NDArray[np.float64]

_PARENTS, _CHILDREN = np.array(JOINT_EDGES).T
_MAX_JOINT_SIGMA_M = 0.006  # a joint less certain than this measures no bone
_MIN_BONES = 14  # of 20, for a set to count
_MIN_SAMPLES = 5  # of one bone, before its median counts
# Landmark bones are not rigid, as the landmarks are of the skin. On the free hand pose changes their lengths by 0.5 mm
# (root mean square) over the middle 40 % of the joints' ranges and by 1.5 mm over all of them, most at the index's
# middle joint and the thumb's last (sd 2.3 mm); medians over poses move by 0.6 mm. The rest is a person's difference.
_SYSTEMATIC_SIGMA_M = 0.002


def bone_lengths(joints: ArrayLike) -> FloatArray:
    """Lengths (..., 20) m of the bones `JOINT_EDGES` of joints (..., 21, 3) m; NaN where an end is."""
    points = np.asarray(joints, np.float64)
    return np.asarray(np.linalg.norm(points[..., _CHILDREN, :] - points[..., _PARENTS, :], axis=-1), np.float64)


def fit_shape(model: HandModel, lengths: ArrayLike, precision: ArrayLike, prior_precision: float = 1.0) -> FloatArray:
    """The most probable shape (10,) for measured bone lengths.

    The lengths are compared with the model's landmarks in its mean pose.

    Args:
        model: either side; lengths do not know sides.
        lengths: (20,) m, in the order of `JOINT_EDGES`; NaN for a bone that was not measured.
        precision: (20,) inverse variances, m^-2; zero for a bone that was not measured.
        prior_precision: of each component of the shape about zero; 1 is what shape spaces are scaled to. Bones that
            were not measured follow from it and from the others.

    Raises:
        ValueError: wrong shapes or a negative precision.
    """
    measured, weights = np.asarray(lengths, np.float64), np.asarray(precision, np.float64)
    if measured.shape != (20,) or weights.shape != (20,) or not (weights >= 0).all():
        raise ValueError(
            f"lengths {measured.shape} and precisions {weights.shape}, smallest {weights.min(initial=np.inf):g} m^-2; "
            "expected 20 of each, no precision below zero"
        )
    weights = np.where(np.isfinite(measured), weights, 0.0)
    measured = np.where(weights > 0, measured, 0.0)

    # With the pose fixed, landmarks are affine in the shape, so eleven hands say all about it.
    shapes = np.concatenate([np.zeros((1, 10)), np.eye(10)])
    landmarks = forward(model, np.zeros(3), np.zeros(45), shapes, np.zeros(3), with_vertices=False).landmarks
    vectors = landmarks[:, _CHILDREN] - landmarks[:, _PARENTS]  # (11, 20, 3)
    by_shape = (vectors[1:] - vectors[0]).transpose(1, 2, 0)  # (20, 3, 10)

    betas = np.zeros(10)
    for _ in range(50):
        bones = vectors[0] + by_shape @ betas
        modelled = np.linalg.norm(bones, axis=1)
        jacobian = (bones[:, None] @ by_shape)[:, 0] / modelled[:, None]
        weighted = jacobian.T * weights
        hessian = weighted @ jacobian + prior_precision * np.eye(10)
        step = np.linalg.solve(hessian, weighted @ (measured - modelled) - prior_precision * betas)
        betas = betas + step
        if np.abs(step).max() < 1e-9:
            break
    return betas


class ShapeEstimator:
    """Collects bone lengths of one hand over its first good sets. Bounded: sets after the last needed one are ignored.

    Attributes:
        used: sets that counted.
        rejected: sets with too few certain joints.
    """

    def __init__(self, model: HandModel, sets_needed: int = 30) -> None:
        if sets_needed < _MIN_SAMPLES:
            raise ValueError(f"sets_needed is {sets_needed}; a median of fewer than {_MIN_SAMPLES} is worth little")
        self._model = model
        self._lengths = np.full((sets_needed, 20), np.nan)
        self.used = 0
        self.rejected = 0

    @property
    def ready(self) -> bool:
        return self.used == len(self._lengths)

    def add(self, joints: ArrayLike, sigma_m: ArrayLike) -> None:
        """Take one set: joints (21, 3) m and their standard deviations (21,) m; NaN for a joint that is missing."""
        if self.ready:
            return
        certain = np.asarray(sigma_m, np.float64) <= _MAX_JOINT_SIGMA_M  # False for NaN
        lengths = bone_lengths(np.where(certain[:, None], np.asarray(joints, np.float64), np.nan))
        if np.isfinite(lengths).sum() < _MIN_BONES:
            self.rejected += 1
            return
        self._lengths[self.used] = lengths
        self.used += 1

    def betas(self) -> FloatArray:
        """The shape (10,) that the sets so far make most probable; the mean shape without any."""
        lengths, precision = np.full(20, np.nan), np.zeros(20)
        for bone, samples in enumerate(self._lengths[: self.used].T):
            samples = samples[np.isfinite(samples)]
            if len(samples) >= _MIN_SAMPLES:
                lengths[bone] = np.median(samples)
                spread = 1.4826 * np.median(np.abs(samples - lengths[bone]))  # as a normal distribution's sigma
                precision[bone] = 1.0 / (_SYSTEMATIC_SIGMA_M**2 + spread**2 / len(samples))
        return fit_shape(self._model, lengths, precision)
