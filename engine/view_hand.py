"""What goes into an estimator and what comes out: a hand's region in one view, and the hand as that view sees it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hamuco.calibration.camera import Camera
from hamuco.engine.crops import CropCamera

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Region:
    """One hand's crop in one view.

    Attributes:
        camera: the real camera.
        crop: the virtual camera.
        track_id: the track that predicted it; None for a fresh detection.
    """

    camera: Camera
    crop: CropCamera
    track_id: int | None


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
