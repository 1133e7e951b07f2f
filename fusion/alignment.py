"""Fusing what several views say about one hand, as in HaMuCo (Zheng et al., ICCV 2023).

Views V of one hand are dimension -2 of (..., V) and never have an order. Points (..., V, P, 3) are in each crop's frame,
relative to the root and in any unit. A view that is not valid may hold anything but NaN. What is between two views has
dimensions (..., V, V): element [i, j] goes to the frame of view i from the frame of view j. Rotations between views come from
calibration, which is exact because a crop is a camera of its own, or from the points themselves (Procrustes). Scale and
translation always come from the points.

`hamuco.training.alignment` is the same in torch, for training.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

# No two views of a hand differ that much in size. Without a limit, views that contradict each other mirror the hand.
_SMALLEST_SCALE = 0.1
# Smallest over largest eigenvalue of a system of equations that has a solution; rounding leaves 1e-15.
_CONDITION = 1e-8
# More pairs than this are thinned out: the cost stays linear for rigs beyond eight cameras.
_MAX_PAIRS = 28
_TINY = float(np.finfo(np.float64).tiny)


@dataclass(frozen=True, slots=True, eq=False)
class Similarity:
    """target = scale · rotation · source + translation.

    Attributes:
        rotation: (..., 3, 3).
        scale: (...) > 0.
        translation: (..., 3).
    """

    rotation: FloatArray
    scale: FloatArray
    translation: FloatArray

    def apply(self, points: FloatArray) -> FloatArray:
        """Source points (..., P, 3) in the target frame."""
        return self.scale[..., None, None] * (points @ self.rotation.mT) + self.translation[..., None, :]

    def inverse(self) -> Similarity:
        """The way back: source = rotationᵀ (target - translation) / scale."""
        back = self.rotation.mT
        translation = -(back @ self.translation[..., None])[..., 0] / self.scale[..., None]
        return Similarity(back, 1 / self.scale, translation)


@dataclass(frozen=True, slots=True, eq=False)
class Placement:
    """Where a hand is.

    Attributes:
        centre: (..., 3) m, world, of the root; NaN where the observations do not say.
        scale: (...) that the root-relative points were multiplied with; 1 where it was not asked for or is not seen.
        inliers: (..., V, P) observations that counted.
    """

    centre: FloatArray
    scale: FloatArray
    inliers: BoolArray


def relative_rotations(crop_from_world: FloatArray) -> FloatArray:
    """Rotations (..., V, V, 3, 3) between views of a calibrated rig, (..., V, 4, 4); NaN where that is NaN."""
    rotation = crop_from_world[..., :3, :3]
    return np.asarray(rotation[..., :, None, :, :] @ rotation.mT[..., None, :, :, :])


def procrustes_rotations(points: FloatArray) -> FloatArray:
    """Rotations (..., V, V, 3, 3) that bring the points (..., V, P, 3) of two views together; never reflections."""
    return nearest_rotation(_correlations(points - points.mean(axis=-2, keepdims=True)))


def align_views(points: FloatArray, rotations: FloatArray, valid: BoolArray) -> Similarity:
    """Similarity transforms between all views, given the rotations: the least squares scale and translation.

    Args:
        points: (..., V, P, 3).
        rotations: (..., V, V, 3, 3) from `relative_rotations` or `procrustes_rotations`.
        valid: (..., V).

    Returns:
        (..., V, V); exactly the identity from a view to itself, and between views that are not both valid. The scale is
        at least 0.1.
    """
    views = points.shape[-3]
    alone = np.eye(views, dtype=np.bool_) | ~(valid[..., :, None] & valid[..., None, :])
    rotations = np.where(alone[..., None, None], np.eye(3), rotations)
    centre = points.mean(axis=-2)  # (..., V, 3)
    centred = points - centre[..., None, :]
    spread = (centred**2).sum(axis=(-2, -1))[..., None, :]  # of the source, (..., 1, V)
    agreement = (rotations * _correlations(centred)).sum(axis=(-2, -1))
    scale = np.where(alone, 1.0, np.maximum(agreement / np.maximum(spread, _TINY), _SMALLEST_SCALE))
    moved = scale[..., None] * (rotations @ centre[..., None, :, :, None])[..., 0]
    translation = np.where(alone[..., None], 0.0, centre[..., :, None, :] - moved)
    return Similarity(rotations, scale, translation)


def fused_points(aligned: FloatArray, weights: FloatArray) -> FloatArray:
    """The fused hand in the frame of every view: the weighted mean of all views that are aligned to it.

    Args:
        aligned: (..., V, V, P, 3), [i, j] the points of view j in the frame of view i: what a `Similarity` from
            `align_views` makes of points[..., None, :, :, :].
        weights: (..., V) >= 0 of the views; 0 where a view is not valid.

    Returns:
        (..., V, P, 3); zeros where no view has a weight. The root is not exactly at zero: the centroids were aligned.
    """
    return np.asarray(np.einsum("...j,...ijpc->...ipc", _shares(weights), aligned))


def fused_points_in_world(fused: FloatArray, crop_from_world: FloatArray, weights: FloatArray) -> FloatArray:
    """One fused hand (..., P, 3) in the axes of the world: the weighted mean of the fused hands of all views, turned.

    Args:
        fused: (..., V, P, 3) from `fused_points`.
        crop_from_world: (..., V, 4, 4).
        weights: (..., V) as they were given to `fused_points`.
    """
    rotation = np.where((weights > 0)[..., None, None], crop_from_world[..., :3, :3], 0.0)
    return np.asarray(np.einsum("...j,...jpc->...pc", _shares(weights), fused @ rotation))


def fused_parameters(
    rotations: FloatArray, betas: FloatArray, canonical_from_crop: FloatArray, weights: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Mean hand model parameters of all views: chordal means of rotations, arithmetic means of shapes.

    Args:
        rotations: (..., V, 16, 3, 3) of the bones in their parents' frames, the first in the crop's frame.
        betas: (..., V, 10).
        canonical_from_crop: (..., V, 3, 3); to the world, crop_from_world[..., :3, :3] transposed.
        weights: (..., V) >= 0; 0 where a view is not valid.

    Returns:
        rotations (..., 16, 3, 3), the first in the canonical frame, and betas (..., 10); identities and zeros where no
        view has a weight.
    """
    counts = weights > 0
    turn = np.where(counts[..., None, None], canonical_from_crop, np.eye(3))
    hand = turn[..., None, :, :] @ rotations[..., :1, :, :]
    canonical = np.concatenate([hand, rotations[..., 1:, :, :]], axis=-3)
    canonical = np.where(counts[..., None, None, None], canonical, np.eye(3))
    mean = mean_rotation(canonical.swapaxes(-4, -3), weights[..., None, :])  # the bones first, then the views
    return mean, (_shares(weights)[..., None] * np.where(counts[..., None], betas, 0.0)).sum(axis=-2)


def nearest_rotation(matrix: FloatArray) -> FloatArray:
    """The rotation nearest to each matrix (..., 3, 3) in the Frobenius norm (Procrustes); never a reflection."""
    left, _, right = np.linalg.svd(matrix)
    # The direction of the smallest singular value is turned back where the two bases have different handedness.
    left[..., 2] *= np.sign(np.linalg.det(left @ right))[..., None]
    return np.asarray(left @ right)


def mean_rotation(rotations: FloatArray, weights: FloatArray) -> FloatArray:
    """Weighted chordal mean (..., 3, 3) of K rotations (..., K, 3, 3) with weights (..., K) >= 0.

    The rotation with the least weighted sum of squared Frobenius distances (Hartley et al., Rotation Averaging, IJCV
    2013). Without any weight it is the identity. Rotations of weight 0 must still be finite.
    """
    total = (_shares(weights)[..., None, None] * rotations).sum(axis=-3)
    nothing = weights.max(axis=-1)[..., None, None] <= 0
    return nearest_rotation(np.where(nothing, np.eye(3), total))


def solve_centre(
    points: FloatArray,
    normalized: FloatArray,
    crop_from_world: FloatArray,
    weights: FloatArray,
    with_scale: bool = False,
) -> Placement:
    """Place a hand of known pose by linear least squares.

    A point at t + s P, with the rows r and the translation T of a view, is seen at x where
    (r1 - x r3) · (t + s P) = x T3 - T1, and likewise for y. This is linear in t and s. The error of such an equation is
    that of x times the depth of the point, so that farther cameras count a little more than they should.

    Args:
        points: (..., P, 3) m, relative to the root, axes of the world.
        normalized: (..., V, P, 2) where they are seen, x / z and y / z in the crops' frames.
        crop_from_world: (..., V, 4, 4) m; views with NaN are left out.
        weights: (..., V, P) >= 0; 0 where a point is not seen.
        with_scale: also find the scale s of the hand, where two views see it or more. One view cannot tell it.

    Returns:
        The placement; NaN where there are too few observations.
    """
    # A sum is finite when everything in it is.
    used = (weights > 0) & np.isfinite(crop_from_world.sum(axis=(-2, -1)))[..., None]
    used &= np.isfinite(normalized.sum(axis=-1))
    seeing = np.where(used, weights, 0.0).sum(axis=-1) > 0  # (..., V)
    seen = np.where(used[..., None], normalized, 0.0)
    transform = np.where(seeing[..., None, None], crop_from_world, 0.0)[..., None, :3, :]
    weight = np.where(used, weights, 0.0)[..., None]

    left = transform[..., :2, :3] - seen[..., None] * transform[..., 2:, :3]  # (..., V, P, 2, 3)
    right = seen * transform[..., 2:, 3] - transform[..., :2, 3]  # (..., V, P, 2)
    along = (left @ points[..., None, :, :, None])[..., 0]  # what a scale of 1 adds to the left side
    free = seeing.sum(axis=-1) > 1 if with_scale else np.zeros(used.shape[:-2], np.bool_)
    fixed = ~free[..., None, None, None]
    rows = np.concatenate([left, np.where(fixed, 0.0, along)[..., None]], axis=-1)
    rows = rows.reshape(*used.shape[:-2], -1, 4)  # (..., 2 V P, 4)
    right = np.where(fixed, right - along, right).reshape(rows.shape[:-1])
    row_weights = np.broadcast_to(weight, seen.shape).reshape(rows.shape[:-1])
    matrix = rows.mT @ (row_weights[..., None] * rows)
    # Where the scale is fixed its equation reads: some number times s is that number.
    pinned = np.where(free, 0.0, matrix.trace(axis1=-2, axis2=-1))
    last = np.array([0.0, 0.0, 0.0, 1.0])
    matrix = matrix + pinned[..., None, None] * np.diag(last)
    vector = (rows.mT @ (row_weights * right)[..., None])[..., 0] + pinned[..., None] * last

    eigenvalues = np.linalg.eigvalsh(matrix)
    known = eigenvalues[..., 0] > _CONDITION * eigenvalues[..., -1]
    matrix = np.where(known[..., None, None], matrix, np.eye(4))
    solution = np.where(known[..., None], np.linalg.solve(matrix, vector[..., None])[..., 0], np.nan)
    return Placement(solution[..., :3], solution[..., 3], used)


def ransac_centre(
    points: FloatArray,
    normalized: FloatArray,
    crop_from_world: FloatArray,
    weights: FloatArray,
    with_scale: bool = False,
    threshold: float = 0.02,
) -> Placement:
    """`solve_centre` that is not misled by views or points that are wrong.

    All views together and every two of them propose a placement. The one wins that the most weight of observations
    agrees with, and is solved again from them, with weights that make up for the depth. NaN where none agrees.

    Args:
        points, normalized, crop_from_world, weights, with_scale: as for `solve_centre`.
        threshold: largest distance of an observation that agrees, in normalized coordinates: 0.02 is 10 mm at 0.5 m.
    """
    views = weights.shape[-2]
    pairs = list(combinations(range(views), 2)) if views > 2 else []
    pairs = pairs[:: -(-len(pairs) // _MAX_PAIRS) or 1]
    groups = np.ones((1 + len(pairs), views))
    for group, pair in enumerate(pairs, start=1):
        groups[group] = 0
        groups[group, list(pair)] = 1
    proposed = groups.reshape(len(groups), *(1,) * (weights.ndim - 2), views, 1) * weights
    proposal = solve_centre(points, normalized, crop_from_world, proposed, with_scale)
    offset, depth = _reprojection(proposal, points, normalized, crop_from_world)
    agrees = (offset < threshold) & (depth > 0) & (weights > 0)  # (groups, ..., V, P)
    best = np.where(agrees, weights, 0.0).sum(axis=(-2, -1)).argmax(axis=0)[None, ..., None, None]
    inliers, depth = np.take_along_axis(agrees, best, 0)[0], np.take_along_axis(depth, best, 0)[0]
    refined = np.where(inliers, weights / np.where(inliers, depth, 1.0) ** 2, 0.0)
    return solve_centre(points, normalized, crop_from_world, refined, with_scale)


def _reprojection(
    placement: Placement, points: FloatArray, normalized: FloatArray, crop_from_world: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Distances in normalized coordinates and depths m, (..., V, P), of placed points (..., P, 3)."""
    world = placement.centre[..., None, :] + placement.scale[..., None, None] * points  # (..., P, 3)
    rotation, translation = crop_from_world[..., :3, :3], crop_from_world[..., :3, 3]
    crop = world[..., None, :, :] @ rotation.mT + translation[..., None, :]
    depth = crop[..., 2]
    with np.errstate(invalid="ignore", divide="ignore"):  # a point in the plane of the lens is far from any other
        return np.linalg.norm(crop[..., :2] / depth[..., None] - normalized, axis=-1), depth


def _correlations(centred: FloatArray) -> FloatArray:
    """Sums over points of target times transposed source, (..., V, V, 3, 3), of (..., V, P, 3)."""
    return np.asarray(centred.mT[..., :, None, :, :] @ centred[..., None, :, :, :])


def _shares(weights: FloatArray) -> FloatArray:
    return np.asarray(weights / np.maximum(weights.sum(axis=-1, keepdims=True), _TINY))
