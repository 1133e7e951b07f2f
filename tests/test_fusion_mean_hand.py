"""A hand in the world from what perfect networks, or some that are wrong, say of its views."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
from exact_hands import MODELS, joints_of, network_outputs, random_hand, regions_of
from numpy.typing import NDArray
from rigs import ring_rig

from hamuco.engine.hamuco import CropHands, decoded
from hamuco.engine.hand_model import mirror_axis_angle
from hamuco.engine.skinning import pose_rotations
from hamuco.engine.view_hand import Region
from hamuco.fusion.hand import HandParameters, Side
from hamuco.fusion.mean_hand import mean_hand, mean_hands

# Sums of a few dozen terms of about 1 in double precision, and a linear system with a condition of some 1e4.
EXACT = 1e-9


def _seen(hand: HandParameters, regions: list[Region]) -> CropHands:
    half_angle = np.array([region.crop.half_angle for region in regions])
    return decoded(MODELS["right"], *network_outputs(hand, regions), half_angle)


def _fused(hands: CropHands, regions: list[Region]) -> HandParameters:
    fused = mean_hand(MODELS["right"], hands, regions)
    assert fused is not None
    return fused


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("views", [1, 2, 4, 7])
def test_perfect_views_make_the_true_hand(side: Side, views: int) -> None:
    hand = random_hand(views)
    regions = regions_of(hand, side, ring_rig(views))
    fused = _fused(_seen(hand, regions), regions)
    np.testing.assert_allclose(joints_of(fused, side), joints_of(hand, side), rtol=0, atol=EXACT)
    np.testing.assert_allclose(fused.betas, hand.betas, rtol=0, atol=EXACT)
    model = MODELS[side]
    one, other = (pose_rotations(model, which.global_orient, which.hand_pose) for which in (fused, hand))
    np.testing.assert_allclose(one, other, rtol=0, atol=EXACT)


def test_a_left_hand_is_a_right_one_in_a_mirror() -> None:
    """Also where the views are wrong: the same numbers from mirrored crops make the mirrored hand."""
    hand = random_hand(3)
    regions = regions_of(hand, "right")
    rng = np.random.default_rng(0)
    exact = _seen(hand, regions)
    wrong = replace(
        exact, betas=exact.betas + rng.normal(0, 0.3, (4, 10)), pixels=exact.pixels + rng.normal(0, 0.02, (4, 21, 2))
    )
    signs = np.array([-1.0, 1.0, 1.0, 1.0])

    def mirrored(region: Region) -> Region:
        crop = region.crop
        camera = replace(region.camera, camera_from_world=signs[:, None] * region.camera.camera_from_world * signs)
        flipped = replace(crop, crop_from_camera=signs[:3, None] * crop.crop_from_camera * signs[:3])
        return Region(camera, flipped, region.track_id, False)

    right, left = _fused(wrong, regions), _fused(wrong, [mirrored(region) for region in regions])
    np.testing.assert_array_equal(left.global_orient, mirror_axis_angle(right.global_orient))
    np.testing.assert_array_equal(left.hand_pose, mirror_axis_angle(right.hand_pose))
    np.testing.assert_array_equal(left.betas, right.betas)
    np.testing.assert_array_equal(left.transl, right.transl * signs[:3])


def test_the_order_of_the_views_does_not_matter() -> None:
    hand = random_hand(4)
    regions = regions_of(hand, "left")
    exact = _seen(hand, regions)
    wrong = replace(exact, pixels=exact.pixels + np.random.default_rng(1).normal(0, 0.02, exact.pixels.shape))
    order = [2, 0, 3, 1]
    moved = CropHands(*(getattr(wrong, field.name)[order] for field in fields(CropHands)))
    one, other = _fused(wrong, regions), _fused(moved, [regions[index] for index in order])
    np.testing.assert_allclose(joints_of(one, "left"), joints_of(other, "left"), rtol=0, atol=EXACT)


def test_a_view_that_looks_at_something_else_does_not_move_the_hand() -> None:
    hand = random_hand(5)
    regions = regions_of(hand, "right")
    exact = _seen(hand, regions)
    shift: NDArray[np.float64] = np.zeros((4, 1, 2))
    shift[2] = 0.5  # half crops: 5 cm
    fused = _fused(replace(exact, pixels=exact.pixels + shift), regions)
    np.testing.assert_allclose(joints_of(fused, "right"), joints_of(hand, "right"), rtol=0, atol=EXACT)


def test_views_that_say_nothing_of_a_place_make_no_hand() -> None:
    regions = regions_of(random_hand(6), "right")
    nowhere = _seen(random_hand(6), regions)
    assert mean_hand(MODELS["right"], replace(nowhere, pixels=np.full((4, 21, 2), np.nan)), regions) is None


def test_several_hands_are_fused_as_each_by_itself() -> None:
    hands = [random_hand(6), random_hand(7), random_hand(8)]
    regions = [regions_of(hands[0], "right"), regions_of(hands[1], "left"), regions_of(hands[2], "right")]
    seen = [_seen(hand, own) for hand, own in zip(hands, regions, strict=True)]
    seen[2] = replace(seen[2], pixels=np.full_like(seen[2].pixels, np.nan))  # nobody knows where
    one, other, lost = mean_hands(MODELS["right"], CropHands.stack(seen), regions)
    assert lost is None
    for fused, number in ((one, 0), (other, 1)):
        assert fused is not None
        alone = _fused(seen[number], regions[number])
        for field in fields(alone):
            np.testing.assert_allclose(getattr(fused, field.name), getattr(alone, field.name), rtol=0, atol=EXACT)
