"""What goes into an estimator and what comes out: a hand's region in one view, and the hand as that view sees it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from hamuco.calibration.camera import Camera
from hamuco.engine.crops import CropCamera, warp_crops

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Region:
    """One hand's crop in one view.

    Attributes:
        camera: the real camera.
        crop: the virtual camera.
        track_id: the track that predicted it; None for a fresh detection.
        right: whether the hand is anatomically a right one; None where that is not known.
    """

    camera: Camera
    crop: CropCamera
    track_id: int | None
    right: bool | None = None

    @property
    def crop_from_world(self) -> FloatArray:
        """(4, 4) m."""
        transform = np.eye(4)
        transform[:3] = self.crop.crop_from_camera @ self.camera.camera_from_world[:3]
        return transform


@dataclass(frozen=True, slots=True, eq=False)
class ViewHand:
    """One hand as one view sees it.

    Attributes:
        region: where the estimator looked.
        t_capture_ns: capture time of this view's frame; views of a set differ.
        rays: (21, 3) unit directions of the joints in the world, from the camera's centre.
        ray_sigma: standard deviation of the rays, rad.
        presence: 0 to 1, that there is a hand in the region.
        right: 0 to 1, that it is anatomically a right hand.
    """

    region: Region
    t_capture_ns: int
    rays: FloatArray
    ray_sigma: float
    presence: float
    right: float

    @property
    def camera(self) -> Camera:
        return self.region.camera

    @property
    def pixels(self) -> FloatArray:
        """(21, 2) the joints in px of the distorted image."""
        return self.camera.project(self.camera.centre + self.rays)


def crop_regions(images: Mapping[str, NDArray[np.uint8]], regions: Sequence[Region], size: int) -> NDArray[np.uint8]:
    """Sample regions out of their cameras' images, in crops (n, size, size, 3) uint8 BGR.

    The regions of one camera are best given one after the other: they are sampled together.
    """
    crops = np.empty((len(regions), size, size, 3), np.uint8)
    for start, same in by_camera(regions):
        camera = same[0].camera
        cameras = [region.crop.resized(size) for region in same]
        warp_crops(images[camera.name], camera, cameras, crops[start : start + len(same)])
    return crops


def by_camera(regions: Sequence[Region]) -> Iterator[tuple[int, list[Region]]]:
    """Neighbouring regions of the same camera, with the index of the first."""
    start = 0
    for _, group in groupby(regions, key=lambda region: region.camera.name):
        same = list(group)
        yield start, same
        start += len(same)
