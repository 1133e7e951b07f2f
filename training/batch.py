"""One training batch: crops of hands as several views see them, with labels, and truth where there is any."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Views:
    """What the networks see: B hands (each at one moment) in V crops of S px. Hands are right ones; left ones are mirrored.

    Attributes:
        images: (B, V, S, S, 3) uint8 BGR.
        valid: (B, V) bool; what is in a view that is not valid means nothing.
        half_angle: (B, V) tangent of half the crop's field of view; 0 where the camera is not known.
    """

    images: Tensor
    valid: Tensor
    half_angle: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Views with what is known about them.

    Attributes:
        views: the crops.
        crop_from_world: (B, V, 4, 4) m; NaN where the rig is not calibrated.
        pixels: (B, V, 21, 2) labels in image coordinates u, v of `HandPrediction`.
        confidence: (B, V, 21) of the labels, 0 to 1; 0 where there is none.
        joints: (B, 21, 3) m, world, true; NaN where they are not known. The hand model's landmarks, but those of
            HanCo and FreiHAND are the data set's own points, some mm away.
        rotations: (B, 16, 3, 3) true rotations as in `HandPrediction`, but the first in the world; NaN where not known.
        betas: (B, 10) true shape, or NaN.
    """

    views: Views
    crop_from_world: Tensor
    pixels: Tensor
    confidence: Tensor
    joints: Tensor
    rotations: Tensor
    betas: Tensor


def tensors(batch: Batch) -> dict[str, Tensor]:
    """All tensors of a batch by their names."""
    views = {field.name: getattr(batch.views, field.name) for field in fields(Views)}
    return views | {field.name: getattr(batch, field.name) for field in fields(Batch) if field.name != "views"}


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The batch on a device; without a copy where it is there already."""
    moved = {name: tensor.to(device) for name, tensor in tensors(batch).items()}
    views = Views(**{field.name: moved.pop(field.name) for field in fields(Views)})
    return Batch(views, **moved)
