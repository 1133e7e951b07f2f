"""What the views of one set say of one hand: their rays, brought to one moment, and the joints that these make."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from hamuco.engine.view_hand import ViewHand
from hamuco.fusion.association import plausible_palm
from hamuco.fusion.triangulate import Triangulation, ray_residuals, triangulate

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Observation:
    """The views that a hand of one set is made from, and their triangulated, unfitted joints.

    Attributes:
        views: at least one.
        shifts: (V, 3) m, how far the hand moved from the set's time to each view's.
        triangulation: at the set's time.
    """

    views: tuple[ViewHand, ...]
    shifts: FloatArray
    triangulation: Triangulation

    @classmethod
    def of(cls, views: Sequence[ViewHand], shifts: FloatArray, expected: FloatArray | None = None) -> Self:
        """Triangulate views; a single one needs joints (21, 3) m that are `expected`, for the depth."""
        sigmas = np.array([view.ray_sigma for view in views])
        rays = np.stack([view.rays for view in views])
        return cls(tuple(views), shifts, triangulate(_origins(views, shifts), rays, sigmas, expected))

    def without(self, view: int, expected: FloatArray | None = None) -> Self:
        """The same from all views but one; `expected` as for `of`."""
        kept = [index for index in range(len(self.views)) if index != view]
        return self.of([self.views[index] for index in kept], self.shifts[kept], expected)

    def errors_px(self, points: FloatArray, view: int) -> FloatArray:
        """Distances (21,) px of projected points (21, 3), given at the set's time, from what a view observed."""
        seen = self.views[view]
        return np.asarray(np.linalg.norm(seen.camera.project(points + self.shifts[view]) - seen.pixels, axis=-1))

    @property
    def disagreement(self) -> FloatArray:
        """(V,) median angle of each view's rays to the joints that all of them make, standard deviations."""
        return self._in_sigmas(self.triangulation.residuals)

    def contradiction(self, points: FloatArray) -> FloatArray:
        """(V,) the same to other joints (21, 3) m."""
        rays = np.stack([view.rays for view in self.views])
        return self._in_sigmas(ray_residuals(points, _origins(self.views, self.shifts), rays))

    @property
    def plausible(self) -> bool:
        """Whether the joints are finite and the palm has a human length."""
        points = self.triangulation.points
        return bool(np.isfinite(points).all()) and plausible_palm(points)

    @property
    def reprojection_px(self) -> float:
        """Median residual in px of an undistorted image, which spares projecting into the distorted one; NaN for one view."""
        if len(self.views) < 2:
            return float("nan")
        focal = np.array([view.camera.matrix[0, 0] for view in self.views])
        return float(np.median(self.triangulation.residuals * focal[:, None]))

    @property
    def joint_confidence(self) -> FloatArray:
        """(21,) share of the views that agree on a joint; one that a single view holds counts half."""
        agreeing = self.triangulation.inliers.sum(axis=0)
        return np.asarray(agreeing / len(self.views) * np.minimum(agreeing / 2, 1))

    def _in_sigmas(self, residuals: FloatArray) -> FloatArray:
        sigmas = np.array([view.ray_sigma for view in self.views])
        return np.asarray(np.median(residuals, axis=1) / sigmas)


def _origins(views: Sequence[ViewHand], shifts: FloatArray) -> FloatArray:
    """(V, 21, 3) m: where the rays would start had all views been taken at the set's time."""
    centres = np.stack([view.camera.centre for view in views]) - shifts
    return np.repeat(centres[:, None], 21, axis=1)
