"""Pictures: exact against the camera, the same from the same seed, with one clear line where they cannot be drawn."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from dataclasses import replace
from functools import cache

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from hamuco.calibration.camera import Camera
from hamuco.engine.hand_model import load_hand_model, mirror_axis_angle
from hamuco.engine.skinning import HandMesh, forward
from hamuco.fusion.hand import HandParameters, Side
from hamuco.training.synthetic import renderer as renderer_module
from hamuco.training.synthetic.look import PRESETS, Lights, Look, draw_look
from hamuco.training.synthetic.renderer import GraphicsError, Picture, Renderer
from hamuco.training.synthetic.surroundings import Material, Solid

FloatArray = NDArray[np.float64]

MODEL = load_hand_model()
DARK = np.zeros(3)
UP = np.array([0.0, 0, 1])
LENSES = {
    "pinhole": ((), False),
    "webcam": ((-0.33, 0.12, 0.001, -0.002, -0.02), False),
    "fisheye": ((0.02, -0.01, 0.003, -0.001), True),
}


@cache
def drawing() -> Renderer:
    try:
        return Renderer(MODEL)
    except GraphicsError as error:
        pytest.skip(f"no OpenGL: {error}")


def camera(lens: str = "pinhole", size: tuple[int, int] = (320, 240), focal: float = 260.0) -> Camera:
    """Half a metre from the origin along -z, x right and y down as in the world."""
    coefficients, fisheye = LENSES[lens]
    matrix = np.array([[focal, 0, size[0] / 2 - 3.2], [0, focal * 1.02, size[1] / 2 + 1.7], [0, 0, 1]])
    pose = np.eye(4)
    pose[2, 3] = 0.5
    return Camera(lens, size, matrix, np.array(coefficients), pose, fisheye)


def hand(seed: int = 0, side: Side = "right", distance: float = 0.09) -> tuple[Side, HandParameters]:
    rng = np.random.default_rng(seed)
    orient, pose = np.array([np.pi / 2, 0, 0]) + rng.normal(0, 0.2, 3), rng.normal(0, 0.1, 45)
    if side == "left":
        orient, pose = mirror_axis_angle(orient), mirror_axis_angle(pose)
    shift = np.array([distance if side == "right" else -distance, 0, 0])
    return side, HandParameters(orient, pose, np.zeros(10), shift)


def mesh(one: tuple[Side, HandParameters]) -> HandMesh:
    model = MODEL if one[0] == "right" else MODEL.mirrored()
    return forward(model, one[1].global_orient, one[1].hand_pose, one[1].betas, one[1].transl)


def bare(look: Look, *solids: Solid) -> Look:
    """The look in even white light before a black background, without sleeves, with these solids."""
    even = Lights(UP, DARK, 0.01, np.full(3, 0.5), np.full(3, 0.5), UP, DARK)
    return replace(look, lights=even, above=DARK, below=DARK, solids=solids, sleeves=(None,) * len(look.skins))


def ball(place: FloatArray, diameter: float = 0.02, holder: int | None = None) -> Solid:
    pose = np.eye(4)
    pose[:3, 3] = place
    white = Material(0, np.ones(3), np.ones(3), 1.0, 0.0)
    return Solid("sphere", pose, np.full(3, diameter), white, holder)


def far_away() -> tuple[Side, HandParameters]:
    return "right", replace(hand()[1], transl=np.array([0, -8.0, 0]))


def plain(hands: int = 1, seed: int = 1) -> Look:
    return draw_look("plain", hands, np.random.default_rng(seed))


@pytest.mark.parametrize("lens", LENSES)
def test_balls_are_drawn_where_the_camera_projects_them(lens: str) -> None:
    view = camera(lens)
    for place in ((0.0, 0, 0), (0.2, 0.15, 0.05), (-0.22, 0.12, -0.03), (0.15, -0.18, 0.0)):
        centre = np.array(place)
        picture = drawing().draw(bare(plain(), ball(centre)), [far_away()], view)
        expected = view.project(centre)
        y, x = np.mgrid[: view.size[1], : view.size[0]]
        light = picture.colour.sum(axis=2)
        seen = np.array([(light * x).sum(), (light * y).sum()]) / light.sum()
        # A ball of 10 px: its outline's middle is off the centre's image by some (r / z)^2 of 100 px, 0.04 px, and
        # it is made of flat pieces. Each of 31 pixels along the outline counts in full or not at all, an error with a
        # deviation of 0.29 px at 5 px from the middle: together 5 * 0.29 * sqrt(31 / 2) / 79 = 0.07 px, at worst thrice.
        np.testing.assert_allclose(seen, expected, atol=0.04 + 3 * 0.07)
        mask = np.isfinite(picture.depth)
        assert mask.sum() > 40
        # Labels are not averaged: through a lens they are those of the nearest sample, up to 0.4 px away.
        np.testing.assert_allclose([x[mask].mean(), y[mask].mean()], expected, atol=0.45)


@pytest.mark.parametrize("lens", LENSES)
@pytest.mark.parametrize("side", ["right", "left"])
def test_the_hand_covers_exactly_its_projected_mesh(lens: str, side: Side) -> None:
    view, one = camera(lens), hand(2, side)
    picture = drawing().draw(plain(), [one], view)
    vertices = mesh(one).vertices
    assert vertices is not None
    pixels = np.rint(view.project(vertices)).astype(int)
    column, row = pixels.T
    inside = (column >= 0) & (column < view.size[0]) & (row >= 0) & (row < view.size[1])
    pixels, points = pixels[inside], vertices[inside]
    assert inside.mean() > 0.9
    skin = np.isin(picture.labels, (1, 16, 17))
    # A vertex at the rim rounds by up to 0.7 px, and so do labels through a lens map: look one pixel around.
    around = cv2.dilate(skin.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    assert around[pixels[:, 1], pixels[:, 0]].all()
    # No vertex is before what is drawn by more than the slope of the skin within a pixel, 2 mm by some 45 degrees.
    depth = view.to_camera(points)[:, 2]
    drawn = picture.depth[pixels[:, 1], pixels[:, 0]]
    front = np.isfinite(drawn)
    assert (depth[front] > drawn[front] - 0.004).mean() > 0.99
    assert (np.abs(depth[front] - drawn[front]) < 0.002).mean() > 0.3  # and those in front lie on it


def test_depth_of_a_ball_is_its_distance() -> None:
    picture = drawing().draw(bare(plain(), ball(np.array([0.05, 0.02, 0.1]), 0.1)), [far_away()], camera())
    # 16 columns and 10 rows of flat pieces lie up to r (1 - cos(pi / 16)) = 1 mm inside of the ball.
    assert np.nanmin(picture.depth) == pytest.approx(0.6 - 0.05, abs=0.0015)
    assert np.isinf(picture.depth[0, 0])


def test_labels_tell_hands_forearms_and_held_things_apart() -> None:
    look = draw_look("plain", 2, np.random.default_rng(4))
    held = ball(np.array([-0.1, -0.04, 0.0]), 0.03, holder=1)
    hands = [hand(0, "right", 0.22), hand(0, "left", 0.22)]
    picture = drawing().draw(replace(look, solids=(held,)), hands, camera(focal=150))
    assert set(np.unique(picture.labels).tolist()) == {0, 1, 2, 16, 17, 255}
    for index, one in enumerate(hands):
        middle = np.rint(camera(focal=150).project(mesh(one).landmarks[[5, 9, 13]])).astype(int)
        assert (picture.labels[middle[:, 1], middle[:, 0]] == index + 1).sum() >= 2


def test_a_left_hand_is_the_mirror_image() -> None:
    view = camera()
    middle = replace(view, matrix=np.array([[260.0, 0, 159.5], [0, 260, 119.5], [0, 0, 1]]))
    shoulder = np.array([0.4, 0.1, 0.2])
    pictures = []
    for side, place in (("right", shoulder), ("left", shoulder * [-1, 1, 1])):
        look = replace(bare(plain()), shoulders=(place,))
        pictures.append(drawing().draw(look, [hand(5, side)], middle))  # type: ignore[arg-type]
    difference = pictures[0].labels != pictures[1].labels[:, ::-1]
    assert difference.mean() < 0.002  # pixels whose centre an edge passes through
    np.testing.assert_allclose(pictures[0].colour.mean(), pictures[1].colour.mean(), rtol=0.01)


def test_crops_are_what_draw_draws() -> None:
    look, one = draw_look("room", 1, np.random.default_rng(6)), hand(1)
    views = [camera(size=(96, 96), focal=focal) for focal in (80.0, 100, 120, 140, 160)]
    crops = drawing().draw_crops(look, [one], views)
    for view, crop in zip(views, crops, strict=True):
        alone = drawing().draw(look, [one], view)
        # Other places among the samples round differently, which shows in some of the pixels along outlines.
        own = alone.labels
        outline = np.zeros(own.shape, bool)
        for axis in (0, 1):
            for shift in (1, -1):
                outline |= own != np.roll(own, shift, axis)
        different = crop.labels != own
        assert (different & ~outline).sum() <= 0.001 * own.size  # gaps narrower than a pixel
        assert different.sum() < 0.35 * outline.sum()
        assert np.abs(crop.colour - alone.colour).mean() < 0.01


def test_crops_need_one_size_and_no_distortion() -> None:
    with pytest.raises(ValueError, match="one size"):
        drawing().draw_crops(plain(), [hand()], [camera(size=(64, 64)), camera(size=(96, 96))])
    with pytest.raises(ValueError, match="'webcam'"):
        drawing().draw_crops(plain(), [hand()], [camera("webcam")])
    with pytest.raises(ValueError, match="the look is for 1 hands, 2 are given"):
        drawing().draw_crops(plain(), [hand(), hand()], [camera()])


def test_visible_joints_are_those_with_nothing_but_own_flesh_before_them() -> None:
    view, one = camera(), hand()
    joints = mesh(one).landmarks
    look = bare(plain())
    seen = drawing().draw(look, [one], view).visible(view, joints)
    assert seen.sum() >= 18  # of an open hand seen flat
    # A ball in front of the index finger's end, in the room or in the hand, hides what it covers and nothing else.
    place = joints[7] - [0, 0, 0.05]
    toward = place * [1, 1, 1]
    hidden = drawing().draw(bare(plain(), ball(toward, 0.03)), [one], view).visible(view, joints)
    assert not hidden[7]
    assert hidden[[0, 5, 13, 17, 20]].tolist() == seen[[0, 5, 13, 17, 20]].tolist()
    # Joints outside of the image, and behind the camera.
    assert not drawing().draw(look, [one], view).visible(view, joints + [1.0, 0, 0]).any()
    assert not drawing().draw(look, [one], view).visible(view, joints - [0, 0, 1.0]).any()


def test_things_held_count_as_hiding_however_near() -> None:
    labels, depth = np.zeros((240, 320), np.uint8), np.full((240, 320), 0.49, np.float32)
    picture = Picture(np.zeros((240, 320, 3), np.float32), depth, labels)
    joint = np.zeros((1, 3))  # 0.5 m away, 10 mm behind what is drawn
    assert picture.visible(camera(), joint).all()
    labels[:] = 255
    assert not picture.visible(camera(), joint).any()


def test_light_is_linear_and_lambertian() -> None:
    look = bare(plain(), ball(np.zeros(3), 0.1))
    view = camera()
    lights = replace(look.lights, sky=DARK, ground=DARK, key=np.full(3, 0.8), key_direction=np.array([0.0, 0, -1]))
    picture = drawing().draw(replace(look, lights=lights), [far_away()], view)
    column, row = np.rint(view.project(np.zeros(3))).astype(int)
    assert picture.colour[row, column].tolist() == pytest.approx([0.8] * 3, abs=0.02)  # it faces the light
    tilted = replace(lights, key_direction=np.array([np.sqrt(0.75), 0, -0.5]))
    picture = drawing().draw(replace(look, lights=tilted), [far_away()], view)
    assert picture.colour[row, column].tolist() == pytest.approx([0.4] * 3, abs=0.03)  # at 60 degrees half as bright


def test_the_hand_throws_a_shadow() -> None:
    pose = np.eye(4)
    pose[:3, :3] = np.diag([1.0, -1, -1])  # the quad faces the camera
    pose[2, 3] = 0.1
    white = Material(0, np.ones(3), np.ones(3), 1.0, 0.0)
    wall = Solid("quad", pose, np.array([0.5, 0.5, 0]), white)
    look = bare(plain(), wall)
    towards = np.array([0.0, -0.8, -0.6])
    lights = replace(look.lights, sky=DARK, ground=DARK, key=np.ones(3), key_direction=towards)
    view = camera()
    picture = drawing().draw(replace(look, lights=lights), [hand()], view)
    knuckle = mesh(hand()).joints[4]
    column, row = np.rint(view.project(knuckle - towards * (0.1 - knuckle[2]) / 0.6)).astype(int)
    assert picture.labels[row, column] == 0
    assert picture.colour[row, column].max() < 0.05
    lit = picture.colour[(picture.labels == 0) & np.isfinite(picture.depth)]
    assert np.median(lit) == pytest.approx(0.6, abs=0.01)


def digest(renderer: Renderer) -> str:
    total = hashlib.sha256()
    for preset in PRESETS[1:]:
        look = draw_look(preset, 2, np.random.default_rng(3))
        picture = renderer.draw(look, [hand(1, "left"), hand(2)], camera("webcam"))
        for array in (picture.colour, picture.depth, picture.labels):
            total.update(np.ascontiguousarray(array).tobytes())
    return total.hexdigest()


def test_the_same_look_gives_the_same_pixels_from_any_renderer() -> None:
    first = digest(drawing())
    other = Renderer(MODEL)
    assert digest(other) == first
    assert digest(drawing()) == first  # two of them do not disturb each other
    other.close()
    assert digest(drawing()) == first


def test_the_same_look_gives_the_same_pixels_in_a_new_process() -> None:
    own = digest(drawing())
    program = (
        f"import sys; sys.path.insert(0, {os.path.dirname(__file__)!r}); import test_training_synthetic_renderer as t; "
        f"print(t.digest(t.drawing()))"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == own


def test_without_egl_one_line_says_what_to_install() -> None:
    program = (
        "from hamuco.engine.hand_model import load_hand_model\n"
        "from hamuco.training.synthetic.renderer import GraphicsError, Renderer\n"
        "try:\n    Renderer(load_hand_model())\n"
        "except GraphicsError as error:\n    print(error)\n"
    )
    nowhere = {"__EGL_VENDOR_LIBRARY_FILENAMES": "/nonexistent.json"}  # the dispatcher finds no driver then
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=os.environ | nowhere
    )
    (line,) = result.stdout.splitlines()
    assert "libegl1 libgl1-mesa-dri" in line


def test_without_moderngl_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "moderngl", None)  # makes the import fail
    with pytest.raises(GraphicsError, match=r'pip install "hamuco\[synth\]"') as caught:
        Renderer(MODEL)
    assert "\n" not in str(caught.value)


def test_images_beyond_opengls_limit_are_refused() -> None:
    with pytest.raises(GraphicsError, match="40000 x 30 samples are to be drawn"):
        drawing().draw(plain(), [hand()], camera(size=(40000, 30)))


def test_many_sizes_do_not_pile_up() -> None:
    for width in range(20, 40):
        drawing().draw(plain(), [hand()], camera(size=(width, 20)))
    assert len(drawing()._targets) <= renderer_module._MAX_TARGETS
