"""Cutting hands out of images: from what a view sees of a hand to a wide crop of a right hand with its labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hamuco.calibration.camera import Camera
from hamuco.capture.frame import Frame, FrameSet
from hamuco.engine.crops import CropCamera, warp_crops
from hamuco.engine.landmarks import LandmarkEstimator
from hamuco.engine.view_hand import Region
from hamuco.fusion.hand import Side
from hamuco.fusion.observation import Observation
from hamuco.fusion.track import MIN_PRESENCE
from hamuco.training.crop_set import MARGIN, CropView
from hamuco.training.labelling import view_confidence

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """Joints as one view sees them.

    Attributes:
        camera: the view's.
        crop: what a network would be shown.
        directions: (21, 3) to the joints in the camera's frame; NaN where not known.
        confidence: (21,).
    """

    camera: Camera
    crop: CropCamera
    directions: FloatArray
    confidence: FloatArray


def projected(region: Region, joints: FloatArray) -> Seen:
    """True joints (21, 3) m as a view sees them."""
    points = region.camera.to_camera(joints)
    return Seen(region.camera, region.crop, points, (points[:, 2] > 0).astype(np.float64))


def observed(
    estimator: LandmarkEstimator, images: Mapping[str, NDArray[np.uint8]], regions: Sequence[Region]
) -> list[Seen]:
    """One hand as the landmark network sees it, one view per region; confidence 0 in a view where it sees none."""
    frame_set = FrameSet(0, {name: Frame(name, 0, 0, 0, 0, None, image) for name, image in images.items()})
    hands = estimator(frame_set, regions, estimator.crop(frame_set, regions))
    seeing = [hand for hand in hands if hand.presence >= MIN_PRESENCE]
    confidence = dict.fromkeys((hand.camera.name for hand in hands), np.zeros(21))
    if seeing:
        away = [
            hand.camera.centre + hand.rays for hand in seeing
        ]  # depth of a lone view; its directions are all it says
        observation = Observation.of(seeing, np.zeros((len(seeing), 3)), away[0])
        confidence |= dict(zip((hand.camera.name for hand in seeing), view_confidence(observation), strict=True))
    return [
        Seen(
            hand.camera,
            hand.region.crop,
            hand.rays @ hand.camera.camera_from_world[:3, :3].T,
            confidence[hand.camera.name],
        )
        for hand in hands
    ]


def cut(image: NDArray[np.uint8], seen: Seen, size: int, side: Side) -> CropView:
    """The crop of a view, wider than the network's, of a right hand: of a left one it is mirrored."""
    nominal = seen.crop
    wide = CropCamera(nominal.crop_from_camera, nominal.focal * size / (nominal.size * MARGIN), size)
    crop = np.empty((1, size, size, 3), np.uint8)
    warp_crops(image, seen.camera, [wide], crop)
    crop_from_world = np.eye(4)
    crop_from_world[:3] = wide.crop_from_camera @ seen.camera.camera_from_world[:3]
    view = CropView(crop[0], wide.focal, crop_from_world, *_in_crop(wide, seen))
    return view if side == "right" else view.mirrored()


def _in_crop(crop: CropCamera, seen: Seen) -> tuple[FloatArray, FloatArray]:
    """Pixels (21, 2) of a crop, finite, and their confidence (21,)."""
    with np.errstate(divide="ignore", invalid="ignore"):
        pixels = crop.project(seen.directions)
    known = (seen.directions @ crop.crop_from_camera.T)[:, 2] > 0  # not so for NaN
    return np.where(known[:, None], pixels, (crop.size - 1) / 2), np.where(known, seen.confidence, 0.0)
