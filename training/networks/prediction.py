"""What a network says about the hands in crops."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class HandPrediction:
    """Right hands, one per crop; leading dimensions (...) are mostly (samples B, views V).

    A crop is a square pinhole camera. Its image coordinates u, v run from -1 to 1 between the outer edges of the crop:
    pixel p of a crop with S pixels is at u = (2 p + 1) / S - 1. With `half_angle` h, the tangent of half the crop's field of
    view, a point (X, Y, Z) m relative to the root, in the crop's frame, is seen at

        u = (s X + tx) / (1 + h s Z),   v = (s Y + ty) / (1 + h s Z)

    which is the pinhole projection with the root at (tx, ty, 1 / h) / s, and weak perspective for h = 0, where the crop's
    camera is not known.

    Attributes:
        rotations: (..., 16, 3, 3) of the bones in their parents' frames, MANO order; the first is the hand's in the crop's
            frame. The model's mean pose is in them.
        betas: (..., 10) shape.
        camera: (..., 3) scale s > 0 in half crops per metre, and tx, ty, where the root is seen.
        vertices: (..., N, 3) m, relative to the root, axes of the crop's camera.
        joints: (..., 21, 3) m, likewise: landmarks of the hand model.
        pixels: (..., 21, 2) u, v of the joints.
    """

    rotations: Tensor
    betas: Tensor
    camera: Tensor
    vertices: Tensor
    joints: Tensor
    pixels: Tensor
