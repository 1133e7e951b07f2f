"""HaMuCo's rows of the accuracy table, with perfect networks and with untrained ones."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from exact_hands import MODELS, joints_of, network_outputs, random_hand, regions_of
from numpy.typing import NDArray

from hamuco.engine.bundle import Bundle
from hamuco.engine.hamuco import HaMuCoNetworks
from hamuco.engine.hamuco_views import SIGMA
from hamuco.engine.skinning import forward
from hamuco.engine.view_hand import Region, ViewHand
from hamuco.fusion.hand import HandParameters, Side
from hamuco.training.hamuco_methods import HaMuCoMethods
from hamuco.training.methods import HandViews, TriangulationAndFit
from hamuco.training.tally import Estimate

FloatArray = NDArray[np.float64]


@pytest.fixture(scope="module")
def networks(bundle: Bundle) -> HaMuCoNetworks:
    return HaMuCoNetworks(bundle, "f32")


def _views(regions: list[Region]) -> tuple[ViewHand, ...]:
    """Of which only the region matters; what side it is, the data set says."""
    return tuple(ViewHand(Region(one.camera, one.crop, 0), 0, np.zeros((21, 3)), 0.01, 1.0, 0.5) for one in regions)


def _exactly(view: ViewHand, joints: FloatArray) -> ViewHand:
    offsets = joints - view.camera.centre
    rays = offsets / np.linalg.norm(offsets, axis=1, keepdims=True)
    return replace(view, rays=rays, ray_sigma=SIGMA * view.region.crop.half_angle)


def _images(regions: list[Region], seed: int = 0) -> dict[str, NDArray[np.uint8]]:
    rng = np.random.default_rng(seed)
    return {one.camera.name: rng.integers(0, 256, (720, 1280, 3), dtype=np.uint8) for one in regions}


class Perfect:
    """Instead of the networks of one hand whose views are looked at in the order of its regions."""

    def __init__(self, hand: HandParameters, regions: list[Region]) -> None:
        self.outputs, self.looked = network_outputs(hand, regions), 0

    def estimator(self, crops: NDArray[np.uint8]) -> list[FloatArray]:
        rows = slice(self.looked, self.looked + len(crops))
        self.looked += len(crops)
        return [output[rows] for output in self.outputs]

    def interaction(self, crops: list[NDArray[np.generic]], places: NDArray[np.int64]) -> list[FloatArray]:
        # The estimator's pose tells which views these are, in whatever order.
        pose, _, camera = self.outputs
        order = [int(np.abs(pose - own).sum(axis=(1, 2)).argmin()) for own in np.asarray(crops[-2])]
        return [pose[order][None], camera[order][None]]


@pytest.mark.parametrize("side", ["right", "left"])
def test_perfect_networks_give_the_true_hand_and_look_once_at_each_view(
    networks: HaMuCoNetworks, monkeypatch: pytest.MonkeyPatch, side: Side
) -> None:
    hand = random_hand(7)
    regions = regions_of(hand, side)
    perfect = Perfect(hand, regions)
    monkeypatch.setattr(networks, "_estimator", perfect.estimator)
    monkeypatch.setattr(networks, "_interaction", perfect.interaction)
    methods, views, images = HaMuCoMethods(networks), _views(regions), _images(regions)
    true = forward(MODELS[side], hand.global_orient, hand.hand_pose, hand.betas, hand.transl)
    assert true.vertices is not None
    for subset in ([0], [0, 1], [0, 1, 2, 3], [3, 1]):
        single, multi, fitted = methods()
        hand_views = HandViews("s", side, tuple(views[index] for index in subset), images)
        if len(subset) >= fitted.min_views:
            estimate = fitted(hand_views)
            exact = tuple(_exactly(view, joints_of(hand, side)) for view in hand_views.views)
            expected = TriangulationAndFit(MODELS["right"])(replace(hand_views, views=exact))
            assert estimate is not None
            assert expected is not None
            np.testing.assert_allclose(estimate.joints, expected.joints, rtol=0, atol=1e-6)
        for method in (single, multi):
            estimate = method(hand_views)
            assert estimate is not None
            assert estimate.vertices is not None
            # Crops go through no pixel here: what is left is rounding, times ten for a view from one side.
            np.testing.assert_allclose(estimate.joints, joints_of(hand, side), rtol=0, atol=1e-4)
            np.testing.assert_allclose(estimate.vertices, true.vertices, rtol=0, atol=1e-4)
    assert perfect.looked == 4


def test_untrained_networks_look_at_the_images_of_the_moment(networks: HaMuCoNetworks) -> None:
    regions = regions_of(random_hand(8), "right")
    views, methods = _views(regions), HaMuCoMethods(networks)
    single, multi, fitted = methods()
    names = [method.name for method in (single, multi, fitted)]
    assert names == ["HaMuCo single-view", "HaMuCo multi-view", "HaMuCo multi-view + fit"]
    first, second = (HandViews("s", "right", views, _images(regions, seed)) for seed in (0, 1))
    looks = [methods.look(moment)[0] for moment in (first, second, first)]
    np.testing.assert_array_equal(looks[0].pose, looks[2].pose)
    assert np.abs(looks[0].pose - looks[1].pose).max() > 1e-3
    alone: list[Estimate | None] = [method(first) for method in (single, multi, fitted)]
    for estimate in alone:
        assert estimate is None or np.isfinite(estimate.joints).all()
