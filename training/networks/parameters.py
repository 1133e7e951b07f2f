"""What the two regressors say about a hand, in numbers that can be anything, and what those numbers mean."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hamuco.engine.hand_model import JOINTS, SHAPES

POSE = 6 * JOINTS
CAMERA = 3
OUTPUTS = POSE + SHAPES + CAMERA

# Half crops per metre: the crop is twice as wide as the box around a hand, which measures some 0.2 m.
_USUAL_SCALE = 5.0
_SOFTPLUS_OF_ONE = math.log(math.e - 1)

# A joint no further than this part of the root's distance from the camera is projected as if it were that far.
_NEAREST = 0.1


@dataclass(frozen=True, slots=True, eq=False)
class HandParameters:
    """Right hands, leading dimensions (...), float32.

    Attributes:
        pose: (..., 16, 6) rotations as `rotation_6d_to_matrix` reads them; the mean pose is in them.
        betas: (..., 10) shape.
        camera: (..., 3) s, tx, ty of `HandPrediction`.
    """

    pose: Tensor
    betas: Tensor
    camera: Tensor


class ParameterReadout(nn.Module):
    """Turns the regressors' raw outputs into parameters: zeros mean the mean hand, of usual size, mid-crop."""

    mean_pose: Tensor

    def __init__(self, mean_pose: Tensor) -> None:
        """`mean_pose`: (16, 6), the first for a hand that is not turned."""
        super().__init__()
        self.register_buffer("mean_pose", mean_pose.float(), persistent=False)  # the hand model's

    def forward(self, raw: Tensor) -> HandParameters:
        """(..., 109): 96 numbers of pose, 10 of shape, 3 of the camera."""
        pose, betas, camera = raw.float().split([POSE, SHAPES, CAMERA], dim=-1)
        # softplus: never zero, and with a slope everywhere, unlike the paper's code, where a negative scale is stuck.
        scale = _USUAL_SCALE * F.softplus(camera[..., :1] + _SOFTPLUS_OF_ONE)
        return HandParameters(
            pose=pose.unflatten(-1, (JOINTS, 6)) + self.mean_pose,
            betas=betas,
            camera=torch.cat([scale, camera[..., 1:]], dim=-1),
        )


def start_at_zero(layer: nn.Linear) -> None:
    """Initialize a regressor's last layer so that training begins at the mean hand, but is not stuck there."""
    nn.init.xavier_uniform_(layer.weight, gain=0.01)
    nn.init.zeros_(layer.bias)


def project(points: Tensor, camera: Tensor, half_angle: Tensor) -> Tensor:
    """Image coordinates (..., p, 2) of points (..., p, 3) m relative to the root; see `HandPrediction`.

    Args:
        points: crop's axes.
        camera: (..., 3) s, tx, ty.
        half_angle: (...) tangent of half the field of view; 0 for weak perspective.
    """
    scale, shift = camera[..., None, :1], camera[..., None, 1:]
    distance = 1 + half_angle[..., None, None] * scale * points[..., 2:]  # in units of the root's
    return (scale * points[..., :2] + shift) / distance.clamp(min=_NEAREST)
