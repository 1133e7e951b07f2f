from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from hamuco.engine.model_files import PALM_DETECTOR, model_path
from hamuco.engine.palm_detector import MIDDLE_MCP_POINT, WRIST_POINT, PalmDetector


@pytest.fixture(scope="module")
def detector() -> PalmDetector:
    return PalmDetector(model_path(PALM_DETECTOR))


def _photo(data_dir: Path, name: str) -> np.ndarray:
    image = cv2.imread(str(data_dir / name))
    assert image is not None
    return image.astype(np.uint8)


@pytest.mark.parametrize(("name", "count"), [("tfjs-hands/hands.jpg", 2), ("mediapipe-samples/hand_thumb_up.jpg", 1)])
def test_every_hand_of_a_photograph_is_found_once(
    detector: PalmDetector, data_dir: Path, name: str, count: int
) -> None:
    (palms,) = detector([_photo(data_dir, name)])
    assert len(palms) == count
    assert all(palm.score > 0.5 for palm in palms)


def test_the_detection_follows_the_image(detector: PalmDetector, data_dir: Path) -> None:
    image = _photo(data_dir, "tfjs-hands/hands.jpg")
    height, width = image.shape[:2]
    padded = np.zeros((height + 200, width + 300, 3), np.uint8)
    padded[150 : 150 + height, 100 : 100 + width] = image
    plain = sorted(detector([image])[0], key=lambda palm: palm.box[0])
    moved = sorted(detector([padded])[0], key=lambda palm: palm.box[0])
    for one, other in zip(plain, moved, strict=True):
        # The network sees the second image 1.4 times smaller, 5 px of it per px of its input.
        np.testing.assert_allclose(other.points - [100, 150], one.points, atol=15)


def test_the_palm_points_say_which_way_is_up(detector: PalmDetector, data_dir: Path) -> None:
    up, down = sorted(detector([_photo(data_dir, "tfjs-hands/hands.jpg")])[0], key=lambda palm: palm.box[0])
    for palm, direction in ((up, -1), (down, 1)):  # one hand's fingers point up in the image, the other's down
        assert direction * (palm.points[MIDDLE_MCP_POINT][1] - palm.points[WRIST_POINT][1]) > 50


@pytest.mark.parametrize("shape", [(720, 1280), (1, 1), (37, 500), (500, 37)])
def test_nothing_is_found_in_nothing(detector: PalmDetector, shape: tuple[int, int]) -> None:
    assert detector([np.full((*shape, 3), 90, np.uint8)]) == [[]]
