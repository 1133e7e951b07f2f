"""A look and posed hands as arrays that can be drawn: skin, all other surfaces, and the frame of the shadow map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hamuco.engine.hand_model import HandModel
from hamuco.engine.skinning import HandMesh, axis_angle_to_matrix, forward
from hamuco.fusion.hand import HandParameters, Side
from hamuco.training.synthetic import meshes
from hamuco.training.synthetic.hand_surface import HandSurface, openness
from hamuco.training.synthetic.look import Look
from hamuco.training.synthetic.meshes import Mesh
from hamuco.training.synthetic.surroundings import Material, Solid

FloatArray = NDArray[np.float64]

SURFACE_FLOATS = 17  # position, normal, texture place and layer, low colour and gloss, high colour and label

_BACKDROP_DISTANCE = 0.7  # m from the origin: beyond it nothing casts or receives the hands' shadows
_SHAPES = {
    "box": meshes.box,
    "sphere": meshes.sphere,
    "cylinder": meshes.cylinder,
    "quad": meshes.quad,
    "room": meshes.room,
}
_SHADOW_MARGIN = 0.02  # m
_MAX_SHADOW_RADIUS = 0.6  # m
# How far from the surface it falls on a caster typically is: another finger. It makes the light's size a blur.
_CASTER_DISTANCE = 0.05  # m


@dataclass(frozen=True, slots=True, eq=False)
class DrawnHand:
    """One posed hand: vertices (n, 7) float32 with position, normal and openness, world frame."""

    side: Side
    vertices: NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """What one picture is made of.

    Attributes:
        hands: skin.
        surface: (m, 17) float32, everything else; see `SURFACE_FLOATS`.
        surface_indices: (3 k,) int32; the first `casters` of them throw shadows, the first `lit` receive them.
        shadow_from_world: (4, 4) to the shadow map's place and depth, 0 to 1.
        shadow_blur: radius in the shadow map.
    """

    hands: tuple[DrawnHand, ...]
    surface: NDArray[np.float32]
    surface_indices: NDArray[np.int32]
    casters: int
    lit: int
    shadow_from_world: FloatArray
    shadow_blur: float


class SceneBuilder:
    """Poses hands and gathers the meshes around them."""

    def __init__(self, model: HandModel) -> None:
        mirrored = model.mirrored()
        self._models = {model.side: model, mirrored.side: mirrored}
        self.surfaces: Mapping[Side, HandSurface] = {
            side: HandSurface(self._models[side]) for side in ("right", "left")
        }

    def build(self, look: Look, hands: Sequence[tuple[Side, HandParameters]]) -> Scene:
        """Gather what a picture of these hands in this look needs."""
        posed = [self._pose(side, parameters) for side, parameters in hands]
        skins = [
            self.surfaces[side].extend(mesh.vertices, mesh.joints, shoulder)
            for (side, _), mesh, shoulder in zip(hands, posed, look.shoulders, strict=True)
            if mesh.vertices is not None
        ]
        normals = [self.surfaces[side].normals(points) for (side, _), points in zip(hands, skins, strict=True)]
        patches = [self.surfaces[side].patches(points) for (side, _), points in zip(hands, skins, strict=True)]
        discs, vectors = (np.concatenate(part) for part in zip(*patches, strict=True))
        drawn = []
        for (side, _), points, normal in zip(hands, skins, normals, strict=True):
            vertices = np.empty((len(points), 7), np.float32)
            vertices[:, :3], vertices[:, 3:6] = points, normal
            vertices[:, 6] = openness(vertices[:, :3], vertices[:, 3:6], discs, vectors)
            drawn.append(DrawnHand(side, vertices))

        casters = _Surface()
        for index, ((side, _), mesh, points) in enumerate(zip(hands, posed, skins, strict=True)):
            sleeve = look.sleeves[index]
            if sleeve is not None:
                made = self.surfaces[side].sleeve(points, mesh.joints, look.shoulders[index], sleeve.cut)
                casters.add(made, np.eye(4), sleeve.material, 16 + index)
        near, backdrop = _Surface(), _Surface()
        for solid in look.solids:
            layer = casters
            if solid.shape in ("room", "quad"):  # cast no shadow: the light may come from behind a wall
                layer = near if solid.shape == "quad" and _near(solid) else backdrop
            elif solid.holder is None and not _near(solid):
                layer = backdrop
            world_from_solid = self._world_from_solid(solid, hands, posed)
            label = 0 if solid.holder is None else 255
            layer.add(_SHAPES[solid.shape](solid.size), world_from_solid, solid.material, label)
        casting, lit = casters.index_count, casters.index_count + near.index_count
        surface, indices = _joined(casters, near, backdrop)

        everything = np.concatenate(skins)
        low, high = everything.min(axis=0), everything.max(axis=0)
        middle = (low + high) / 2
        radius = min(float(np.linalg.norm(everything - middle, axis=1).max()) + _SHADOW_MARGIN, _MAX_SHADOW_RADIUS)
        shadow = _shadow_frame(middle, radius, look.lights.key_direction)
        blur = float(np.tan(look.lights.softness)) * _CASTER_DISTANCE / (2 * radius)
        return Scene(tuple(drawn), surface, indices, casting, lit, shadow, blur)

    def _pose(self, side: Side, hand: HandParameters) -> HandMesh:
        return forward(self._models[side], hand.global_orient, hand.hand_pose, hand.betas, hand.transl)

    def _world_from_solid(
        self, solid: Solid, hands: Sequence[tuple[Side, HandParameters]], posed: Sequence[HandMesh]
    ) -> FloatArray:
        if solid.holder is None:
            return solid.pose
        side, parameters = hands[solid.holder]
        pose = solid.pose
        if side == "left":  # the mirrored place; the solids themselves are symmetric
            mirror = np.diag([-1.0, 1, 1, 1])
            pose = mirror @ pose @ mirror
        world_from_wrist = np.eye(4)
        world_from_wrist[:3, :3] = axis_angle_to_matrix(parameters.global_orient)
        world_from_wrist[:3, 3] = posed[solid.holder].joints[0]
        return np.asarray(world_from_wrist @ pose)


class _Surface:
    """Meshes joined into one array of vertices and one of indices."""

    def __init__(self) -> None:
        self.vertices: list[NDArray[np.float32]] = []
        self.indices: list[NDArray[np.int32]] = []
        self.count = 0

    @property
    def index_count(self) -> int:
        return sum(indices.size for indices in self.indices)

    def add(self, mesh: Mesh, world_from_mesh: FloatArray, material: Material, label: int) -> None:
        vertices = np.empty((len(mesh.points), SURFACE_FLOATS), np.float32)
        rotation = world_from_mesh[:3, :3]
        vertices[:, :3] = mesh.points @ rotation.T + world_from_mesh[:3, 3]
        vertices[:, 3:6] = mesh.normals @ rotation.T
        vertices[:, 6:8] = mesh.uv / material.repeat
        vertices[:, 8] = material.layer
        vertices[:, 9:12], vertices[:, 12] = material.low, material.gloss
        vertices[:, 13:16], vertices[:, 16] = material.high, label
        self.vertices.append(vertices)
        self.indices.append(mesh.faces + np.int32(self.count))
        self.count += len(vertices)


def _near(solid: Solid) -> bool:
    return bool(np.linalg.norm(solid.pose[:3, 3]) < _BACKDROP_DISTANCE)


def _joined(*surfaces: _Surface) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Vertices and indices of all, in this order."""
    vertices, indices, count = [np.empty((0, SURFACE_FLOATS), np.float32)], [np.empty((0, 3), np.int32)], 0
    for surface in surfaces:
        vertices += surface.vertices
        indices += [one + np.int32(count) for one in surface.indices]
        count += surface.count
    return np.concatenate(vertices), np.concatenate(indices).ravel()


def _shadow_frame(middle: FloatArray, radius: float, towards_light: FloatArray) -> FloatArray:
    """(4, 4) world -> 0 to 1 in a cube of this radius, seen from the light; depth grows away from it."""
    side = np.cross(towards_light, np.eye(3)[np.abs(towards_light).argmin()])
    side /= np.linalg.norm(side)
    axes = np.stack([side, np.cross(towards_light, side), -towards_light])
    frame = np.eye(4)
    frame[:3, :3] = axes / (2 * radius)
    frame[:3, 3] = 0.5 - frame[:3, :3] @ middle
    return frame
