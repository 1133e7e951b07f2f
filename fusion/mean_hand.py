"""Hands in the world from what HaMuCo's networks say about them in every view.

A hand's parameters are the mean of all views'; it stands where most of the landmarks that the views see agree (see
`hamuco.fusion.alignment`). For a hand at one moment: tracking triangulates the same landmarks and fits instead.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hamuco.engine.hamuco import ROOT, CropHands, axis_angle
from hamuco.engine.hand_model import HandModel, mirror_axis_angle
from hamuco.engine.skinning import forward_rotations
from hamuco.engine.view_hand import Region
from hamuco.fusion.alignment import fused_parameters, ransac_centre
from hamuco.fusion.hand import HandParameters

FloatArray = NDArray[np.float64]

_MIRROR = np.array([-1.0, 1.0, 1.0, 1.0])


def mean_hand(model: HandModel, hands: CropHands, regions: Sequence[Region]) -> HandParameters | None:
    """One hand by `mean_hands`: `hands` (V, ...) and V regions."""
    return mean_hands(model, CropHands.stack([hands]), [regions])[0]


def mean_hands(model: HandModel, hands: CropHands, regions: Sequence[Sequence[Region]]) -> list[HandParameters | None]:
    """Fuse B hands that are seen in V >= 1 views each.

    Args:
        model: of right hands.
        hands: (B, V, ...) as the networks say; left hands are mirrored.
        regions: where they looked, B times V; all know their hand's side.

    Returns:
        Parameters in the world, of the mirrored model for left hands; None where the views do not say where a hand is.
    """
    right = [own[0].right is not False for own in regions]
    crop_from_world = np.stack([[region.crop_from_world for region in own] for own in regions])
    for hand in np.flatnonzero(~np.array(right)):  # right hands in the mirrored world
        crop_from_world[hand] *= _MIRROR[:, None] * _MIRROR
    weights = np.ones(crop_from_world.shape[:2])
    world_from_crop = crop_from_world[..., :3, :3].mT
    rotations, betas = fused_parameters(hands.rotations, hands.betas, world_from_crop, weights)
    landmarks = forward_rotations(model, rotations, betas, np.zeros(3), with_vertices=False).landmarks
    root = landmarks[:, ROOT]
    half_angle = np.array([[region.crop.half_angle for region in own] for own in regions])
    centre = ransac_centre(
        landmarks - root[:, None],
        hands.pixels * half_angle[..., None, None],
        crop_from_world,
        np.ones(hands.pixels.shape[:-1]),
    ).centre
    orient, fingers = axis_angle(model, rotations)
    transl = centre - root
    return [_parameters(*own) for own in zip(right, orient, fingers, betas, transl, strict=True)]


def _parameters(
    right: bool, orient: FloatArray, fingers: FloatArray, betas: FloatArray, transl: FloatArray
) -> HandParameters | None:
    """Of a right hand, which may be a left one in a mirror."""
    if not np.isfinite(transl).all():
        return None
    if right:
        return HandParameters(orient, fingers, betas, transl)
    return HandParameters(mirror_axis_angle(orient), mirror_axis_angle(fingers), betas, transl * _MIRROR[:3])
