from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

from hamuco.calibration.camera import CalibrationError, Camera, FloatArray, Rig

MATRIX = np.array([[900.0, 0, 618], [0, 905, 394], [0, 0, 1]])
SIZE = (1280, 720)
# Name -> coefficients; barrel and pincushion are those of real webcams, strong and rational go beyond any of them.
LENSES: dict[str, list[float]] = {
    "none": [],
    "four": [-0.1, 0.02, 0.001, -0.002],
    "barrel": [-0.338, 0.0967, -0.00135, 0.00316, -0.00375],
    "pincushion": [0.19, -0.283, -0.0024, 0.0028, 0.148],
    "rational": [8.0, -5.0, 0.001, 0.001, 1.0, 8.2, -4.0, 0.5],
    "thin prism": [-0.3, 0.1, 0.001, 0.001, 0, 0.01, 0.01, 0.001, 0.001, 0.001, 0.001, 0.001],
    "tilted": [-0.3, 0.1, 0.001, 0.001, 0, 0.01, 0.01, 0.001, 0.001, 0.001, 0.001, 0.001, 0.01, 0.01],
    "fisheye": [0.1, -0.05, 0.01, -0.02],
    "strong fisheye": [-0.3, 0.1, 0.01, -0.002],
}


def camera_with(lens: str) -> Camera:
    rotation, _ = cv2.Rodrigues(np.array([0.4, -1.1, 0.7]))
    transform = np.eye(4)
    transform[:3, :3] = rotation
    transform[:3, 3] = (0.1, -0.2, 0.8)
    return Camera("front", SIZE, MATRIX, np.array(LENSES[lens]), transform, fisheye="fisheye" in lens)


def image_grid() -> FloatArray:
    """Pixels over the whole image, edges included, (20, 20, 2)."""
    x, y = np.meshgrid(np.linspace(-0.5, SIZE[0] - 0.5, 20), np.linspace(-0.5, SIZE[1] - 0.5, 20))
    return np.stack([x, y], axis=-1)


@pytest.mark.parametrize("lens", LENSES)
def test_projecting_and_undistorting_gives_the_ray_back(lens: str) -> None:
    camera = camera_with(lens)
    pixels = image_grid()
    rays = camera.pixel_rays(pixels)
    assert rays == pytest.approx(rays / np.linalg.norm(rays, axis=-1, keepdims=True), abs=1e-15)
    points = camera.centre + rays * np.linspace(0.3, 3, 20)[:, None]
    # The iteration stops at 1e-12 px at the latest; 1e-9 rad leaves room for the arithmetic on either side.
    np.testing.assert_allclose(camera.pixel_rays(camera.project(points)), rays, atol=1e-9)
    np.testing.assert_allclose(camera.project(points), pixels, atol=1e-6)  # 1e-9 rad at 900 px focal length


@pytest.mark.parametrize("lens", [lens for lens in LENSES if "fisheye" not in lens])
def test_projection_agrees_with_opencv(lens: str) -> None:
    camera = camera_with(lens)
    points = camera.centre + camera.pixel_rays(image_grid()).reshape(-1, 3) * 0.7
    rotation, _ = cv2.Rodrigues(camera.camera_from_world[:3, :3])
    expected, _ = cv2.projectPoints(points, rotation, camera.camera_from_world[:3, 3], MATRIX, camera.distortion)
    np.testing.assert_allclose(camera.project(points), expected[:, 0], atol=1e-8)


@pytest.mark.parametrize("lens", ["fisheye", "strong fisheye"])
def test_fisheye_projection_agrees_with_opencv(lens: str) -> None:
    camera = camera_with(lens)
    points = camera.centre + camera.pixel_rays(image_grid()).reshape(-1, 3) * 0.7
    rotation, _ = cv2.Rodrigues(camera.camera_from_world[:3, :3])
    expected, _ = cv2.fisheye.projectPoints(
        points[:, None], rotation, camera.camera_from_world[:3, 3], MATRIX, camera.distortion
    )
    np.testing.assert_allclose(camera.project(points), expected.reshape(-1, 2), atol=1e-8)


@pytest.mark.parametrize("lens", LENSES)
@pytest.mark.parametrize("shape", [(), (0,), (1,), (3, 0, 2), (2, 1, 5)])
def test_any_batch_shape_passes(lens: str, shape: tuple[int, ...]) -> None:
    camera = camera_with(lens)
    points = np.broadcast_to(camera.centre + camera.camera_from_world[2, :3], (*shape, 3))  # on the optical axis
    pixels = camera.project(points)
    assert pixels.shape == (*shape, 2)
    assert camera.undistort(pixels).shape == (*shape, 2)
    rays = camera.pixel_rays(pixels)
    np.testing.assert_allclose(rays, np.broadcast_to(camera.camera_from_world[2, :3], (*shape, 3)), atol=1e-9)


@pytest.mark.parametrize("lens", LENSES)
def test_points_behind_the_camera_have_no_pixel(lens: str) -> None:
    camera = camera_with(lens)
    ahead = camera.camera_from_world[2, :3]
    pixels = camera.project(np.stack([camera.centre - ahead, camera.centre - 1e-9 * ahead, camera.centre + ahead]))
    assert np.isnan(pixels[:2]).all()
    assert np.isnan(camera.project_camera((0, 0, 0))).all()
    # Only the tilted sensor moves the optical axis off the principal point: by about 0.01 rad of 900 px.
    np.testing.assert_allclose(pixels[2], MATRIX[:2, 2], atol=1e-9 if lens != "tilted" else 10)


@pytest.mark.parametrize("lens", LENSES)
def test_points_that_are_not_numbers_stay_apart_from_their_neighbours(lens: str) -> None:
    camera = camera_with(lens)
    points = camera.centre + camera.pixel_rays(image_grid())
    expected = camera.project(points)
    points[3, 4] = np.nan
    expected[3, 4] = np.nan
    pixels = camera.project(points)
    np.testing.assert_array_equal(pixels, expected)
    rays = camera.pixel_rays(pixels)
    assert np.isnan(rays[3, 4]).all()
    assert np.isnan(rays).sum() == 3


@pytest.mark.parametrize(
    ("coefficients", "fisheye", "pixel"),
    [
        ([-0.0139, 1.419, -0.0035, -0.0036, -6.39], False, (1279, 0)),  # folds over at about 500 px from the centre
        ([-0.3, 0, 0, 0], False, (1e6, 1e6)),
        ([-0.3, 0.1, 0.01, -0.002], True, (1e6, 1e6)),
    ],
)
def test_a_pixel_that_no_ray_meets_has_no_ray(
    coefficients: list[float], fisheye: bool, pixel: tuple[float, float]
) -> None:
    camera = replace(camera_with("none"), distortion=np.array(coefficients), fisheye=fisheye)
    assert np.isnan(camera.undistort(pixel)).all()
    assert np.isfinite(camera.undistort((640, 360))).all()


def test_centre_is_the_origin_of_the_camera() -> None:
    camera = camera_with("barrel")
    np.testing.assert_allclose(camera.to_camera(camera.centre), 0, atol=1e-15)


def test_a_camera_keeps_its_own_copy() -> None:
    matrix = MATRIX.copy()
    camera = replace(camera_with("none"), matrix=matrix)
    matrix[0, 0] = 1
    assert camera.matrix[0, 0] == 900


LEFT_HANDED = np.diag([1.0, 1, -1, 1])
STRETCHED = np.diag([1.0, 1, 1.01, 1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": (0, 720)}, r"size is \(0, 720\)"),
        ({"matrix": np.eye(4)}, r"matrix has shape \(4, 4\), expected \(3, 3\)"),
        ({"matrix": np.diag([np.nan, 900, 1])}, "matrix has entries that are not finite"),
        ({"matrix": np.diag([-900.0, 900, 1])}, "not a pinhole matrix"),
        ({"matrix": np.diag([900.0, 900, 2])}, "not a pinhole matrix"),
        ({"distortion": np.zeros(3)}, "3 distortion coefficients"),
        ({"distortion": np.array([np.inf, 0, 0, 0])}, "distortion has entries that are not finite"),
        ({"distortion": np.zeros(5), "fisheye": True}, "4 distortion coefficients, got 5"),
        ({"camera_from_world": np.eye(3)}, r"camera_from_world has shape \(3, 3\)"),
        ({"camera_from_world": np.full((4, 4), np.nan)}, "camera_from_world has entries that are not finite"),
        ({"camera_from_world": LEFT_HANDED}, "det R = -1.0000"),
        ({"camera_from_world": STRETCHED}, r"\|R Rt - 1\| = 0.02"),
        ({"camera_from_world": np.eye(4)[[0, 1, 2, 2]]}, "not a rigid transform"),
    ],
)
def test_a_camera_that_cannot_be_right_is_rejected_by_name(change: dict[str, object], message: str) -> None:
    with pytest.raises(CalibrationError, match=rf"camera 'front': .*{message}"):
        replace(camera_with("none"), **change)  # type: ignore[arg-type]


def test_a_rig_finds_cameras_by_name_and_keeps_their_order() -> None:
    left, right = (replace(camera_with("none"), name=name) for name in ("left", "right"))
    rig = Rig((right, left))
    assert rig.names == ("right", "left")
    assert [camera.name for camera in rig] == ["right", "left"]
    assert len(rig) == 2
    assert rig["left"] is left
    with pytest.raises(CalibrationError, match="no camera 'top' in the rig, which has right, left"):
        rig["top"]


def test_a_rig_needs_cameras_with_different_names() -> None:
    with pytest.raises(CalibrationError, match="at least one camera"):
        Rig(())
    with pytest.raises(CalibrationError, match="not unique: front, front"):
        Rig((camera_with("none"), camera_with("barrel")))
