"""Camera rigs around the hands: where people put cameras, and what webcams are like.

The hands are in the workspace, a ball of `WORKSPACE_RADIUS` about the world origin; the person sits at -y, z is up. Every
camera sees the whole ball. How far away it stands follows from its field of view: 0.45 to 1.2 m for 16:9 images.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Literal, cast, get_args

import numpy as np
from numpy.typing import NDArray

from hamuco.calibration.camera import Camera, Rig

FloatArray = NDArray[np.float64]

Layout = Literal["ring", "dome", "table", "stereo", "random"]
LAYOUTS: tuple[Layout, ...] = get_args(Layout)
"""ring: around, slightly above, with the person between two cameras. dome: over the upper hemisphere, at many heights.
table: on an arc before the person, like webcams on a monitor. stereo: a pair before the person, 10 to 20 cm apart.
random: anywhere above the table."""

WORKSPACE_RADIUS = 0.25  # m
MAX_VIEWS = 64

_FOV = np.radians((55.0, 85.0))  # along the longer side; webcams are sold with 60 to 90 along the diagonal and more
_FOCAL_SIGMA = 0.002  # relative, of both focal lengths
_CENTRE_SIGMA = 0.008  # of the principal point, in image sizes
# Relative displacement of the image's corners: barrel distortion of wide webcams to a little pincushion. Two terms share
# it, in any of these proportions without folding the image over: the slope of the distorted radius at the corner is
# 1 + shift (3 k1's share + 5 k2's share), at least 1 - 0.1 (3 * 0.7 + 5 * 0.3) = 0.64.
_CORNER_SHIFT, _K2_SHARE = (-0.10, 0.03), (-0.3, 0.3)
_TANGENTIAL_SIGMA = 4e-4

_SLACK = (1.02, 1.15)  # distance, of the smallest from which the workspace is all in the image
_NEAREST = 0.45  # m; closer, hands reach the cameras
_AIM_SIGMA = 0.008  # m, beside the origin, along each axis
_ROLL_SIGMA = float(np.radians(2.5))
_POSITION_SIGMA = float(np.radians(2.0))  # of the direction in which a camera is seen from the origin
_CUT = 2.5  # sigmas at which normal deviations end
_LOWEST = 0.1  # sine of the elevation of the lowest cameras of dome and random rigs
_PERSON = np.array([0.0, -0.995, 0.1])  # direction to the chest
_BASELINE = (0.10, 0.20)  # m, of stereo pairs


def parse_rig(text: str) -> tuple[Layout, int]:
    """A rig's short name, such as "ring4" or "stereo": its layout and number of views.

    Raises:
        ValueError: it is no such name, saying what is possible.
    """
    match = re.fullmatch(r"([a-z]+)(\d*)", text.strip().lower())
    layout, digits = match.groups() if match else ("", "")
    if layout not in LAYOUTS or not (digits or layout == "stereo"):
        raise ValueError(
            f"rig {text!r} is none of {', '.join(LAYOUTS)} followed by a number of views, such as ring4, dome8, "
            "table3, stereo, random6"
        )
    views = int(digits) if digits else 2
    _check_views(layout, views)
    return cast(Layout, layout), views


def make_rig(layout: Layout, views: int, size: tuple[int, int], rng: np.random.Generator) -> Rig:
    """Cameras cam_0, cam_1, ... with images of one size (width, height), px.

    Raises:
        ValueError: an unknown layout, a number of views that it cannot have, or a size of which no webcam is.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"layout {layout!r} is none of {', '.join(LAYOUTS)}")
    _check_views(layout, views)
    if min(size) < 16 or max(size) > 2 * min(size):
        raise ValueError(
            f"images of {size[0]}x{size[1]} px: both sides have to be 16 px or more, and neither more than twice the other"
        )
    # Cameras of one rig are of one make, as they mostly are.
    fov, corner_shift = rng.uniform(*_FOV), rng.uniform(*_CORNER_SHIFT)
    lenses = [_draw_lens(size, fov, corner_shift, rng) for _ in range(views)]
    aims = _normal(rng, _AIM_SIGMA, (views, 3))
    offsets = np.linalg.norm(aims, axis=1)
    # A ball about the aim that holds the workspace fills the image from edge to edge.
    nearest = (WORKSPACE_RADIUS + offsets) / np.sin([_narrowest_angle(lens) for lens in lenses]) + offsets
    distances = np.maximum(nearest * rng.uniform(*_SLACK, views), _NEAREST)
    if layout == "stereo":
        distances[:] = distances.max()
    positions = distances[:, None] * _directions(layout, distances, rng)
    rolls = _normal(rng, _ROLL_SIGMA, (views,))
    return Rig(
        tuple(
            replace(lens, name=f"cam_{index}", camera_from_world=_looking(positions[index], aims[index], rolls[index]))
            for index, lens in enumerate(lenses)
        )
    )


def _check_views(layout: str, views: int) -> None:
    if layout == "stereo" and views != 2:
        raise ValueError(f"a stereo rig has 2 views, not {views}: take ring, dome, table or random for other numbers")
    if not 1 <= views <= MAX_VIEWS:
        raise ValueError(f"a {layout} rig has 1 to {MAX_VIEWS} views, not {views}")


def _directions(layout: Layout, distances: FloatArray, rng: np.random.Generator) -> FloatArray:
    """Unit directions (views, 3) from the origin to cameras at known distances (views,) m."""
    views = len(distances)
    if layout == "random":
        return _scattered(views, rng)
    index = np.arange(views)
    azimuth: FloatArray
    elevation: FloatArray
    front = np.pi / 2  # azimuth of the place opposite the person
    if layout == "stereo":
        elevation = np.full(2, rng.uniform(0.2, 0.8))
        half = np.arcsin(0.5 * rng.uniform(*_BASELINE) / (distances * np.cos(elevation)))
        return _direction(front + rng.uniform(-0.4, 0.4) + half * (1.0, -1.0), elevation)
    if layout == "ring":
        # The person is in the middle of a gap.
        azimuth = front + (rng.uniform(-0.15, 0.15) + index - (views - 1) / 2) * 2 * np.pi / views
        elevation = np.full(views, rng.uniform(0.25, 0.65))
    elif layout == "dome":
        # A spiral with the golden angle covers a sphere evenly with any number of points (Vogel, 1979).
        azimuth = index * np.pi * (3.0 - np.sqrt(5.0))
        elevation = np.arcsin(_LOWEST + (0.97 - _LOWEST) * (index + 0.5) / views)
        # Of some turns, the one with no camera near the person.
        turns = rng.uniform(0, 2 * np.pi, 16)
        closeness = [(_direction(azimuth + turn, elevation) @ _PERSON).max() for turn in turns]
        azimuth = azimuth + turns[np.argmin(closeness)]
    else:
        arc = min(np.radians(140.0), np.radians(45.0) * (views - 1))
        azimuth = front + arc * ((index + 0.5) / views - 0.5)
        elevation = np.full(views, rng.uniform(0.25, 0.75))
    wobble = _normal(rng, _POSITION_SIGMA, (2, views))
    return _direction(azimuth + wobble[0], elevation + wobble[1])


def _scattered(views: int, rng: np.random.Generator) -> FloatArray:
    """Random directions (views, 3) above the table, none needlessly close to another or to the person.

    Each is the one of 16 that is farthest from those before it (Mitchell, SIGGRAPH 1991).
    """
    chosen = _PERSON[None]
    for _ in range(views):
        candidates = _direction(rng.uniform(0, 2 * np.pi, 16), np.arcsin(rng.uniform(_LOWEST, 0.97, 16)))
        closeness = (candidates @ chosen.T).max(axis=1)
        chosen = np.concatenate([chosen, candidates[[closeness.argmin()]]])
    return chosen[1:]


def _direction(azimuth: FloatArray, elevation: FloatArray) -> FloatArray:
    flat = np.cos(elevation)
    return np.stack([flat * np.cos(azimuth), flat * np.sin(azimuth), np.sin(elevation)], axis=-1)


def _draw_lens(size: tuple[int, int], fov: float, corner_shift: float, rng: np.random.Generator) -> Camera:
    """A camera at the world origin with this field of view along the longer side (before distortion), rad."""
    width, height = size
    focal = 0.5 * max(size) / np.tan(0.5 * fov) * (1.0 + _normal(rng, _FOCAL_SIGMA, (2,)))
    centre = 0.5 * (np.array(size) - 1.0) + _normal(rng, _CENTRE_SIGMA, (2,)) * size
    corners = (np.array([(0, 0), (width, 0), (0, height), size]) - 0.5 - centre) / focal
    corner_shift = corner_shift * rng.uniform(0.95, 1.0)
    radius = np.linalg.norm(corners, axis=1).max() / (1.0 + corner_shift)  # that the lens moves into the corner
    share = rng.uniform(*_K2_SHARE)
    k1, k2 = corner_shift * (1.0 - share) / radius**2, corner_shift * share / radius**4
    p1, p2 = _normal(rng, _TANGENTIAL_SIGMA, (2,))
    matrix = np.array([[focal[0], 0.0, centre[0]], [0.0, focal[1], centre[1]], [0.0, 0.0, 1.0]])
    return Camera("lens", size, matrix, np.array([k1, k2, p1, p2, 0.0]), np.eye(4))


def _narrowest_angle(lens: Camera) -> float:
    """Smallest angle between the optical axis and a ray through the edge of the image, rad."""
    width, height = lens.size
    along = np.linspace(0.0, 1.0, 33)
    x, y = along * (width - 1.0), along * (height - 1.0)
    edges = [(x, 0 * x), (x, 0 * x + height - 1.0), (0 * y, y), (0 * y + width - 1.0, y)]
    border = lens.undistort(np.concatenate([np.stack(edge, axis=1) for edge in edges]))
    return float(np.arctan(np.linalg.norm(border, axis=1).min()))


def _looking(position: FloatArray, aim: FloatArray, roll: float) -> FloatArray:
    """camera_from_world (4, 4) of a camera at one point that looks at another, upright but for a roll."""
    forward = (aim - position) / np.linalg.norm(aim - position)
    right = np.cross(forward, (0.0, 0.0, 1.0))
    right /= np.linalg.norm(right)
    down = np.cross(forward, right)
    right, down = np.cos(roll) * right + np.sin(roll) * down, np.cos(roll) * down - np.sin(roll) * right
    transform = np.eye(4)
    transform[:3, :3] = right, down, forward
    transform[:3, 3] = -transform[:3, :3] @ position
    return transform


def _normal(rng: np.random.Generator, sigma: float, shape: tuple[int, ...]) -> FloatArray:
    return np.clip(rng.normal(0.0, sigma, shape), -_CUT * sigma, _CUT * sigma)
