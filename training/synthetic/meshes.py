"""Triangle meshes for pictures: simple solids, and what is computed from any mesh. numpy only, metres."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
Faces = NDArray[np.int32]

_BOX_UV = np.repeat([[1, 2], [2, 0], [0, 1]], 8, axis=0)  # axes along which the sides' textures lie


@dataclass(frozen=True, slots=True, eq=False)
class Mesh:
    """Triangles with a texture coordinate per vertex.

    Attributes:
        points: (n, 3) m.
        normals: (n, 3) unit, outward.
        uv: (n, 2) m along the surface, so that a texture keeps its size.
        faces: (f, 3) counter-clockwise from outside.
    """

    points: FloatArray
    normals: FloatArray
    uv: FloatArray
    faces: Faces


def box(size: FloatArray) -> Mesh:
    """A box with sides `size` (3,) m around the origin."""
    solid = _unit_box()
    uv = np.take_along_axis(solid.points * size, _BOX_UV, axis=1)
    return Mesh(solid.points * size, solid.normals, uv, solid.faces)


@cache
def _unit_box() -> Mesh:
    points, normals = [], []
    for axis in range(3):
        for sign in (1.0, -1.0):
            corner = np.zeros((4, 3))
            corner[:, axis] = sign / 2
            corner[:, (axis + 1) % 3] = np.array([-1, 1, 1, -1]) / 2 * sign
            corner[:, (axis + 2) % 3] = np.array([-1, -1, 1, 1]) / 2
            points.append(corner)
            normals.append(np.tile(sign * np.eye(3)[axis], (4, 1)))
    faces = np.array([[0, 1, 2], [0, 2, 3]], np.int32) + 4 * np.arange(6, dtype=np.int32)[:, None, None]
    return Mesh(np.concatenate(points), np.concatenate(normals), np.zeros((24, 2)), faces.reshape(-1, 3))


def room(size: FloatArray) -> Mesh:
    """A box seen from inside: walls can be looked through from behind."""
    outside = box(size)
    return Mesh(outside.points, -outside.normals, outside.uv, outside.faces[:, ::-1].copy())


def quad(size: FloatArray) -> Mesh:
    """A rectangle in the plane z = 0 that faces +z; the third size is ignored."""
    points = np.array([[-1, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]]) * [size[0] / 2, size[1] / 2, 1]
    faces = np.array([[0, 1, 2], [0, 2, 3]], np.int32)
    return Mesh(points, np.tile([0.0, 0, 1], (4, 1)), points[:, :2].copy(), faces)


def sphere(size: FloatArray) -> Mesh:
    """An ellipsoid with axes `size` (3,) m along x, y, z."""
    solid = _unit_sphere(16, 10)
    points = solid.points * size
    return Mesh(points, unit(solid.points / size), solid.uv * [size[0], size[2]], solid.faces)


@cache
def _unit_sphere(columns: int, rows: int) -> Mesh:
    around, up = np.meshgrid(np.linspace(0, 2 * np.pi, columns + 1), np.linspace(-np.pi / 2, np.pi / 2, rows + 1))
    points = (
        np.stack([np.cos(up) * np.cos(around), np.cos(up) * np.sin(around), np.sin(up)], axis=-1).reshape(-1, 3) / 2
    )
    ids = np.arange(around.size).reshape(around.shape)
    faces = np.concatenate([band(a, b, closed=False) for a, b in pairwise(ids)]).astype(np.int32)
    return Mesh(points, 2 * points, np.stack([around, up], axis=-1).reshape(-1, 2) / 2, faces)


def cylinder(size: FloatArray) -> Mesh:
    """An upright cylinder with diameters `size[:2]` and height `size[2]`, m."""
    solid = _unit_cylinder(20)
    uv = solid.uv.copy()
    uv[: len(uv) // 2] *= size[[0, 2]]  # the wall, then the lids
    uv[len(uv) // 2 :] *= size[:2]
    return Mesh(solid.points * size, solid.normals, uv, solid.faces)


@cache
def _unit_cylinder(columns: int) -> Mesh:
    around = np.linspace(0, 2 * np.pi, columns + 1)
    ring = np.stack([np.cos(around), np.sin(around), np.zeros(columns + 1)], axis=1)
    low, high = (ring - [0, 0, 1]) / 2, (ring + [0, 0, 1]) / 2
    ids, count = np.arange(columns + 1), columns + 1
    fan = np.stack([np.zeros(columns - 1, np.int64), ids[1:-1], ids[2:]], axis=1)
    faces = np.concatenate([band(ids, ids + count, closed=False), fan[:, ::-1] + 2 * count, fan + 3 * count])
    lids = np.tile([[0.0, 0, -1]], (count, 1)), np.tile([[0.0, 0, 1]], (count, 1))
    wall = np.stack([around / 2, np.full(count, 0.5)], axis=1)
    uv = np.concatenate([wall * [1, -1], wall, ring[:, :2] / 2, ring[:, :2] / 2])
    return Mesh(np.concatenate([low, high, low, high]), np.concatenate([ring, ring, *lids]), uv, faces.astype(np.int32))


def band(near: NDArray[np.int64], far: NDArray[np.int64], *, closed: bool = True) -> NDArray[np.int64]:
    """Triangles between two rings of vertex ids."""
    if closed:
        near, far = np.append(near, near[0]), np.append(far, far[0])
    a, b, c, d = near[:-1], near[1:], far[1:], far[:-1]
    return np.concatenate([np.stack([a, b, c], axis=1), np.stack([a, c, d], axis=1)])


def area_vectors(points: FloatArray, faces: NDArray[np.integer]) -> FloatArray:
    """Normals (f, 3) of triangles, twice as long as their area; written out, which is twice as fast as np.cross."""
    x, y, z = points.T
    a, b, c = faces.T
    ux, uy, uz = x[b] - x[a], y[b] - y[a], z[b] - z[a]
    vx, vy, vz = x[c] - x[a], y[c] - y[a], z[c] - z[a]
    return np.stack([uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx], axis=1)


def vertex_normals(points: FloatArray, faces: NDArray[np.integer]) -> FloatArray:
    area = area_vectors(points, faces)
    columns = [np.bincount(faces.ravel(), np.repeat(area[:, k], 3), minlength=len(points)) for k in range(3)]
    return unit(np.stack(columns, axis=1).astype(np.float64))


def unit(vectors: FloatArray) -> FloatArray:
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / np.maximum(length, 1e-12))
