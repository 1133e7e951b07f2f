from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from numpy.typing import NDArray

from hamuco.training.synthetic.rigs import LAYOUTS, MAX_VIEWS, WORKSPACE_RADIUS, Layout, make_rig, parse_rig

SIZES = ((1280, 720), (640, 480), (720, 1280), (96, 96))


def workspace_hull() -> NDArray[np.float64]:
    directions = np.random.default_rng(0).normal(size=(2000, 3))
    return np.asarray(WORKSPACE_RADIUS * directions / np.linalg.norm(directions, axis=1, keepdims=True))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("size", SIZES)
def test_every_camera_sees_the_whole_workspace(layout: Layout, size: tuple[int, int]) -> None:
    hull = workspace_hull()
    for seed in range(6):
        views = 2 if layout == "stereo" else 1 + 3 * seed
        rig = make_rig(layout, views, size, np.random.default_rng(seed))
        assert rig.names == tuple(f"cam_{index}" for index in range(views))
        for camera in rig:
            pixels = camera.project(hull)
            assert ((pixels > -0.5) & (pixels < np.array(size) - 0.5)).all()
            distance = np.linalg.norm(camera.centre)
            assert 0.45 - 1e-9 < distance < 1.3  # rounding
            assert camera.centre[2] > -0.05  # m; nobody looks through the table


@pytest.mark.parametrize("size", SIZES)
def test_distortion_can_be_undone_in_the_whole_image(size: tuple[int, int]) -> None:
    grid = np.stack(np.meshgrid(np.linspace(-0.5, size[0] - 0.5, 25), np.linspace(-0.5, size[1] - 0.5, 25)), axis=-1)
    shifts = []
    for seed in range(40):
        camera = make_rig("random", 1, size, np.random.default_rng(seed)).cameras[0]
        normalized = camera.undistort(grid)
        assert np.isfinite(normalized).all()
        # Neighbouring pixels stay neighbours, in order.
        assert (np.diff(normalized[..., 0], axis=1) > 0).all()
        assert (np.diff(normalized[..., 1], axis=0) > 0).all()
        ideal = normalized * np.diag(camera.matrix)[:2] + camera.matrix[:2, 2]
        shifts.append(np.abs(ideal - grid).max() / max(size))
        fov = 2 * np.arctan(0.5 * max(size) / camera.matrix[0, 0])
        assert np.radians(54) < fov < np.radians(86)  # 55 to 85, focal lengths differ by half a per cent
    assert max(shifts) > 0.02
    assert min(shifts) < 0.01


def azimuths(layout: Layout, views: int, seed: int) -> NDArray[np.float64]:
    centres = np.array([camera.centre for camera in make_rig(layout, views, SIZES[0], np.random.default_rng(seed))])
    return np.asarray(np.degrees(np.arctan2(centres[:, 1], centres[:, 0])))


@pytest.mark.parametrize("seed", range(4))
def test_layouts_look_like_their_names(seed: int) -> None:
    ring = np.sort(azimuths("ring", 6, seed))
    np.testing.assert_allclose(np.diff(ring), 60, atol=11)  # two cameras, each up to 5 degrees from its place

    table = azimuths("table", 4, seed)
    assert ((table > 15) & (table < 165)).all()  # opposite the person at -y

    dome = [camera.centre for camera in make_rig("dome", 12, SIZES[0], np.random.default_rng(seed))]
    elevation = np.degrees([np.arcsin(centre[2] / np.linalg.norm(centre)) for centre in dome])
    assert elevation.min() < 20
    assert elevation.max() > 55
    assert ((elevation > 0) & (elevation < 85)).all()

    left, right = (camera.centre for camera in make_rig("stereo", 2, SIZES[0], np.random.default_rng(seed)))
    assert 0.1 <= np.linalg.norm(left - right) <= 0.2
    assert left[1] > 0
    assert right[1] > 0

    centres = [camera.centre for camera in make_rig("random", 8, SIZES[0], np.random.default_rng(seed))]
    assert min(float(np.linalg.norm(one - other)) for one, other in combinations(centres, 2)) > 0.1


@pytest.mark.parametrize("name", ["ring4", "ring5", "dome8", "random6", "table3"])
def test_no_camera_is_where_the_person_sits(name: str) -> None:
    for seed in range(8):
        rig = make_rig(*parse_rig(name), SIZES[0], np.random.default_rng(seed))
        centres = np.array([camera.centre for camera in rig])
        assert np.linalg.norm(centres - [0, -0.6, 0.1], axis=1).min() > 0.2


def test_cameras_are_upright_but_not_perfectly() -> None:
    rig = make_rig("random", 40, SIZES[0], np.random.default_rng(0))
    right = np.array([camera.camera_from_world[0, :3] for camera in rig])  # the image's x axis in the world
    roll = np.degrees(np.arcsin(right[:, 2]))
    assert np.abs(roll).max() < 6.3  # 2.5 sigma of 2.5 degrees
    assert np.abs(roll).max() > 1


def test_same_seed_same_rig_and_others_differ() -> None:
    one, same, other = (make_rig("dome", 5, SIZES[0], np.random.default_rng(seed)) for seed in (1, 1, 2))
    for a, b, c in zip(one, same, other, strict=True):
        np.testing.assert_array_equal(a.camera_from_world, b.camera_from_world)
        np.testing.assert_array_equal(a.distortion, b.distortion)
        assert not np.allclose(a.camera_from_world, c.camera_from_world)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("ring4", ("ring", 4)), ("Dome8", ("dome", 8)), ("stereo", ("stereo", 2)), (" random64", ("random", 64))],
)
def test_names(text: str, expected: tuple[str, int]) -> None:
    assert parse_rig(text) == expected


@pytest.mark.parametrize("text", ["", "ring", "circle4", "4ring", "ring-4", "ring4.5"])
def test_unknown_names_say_what_is_possible(text: str) -> None:
    with pytest.raises(ValueError, match=r"none of ring, dome, table, stereo, random .* such as ring4"):
        parse_rig(text)


def test_impossible_rigs() -> None:
    rng = np.random.default_rng(0)
    for text in ("ring0", "table999999"):
        with pytest.raises(ValueError, match=f"has 1 to {MAX_VIEWS} views"):
            parse_rig(text)
    with pytest.raises(ValueError, match="a stereo rig has 2 views, not 3"):
        make_rig("stereo", 3, SIZES[0], rng)
    with pytest.raises(ValueError, match="'circle' is none of ring"):
        make_rig("circle", 3, SIZES[0], rng)  # type: ignore[arg-type]
    for size in ((0, 480), (1920, 200)):
        with pytest.raises(ValueError, match=f"images of {size[0]}x{size[1]} px"):
            make_rig("ring", 3, size, rng)
