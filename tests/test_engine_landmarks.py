from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from hamuco.calibration.camera import Camera
from hamuco.capture.frame import Frame, FrameSet
from hamuco.engine.landmarks import LandmarkEstimator, region_from_palm, regions_from_joints
from hamuco.engine.model_files import PALM_DETECTOR, model_path
from hamuco.engine.palm_detector import PalmDetector
from hamuco.engine.view_hand import Region, ViewHand


@pytest.fixture(scope="module")
def estimator() -> LandmarkEstimator:
    return LandmarkEstimator()


def _photo(path: Path, mirror: bool = False) -> tuple[Camera, FrameSet]:
    image = cv2.imread(str(path))
    assert image is not None
    pixels = np.ascontiguousarray(image[:, ::-1] if mirror else image).astype(np.uint8)
    height, width = pixels.shape[:2]
    matrix = np.array([[width, 0, width / 2], [0, width, height / 2], [0, 0, 1.0]])
    camera = Camera("cam", (width, height), matrix, np.zeros(0), np.eye(4))
    return camera, FrameSet(0, {"cam": Frame("cam", 0, 0, 0, 0, None, pixels)})


def _look(estimator: LandmarkEstimator, frame_set: FrameSet, regions: list[Region]) -> list[ViewHand]:
    return estimator(frame_set, regions, estimator.crop(frame_set, regions))


def _hands(estimator: LandmarkEstimator, camera: Camera, frame_set: FrameSet) -> list[ViewHand]:
    """Hands of a photograph, from left to right."""
    palms = PalmDetector(model_path(PALM_DETECTOR))([frame_set.frames["cam"].image])[0]
    regions = [region for palm in palms if (region := region_from_palm(camera, palm)) is not None]
    hands = _look(estimator, frame_set, regions)
    return sorted(hands, key=lambda hand: float(hand.pixels[0, 0]))


def test_two_left_hands_seen_from_the_back(estimator: LandmarkEstimator, data_dir: Path) -> None:
    upright, upside_down = _hands(estimator, *_photo(data_dir / "tfjs-hands/hands.jpg"))
    for hand in (upright, upside_down):
        assert hand.presence > 0.9
        assert hand.right < 0.2
    assert upright.pixels[4, 0] > upright.pixels[20, 0]  # the thumb to the right of the little finger
    assert upside_down.pixels[4, 0] < upside_down.pixels[20, 0]


def test_a_mirrored_photograph_has_the_other_side(estimator: LandmarkEstimator, data_dir: Path) -> None:
    path = data_dir / "mediapipe-samples/hand_thumb_up.jpg"
    (hand,) = _hands(estimator, *_photo(path))
    (mirrored,) = _hands(estimator, *_photo(path, mirror=True))
    assert (hand.right > 0.5) != (mirrored.right > 0.5)
    width = _photo(path)[0].size[0]
    # The same network on mirrored pixels: its own asymmetry is a few per cent of the hand's 200 px.
    flipped = np.stack([width - 1 - mirrored.pixels[:, 0], mirrored.pixels[:, 1]], axis=1)
    assert np.median(np.linalg.norm(flipped - hand.pixels, axis=1)) < 12


def test_rays_and_pixels_are_the_same_thing(estimator: LandmarkEstimator, data_dir: Path) -> None:
    camera, frame_set = _photo(data_dir / "tfjs-hands/hands.jpg")
    for hand in _hands(estimator, camera, frame_set):
        np.testing.assert_allclose(camera.project(camera.centre + hand.rays), hand.pixels, atol=1e-6)
        np.testing.assert_allclose(np.linalg.norm(hand.rays, axis=1), 1, atol=1e-12)


def test_a_second_look_around_the_joints_agrees(estimator: LandmarkEstimator, data_dir: Path) -> None:
    camera, frame_set = _photo(data_dir / "tfjs-hands/hands.jpg")
    first = _hands(estimator, camera, frame_set)[0]
    (region,) = regions_from_joints([camera], [(7, camera.centre + 0.5 * first.rays)])
    (second,) = _look(estimator, frame_set, [region])
    assert second.region.track_id == 7
    assert np.median(np.linalg.norm(second.pixels - first.pixels, axis=1)) < 8  # of a hand of 250 px
    # Without a hand in it, the network says so.
    blank = FrameSet(0, {"cam": Frame("cam", 0, 0, 0, 0, None, np.full_like(frame_set.frames["cam"].image, 90))})
    (nothing,) = _look(estimator, blank, [region])
    assert nothing.presence < 0.5


def test_a_batch_is_the_same_as_one_by_one(estimator: LandmarkEstimator, data_dir: Path) -> None:
    camera, frame_set = _photo(data_dir / "tfjs-hands/hands.jpg")
    regions = [hand.region for hand in _hands(estimator, camera, frame_set)]
    for index, hand in enumerate(_look(estimator, frame_set, regions)):
        (alone,) = _look(estimator, frame_set, [regions[index]])
        # bf16 carries 8 bits: another order of summation may turn the last, 1/256 of the crop's 224 px at 1 to 2 image px.
        np.testing.assert_allclose(alone.pixels, hand.pixels, atol=2.5)


def test_no_region_is_no_work(estimator: LandmarkEstimator) -> None:
    assert _look(estimator, FrameSet(0, {}), []) == []


def test_a_hand_outside_the_image_has_no_region() -> None:
    camera = Camera("cam", (640, 480), np.array([[600.0, 0, 320], [0, 600, 240], [0, 0, 1]]), np.zeros(0), np.eye(4))
    joints = np.random.default_rng(0).uniform(-0.05, 0.05, (21, 3))
    places = [(0, joints + [0, 0, 0.6]), (1, joints + [0.6, 0, 0.6]), (2, joints - [0, 0, 0.6]), (3, np.nan * joints)]
    assert [region.track_id for region in regions_from_joints([camera], places)] == [0]
    assert regions_from_joints([camera], []) == []
