"""From cameras to samples, which OpenGL draws side by side in one picture, and from samples back to pixels.

A pinhole camera has one sample in each pixel's centre: labels and depth are exact there. Edges of colour are smoothed, by
less than lenses do. Through a lens pixels lie between samples, and labels and depth are those of the nearest one.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from hamuco.calibration.camera import Camera
from hamuco.training.synthetic.lens import Lens

FloatArray = NDArray[np.float64]
Floats = NDArray[np.float32]

_SMOOTHING = 0.6  # samples, standard deviation: enough that edges have no steps
_NEAR, _FAR = 0.02, 30.0  # m
_COLUMNS = 4  # of tiles


class Tile:
    """One camera's place among the samples.

    Attributes:
        viewport: first column, first row, columns, rows.
        clip_from_world: (4, 4); the first row of the image is the lowest in clip space, whose w is z of the camera.
        ray_from_sample: (3, 3) homogeneous places among all samples, in OpenGL's count -> rays with z of the camera 1,
            as directions in the world.
    """

    def __init__(self, viewport: tuple[int, int, int, int], camera: Camera, lens: Lens) -> None:
        self.viewport, self.camera, self._lens = viewport, camera, lens
        x, y, columns, rows = viewport
        clip_from_sample = np.array([[2 / columns, 0, 1 / columns - 1], [0, 2 / rows, 1 / rows - 1], [0, 0, 1]])
        clip = np.zeros((4, 4))
        clip[[0, 1, 3], :3] = clip_from_sample @ lens.matrix
        clip[2, 2], clip[2, 3] = (_FAR + _NEAR) / (_FAR - _NEAR), -2 * _FAR * _NEAR / (_FAR - _NEAR)
        self.clip_from_world: FloatArray = clip @ camera.camera_from_world
        # OpenGL has the centre of its first sample at 0.5, we have it at 0.
        lens_from_sample = np.array([[1, 0, -x - 0.5], [0, 1, -y - 0.5], [0, 0, 1]])
        world_from_camera = camera.camera_from_world[:3, :3].T
        self.ray_from_sample: FloatArray = world_from_camera @ np.linalg.inv(lens.matrix) @ lens_from_sample

    def resolve(self, samples: Floats, depth: Floats) -> tuple[Floats, Floats, NDArray[np.uint8]]:
        """From samples to pixels, through the lens.

        Args:
            samples: (rows, columns, 4) colours and labels of all tiles.
            depth: (rows, columns) as OpenGL has it, 0 at the near plane and 1 at the far one.

        Returns:
            colour, depth (m) and labels as in a `Picture`.
        """
        x, y, columns, rows = self.viewport
        own = np.s_[y : y + rows, x : x + columns]
        samples, depth, places = samples[own], depth[own], self._lens.map
        colour, labels = cv2.GaussianBlur(samples, (3, 3), _SMOOTHING), np.ascontiguousarray(samples[..., 3])
        if places is not None:
            x_places, y_places = places[..., 0], places[..., 1]
            colour = cv2.remap(colour, x_places, y_places, cv2.INTER_LINEAR)
            labels = _nearest(labels, places, 0.0)
            depth = _nearest(depth, places, 1.0)
        with np.errstate(divide="ignore"):
            distance = np.float32(_FAR * _NEAR) / (np.float32(_FAR) - np.float32(_FAR - _NEAR) * depth)
        return (
            np.asarray(cv2.cvtColor(colour, cv2.COLOR_BGRA2BGR), np.float32),
            np.where(depth < 1, distance, np.float32(np.inf)),
            labels.astype(np.uint8),
        )


def _nearest(samples: Floats, places: Floats, elsewhere: float) -> Floats:
    border = cv2.BORDER_CONSTANT
    taken = cv2.remap(
        samples, places[..., 0], places[..., 1], cv2.INTER_NEAREST, borderMode=border, borderValue=elsewhere
    )
    return np.asarray(taken, np.float32)


def lay_tiles(views: Sequence[tuple[Camera, Lens]]) -> tuple[list[Tile], tuple[int, int]]:
    """A place for each of some cameras whose pinhole pictures are of one size; and columns and rows of all samples."""
    wide, high = views[0][1].size
    columns = min(len(views), _COLUMNS)
    rows = -(-len(views) // columns)
    tiles = [
        Tile((index % columns * wide, index // columns * high, wide, high), camera, lens)
        for index, (camera, lens) in enumerate(views)
    ]
    return tiles, (columns * wide, rows * high)
