"""HaMuCo in place of the default estimator, on rendered footage with truth, by perfect networks and by untrained ones."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from exact_hands import joints_of, network_outputs, random_hand, regions_of
from rigs import ring_rig

from hamuco.calibration.camera import Rig
from hamuco.capture.frame import Frame, FrameSet
from hamuco.capture.recording import Recording
from hamuco.engine import openvino_networks
from hamuco.engine.bundle import Bundle
from hamuco.engine.crops import CropCamera
from hamuco.engine.hamuco import HaMuCoNetworks
from hamuco.engine.hamuco_views import SIGMA, HaMuCoEstimator, right_crops
from hamuco.engine.landmarks import LandmarkEstimator, regions_from_joints
from hamuco.engine.view_hand import Region
from hamuco.fusion.hand import Side
from hamuco.training.datasets.recorded import Recorded

DEMO_CLIP = Path(__file__).parents[1] / "app/demo_clip"


@pytest.fixture(scope="module")
def networks(bundle: Bundle) -> HaMuCoNetworks:
    return HaMuCoNetworks(bundle, "f32")


@pytest.fixture
def estimator(networks: HaMuCoNetworks) -> HaMuCoEstimator:
    return HaMuCoEstimator(Recording.open(DEMO_CLIP).rig, networks, LandmarkEstimator())


@pytest.fixture(scope="module")
def filmed() -> tuple[FrameSet, list[Region]]:
    """The first moment of the demo clip, and where its two hands are."""
    sample = next(iter(Recorded(DEMO_CLIP)))
    frames = {name: Frame(name, 0, 1000, 0, 1000, None, image) for name, image in sample.images.items()}
    regions = regions_from_joints(sample.cameras, [(index, hand.joints) for index, hand in enumerate(sample.hands)])
    known = [replace(one, right=sample.hands[one.track_id or 0].side == "right") for one in regions]
    assert len(known) == 8
    return FrameSet(0, frames), known


def _grey(names: tuple[str, ...]) -> FrameSet:
    image = np.full((720, 1280, 3), 128, np.uint8)
    return FrameSet(0, {name: Frame(name, 0, 7, 0, 7, None, image) for name in names})


@pytest.mark.parametrize("side", ["right", "left"])
def test_perfect_networks_make_rays_through_the_true_joints(
    networks: HaMuCoNetworks, estimator: HaMuCoEstimator, monkeypatch: pytest.MonkeyPatch, side: Side
) -> None:
    hand = random_hand(2)
    regions = regions_of(hand, side)
    pose, betas, camera = network_outputs(hand, regions)
    monkeypatch.setattr(networks, "_estimator", lambda crops: [pose, betas, camera])
    monkeypatch.setattr(networks, "_interaction", lambda crops, places: [pose[None], camera[None]])
    frame_set = _grey(ring_rig(4).names)
    views = estimator(frame_set, regions, estimator.crop(frame_set, regions))
    joints = joints_of(hand, side)
    # In grey images the landmark network sees no hand where it looks; what is said of that view means nothing.
    assert [view.presence > 0.5 for view in views] == [False, True, True, True]
    for region, view in list(zip(regions, views, strict=True))[1:]:
        away = joints - region.camera.centre
        np.testing.assert_allclose(view.rays, away / np.linalg.norm(away, axis=1, keepdims=True), rtol=0, atol=1e-9)
        assert (view.region, view.t_capture_ns) == (region, 7)
        assert view.ray_sigma == SIGMA * region.crop.half_angle


def test_a_left_hand_is_a_right_one_in_a_mirror(networks: HaMuCoNetworks) -> None:
    rights = regions_of(random_hand(2), "right")
    mirror = np.array([-1.0, 1.0, 1.0, 1.0])
    lefts = [
        Region(
            replace(one.camera, camera_from_world=mirror[:, None] * one.camera.camera_from_world * mirror),
            CropCamera(mirror[:3, None] * one.crop.crop_from_camera * mirror[:3], one.crop.focal, one.crop.size),
            one.track_id,
            False,
        )
        for one in rights
    ]
    crops = np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3), dtype=np.uint8)
    rig = ring_rig(4)
    landmarks = LandmarkEstimator()
    seen, mirrored = (
        HaMuCoEstimator(rig, networks, landmarks)(_grey(rig.names), regions, crops) for regions in (rights, lefts)
    )
    for one, other in zip(seen, mirrored, strict=True):
        np.testing.assert_allclose(other.rays, one.rays * mirror[:3], rtol=0, atol=1e-12)


def test_crops_of_left_hands_are_mirrored(filmed: tuple[FrameSet, list[Region]]) -> None:
    frame_set, regions = filmed
    images = {name: frame.image for name, frame in frame_set.frames.items()}
    crops = right_crops(images, regions, 64)
    plain = right_crops(images, [replace(region, right=True) for region in regions], 64)
    for region, crop, as_it_is in zip(regions, crops, plain, strict=True):
        np.testing.assert_array_equal(crop, as_it_is if region.right else as_it_is[:, ::-1])


def test_every_region_is_checked_once_in_four_sets_by_the_landmark_network(
    estimator: HaMuCoEstimator, filmed: tuple[FrameSet, list[Region]]
) -> None:
    frame_set, regions = filmed
    voted: list[int] = []
    for _ in range(4):
        views = estimator(frame_set, regions, estimator.crop(frame_set, regions))
        voted += [index for index, view in enumerate(views) if view.right != 0.5]
    assert sorted(voted) == list(range(8))
    # The rendered hands are seen, most of them as what they are.
    assert sum(view.presence > 0.5 for view in views) >= 6
    again = estimator(frame_set, regions, estimator.crop(frame_set, regions))
    assert [view.presence for view in again] == [view.presence for view in views]
    assert [index for index, view in enumerate(again) if view.right != 0.5] == voted[:2]


def test_a_region_without_a_hand_is_found_out_and_shown_to_no_other_view(
    networks: HaMuCoNetworks, estimator: HaMuCoEstimator, filmed: tuple[FrameSet, list[Region]]
) -> None:
    frame_set, regions = filmed
    own = [region for region in regions if region.track_id == 0]
    first = own[0].camera.name
    frames = dict(frame_set.frames)
    frames[first] = replace(frames[first], image=np.full_like(frames[first].image, 90))
    empty = FrameSet(0, frames)
    for _ in range(4):
        views = estimator(empty, own, estimator.crop(empty, own))
    assert views[0].presence < 0.5
    assert sum(view.presence > 0.5 for view in views[1:]) >= 2
    seeing = [region for region, view in zip(own, views, strict=True) if view.presence > 0.5]
    fresh = HaMuCoEstimator(Recording.open(DEMO_CLIP).rig, networks, LandmarkEstimator())
    alone = fresh(empty, seeing, fresh.crop(empty, seeing))
    rays = [view.rays for view in views if view.presence > 0.5]
    np.testing.assert_allclose(rays, [view.rays for view in alone], rtol=0, atol=2e-5)  # single precision


def test_no_region_is_no_work_and_what_is_gone_is_forgotten(
    estimator: HaMuCoEstimator, filmed: tuple[FrameSet, list[Region]]
) -> None:
    frame_set, regions = filmed
    assert estimator(frame_set, [], estimator.crop(frame_set, [])) == []
    for _ in range(4):
        estimator(frame_set, regions, estimator.crop(frame_set, regions))
    assert max(estimator.checks.known(regions)) < 1  # the landmark network is never that sure
    left = [region for region in regions if region.track_id == 1]
    estimator(frame_set, left, estimator.crop(frame_set, left))
    assert [known < 1 for known in estimator.checks.known(regions)] == [region in left for region in regions]


def test_a_camera_without_a_frame_costs_no_compilation_and_changes_nothing_for_the_others(
    networks: HaMuCoNetworks,
    estimator: HaMuCoEstimator,
    filmed: tuple[FrameSet, list[Region]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    frame_set, regions = filmed
    gone = next(iter(frame_set.frames))
    frames = {name: frame for name, frame in frame_set.frames.items() if name != gone}
    rest = [region for region in regions if region.camera.name != gone]
    three = FrameSet(0, frames)
    with monkeypatch.context() as patch:
        patch.setattr(openvino_networks, "compiled", lambda *of: pytest.fail("compiled in mid-run"))
        views = estimator(three, rest, estimator.crop(three, rest))
    alone = HaMuCoEstimator(Rig(tuple(region.camera for region in rest[::2])), networks, LandmarkEstimator())
    others = alone(three, rest, alone.crop(three, rest))
    # Single precision, in another order: see test_a_region_without_a_hand_is_found_out_and_shown_to_no_other_view.
    np.testing.assert_allclose([one.rays for one in views], [one.rays for one in others], rtol=0, atol=2e-5)
