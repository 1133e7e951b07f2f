"""Robust triangulation of joints from rays of several views.

A ray from origin c in unit direction d constrains a point X by its angular distance |(1 - d dT)(X - c)| / |X - c|, with
standard deviation sigma. Written as weighted least squares with the depth |X - c| of the step before, each joint is
one 3x3 linear system whose matrix is the information (inverse covariance) of the point.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

# Residuals beyond this many standard deviations count as outliers and stop pulling.
_OUTLIER_SIGMAS = 5.0
_REWEIGHTING_STEPS = 2
# A joint with a larger residual than this in any view is looked at pair by pair.
_DOUBTFUL_SIGMAS = 4.0
# More pairs than this are thinned out: the cost stays linear for rigs beyond eight cameras.
_MAX_PAIRS = 28
# Information of "somewhere within ten metres": keeps a system solvable whose rays are parallel or missing.
_WEAK_PRIOR = 1e-2


@dataclass(frozen=True, slots=True, eq=False)
class Triangulation:
    """Points of one hand.

    Attributes:
        points: (J, 3) m, world.
        information: (J, 3, 3) inverse covariance of the points, m^-2.
        inliers: (V, J) 0 to 1, how much each view counted for each joint.
        residuals: (V, J) rad, angles between the rays and the directions to the points.
    """

    points: FloatArray
    information: FloatArray
    inliers: FloatArray
    residuals: FloatArray

    @property
    def sigma(self) -> FloatArray:
        """(J,) standard deviation of the points, m, root mean square of the three directions."""
        variance = np.linalg.inv(self.information + _WEAK_PRIOR * np.eye(3)).trace(axis1=1, axis2=2) / 3
        return np.asarray(np.sqrt(variance))


def triangulate(
    origins: FloatArray, rays: FloatArray, sigma: FloatArray, start: FloatArray | None = None
) -> Triangulation:
    """Points closest to rays of V views, insensitive to views that are wrong about all or some joints.

    Where the least-squares point of all views contradicts one of them, two views at a time propose points; the proposal
    wins that most views agree with, judged by the joint and by all such joints together, because a view that looks at
    something else is wrong about all. The result is refined by reweighted least squares (Geman-McClure).

    Args:
        origins: (V, J, 3) m, where the rays start. They differ within a view when motion is compensated.
        rays: (V, J, 3) unit directions.
        sigma: (V,) standard deviation of the rays, rad.
        start: (J, 3) m, for a single view: only its distance from the camera is used. Ignored with two views or more.

    Raises:
        ValueError: no view, or one view without a start.
    """
    views = len(rays)
    if views == 0 or (views == 1 and start is None):
        raise ValueError(f"cannot triangulate from {views} views{'' if views == 0 else ' without a start'}")
    across = np.eye(3) - rays[..., :, None] * rays[..., None, :]  # (V, J, 3, 3)
    if views == 1:
        assert start is not None
        depth = np.linalg.norm(start - origins[0], axis=-1)
        points = origins[0] + depth[:, None] * rays[0]
        information = across[0] / (depth * sigma[0])[:, None, None] ** 2
        return Triangulation(points, information, np.ones(rays.shape[:2]), np.zeros(rays.shape[:2]))

    weights = np.broadcast_to(sigma[:, None] ** -2.0, rays.shape[:2])
    points, information = _solve(origins, across, weights)
    residuals, depth = _residuals(points, origins, across)
    doubtful = (residuals > _DOUBTFUL_SIGMAS * sigma[:, None]).any(axis=0)
    if views > 2 and doubtful.any():
        points[doubtful] = _best_pairs(origins[:, doubtful], across[:, doubtful], rays[:, doubtful], sigma)
        residuals, depth = _residuals(points, origins, across)
    for _ in range(_REWEIGHTING_STEPS):
        weights = 1 / (1 + (residuals / sigma[:, None] / _OUTLIER_SIGMAS) ** 2) ** 2
        points, information = _solve(origins, across, weights / (depth * sigma[:, None]) ** 2)
        residuals, depth = _residuals(points, origins, across)
    return Triangulation(points, information, weights, residuals)


def ray_residuals(points: FloatArray, origins: FloatArray, rays: FloatArray) -> FloatArray:
    """Angles (V, J) rad between rays (V, J, 3) from origins (V, J, 3) m and the directions to points (J, 3) m."""
    across = np.eye(3) - rays[..., :, None] * rays[..., None, :]
    return _residuals(points, origins, across)[0]


def _best_pairs(origins: FloatArray, across: FloatArray, rays: FloatArray, sigma: FloatArray) -> FloatArray:
    """Per joint the two-view point that most views agree with, (J, 3)."""
    pairs = list(combinations(range(len(rays)), 2))
    pairs = pairs[:: -(-len(pairs) // _MAX_PAIRS)]
    first, second = np.array(pairs).T
    chosen = np.zeros((len(pairs), len(rays), 1))
    chosen[np.arange(len(pairs)), first] = chosen[np.arange(len(pairs)), second] = 1
    proposals, _ = _solve(origins, across, chosen * (sigma**-2.0)[:, None] * np.ones(rays.shape[1]))  # (P, J, 3)
    residual, _ = _residuals(proposals[:, None], origins, across)  # (P, V, J)
    behind = ((proposals[:, None] - origins) * rays).sum(axis=-1) < 0
    squared = np.where(behind, np.inf, (residual / sigma[:, None]) ** 2)
    cost = np.minimum(squared, _OUTLIER_SIGMAS**2).mean(axis=1)  # (P, J)
    best = np.argmin(cost + cost.mean(axis=1, keepdims=True), axis=0)
    return np.asarray(proposals[best, np.arange(rays.shape[1])])


def _solve(origins: FloatArray, across: FloatArray, weights: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Weighted least squares: weights (..., V, J) -> points (..., J, 3) and information (..., J, 3, 3)."""
    weighted = weights[..., None, None] * across  # (..., V, J, 3, 3)
    information = weighted.sum(axis=-4)
    right = (weighted @ origins[..., None]).sum(axis=-4)
    middle = origins.mean(axis=0)[..., None]
    ridge = _WEAK_PRIOR * np.eye(3)
    points = np.linalg.solve(information + ridge, right + _WEAK_PRIOR * middle)
    return points[..., 0], information


def _residuals(points: FloatArray, origins: FloatArray, across: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Angular residuals (..., V, J) rad and depths (..., V, J) m of points (..., J, 3)."""
    offset = points - origins
    depth = np.linalg.norm(offset, axis=-1)
    distance = np.linalg.norm((across @ offset[..., None])[..., 0], axis=-1)
    return distance / np.maximum(depth, 1e-9), np.maximum(depth, 1e-9)
