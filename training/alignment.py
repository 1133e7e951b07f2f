"""Fusing what several views say about one hand, in torch, as in HaMuCo (Zheng et al., ICCV 2023).

Views V of one hand are dimension -2 of (..., V) and never have an order. Points (..., V, P, 3) are in each crop's frame,
relative to the root and in any unit. A view that is not valid may hold anything but NaN. What is between two views has
dimensions (..., V, V): element [i, j] goes to the frame of view i from the frame of view j. Rotations between views come from
calibration, which is exact because a crop is a camera of its own, or from the points themselves (Procrustes). Scale and
translation always come from the points.

`hamuco.fusion.alignment` is the same in numpy, for the live system.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

from hamuco.training.networks.rotations import mean_rotation, nearest_rotation

# No two views of a hand differ that much in size. Without a limit, views that contradict each other mirror the hand.
_SMALLEST_SCALE = 0.1
# Smallest over largest eigenvalue of a system of equations that has a solution; rounding leaves 1e-15.
_CONDITION = 1e-8
# More pairs than this are thinned out: the cost stays linear for rigs beyond eight cameras.
_MAX_PAIRS = 28


@dataclass(frozen=True, slots=True, eq=False)
class Similarity:
    """target = scale · rotation · source + translation.

    Attributes:
        rotation: (..., 3, 3).
        scale: (...) > 0.
        translation: (..., 3).
    """

    rotation: Tensor
    scale: Tensor
    translation: Tensor

    def apply(self, points: Tensor) -> Tensor:
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
        inliers: (..., V, P) bool, observations that counted.
    """

    centre: Tensor
    scale: Tensor
    inliers: Tensor


def relative_rotations(crop_from_world: Tensor) -> Tensor:
    """Rotations (..., V, V, 3, 3) between views of a calibrated rig, (..., V, 4, 4); NaN where that is NaN."""
    rotation = crop_from_world[..., :3, :3]
    return rotation[..., :, None, :, :] @ rotation.mT[..., None, :, :, :]


def procrustes_rotations(points: Tensor) -> Tensor:
    """Rotations (..., V, V, 3, 3) that bring the points (..., V, P, 3) of two views together; never reflections."""
    centred = points - points.mean(dim=-2, keepdim=True)
    size = torch.linalg.vector_norm(centred, dim=(-2, -1), keepdim=True).clamp_min(torch.finfo(points.dtype).eps)
    return nearest_rotation(_correlations(centred / size))


def align_views(points: Tensor, rotations: Tensor, valid: Tensor) -> Similarity:
    """Similarity transforms between all views, given the rotations: the least squares scale and translation.

    Args:
        points: (..., V, P, 3).
        rotations: (..., V, V, 3, 3) from `relative_rotations` or `procrustes_rotations`.
        valid: (..., V) bool.

    Returns:
        (..., V, V); exactly the identity from a view to itself, and between views that are not both valid. The scale is
        at least 0.1.
    """
    views = points.shape[-3]
    alone = torch.eye(views, dtype=torch.bool, device=points.device) | ~(valid[..., :, None] & valid[..., None, :])
    identity = torch.eye(3, dtype=points.dtype, device=points.device)
    rotations = torch.where(alone[..., None, None], identity, rotations)
    centre = points.mean(dim=-2)  # (..., V, 3)
    centred = points - centre[..., None, :]
    spread = centred.square().sum(dim=(-2, -1))[..., None, :]  # of the source, (..., 1, V)
    agreement = (rotations * _correlations(centred)).sum(dim=(-2, -1))
    scale = (agreement / spread.clamp_min(torch.finfo(points.dtype).tiny)).clamp_min(_SMALLEST_SCALE)
    scale = torch.where(alone, 1.0, scale)
    moved = scale[..., None] * (rotations @ centre[..., None, :, :, None])[..., 0]
    translation = torch.where(alone[..., None], 0.0, centre[..., :, None, :] - moved)
    return Similarity(rotations, scale, translation)


def fused_points(aligned: Tensor, weights: Tensor) -> Tensor:
    """The fused hand in the frame of every view: the weighted mean of all views that are aligned to it.

    Args:
        aligned: (..., V, V, P, 3), [i, j] the points of view j in the frame of view i: what a `Similarity` from
            `align_views` makes of points[..., None, :, :, :].
        weights: (..., V) >= 0 of the views; 0 where a view is not valid.

    Returns:
        (..., V, P, 3); zeros where no view has a weight. The root is not exactly at zero: the centroids were aligned.
    """
    return torch.einsum("...j,...ijpc->...ipc", _shares(weights), aligned)


def fused_points_in_world(fused: Tensor, crop_from_world: Tensor, weights: Tensor) -> Tensor:
    """One fused hand (..., P, 3) in the axes of the world: the weighted mean of the fused hands of all views, turned.

    Args:
        fused: (..., V, P, 3) from `fused_points`.
        crop_from_world: (..., V, 4, 4).
        weights: (..., V) as they were given to `fused_points`.
    """
    rotation = torch.where((weights > 0)[..., None, None], crop_from_world[..., :3, :3], 0.0)
    return torch.einsum("...j,...jpc->...pc", _shares(weights), fused @ rotation)


def fused_parameters(
    rotations: Tensor, betas: Tensor, canonical_from_crop: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor]:
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
    identity = torch.eye(3, dtype=rotations.dtype, device=rotations.device)
    turn = torch.where(counts[..., None, None], canonical_from_crop, identity)
    hand = turn[..., None, :, :] @ rotations[..., :1, :, :]
    canonical = torch.cat([hand, rotations[..., 1:, :, :]], dim=-3)
    canonical = torch.where(counts[..., None, None, None], canonical, identity)
    mean = mean_rotation(canonical.transpose(-4, -3), weights[..., None, :])  # the bones first, then the views
    return mean, (_shares(weights)[..., None] * torch.where(counts[..., None], betas, 0.0)).sum(dim=-2)


def solve_centre(
    points: Tensor, normalized: Tensor, crop_from_world: Tensor, weights: Tensor, with_scale: bool = False
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
        The placement, in double precision; NaN where there are too few observations.
    """
    used = (weights > 0) & crop_from_world.isfinite().all(dim=(-2, -1))[..., None] & normalized.isfinite().all(dim=-1)
    seen = torch.where(used[..., None], normalized, 0.0).double()
    transform = torch.where(used.any(dim=-1)[..., None, None], crop_from_world, 0.0).double()[..., None, :3, :]
    weight = torch.where(used, weights, 0.0).double()[..., None]

    left = transform[..., :2, :3] - seen[..., None] * transform[..., 2:, :3]  # (..., V, P, 2, 3)
    right = seen * transform[..., 2:, 3] - transform[..., :2, 3]  # (..., V, P, 2)
    along = (left @ points.double()[..., None, :, :, None])[..., 0]  # what a scale of 1 adds to the left side
    free = used.any(dim=-1).sum(dim=-1) > 1 if with_scale else torch.zeros_like(used[..., 0, 0])
    fixed = ~free[..., None, None, None]
    rows = torch.cat([left, torch.where(fixed, 0.0, along)[..., None]], dim=-1).flatten(-4, -2)  # (..., 2 V P, 4)
    right = torch.where(fixed, right - along, right).flatten(-3)
    row_weights = weight.expand_as(seen).flatten(-3)
    matrix = rows.mT @ (row_weights[..., None] * rows)
    # Where the scale is fixed its equation reads: some number times s is that number.
    trace = matrix.diagonal(dim1=-2, dim2=-1).sum(dim=-1)
    pinned = torch.where(free, 0.0, trace)
    last = torch.tensor([0.0, 0.0, 0.0, 1.0], dtype=torch.float64, device=rows.device)
    matrix = matrix + pinned[..., None, None] * torch.diag(last)
    vector = (rows.mT @ (row_weights * right)[..., None])[..., 0] + pinned[..., None] * last

    eigenvalues = torch.linalg.eigvalsh(matrix.detach())
    known = eigenvalues[..., 0] > _CONDITION * eigenvalues[..., -1]
    matrix = torch.where(known[..., None, None], matrix, torch.eye(4, dtype=torch.float64, device=rows.device))
    solution = torch.where(known[..., None], torch.linalg.solve(matrix, vector[..., None])[..., 0], torch.nan)
    return Placement(solution[..., :3], solution[..., 3], used)


def ransac_centre(
    points: Tensor,
    normalized: Tensor,
    crop_from_world: Tensor,
    weights: Tensor,
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
    groups = torch.ones(1 + len(pairs), views, dtype=weights.dtype, device=weights.device)
    for group, pair in enumerate(pairs, start=1):
        groups[group] = 0
        groups[group, list(pair)] = 1
    proposed = groups.reshape(len(groups), *(1,) * (weights.dim() - 2), views, 1) * weights
    with torch.no_grad():  # the vote and the weights are constants to the gradient
        proposal = solve_centre(points, normalized, crop_from_world, proposed, with_scale)
        offset, depth = _reprojection(proposal, points, normalized, crop_from_world)
    agrees = (offset < threshold) & (depth > 0) & (weights > 0)  # (groups, ..., V, P)
    best = torch.where(agrees, weights, 0.0).sum(dim=(-2, -1)).argmax(dim=0)
    index = best[None, ..., None, None].expand(1, *weights.shape)
    inliers, depth = agrees.gather(0, index)[0], depth.gather(0, index)[0]
    refined = torch.where(inliers, weights / torch.where(inliers, depth, 1.0) ** 2, 0.0)
    return solve_centre(points, normalized, crop_from_world, refined, with_scale)


def _reprojection(
    placement: Placement, points: Tensor, normalized: Tensor, crop_from_world: Tensor
) -> tuple[Tensor, Tensor]:
    """Distances in normalized coordinates and depths m, (..., V, P), of placed points (..., P, 3)."""
    world = placement.centre[..., None, :] + placement.scale[..., None, None] * points  # (..., P, 3)
    rotation, translation = crop_from_world[..., :3, :3], crop_from_world[..., :3, 3]
    crop = world[..., None, :, :] @ rotation.mT.double() + translation[..., None, :]
    depth = crop[..., 2]
    return torch.linalg.vector_norm(crop[..., :2] / depth[..., None] - normalized, dim=-1), depth


def _correlations(centred: Tensor) -> Tensor:
    """Sums over points of target times transposed source, (..., V, V, 3, 3), of (..., V, P, 3)."""
    return centred.mT[..., :, None, :, :] @ centred[..., None, :, :, :]


def _shares(weights: Tensor) -> Tensor:
    return weights / weights.sum(dim=-1, keepdim=True).clamp_min(torch.finfo(weights.dtype).tiny)
