"""A bundle's networks at work. They are untrained: what they say is looked at only for how it depends on what they see."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from exact_hands import MODELS, joints_of, network_outputs, random_hand, regions_of
from numpy.typing import NDArray

from hamuco.engine.bundle import HAMUCO_S, Bundle, BundleError, load_bundle
from hamuco.engine.crops import BoxRule
from hamuco.engine.hamuco import CropHands, HaMuCoNetworks, Looks, axis_angle, rotations_from_6d
from hamuco.engine.openvino_networks import inference_precision
from hamuco.engine.skinning import pose_rotations
from hamuco.fusion.hand import Side
from hamuco.training.networks.rotations import rotation_6d_to_matrix

# Outputs of about 1 through some 50 layers in single precision, 6e-8.
ROUNDING = 2e-5


@pytest.fixture(scope="module")
def networks(bundle: Bundle) -> HaMuCoNetworks:
    return HaMuCoNetworks(bundle, "f32")


def _crops(count: int, size: int = 64) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    rng = np.random.default_rng(count)
    return rng.integers(0, 256, (count, size, size, 3), dtype=np.uint8), rng.uniform(0.1, 0.3, count)


def _assert_same(one: CropHands, other: CropHands) -> None:
    for field in fields(CropHands):
        np.testing.assert_allclose(getattr(one, field.name), getattr(other, field.name), rtol=0, atol=ROUNDING)


def _take(hands: CropHands, *index: object) -> CropHands:
    return CropHands(*(getattr(hands, field.name)[index] for field in fields(CropHands)))


def test_views_change_places_without_changing_anything(networks: HaMuCoNetworks) -> None:
    crops, half_angle = _crops(4)
    order = np.array([2, 0, 3, 1])
    looks, moved = networks.look(crops, half_angle), networks.look(crops[order], half_angle[order])
    _assert_same(_take(looks.hands, order), moved.hands)
    one = networks.refine(looks, np.arange(4)[None])
    _assert_same(_take(one, slice(None), order), networks.refine(looks, order[None]))
    _assert_same(_take(one, slice(None), order), networks.refine(moved, np.arange(4)[None]))


def test_a_view_that_is_missing_is_as_if_it_were_not_there(networks: HaMuCoNetworks) -> None:
    looks = networks.look(*_crops(5))
    together = networks.refine(looks, np.array([[0, -1, 1], [2, 3, 4], [-1, -1, -1]]))
    assert all(np.isfinite(getattr(together, field.name)).all() for field in fields(CropHands))
    _assert_same(_take(together, [0], [[0, 2]]), networks.refine(looks, np.array([[0, 1]])))
    _assert_same(_take(together, [1]), networks.refine(looks, np.array([[2, 3, 4]])))
    # Views do tell each other something, or this test would not notice.
    assert np.abs(together.pixels[0, 0] - networks.refine(looks, np.array([[0]])).pixels[0, 0]).max() > 100 * ROUNDING


def test_crops_are_looked_at_one_by_one(networks: HaMuCoNetworks) -> None:
    crops, half_angle = _crops(3)
    looks = networks.look(crops, half_angle)
    parts = [networks.look(crops[[index]], half_angle[[index]]) for index in range(3)]
    for index, part in enumerate(parts):
        _assert_same(part.hands, looks.part(index).hands)
    _assert_same(
        networks.refine(Looks.together(parts), np.array([[0, 1, 2]])), networks.refine(looks, np.array([[0, 1, 2]]))
    )


def test_rotations_are_those_of_training() -> None:
    six = np.random.default_rng(0).normal(size=(50, 6))
    expected = rotation_6d_to_matrix(torch.tensor(six)).numpy()
    np.testing.assert_allclose(rotations_from_6d(six), expected, rtol=0, atol=1e-12)
    assert np.isfinite(rotations_from_6d(np.zeros((1, 6)))).all()


@pytest.mark.parametrize("side", ["right", "left"])
def test_what_perfect_networks_say_is_decoded_into_the_true_landmarks(
    networks: HaMuCoNetworks, monkeypatch: pytest.MonkeyPatch, side: Side
) -> None:
    hand = random_hand(1)
    regions = regions_of(hand, side)
    pose, betas, camera = network_outputs(hand, regions)
    monkeypatch.setattr(networks, "_estimator", lambda crops: [pose, betas, camera])
    monkeypatch.setattr(networks, "_interaction", lambda crops, places: [pose[None], camera[None]])
    half_angle = np.array([region.crop.half_angle for region in regions])
    looks = networks.look(np.zeros((4, 64, 64, 3), np.uint8), half_angle)
    refined = networks.refine(looks, np.arange(4)[None])
    for index, region in enumerate(regions):
        seen = region.crop.project(region.camera.to_camera(joints_of(hand, side)))
        uv = (2 * seen + 1) / region.crop.size - 1
        if side == "left":
            uv[:, 0] *= -1  # the crop is mirrored
        for hands in (looks.hands, refined.part(0)):
            np.testing.assert_allclose(hands.pixels[index], uv, rtol=0, atol=1e-9)
    orient, fingers = axis_angle(MODELS["right"], looks.hands.rotations)
    np.testing.assert_allclose(
        pose_rotations(MODELS["right"], orient, fingers), looks.hands.rotations, rtol=0, atol=1e-9
    )


def test_a_bundle_for_other_crops_is_refused(bundle: Bundle) -> None:
    other = replace(bundle, card=replace(bundle.card, box_rule=BoxRule(2.6, 0.0)))
    with pytest.raises(
        BundleError, match=r"trained on crops laid by BoxRule\(scale=2.6.*ours are by BoxRule\(scale=2.0"
    ):
        HaMuCoNetworks(other)


def test_bfloat16_is_another_rounding_of_the_same(bundle: Bundle, networks: HaMuCoNetworks) -> None:
    crops, half_angle = _crops(4)
    exact, fast = (one.look(crops, half_angle) for one in (networks, HaMuCoNetworks(bundle, "bf16")))
    # 8 bits, 0.4 %, per layer, through some 50 layers: 3 % of a hand of 0.1 m in the mean, and as much again for the
    # exponential functions of the locator. The processor may not have it.
    assert np.abs(fast.hands.joints - exact.hands.joints).mean() < 0.006


@pytest.mark.skipif(inference_precision() != "bf16", reason="the processor does not compute in bfloat16")
def test_maps_reach_the_interaction_network_as_they_were_computed() -> None:
    """Of trained networks: untrained ones magnify what was rounded."""
    bundle = load_bundle(HAMUCO_S)
    crops, half_angle = _crops(4, bundle.card.image_size)
    places = np.arange(4)[None]
    exact, fast = HaMuCoNetworks(bundle, "f32"), HaMuCoNetworks(bundle, "bf16")
    looks = exact.look(crops, half_angle), fast.look(crops, half_angle)
    differ = [np.abs(one - other).mean() for one, other in (
        (looks[0].hands.joints, looks[1].hands.joints),
        (exact.refine(looks[0], places).joints, fast.refine(looks[1], places).joints),
    )]  # fmt: skip
    # Rounding moves the joints of both by as much; maps that were taken for other numbers move them by a centimetre.
    assert differ[1] < max(3 * differ[0], 0.001)
    with pytest.raises(TypeError, match="of another precision"):
        fast.refine(looks[0], places)
    with pytest.raises(TypeError, match="of another precision"):
        exact.refine(looks[1], places)
