"""HaMuCo in the place of the default estimator: hands that are followed, as each view sees them.

The networks say where the joints of a hand are, whatever the crops show. Whether there is a hand, and of which side, the
landmark network says, which looks at a few crops of every set by turns. Only what a different network says can contradict
this one: agreement between views that have told each other what they see is no evidence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from hamuco.calibration.camera import Rig
from hamuco.capture.frame import FrameSet
from hamuco.engine.hamuco import HaMuCoNetworks
from hamuco.engine.landmarks import LandmarkEstimator
from hamuco.engine.view_hand import Region, ViewHand, crop_regions

FloatArray = NDArray[np.float64]

# Every region is checked once in so many sets: three cameras and one hand cost one crop of the landmark network.
_CHECK_EVERY = 4
MIN_PRESENCE = 0.5
"""A view in which the landmark network saw less of a hand than that is not shown to the others."""
SIGMA = 0.04
"""Standard deviation of a refined landmark, half crops: of hamuco-s on rendered hands, by the median, 0.038 in a room and 0.052
in a hard scene."""


def right_crops(images: Mapping[str, NDArray[np.uint8]], regions: Sequence[Region], size: int) -> NDArray[np.uint8]:
    """Crops (n, size, size, 3) uint8 BGR of right hands: those of left ones are mirrored. See `crop_regions`."""
    crops = crop_regions(images, regions, size)
    for crop, region in zip(crops, regions, strict=True):
        if region.right is False:
            crop[:] = cv2.flip(crop, 1)
    return crops


def joint_rays(region: Region, pixels: FloatArray) -> FloatArray:
    """Unit directions (21, 3) in the world of joints that the networks see at u, v (21, 2); a left hand's are mirrored."""
    tangent = pixels * region.crop.half_angle
    if region.right is False:
        tangent = tangent * (-1.0, 1.0)
    directions = np.concatenate([tangent, np.ones((len(tangent), 1))], axis=1) @ region.crop.crop_from_camera
    return region.camera.world_rays(directions)


class PresenceChecks:
    """Whether followed hands are there, by the landmark network; it looks at a few crops of every set by turns."""

    def __init__(self, landmarks: LandmarkEstimator) -> None:
        self._landmarks = landmarks
        self._calls = 0
        # (track, camera) -> the call in which it was checked last, and the hand's presence then
        self._checks: dict[tuple[int | None, str], tuple[int, float]] = {}

    def known(self, regions: Sequence[Region]) -> list[float]:
        """Presence of every region's hand, as it was when last checked."""
        return [presence for _, presence in self._known(regions)]

    def __call__(self, frame_set: FrameSet, regions: Sequence[Region]) -> tuple[list[float], dict[int, float]]:
        """Check those whose turn it is: presence of every region's hand; and of those checked now, how right it is."""
        known = self._known(regions)
        oldest = sorted(range(len(regions)), key=lambda index: known[index][0])
        due = sorted(oldest[: -(-len(regions) // _CHECK_EVERY)])
        chosen = [regions[index] for index in due]
        seen = self._landmarks(frame_set, chosen, self._landmarks.crop(frame_set, chosen))
        for index, hand in zip(due, seen, strict=True):
            known[index] = (self._calls, hand.presence)
        self._calls += 1
        self._checks = {_key(region): check for region, check in zip(regions, known, strict=True)}
        return [presence for _, presence in known], {index: hand.right for index, hand in zip(due, seen, strict=True)}

    def _known(self, regions: Sequence[Region]) -> list[tuple[int, float]]:
        # A region that was never checked comes first; until then it is believed, since detection found the hand.
        return [self._checks.get(_key(region), (-1, 1.0)) for region in regions]


class HaMuCoEstimator:
    """Runs a bundle's networks on the followed hands of one rig."""

    def __init__(self, rig: Rig, networks: HaMuCoNetworks, landmarks: LandmarkEstimator) -> None:
        """
        Args:
            rig: whose cameras take the sets, all of them or some.
            networks: say where the joints are. What takes long the first time is done here.
            landmarks: says whether there are hands.
        """
        networks.compile(len(rig))
        self._columns = {name: column for column, name in enumerate(rig.names)}
        self.name, self.runtime = networks.name, networks.runtime
        self.checks = PresenceChecks(landmarks)
        self._networks = networks

    def crop(self, frame_set: FrameSet, regions: Sequence[Region]) -> NDArray[np.uint8]:
        """The regions, whose hands are followed, as `right_crops`."""
        return right_crops(_images(frame_set), regions, self._networks.image_size)

    def __call__(self, frame_set: FrameSet, regions: Sequence[Region], crops: NDArray[np.uint8]) -> list[ViewHand]:
        """Joints in crops from `crop`, in the order of `regions`, refined by all views of a hand."""
        if not regions:
            return []
        presence, right = self.checks(frame_set, regions)
        half_angle = np.array([region.crop.half_angle for region in regions])
        looks = self._networks.look(crops, half_angle)
        tracks = {track: row for row, track in enumerate(dict.fromkeys(region.track_id for region in regions))}
        # Also of cameras that have no frame now: for another number of views the networks would have to be compiled.
        places = np.full((len(tracks), len(self._columns)), -1)
        seats = [(tracks[region.track_id], self._columns[region.camera.name]) for region in regions]
        for index, seat in enumerate(seats):
            if presence[index] >= MIN_PRESENCE:
                places[seat] = index
        pixels = self._networks.refine(looks, places).pixels
        return view_hands(frame_set, regions, [pixels[seat] for seat in seats], presence, right)


def view_hands(
    frame_set: FrameSet,
    regions: Sequence[Region],
    pixels: Sequence[FloatArray],
    presence: Sequence[float],
    right: Mapping[int, float],
) -> list[ViewHand]:
    """Hands of regions whose joints are at u, v (21, 2) each; `right`, by index, of those of which something is known."""
    return [
        ViewHand(
            region=region,
            t_capture_ns=frame_set.frames[region.camera.name].t_capture_ns,
            rays=joint_rays(region, own),
            ray_sigma=SIGMA * region.crop.half_angle,
            presence=presence[index],
            right=right.get(index, 0.5),
        )
        for index, (region, own) in enumerate(zip(regions, pixels, strict=True))
    ]


def _key(region: Region) -> tuple[int | None, str]:
    return region.track_id, region.camera.name


def _images(frame_set: FrameSet) -> dict[str, NDArray[np.uint8]]:
    return {name: frame.image for name, frame in frame_set.frames.items()}
