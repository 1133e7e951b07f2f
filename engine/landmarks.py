"""The default estimator: MediaPipe's hand landmark network (Zhang et al. 2020) on virtual-camera crops.

All views and hands of a frame set go through the network in one call.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from hamuco.calibration.camera import Camera
from hamuco.capture.frame import FrameSet
from hamuco.engine.crops import BoxRule, crops_around
from hamuco.engine.model_files import HAND_LANDMARK, model_path
from hamuco.engine.openvino_networks import Network, runtime_name
from hamuco.engine.palm_detector import MIDDLE_MCP_POINT, WRIST_POINT, PalmDetection
from hamuco.engine.quantize import hand_landmark_ranges
from hamuco.engine.view_hand import Region, ViewHand, by_camera, crop_regions

FloatArray = NDArray[np.float64]

CROP_SIZE = 224

# The two ways a crop is laid around a hand, with the margins that the network was trained for: around the palm points
# and knuckles of a hand known from before, or around a palm box from the detector.
HAND_RULE = BoxRule(scale=2.0, shift=0.1)
"""Around a hand known from before. Networks that are trained on crops have this margin in them."""
_PALM_RULE = BoxRule(scale=2.6, shift=0.5)
_HAND_BOX_JOINTS = [0, 1, 2, 3, 5, 6, 9, 10, 13, 14, 17, 18]
_WRIST, _INDEX_MCP, _MIDDLE_MCP, _RING_MCP = _PALM = [0, 5, 9, 13]

# Standard deviation of a landmark, px of the crop: about 1.5 % of the crop's width on real hands seen by four cameras.
_LANDMARK_SIGMA_PX = 3.5
# The less sure the network is of a hand, the larger the deviation, up to this factor's inverse.
_MIN_CERTAINTY = 0.1


def regions_from_joints(cameras: Iterable[Camera], hands: Sequence[tuple[int | None, FloatArray]]) -> list[Region]:
    """The regions in which hands show, camera by camera; a camera that cannot see a hand has none for it.

    Args:
        cameras: to look with.
        hands: (track id, joints (21, 3) m, world) each.
    """
    if not hands:
        return []
    cameras = list(cameras)
    joints = np.stack([one for _, one in hands])
    points = np.concatenate([camera.to_camera(joints) for camera in cameras])  # (V * H, 21, 3)
    knuckles = ((points[:, _INDEX_MCP] + points[:, _RING_MCP]) / 2 + points[:, _MIDDLE_MCP]) / 2
    up = np.stack([points[:, _WRIST], knuckles], axis=1)
    crops = crops_around(points[:, _HAND_BOX_JOINTS], up, HAND_RULE, CROP_SIZE)
    palms = points[:, _PALM].mean(axis=1).reshape(len(cameras), len(hands), 3)
    regions = []
    for index, camera in enumerate(cameras):
        pixels = camera.project_camera(palms[index])
        inside = ((pixels > -0.5) & (pixels < np.array(camera.size) - 0.5)).sum(axis=1) == 2  # False for NaN
        own = crops[index * len(hands) : (index + 1) * len(hands)]
        for (track_id, _), crop, visible in zip(hands, own, inside, strict=True):
            if visible and crop is not None:
                regions.append(Region(camera, crop, track_id))
    return regions


def region_from_palm(camera: Camera, palm: PalmDetection) -> Region | None:
    """The region of the hand whose palm was detected."""
    left, top, right, bottom = palm.box
    corners = np.array([[left, top], [right, top], [right, bottom], [left, bottom]])
    up = palm.points[[WRIST_POINT, MIDDLE_MCP_POINT]]
    normalized = camera.undistort(np.concatenate([corners, up]))
    directions = np.concatenate([normalized, np.ones((len(normalized), 1))], axis=1)
    # The rule speaks of the detector's own upright square, not of the box around its turned corners.
    centre, half = directions[:4, :2].mean(axis=0), float(np.ptp(directions[:4, :2], axis=0).max()) / 2
    toward = directions[5, :2] - directions[4, :2]
    length = float(np.hypot(*toward))
    if length < 1e-9:
        return None
    y, x = toward / length, np.array([-toward[1], toward[0]]) / length
    square = np.array([centre + half * (a * x + b * y) for a, b in ((-1, -1), (1, -1), (1, 1), (-1, 1))])
    square = np.concatenate([square, np.ones((4, 1))], axis=1)
    (crop,) = crops_around(square[None], directions[None, 4:], _PALM_RULE, CROP_SIZE)
    return None if crop is None else Region(camera, crop, None)


class LandmarkEstimator:
    """Runs the landmark network on the regions of one frame set."""

    name = "landmarks"

    def __init__(self) -> None:
        self._network = Network(model_path(HAND_LANDMARK), hand_landmark_ranges())
        self.runtime = runtime_name(self._network.precision)

    def crop(self, frame_set: FrameSet, regions: Sequence[Region]) -> NDArray[np.uint8]:
        """Sample the regions out of their cameras' images; (n, 224, 224, 3) uint8 BGR. See `crop_regions`."""
        images = {name: frame.image for name, frame in frame_set.frames.items()}
        return crop_regions(images, regions, CROP_SIZE)

    def __call__(self, frame_set: FrameSet, regions: Sequence[Region], crops: NDArray[np.uint8]) -> list[ViewHand]:
        """Landmarks of crops (n, 224, 224, 3) uint8 BGR, in the order of `regions`."""
        if not regions:
            return []
        outputs = self._network(crops)
        return [
            hand
            for start, same in by_camera(regions)
            for hand in _view_hands(frame_set, same, [output[start : start + len(same)] for output in outputs])
        ]


def _view_hands(
    frame_set: FrameSet, regions: Sequence[Region], outputs: Sequence[NDArray[np.float32]]
) -> Iterator[ViewHand]:
    """The network's outputs for regions of one camera as rays and pixels."""
    screen, presence, handedness, _ = outputs
    # The network counts from the crop's corner, we from the centre of its first pixel.
    pixels_crop = screen.reshape(-1, 21, 3)[..., :2].astype(np.float64) - 0.5
    camera = regions[0].camera
    directions = np.stack([region.crop.directions(one) for region, one in zip(regions, pixels_crop, strict=True)])
    rays = camera.world_rays(directions)
    for index, region in enumerate(regions):
        certainty = float(presence[index, 0])
        yield ViewHand(
            region=region,
            t_capture_ns=frame_set.frames[camera.name].t_capture_ns,
            rays=rays[index],
            ray_sigma=_LANDMARK_SIGMA_PX / region.crop.focal / max(certainty, _MIN_CERTAINTY),
            presence=certainty,
            # The network's "left" is that of a mirrored selfie image: the right hand of ours.
            right=float(handedness[index, 0]),
        )
