"""Rotations in torch: 6D, matrices, axis-angle and means, any leading dimensions, with gradients finite everywhere."""

from __future__ import annotations

import roma
import torch
from torch import Tensor

# Of columns of about unit length; below it single precision leaves no direction.
_SHORTEST = 1e-6


def rotation_6d_to_matrix(six: Tensor) -> Tensor:
    """Matrices (..., 3, 3) of 6D rotations (..., 6), the continuous representation of Zhou et al., CVPR 2019.

    The six numbers are the first two columns of a matrix as (3, 2) rows: R00 R01 R10 R11 R20 R21. Gram-Schmidt keeps the
    first column's direction. Columns without a direction of their own, zero or parallel ones, give some rotation that
    does not depend on them: the gradient is zero there, and never more than 1e6 nearby.
    """
    first, second = six.unflatten(-1, (3, 2)).unbind(-1)
    x = _unit(first, torch.tensor([1.0, 0.0, 0.0], dtype=six.dtype, device=six.device).expand_as(first))
    z = _unit(torch.linalg.cross(x, second), _perpendicular(x.detach()))
    return torch.stack([x, torch.linalg.cross(z, x), z], dim=-1)


def matrix_to_6d(matrix: Tensor) -> Tensor:
    """6D rotations (..., 6) of matrices (..., 3, 3), as `rotation_6d_to_matrix` reads them."""
    return matrix[..., :2].flatten(-2)


def axis_angle_to_matrix(axis_angle: Tensor) -> Tensor:
    """Matrices (..., 3, 3) of axis-angle vectors (..., 3), rad."""
    matrix: Tensor = roma.rotvec_to_rotmat(axis_angle)
    return matrix


def matrix_to_axis_angle(matrix: Tensor) -> Tensor:
    """Axis-angle vectors (..., 3) rad, no longer than pi, of matrices (..., 3, 3)."""
    axis_angle: Tensor = roma.rotmat_to_rotvec(matrix)
    return axis_angle


def nearest_rotation(matrix: Tensor) -> Tensor:
    """The rotation nearest to each matrix (..., 3, 3) in the Frobenius norm; never a reflection.

    This is Procrustes' problem. Where the answer is not unique it is one of the answers, and the gradient is damped:
    it is about one over the sums of two singular values, but never more than 5e4.
    """
    rotation: Tensor = roma.special_procrustes(matrix)
    return rotation


def mean_rotation(rotations: Tensor, weights: Tensor) -> Tensor:
    """Weighted chordal mean (..., 3, 3) of K rotations (..., K, 3, 3) with weights (..., K) >= 0.

    The rotation with the least weighted sum of squared Frobenius distances (Hartley et al., Rotation Averaging, IJCV
    2013). Without any weight it is the identity. Rotations of weight 0 must still be finite.
    """
    share = weights / weights.sum(dim=-1, keepdim=True).clamp_min(torch.finfo(weights.dtype).tiny)
    total = (share[..., None, None] * rotations).sum(dim=-3)
    nothing = (weights <= 0).all(dim=-1)[..., None, None]
    identity = torch.eye(3, dtype=rotations.dtype, device=rotations.device)
    return nearest_rotation(torch.where(nothing, identity, total))


def _unit(vector: Tensor, otherwise: Tensor) -> Tensor:
    """The vectors (..., 3) at unit length; `otherwise` where they are too short to have a direction."""
    short = (vector * vector).sum(dim=-1, keepdim=True) < _SHORTEST**2
    # Chosen before the division, so that no gradient passes through a division by zero.
    chosen = torch.where(short, otherwise, vector)
    length: Tensor = torch.linalg.vector_norm(chosen, dim=-1, keepdim=True)
    return chosen / length


def _perpendicular(unit: Tensor) -> Tensor:
    """Some vectors (..., 3) of length 0.7 to 1 across the unit vectors (..., 3)."""
    x, y, z = unit.unbind(-1)
    zero = torch.zeros_like(x)
    about_z, about_x = torch.stack([-y, x, zero], dim=-1), torch.stack([zero, -z, y], dim=-1)
    return torch.where((x.abs() > z.abs())[..., None], about_z, about_x)
