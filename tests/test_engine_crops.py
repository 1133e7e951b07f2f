from __future__ import annotations

import cv2
import numpy as np
import pytest

from hamuco.calibration.camera import Camera
from hamuco.engine.crops import BoxRule, CropCamera, crops_around, warp_crops

RULE = BoxRule(scale=2.0, shift=0.1)
MATRIX = np.array([[903.0, 0, 618], [0, 907, 394], [0, 0, 1]])
STRONG = np.array([-0.332, 0.0464, -0.0043, 0.0041, 0.0666])  # a real wide-angle webcam
UP = np.array([[0.0, 0.05, 0.8], [0.0, -0.05, 0.8]])


def crop_around(points: np.ndarray, up: np.ndarray, rule: BoxRule, size: int) -> CropCamera | None:
    (crop,) = crops_around(points[None], up[None], rule, size)
    return crop


def _camera(distortion: np.ndarray | None = None, fisheye: bool = False) -> Camera:
    return Camera("cam", (1280, 720), MATRIX, np.zeros(0) if distortion is None else distortion, np.eye(4), fisheye)


def _points(centre: tuple[float, float, float]) -> np.ndarray:
    return np.random.default_rng(0).uniform(-0.05, 0.05, (12, 3)) + centre


@pytest.mark.parametrize("centre", [(0.0, 0.0, 0.8), (0.4, -0.2, 0.8), (-0.5, 0.3, 0.6)])
def test_a_crop_is_upright_and_holds_its_points_with_margin(centre: tuple[float, float, float]) -> None:
    points, up = _points(centre), UP + centre - np.array([0, 0, 0.8])
    crop = crop_around(points, up, RULE, 224)
    assert crop is not None
    pixels = crop.project(points)
    extent = np.ptp(pixels, axis=0).max()
    # The box is laid out in the tangent plane of the first look, which the second one tilts by a few per cent.
    assert extent == pytest.approx(224 / RULE.scale, rel=0.06)
    wrist, knuckles = crop.project(up)
    assert abs(wrist[0] - knuckles[0]) < 0.02 * 224
    assert knuckles[1] < wrist[1]
    middle = (pixels.min(axis=0) + pixels.max(axis=0)) / 2
    assert middle[1] - 111.5 == pytest.approx(RULE.shift * extent, abs=0.03 * extent)  # the box lies above its points


def test_projection_and_directions_are_inverse() -> None:
    crop = crop_around(_points((0.3, 0.1, 0.7)), UP, RULE, 224)
    assert crop is not None
    pixels = np.random.default_rng(0).uniform(0, 223, (5, 7, 2))
    np.testing.assert_allclose(crop.project(crop.directions(pixels)), pixels, atol=1e-9)
    np.testing.assert_allclose(crop.crop_from_camera @ crop.crop_from_camera.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(crop.crop_from_camera) == pytest.approx(1)  # a mirrored crop would swap left and right


@pytest.mark.parametrize(("distortion", "fisheye"), [(np.zeros(5), False), (STRONG, False), (np.zeros(4), True)])
def test_warping_puts_every_pixel_where_the_camera_saw_it(distortion: np.ndarray, fisheye: bool) -> None:
    camera = _camera(distortion, fisheye)
    # An image whose value is its own coordinate, so that the crop says where each of its pixels came from.
    columns, rows = np.meshgrid(np.arange(1280), np.arange(720))
    crop = crop_around(_points((0.35, 0.2, 0.8)), UP, RULE, 224)
    assert crop is not None
    directions = crop.directions(np.stack(np.meshgrid(np.arange(224.0), np.arange(224.0)), axis=-1))
    expected = camera.distort(directions[..., :2] / directions[..., 2:])
    inside = ((expected > 1) & (expected < (1278, 718))).all(axis=-1)
    assert inside.mean() > 0.3
    for values, axis in ((columns, 0), (rows, 1)):
        low, out = np.zeros((720, 1280, 3), np.uint8), np.zeros((224, 224, 3), np.uint8)
        low[..., 0], low[..., 1] = values // 8, (values % 8) * 32  # 8-bit channels: coarse, and fine within 8 px
        warp_crops(low, camera, [crop], out[None])
        coarse = out[..., 0].astype(float) * 8
        # Interpolated between cells of 8 px, the coarse channel is right to within one of them.
        assert np.abs(coarse - expected[..., axis])[inside].max() < 8.1
    smooth = ((columns / 1280 + rows / 720) * 127).astype(np.uint8)[..., None].repeat(3, axis=2)
    warp_crops(smooth, camera, [crop], out[None])
    exact = (expected[..., 0] / 1280 + expected[..., 1] / 720) * 127
    # Truncation to integers in the source costs 1, rounding in remap half, its 1/32 px steps nothing visible.
    assert np.abs(out[..., 0] - exact)[inside].max() < 1.6


def test_the_coarse_map_is_exact_enough_on_a_strong_lens() -> None:
    camera = _camera(STRONG)
    crop = crop_around(_points((0.45, -0.25, 0.8)), UP, RULE, 224)
    assert crop is not None
    node = (np.arange(18) + 0.5) * 16 - 0.5 - 32
    directions = crop.directions(np.stack(np.meshgrid(node, node), axis=-1))
    nodes = camera.distort(directions[..., :2] / directions[..., 2:]).astype(np.float32)
    dense = cv2.resize(nodes, (288, 288), interpolation=cv2.INTER_LINEAR)[32:256, 32:256]
    pixels = crop.directions(np.stack(np.meshgrid(np.arange(224.0), np.arange(224.0)), axis=-1))
    exact = camera.distort(pixels[..., :2] / pixels[..., 2:])
    # px. Half the second difference of the map over 16 px, at the rim of a crop at the rim of the image.
    assert np.abs(dense - exact).max() < 0.2


def test_what_cannot_be_seen_gives_no_crop() -> None:
    assert crop_around(_points((0, 0, -0.8)), UP, RULE, 224) is None  # behind
    assert crop_around(np.full((3, 3), np.nan), UP, RULE, 224) is None
    assert crop_around(_points((0, 0, 0.06)), UP, RULE, 224) is None  # touching the lens
    assert (
        crop_around(_points((0, 0, 0.8)), np.array([[0, 0, 0.8], [0, 0, 0.9]]), RULE, 224) is None
    )  # up is along view
