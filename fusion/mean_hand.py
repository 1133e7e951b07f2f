"""One hand in the world from what HaMuCo's networks say about it in every view.

Its parameters are the mean of all views'; it stands where most of the landmarks that the views see agree (see
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
    """Fuse a hand that is seen in V >= 1 views.

    Args:
        model: of right hands.
        hands: (V, ...) as the networks say; a left hand is mirrored.
        regions: where they looked, V; all know the hand's side.

    Returns:
        Parameters in the world, of the mirrored model for a left hand; None where the views do not say where it is.
    """
    right = regions[0].right
    crop_from_world = np.stack([region.crop_from_world for region in regions])
    if not right:  # a right hand in the mirrored world
        crop_from_world = _MIRROR[:, None] * crop_from_world * _MIRROR
    weights = np.ones(len(regions))
    world_from_crop = crop_from_world[:, :3, :3].mT
    rotations, betas = fused_parameters(hands.rotations, hands.betas, world_from_crop, weights)
    landmarks = forward_rotations(model, rotations, betas, np.zeros(3), with_vertices=False).landmarks
    half_angle = np.array([region.crop.half_angle for region in regions])
    centre = ransac_centre(
        landmarks - landmarks[ROOT],
        hands.pixels * half_angle[:, None, None],
        crop_from_world,
        np.ones(hands.pixels.shape[:-1]),
    ).centre
    if not np.isfinite(centre).all():
        return None
    orient, fingers = axis_angle(model, rotations)
    transl = centre - landmarks[ROOT]
    if right:
        return HandParameters(orient, fingers, betas, transl)
    return HandParameters(mirror_axis_angle(orient), mirror_axis_angle(fingers), betas, transl * _MIRROR[:3])
