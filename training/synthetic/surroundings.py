"""What is around the hands and in them: walls, furniture, a person, clutter. Plain values, drawn from a generator.

Colours are linear BGR reflectances. The person sits at -y, z is up, and the hands are about the origin.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hamuco.training.synthetic.textures import stock

FloatArray = NDArray[np.float64]
Shape = Literal["box", "sphere", "cylinder", "quad", "room"]

_WALLS = ("flat", "flat", "cloud", "speckle", "bricks", "stripes", "photo", "tiles", "wood", "checks")
_FURNITURE = ("flat", "wood", "cloud", "cloth", "photo", "poster", "shelf", "stripes")
_CLOTHES, _CLOTH_REPEAT = ("flat", "cloth", "cloth", "stripes", "checks", "speckle"), (0.06, 0.2)  # m


@dataclass(frozen=True, slots=True, eq=False)
class Material:
    """A texture between two colours.

    Attributes:
        layer: texture of `hamuco.training.synthetic.textures.stock`.
        low, high: (3,) reflectances that the texture mixes.
        repeat: m, side of one repetition.
        gloss: 0 (cloth) to 1 (glazed).
    """

    layer: int
    low: FloatArray
    high: FloatArray
    repeat: float
    gloss: float


@dataclass(frozen=True, slots=True, eq=False)
class Solid:
    """Something that stands in the room or is held.

    Attributes:
        shape: what; a room is a box seen from inside, which can be looked through from outside.
        pose: (4, 4) world from solid, or, when held, the frame of the hand model at the wrist from solid.
        size: (3,) m.
        material: its surface.
        holder: index of the hand that holds it, or None.
    """

    shape: Shape
    pose: FloatArray
    size: FloatArray
    material: Material
    holder: int | None = None


def draw_material(rng: np.random.Generator, kinds: tuple[str, ...], repeat: tuple[float, float]) -> Material:
    """A surface with a texture of one of these kinds, whose repetition is between two sizes (m)."""
    kind = str(rng.choice(kinds))
    layers = stock()[1][kind]
    layer = layers[int(rng.integers(len(layers)))]
    size = float(np.exp(rng.uniform(*np.log(repeat))))
    gloss = float(rng.uniform(0, 0.5) ** 2)
    if kind in ("poster", "photo", "shelf"):
        return Material(layer, np.zeros(3), np.ones(3) * rng.uniform(0.5, 1), size, gloss)
    low, high = _surface_colour(rng), _surface_colour(rng)
    if kind not in ("stripes", "checks"):  # variations of one colour
        high = np.clip(low * rng.uniform(1.3, 3.0) + 0.02, 0, 0.95) if rng.random() < 0.8 else high
    return Material(layer, low, high, size, gloss)


def _surface_colour(rng: np.random.Generator) -> FloatArray:
    """A reflectance: any brightness, mostly of little saturation, as most things around us."""
    colour = rng.uniform(0.1, 1, 3)
    grey = colour.mean()
    mixed = grey + (colour - grey) * rng.beta(1.2, 1.6)
    return np.asarray(np.clip(mixed / mixed.max() * np.exp(rng.uniform(np.log(0.05), np.log(0.85))), 0.01, 0.9))


def draw_direction(rng: np.random.Generator, lowest: float) -> FloatArray:
    """A random unit vector whose z is at least `lowest`."""
    z, turn = rng.uniform(lowest, 1), rng.uniform(0, 2 * np.pi)
    flat = np.sqrt(1 - z * z)
    return np.array([flat * np.cos(turn), flat * np.sin(turn), z])


def draw_clothes(rng: np.random.Generator) -> Material:
    """What shirts and sleeves are made of."""
    return draw_material(rng, _CLOTHES, _CLOTH_REPEAT)


def draw_person(
    chest: FloatArray, half_width: float, skin: FloatArray, shirt: Material, rng: np.random.Generator
) -> list[Solid]:
    """Trunk and head of the person whose hands they are, as plain as can be: they keep arms from ending in the air.

    Args:
        chest: (3,) m, middle between the shoulders.
        half_width: m, from there to a shoulder.
        skin: (3,) reflectance of the face.
        shirt: of the trunk.
        rng: of the hair.
    """
    face = Material(0, skin * 0.9, np.minimum(skin * 1.1, 1), 0.1, 0.02)
    hair = Material(0, np.full(3, 0.01), rng.uniform(0.02, 0.3) * np.array([0.4, 0.7, 1.0]), 0.05, 0.05)
    trunk = np.array([2 * half_width + 0.02, 0.22, 1.4])
    return [
        Solid("cylinder", _place(chest + [0, -0.04, -0.71]), trunk, shirt),
        Solid("sphere", _place(chest + [0, -0.03, 0.0]), np.array([2 * half_width + 0.08, 0.22, 0.17]), shirt),
        Solid("cylinder", _place(chest + [0, -0.03, 0.09]), np.array([0.11, 0.12, 0.14]), face),
        Solid("sphere", _place(chest + [0, 0.0, 0.25]), np.array([0.155, 0.2, 0.235]), face),
        Solid("sphere", _place(chest + [0, -0.025, 0.28]), np.array([0.175, 0.2, 0.22]), hair),
    ]


def draw_room(person: float, rng: np.random.Generator) -> list[Solid]:
    """Walls and floor around the origin, a table in front of the person at this y (m), furniture and pictures."""
    size = np.array([rng.uniform(2.8, 6), rng.uniform(2.8, 6), rng.uniform(2.3, 3.2)])
    floor = -rng.uniform(0.75, 1.3)
    middle = np.array([*(rng.uniform(-0.1, 0.1, 2) * size[:2]), floor + size[2] / 2])
    turn = rng.uniform(0, np.pi / 2)
    solids = [Solid("room", _place(middle, turn), size, draw_material(rng, _WALLS, (0.3, 2.5)))]
    floor_material = draw_material(rng, ("wood", "tiles", "speckle", "cloud", "checks", "stripes"), (0.4, 2))
    solids.append(Solid("quad", _place(middle * [1, 1, 0] + [0, 0, floor + 0.005], turn), size, floor_material))
    if rng.random() < 0.6:
        top = np.array([rng.uniform(0.9, 1.8), rng.uniform(0.6, 1.0), 0])
        place = np.array([rng.uniform(-0.2, 0.2), person + 0.15 + top[1] / 2, -rng.uniform(0.22, 0.45)])
        material = draw_material(rng, ("wood", "flat", "cloud", "speckle", "checks", "cloth"), (0.2, 1.2))
        solids.append(Solid("quad", _place(place, rng.uniform(-0.1, 0.1)), top, material))
    rotation = _place(np.zeros(3), turn)[:3, :3]
    for _ in range(rng.integers(3, 9)):  # pictures and shelves, flat on the walls
        side = int(rng.integers(4))
        axis, sign = side // 2, 1 if side % 2 else -1
        wide, high = rng.uniform(0.3, 1.4, 2)
        inward = -sign * np.eye(3)[axis]
        across = np.cross([0, 0, 1.0], inward)
        local = sign * np.eye(3)[axis] * (size[axis] / 2 - 0.01) + across * rng.uniform(-0.4, 0.4) * size[1 - axis]
        local[2] = rng.uniform(-0.3, 0.35) * size[2]
        pose = _place(middle + rotation @ local, 0, rotation @ np.stack([across, [0, 0, 1.0], inward], axis=1))
        material = draw_material(rng, ("poster", "poster", "photo", "shelf", "flat"), (max(wide, high),) * 2)
        solids.append(Solid("quad", pose, np.array([wide, high, 0]), material))
    for _ in range(rng.integers(2, 7)):  # furniture on the floor
        box = rng.uniform([0.3, 0.3, 0.3], [1.0, 0.8, 1.8])
        around, distance = rng.uniform(0, 2 * np.pi), rng.uniform(1.6, 2.6)
        position = np.array([distance * np.cos(around), distance * np.sin(around), floor + box[2] / 2])
        shape: Shape = "cylinder" if rng.random() < 0.15 else "box"
        material = draw_material(rng, _FURNITURE, (0.3, 1.5))
        solids.append(Solid(shape, _place(position, rng.uniform(0, np.pi)), box, material))
    return solids


def draw_clutter(palm: FloatArray, back: FloatArray, rng: np.random.Generator) -> list[Solid]:
    """Things near the hands, some of the colours (3,) of the hands' skin."""
    solids = []
    for _ in range(rng.integers(3, 11)):
        shape: Shape = ("box", "sphere", "cylinder")[int(rng.integers(3))]
        size = rng.uniform(0.02, 0.14, 3) * rng.choice([1, 1, 2.0])
        position = draw_direction(rng, -1) * rng.uniform(0.14, 0.5)
        material = draw_material(rng, ("flat", "cloth", "photo", "poster", "stripes", "checks", "wood"), (0.04, 0.3))
        if rng.random() < 0.25:
            colour = palm if rng.random() < 0.5 else back
            material = Material(material.layer, colour * 0.85, np.minimum(colour * 1.15, 1), 0.1, 0.02)
        solids.append(Solid(shape, _place(position, 0, _random_rotation(rng)), size, material))
    return solids


def draw_held(hand: int, rng: np.random.Generator) -> Solid:
    """Something in front of the palm, in the frame of the right hand model."""
    shape: Shape = ("box", "sphere", "cylinder")[int(rng.integers(3))]
    size = {
        "sphere": np.full(3, rng.uniform(0.04, 0.08)),
        "box": rng.uniform([0.02, 0.03, 0.06], [0.05, 0.08, 0.16]),
        "cylinder": np.append(np.full(2, rng.uniform(0.02, 0.07)), rng.uniform(0.08, 0.2)),
    }[shape]
    depth = 0.02 + size[0] / 2  # the palm faces -y
    position = np.array([-rng.uniform(0.08, 0.12), -depth, rng.uniform(-0.02, 0.02)])
    material = draw_material(rng, ("flat", "photo", "poster", "stripes", "checks", "wood"), (0.05, 0.2))
    return Solid(shape, _place(position, rng.uniform(-0.3, 0.3)), size, material, holder=hand)


def _place(position: FloatArray, turn: float = 0.0, rotation: FloatArray | None = None) -> FloatArray:
    """A pose (4, 4): turned about z, or rotated, and moved to a position."""
    pose = np.eye(4)
    c, s = np.cos(turn), np.sin(turn)
    pose[:3, :3] = [[c, -s, 0], [s, c, 0], [0, 0, 1]] if rotation is None else rotation
    pose[:3, 3] = position
    return pose


def _random_rotation(rng: np.random.Generator) -> FloatArray:
    q, r = np.linalg.qr(rng.normal(size=(3, 3)))
    q = q * np.sign(np.diag(r))
    return np.asarray(q * np.sign(np.linalg.det(q)))
