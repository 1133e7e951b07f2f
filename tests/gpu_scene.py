"""A rig that sees two hands, for chains on GPUs: crops of it are the same to the last digit however they are cut."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from kernel_checks import waves
from numpy.typing import NDArray
from small_bundle import CARD, small_network
from views_of_a_hand import views_of_a_hand

from hamuco.calibration.camera import Camera
from hamuco.engine.bundle import Bundle
from hamuco.engine.crops import CropCamera
from hamuco.engine.gpu_runtime import FusedSet
from hamuco.engine.view_hand import Region
from hamuco.training.export import _round_weights
from hamuco.training.networks.hamuco import HaMuCo
from hamuco.training.weights import bundle_network

FOCAL, SIZE = 320.0, 128

# What fields of `FusedSet` may differ by. Numbers of about 1 through some fifty layers, each rounded by 6e-8, as in the
# tests of the networks; points are a fifth of that, m, and places come from rays that magnify errors some times over.
_ROUNDING = 2e-5
SINGLE = dict.fromkeys(("pixels", "rotations", "betas"), _ROUNDING) | {"landmarks": 0.2 * _ROUNDING}
SINGLE |= {"vertices": 0.2 * _ROUNDING, "root": 2 * _ROUNDING}
# Half precision rounds by 2^-11, each layer in its own way: 7 * 2^-11, and twice that for the largest of many numbers.
HALF = {name: 2 * 7 * 2.0**-11 / _ROUNDING * allowed for name, allowed in SINGLE.items()}
HALF["rotations"] *= (
    3  # two columns from which one is made may be short: the largest seen was as much as is allowed above
)
# The small network is untrained and magnifies: half precision moves its joints by 0.75 mm in the mean (test_engine_device_graphs),
# those of hamuco-s by a tenth of that.
UNTRAINED = 10


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    cameras: list[Camera]
    images: dict[str, NDArray[np.uint8]]
    hands: list[list[Region]]


def one_scene(seed: int = 0) -> Scene:
    """A right hand in three of four cameras, a left one in others. Crops look along the cameras' axes and have their
    focal length, so that their pixels are pixels of the images."""
    matrix = np.array([[FOCAL, 0, 79.5], [0, FOCAL, 69.5], [0, 0, 1]])
    frames = views_of_a_hand(4, seed=seed).crop_from_world
    cameras = [Camera(f"camera {view}", (160, 140), matrix, np.zeros(0), frame) for view, frame in enumerate(frames)]
    images = {camera.name: waves(camera.size, 10 * seed + view) for view, camera in enumerate(cameras)}
    crop = CropCamera(np.eye(3), FOCAL, SIZE)
    seen = [((0, 1, 2), True), ((3, 0, 2), False)]
    hands = [[Region(cameras[view], crop, row, right) for view in views] for row, (views, right) in enumerate(seen)]
    return Scene(cameras, images, hands)


def network_of(bundle: Bundle) -> HaMuCo:
    """In torch, with the bundle's weights. The small one's cannot be read back: of equal constants its graphs have one."""
    if bundle.card.name != CARD.name:
        return bundle_network(bundle)
    network = small_network()
    _round_weights(network)
    return network


def assert_same(got: FusedSet, expected: FusedSet, allowed: Mapping[str, float], times: int = 1) -> None:
    """To so many times what is allowed; pixels where views are valid."""
    np.testing.assert_array_equal(got.valid, expected.valid)
    for name, limit in allowed.items():
        one, other = (np.asarray(getattr(each, name), np.float64) for each in (got, expected))
        where = expected.valid if name == "pixels" else slice(None)
        np.testing.assert_allclose(one[where], other[where], rtol=0, atol=times * limit, err_msg=name)
