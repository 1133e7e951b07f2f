"""HaMuCo as rows of the accuracy table, from a bundle; torch is not needed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hamuco.engine.hamuco import HaMuCoNetworks, Looks
from hamuco.engine.hamuco_views import SIGMA, joint_rays, right_crops
from hamuco.engine.hand_model import HandModel
from hamuco.engine.skinning import forward
from hamuco.engine.view_hand import Region, ViewHand
from hamuco.fusion.hand import Side
from hamuco.fusion.mean_hand import mean_hand
from hamuco.training.methods import HandViews, Method, TriangulationAndFit
from hamuco.training.tally import Estimate

NOTE = (
    "HaMuCo single-view: what the estimator says of each view by itself, fused. Multi-view: the views refine each other "
    "before. Fused: mean parameters of all views, placed where most of their landmarks agree, each moment for itself. "
    "Multi-view + fit: the refined landmarks triangulated and fitted instead, as live tracking does."
)


class HaMuCoMethods:
    """Makes the rows for any number of subsets of the cameras; each view is looked at once for all of them."""

    def __init__(self, networks: HaMuCoNetworks) -> None:
        self.networks = networks
        self._images: Mapping[str, NDArray[np.uint8]] = {}
        self._looks: dict[ViewHand, Looks] = {}  # of the moment that these images show

    def __call__(self) -> list[Method]:
        return [HaMuCo(self, "single-view"), HaMuCo(self, "multi-view"), HaMuCoAndFit(self)]

    def look(self, hand: HandViews) -> tuple[Looks, list[Region]]:
        """What the estimator sees in the views of a hand, and where."""
        if hand.images is not self._images:
            self._images, self._looks = hand.images, {}
        regions = [replace(view.region, right=hand.side == "right") for view in hand.views]
        new = [index for index, view in enumerate(hand.views) if view not in self._looks]
        if new:
            crops = right_crops(hand.images, [regions[index] for index in new], self.networks.image_size)
            half_angle = np.array([regions[index].crop.half_angle for index in new])
            looks = self.networks.look(crops, half_angle)
            for row, index in enumerate(new):
                self._looks[hand.views[index]] = looks.part(row)
        return Looks.together([self._looks[view] for view in hand.views]), regions


class HaMuCo:
    """One row; see `NOTE`."""

    min_views = 1

    def __init__(self, methods: HaMuCoMethods, kind: Literal["single-view", "multi-view"]) -> None:
        self.name = f"HaMuCo {kind}"
        self._methods, self._together = methods, kind == "multi-view"
        model = methods.networks.hand
        self._models: Mapping[Side, HandModel] = {"right": model, "left": model.mirrored()}

    def __call__(self, hand: HandViews) -> Estimate | None:
        looks, regions = self._methods.look(hand)
        hands = looks.hands
        if self._together:
            refined = self._methods.networks.refine(looks, np.arange(len(regions))[None])
            hands = refined.part(0)
        parameters = mean_hand(self._methods.networks.hand, hands, regions)
        if parameters is None:
            return None
        own = parameters.global_orient, parameters.hand_pose, parameters.betas, parameters.transl
        mesh = forward(self._models[hand.side], *own)
        return Estimate(mesh.landmarks, mesh.vertices)


class HaMuCoAndFit:
    """One row; see `NOTE`."""

    name = "HaMuCo multi-view + fit"
    min_views = TriangulationAndFit.min_views

    def __init__(self, methods: HaMuCoMethods) -> None:
        self._methods, self._fit = methods, TriangulationAndFit(methods.networks.hand)

    def __call__(self, hand: HandViews) -> Estimate | None:
        looks, regions = self._methods.look(hand)
        pixels = self._methods.networks.refine(looks, np.arange(len(regions))[None]).pixels[0]
        views = tuple(
            replace(view, rays=joint_rays(region, own), ray_sigma=SIGMA * region.crop.half_angle)
            for view, region, own in zip(hand.views, regions, pixels, strict=True)
        )
        return self._fit(replace(hand, views=views))
