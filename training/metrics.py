"""Measures of how far estimated hands are from true ones.

Points are (..., J, 3) m in one frame, NaN where a joint is missing; errors are (..., J) m, NaN where either is. Nothing
is aligned unless the function that is called says so. What is aligned uses the truth, which no user of a tracker has.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import cKDTree

FloatArray = NDArray[np.float64]

WRIST, MIDDLE_MCP = 0, 9
F_THRESHOLDS_M = (0.005, 0.015)


def joint_errors(estimate: ArrayLike, true: ArrayLike) -> FloatArray:
    """Distances (..., J) m of points as they are; their mean is the absolute MPJPE (for vertices: MPVPE)."""
    return np.asarray(np.linalg.norm(np.asarray(estimate, np.float64) - np.asarray(true, np.float64), axis=-1))


def mean(errors: ArrayLike) -> float:
    """Mean of what is not missing; NaN without any."""
    values = np.asarray(errors, np.float64)
    values = values[np.isfinite(values)]
    return float(values.mean()) if values.size else float("nan")


def root_aligned(estimate: ArrayLike, true: ArrayLike, root: int) -> FloatArray:
    """The estimate moved so that its root joint lies on the true one; its errors make the root-relative MPJPE.

    The root itself then has no error and counts as one of the joints, as is usual. Missing when either root is.
    """
    points, target = np.asarray(estimate, np.float64), np.asarray(true, np.float64)
    return points - points[..., root, None, :] + target[..., root, None, :]


def scale_aligned(estimate: ArrayLike, true: ArrayLike, root: int) -> FloatArray:
    """Root-aligned and scaled about the root by the factor that fits the true joints best; for N-MPJPE.

    With root-relative joints p and t the factor is <p, t> / <p, p>, the least squares one (Rhodin et al., Learning
    Monocular 3D Human Pose Estimation from Multi-view Images, CVPR 2018).
    """
    points, target, origin = _root_relative(estimate, true, root)
    both = np.isfinite(points) & np.isfinite(target)
    p, t = np.where(both, points, 0.0), np.where(both, target, 0.0)
    with np.errstate(invalid="ignore", divide="ignore"):  # an estimate without extent has no scale: NaN
        factor = (p * t).sum(axis=(-2, -1)) / (p * p).sum(axis=(-2, -1))
    return np.asarray(points * factor[..., None, None] + origin)


def bone_scale_aligned(estimate: ArrayLike, true: ArrayLike, root: int, bone: tuple[int, int]) -> FloatArray:
    """Root-aligned and scaled about the root until one bone has its true length.

    This is how the code published with HaMuCo (Zheng et al., ICCV 2023) normalizes, with the middle MCP as the root and
    the bone from the wrist to it.
    """
    points, target, origin = _root_relative(estimate, true, root)
    start, end = bone
    with np.errstate(invalid="ignore", divide="ignore"):
        factor = np.linalg.norm(target[..., end, :] - target[..., start, :], axis=-1) / np.linalg.norm(
            points[..., end, :] - points[..., start, :], axis=-1
        )
    return np.asarray(points * factor[..., None, None] + origin)


def _root_relative(estimate: ArrayLike, true: ArrayLike, root: int) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Both relative to their roots, and the true root (..., 1, 3)."""
    points, target = np.asarray(estimate, np.float64), np.asarray(true, np.float64)
    origin = target[..., root, None, :]
    return points - points[..., root, None, :], target - origin, origin


def procrustes_aligned(estimate: ArrayLike, true: ArrayLike) -> FloatArray:
    """The estimate under the similarity transform that brings it nearest to the truth; for PA-MPJPE and PA-MPVPE.

    Rotation, translation and one scale, in the least squares sense over the points that both have; never a reflection
    (Umeyama, Least-squares estimation of transformation parameters between two point patterns, PAMI 1991; Gower 1975).
    NaN where fewer than three points are common.
    """
    points, target = np.asarray(estimate, np.float64), np.asarray(true, np.float64)
    both = (np.isfinite(points) & np.isfinite(target)).all(axis=-1, keepdims=True)
    count = both.sum(axis=-2, keepdims=True)
    enough = count >= 3
    share = both / np.where(enough, count, 1)
    from_centre = (np.where(both, points, 0.0) * share).sum(axis=-2, keepdims=True)
    to_centre = (np.where(both, target, 0.0) * share).sum(axis=-2, keepdims=True)
    moving = np.where(both, points - from_centre, 0.0)
    fixed = np.where(both, target - to_centre, 0.0)
    left, singular, right = np.linalg.svd(np.swapaxes(fixed, -1, -2) @ moving)
    turned = np.sign(np.linalg.det(left @ right))
    signs = np.stack([np.ones_like(turned), np.ones_like(turned), turned], axis=-1)
    rotation = (left * signs[..., None, :]) @ right
    spread = (moving**2).sum(axis=(-2, -1))
    with np.errstate(invalid="ignore", divide="ignore"):  # all points in one place: NaN
        scale = ((singular * signs).sum(axis=-1) / spread)[..., None, None]
    aligned = scale * (points - from_centre) @ np.swapaxes(rotation, -1, -2) + to_centre
    return np.where(enough, aligned, np.nan)


def pck(errors: ArrayLike, thresholds_m: ArrayLike) -> FloatArray:
    """(T,) percentage of correct keypoints, 0 to 1: the share of errors not above each threshold; NaN without any."""
    values = np.asarray(errors, np.float64)
    values = np.sort(values[np.isfinite(values)])
    if not values.size:
        return np.full(np.shape(thresholds_m), np.nan)
    return np.asarray(np.searchsorted(values, thresholds_m, side="right") / values.size)


def auc_parts(errors: ArrayLike, low_m: float, high_m: float) -> FloatArray:
    """What each error adds to the area under the PCK curve; the mean over all errors is the AUC.

    The integral of PCK between the two thresholds over their distance, 1 when no error is above the lower one. It is
    exact: the curve is a sum of steps, and the step of error e covers the part of the interval above e. FreiHAND and
    HanCo use 0 to 50 mm (Zimmermann et al., ICCV 2019) with trapezoids between 100 thresholds, which comes out at most
    half an interval, 0.005, away.
    """
    return np.asarray(np.clip((high_m - np.asarray(errors, np.float64)) / (high_m - low_m), 0.0, 1.0))


def auc(errors: ArrayLike, low_m: float, high_m: float) -> float:
    """Area under the PCK curve between two thresholds, 0 to 1; NaN without errors. See `auc_parts`."""
    return mean(auc_parts(errors, low_m, high_m))


def f_scores(estimate: ArrayLike, true: ArrayLike, thresholds_m: ArrayLike = F_THRESHOLDS_M) -> FloatArray:
    """(T,) F-scores of one surface, 0 to 1, by its points as they are: (N, 3) against (M, 3) m.

    The harmonic mean of the share of estimated points nearer than the threshold to some true point and the share of
    true points nearer than it to some estimated point (Knapitsch et al., Tanks and Temples, TOG 2017), as FreiHAND takes
    it at 5 and 15 mm. Points need not correspond. FreiHAND also gives it after Procrustes alignment: align first.
    """
    points, target = np.asarray(estimate, np.float64), np.asarray(true, np.float64)
    limits = np.asarray(thresholds_m, np.float64)
    # Nothing beyond the largest threshold has to be found; it comes back as infinity.
    reach = float(limits.max())
    to_true, _ = cKDTree(target).query(points, distance_upper_bound=reach)
    to_estimate, _ = cKDTree(points).query(target, distance_upper_bound=reach)
    precision = (to_true < limits[:, None]).mean(axis=1)
    recall = (to_estimate < limits[:, None]).mean(axis=1)
    both = precision + recall
    return np.asarray(2 * precision * recall / np.where(both > 0, both, 1.0))


def accelerations(points: ArrayLike, t_ns: ArrayLike) -> FloatArray:
    """Accelerations (T - 2, J, 3) m/s^2 of points (T, J, 3) at times (T,) ns that need not be even.

    The second derivative of the parabola through three moments. With even steps it is the second difference, whose
    distance from the truth's is the acceleration error of Kanazawa et al. (Learning 3D Human Dynamics from Video, CVPR
    2019), there in mm per squared frame: divide by the squared frame rate.
    """
    values = np.asarray(points, np.float64)
    times = np.asarray(t_ns, np.int64)
    seconds = ((times[1:] - times[:-1]) * 1e-9)[:, None, None]
    velocity = np.diff(values, axis=0) / seconds
    return np.asarray(2.0 * np.diff(velocity, axis=0) / (seconds[1:] + seconds[:-1]))


def acceleration_errors(estimate: ArrayLike, true: ArrayLike, t_ns: ArrayLike) -> FloatArray:
    """(T - 2, J) m/s^2, see `accelerations`."""
    return joint_errors(accelerations(estimate, t_ns), accelerations(true, t_ns))
