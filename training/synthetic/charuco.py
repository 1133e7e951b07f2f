"""Recordings of a ChArUco board that moves through a rig, to calibrate with; their truth is in `board_truth.npz`.

The printed plane is drawn by its homography and the camera's lens, with several samples per pixel; no OpenGL is needed.
Images are sharp: boards are to be moved slowly.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline
from scipy.spatial.transform import Rotation

from hamuco.calibration.camera import Camera, Rig
from hamuco.capture.recording import Recording
from hamuco.training.synthetic.board_truth import (
    BOARD_TRUTH_FILE,
    Board,
    BoardMotion,
    BoardTruth,
    BoardView,
    project_corners,
)
from hamuco.training.synthetic.filming import START_NS, Draw, Exposure, FilmOptions, Shoot, Shot, film
from hamuco.training.synthetic.sensor import draw_sensor

FloatArray = NDArray[np.float64]
Image = NDArray[np.float32]

_SHOW_S = 1.2  # from one place where the board is shown to the next
_SAMPLE_S = 0.1  # between the poses that define the motion
_REACH = 0.15  # m, how far from the origin the board's middle goes along each axis
_TILT = 0.35  # rad, standard deviation by which the board is turned away from where it is shown
_ROLL = 0.8  # rad, at most, of the board in its plane
_MARGIN_M = 0.015  # white paper around the squares
_WHITE, _BLACK, _BEHIND = 0.8, 0.04, 0.5  # reflectances of paper and ink, and of the board from behind
_SUBPIXELS = 4  # samples per pixel along each axis
_TEXELS = 160  # per square: a quarter of a millimetre for the default board, finer than what a sample covers


A4_BOARD = Board()


@dataclass(frozen=True, slots=True, kw_only=True)
class BoardClipOptions(FilmOptions):
    """A recording of a board. The preset draws the cameras' sensors; the surroundings are blurred and still."""

    board: Board = A4_BOARD


def write_board_clip(
    out: Path, options: BoardClipOptions, progress: Callable[[int, int], None], workers: int | None = None
) -> Recording:
    """Record a board that is shown to each camera in turn, at several depths and tilts. Raises as `film`.

    Args:
        out: folder to make; must not exist or be empty.
        options: what to record.
        progress: is called with the number of frames that are done and the number of all.
        workers: see `film`.
    """
    shoot = options.shoot()
    motion = draw_motion(options.board, shoot.rig, options.seconds, options.generator("motion"))

    def finish(folder: Path, shots: Mapping[str, Shot]) -> None:
        views = {
            camera.name: BoardView(
                shots[camera.name].t_true_ns,
                project_corners(options.board, motion.world_from_board(shots[camera.name].t_true_ns), camera),
                shots[camera.name].visible,
            )
            for camera in shoot.rig
        }
        BoardTruth(options.board, motion, views).save(folder / BOARD_TRUTH_FILE)

    return film(out, shoot, partial(_open_scene, options, shoot, motion), finish, progress, workers)


def draw_motion(board: Board, rig: Rig, seconds: float, rng: np.random.Generator) -> BoardMotion:
    """A smooth motion that shows the board to every camera, mostly between it and another one, and covers `seconds`."""
    towards = np.array([camera.centre / np.linalg.norm(camera.centre) for camera in rig])
    count = int(np.ceil(seconds / _SHOW_S)) + 2
    shown = np.zeros(len(rig))
    at = int(rng.integers(len(rig)))
    rotations, middles = [], []
    for _ in range(count):
        shown[at] += 1
        # Cameras that look from the other side cannot see it together with this one.
        beside = [other for other in range(len(rig)) if towards[at] @ towards[other] > -0.2]
        share = rng.uniform(0.0, 0.5)
        facing = (1 - share) * towards[at] + share * towards[beside[rng.integers(len(beside))]]
        facing = facing / np.linalg.norm(facing) + np.tan(_TILT) * rng.normal(0, 0.6, 3)
        rotations.append(_facing(facing / np.linalg.norm(facing), rng.uniform(-_ROLL, _ROLL)))
        middles.append(rng.uniform(-_REACH, _REACH, 3))
        least = np.flatnonzero(shown == shown.min())
        at = int(least[np.argmax(towards[least] @ towards[at])])
    quaternions = Rotation.from_matrix(rotations).as_quat()
    for before, after in pairwise(quaternions):  # views of the array
        if np.dot(before, after) < 0:  # the same rotation, the short way
            after *= -1
    through = CubicSpline(_SHOW_S * np.arange(count), np.concatenate([quaternions, middles], axis=1), bc_type="clamped")
    seconds_even = np.arange(0, _SHOW_S * (count - 1), _SAMPLE_S)
    poses = through(seconds_even)
    poses[:, :4] /= np.linalg.norm(poses[:, :4], axis=1, keepdims=True)
    poses[:, 4:] -= Rotation.from_quat(poses[:, :4]).apply(board.middle)
    return BoardMotion(START_NS + np.rint(seconds_even * 1e9).astype(np.int64), poses)


def _facing(direction: FloatArray, roll: float) -> FloatArray:
    """world_from_board (3, 3) of a board whose printed side faces a direction, upright but for a roll."""
    z = -direction
    x = np.cross(z, (0, 0, 1) if abs(z[2]) < 0.95 else (0, 1, 0))
    x /= np.linalg.norm(x)
    turn = Rotation.from_rotvec(roll * z).as_matrix()
    return np.asarray(turn @ np.stack([x, np.cross(z, x), z], axis=1))


def _open_scene(options: BoardClipOptions, shoot: Shoot, motion: BoardMotion) -> Draw:
    painters = {camera.name: BoardPainter(options.board, camera, options.generator("light")) for camera in shoot.rig}
    sensors = {name: draw_sensor(options.look_preset, options.generator("sensor", name)) for name in shoot.rig.names}
    surroundings = {camera.name: _surroundings(camera, options.generator("walls", camera.name)) for camera in shoot.rig}

    def draw(name: str, index: int) -> Exposure:
        camera = shoot.rig[name]
        pose = motion.world_from_board(shoot.schedules[name].t_true_ns[index])
        colour = painters[name].paint(pose, surroundings[name])
        image = sensors[name].expose(colour, options.generator("noise", name, index))
        pixels = project_corners(options.board, pose, camera)
        inside = ((pixels >= -0.5) & (pixels <= np.array(camera.size) - 0.5)).all(axis=-1)
        return Exposure(image, np.asarray(inside & _shows_print(pose, camera)))

    return draw


def _surroundings(camera: Camera, rng: np.random.Generator) -> Image:
    """A blurred room: smooth colours, linear BGR."""
    coarse = np.exp(rng.normal(-1.6, 0.5, (7, 9, 1)) + rng.normal(0, 0.15, (7, 9, 3))).astype(np.float32)
    return np.asarray(np.clip(cv2.resize(coarse, camera.size, interpolation=cv2.INTER_CUBIC), 0.01, 0.9), np.float32)


class BoardPainter:
    """Draws a board into the pictures of one camera, in the light that the generator draws."""

    def __init__(self, board: Board, camera: Camera, rng: np.random.Generator) -> None:
        self._camera = camera
        self._paper = _paper(board)
        rows, columns, _ = self._paper.shape
        per_m = _TEXELS / board.square_m
        margin = round(_MARGIN_M * per_m)
        # The board's origin is at the outer edge of the texel after the margin, and texel centres are at integers.
        self._texel_from_board = np.array([[per_m, 0, margin - 0.5], [0, per_m, margin - 0.5], [0, 0, 1]])
        outline = np.array([[0, 0], [columns, 0], [columns, rows], [0, rows]]) - margin
        self._outline = np.pad(outline / per_m, ((0, 0), (0, 1)))
        # One pixel more on every side, so that the samples between pixels have a neighbour.
        x, y = np.meshgrid(np.arange(-1, camera.size[0] + 1), np.arange(-1, camera.size[1] + 1))
        rays = camera.undistort(np.stack([x, y], axis=-1))
        self._rays = np.concatenate([rays, np.ones((*rays.shape[:-1], 1))], axis=-1)
        light = rng.normal(0, 1, 3) + (0, 0, 1.5)
        self._light = light / np.linalg.norm(light)
        self._ambient = (rng.uniform(0.5, 0.7) * np.exp(rng.normal(0, 0.04, 3))).astype(np.float32)
        self._key = (rng.uniform(0.3, 0.5) * np.exp(rng.normal(0, 0.04, 3))).astype(np.float32)

    def paint(self, world_from_board: FloatArray, surroundings: Image) -> Image:
        """The picture (height, width, 3) float32, linear BGR, of a sharp camera that exposes for no time at all."""
        picture = surroundings.copy()
        camera_from_board = self._camera.camera_from_world @ world_from_board
        left, top, right, bottom = self._bounds(camera_from_board)
        if right <= left or bottom <= top:
            return picture
        # z (x, y, 1) = [columns 0, 1, 3] (X, Y, 1) for the point (X, Y) of the board that a ray (x, y, 1) meets.
        texel_from_ray = self._texel_from_board @ np.linalg.inv(camera_from_board[:3, [0, 1, 3]])
        texels = self._rays[top : bottom + 2, left : right + 2] @ texel_from_ray.T  # homogeneous, weight 1 / z
        ahead = texels[..., 2:] > 0
        texels = np.where(ahead, texels[..., :2] / np.where(ahead, texels[..., 2:], 1), -1e4).astype(np.float32)
        fine = cv2.resize(texels, None, fx=_SUBPIXELS, fy=_SUBPIXELS, interpolation=cv2.INTER_LINEAR)
        fine = fine[_SUBPIXELS:-_SUBPIXELS, _SUBPIXELS:-_SUBPIXELS]
        samples = cv2.remap(self._paper, fine, np.empty(0), cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
        seen = cv2.resize(samples, (right - left, bottom - top), interpolation=cv2.INTER_AREA)
        into = world_from_board[:3, 2]
        printed = _shows_print(world_from_board, self._camera)
        shade = self._ambient + self._key * max(0.0, float((-into if printed else into) @ self._light))
        reflected = seen[..., :1] if printed else _BEHIND * seen[..., 1:]
        part = picture[top:bottom, left:right]
        part[:] = reflected * shade + (1 - seen[..., 1:]) * part
        return picture

    def _bounds(self, camera_from_board: FloatArray) -> tuple[int, int, int, int]:
        """Left, top, right, bottom of the pixels that the paper may touch."""
        width, height = self._camera.size
        along = np.linspace(0, 1, 9)[:, None]
        edges = [a + along * (b - a) for a, b in zip(self._outline, np.roll(self._outline, -1, axis=0), strict=True)]
        points = np.concatenate(edges) @ camera_from_board[:3, :3].T + camera_from_board[:3, 3]
        if points[:, 2].max() <= 0:
            return 0, 0, 0, 0
        if points[:, 2].min() <= 0.01:
            return 0, 0, width, height
        pixels = self._camera.project_camera(points)
        # The lens bends edges between the points, by far less than these four pixels.
        left, top = np.clip(np.floor(pixels.min(axis=0)).astype(int) - 4, 0, self._camera.size).tolist()
        right, bottom = np.clip(np.ceil(pixels.max(axis=0)).astype(int) + 5, 0, self._camera.size).tolist()
        return left, top, right, bottom


@lru_cache(maxsize=1)
def _paper(board: Board) -> Image:
    """Reflectance and coverage, (rows, columns, 2), of the squares and the margin around them."""
    margin = round(_MARGIN_M * _TEXELS / board.square_m)
    columns, rows = (count * _TEXELS + 2 * margin for count in board.squares)
    printed = board.opencv().generateImage((columns, rows), marginSize=margin)
    paper = np.ones((rows, columns, 2), np.float32)
    paper[..., 0] = np.where(printed > 127, _WHITE, _BLACK)
    return paper


def _shows_print(world_from_board: FloatArray, camera: Camera) -> bool:
    """Whether the printed side faces the camera."""
    return bool(world_from_board[:3, 2] @ (world_from_board[:3, 3] - camera.centre) > 0)
