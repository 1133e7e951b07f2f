"""What a synthetic scene looks like: skin, sleeves, light, surroundings. Plain values, drawn from a generator.

Colours are linear BGR reflectances or radiances. Cameras and the motion of the hands are not part of a look.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from hamuco.training.synthetic.hand_surface import SleeveCut
from hamuco.training.synthetic.textures import stock

FloatArray = NDArray[np.float64]
Preset = Literal["plain", "room", "hard"]
PRESETS: tuple[Preset, ...] = get_args(Preset)
Shape = Literal["box", "sphere", "cylinder", "quad", "room"]

# Skin from light to dark, sRGB as seen in even white light; a tone is a place between neighbours.
_SKIN_SRGB = np.array(
    [
        [244, 214, 198],
        [233, 192, 168],
        [220, 172, 143],
        [197, 144, 112],
        [164, 112, 82],
        [124, 81, 58],
        [88, 57, 43],
        [62, 41, 33],
    ]
)
# What the palm of dark skin tends to: it has hardly any pigment.
_PALM_SRGB = np.array([205, 152, 128])

# Colour of light by its temperature (K), linear RGB, the brightest channel 1.
_KELVIN = np.array([2500, 3200, 4000, 5000, 6500, 9000])
_KELVIN_RGB = np.array(
    [[1, 0.46, 0.12], [1, 0.58, 0.25], [1, 0.70, 0.43], [1, 0.84, 0.69], [1, 0.98, 1.0], [0.79, 0.87, 1]]
)
_WRIST, _MIDDLE_MCP = 0, 9
# A camera's white balance takes out most of the light's colour.
_LEFT_BY_WHITE_BALANCE = 0.35


@dataclass(frozen=True, slots=True, eq=False)
class Skin:
    """One person's skin.

    Attributes:
        back, palm, nail: (3,) reflectance.
        flush: how red knuckles and fingertips are, 0 to 1.
        blotches, creases, veins, bumps: strength of each, about 0 to 1.
        roughness: of the highlight, 0.3 (moist) to 0.7 (dry).
        gloss: strength of the highlight at the skin, about 0.03.
        varnish: gloss of the nails, 0 to 1.
        place: (2,) m, which part of the noise lies on this hand.
    """

    back: FloatArray
    palm: FloatArray
    nail: FloatArray
    flush: float
    blotches: float
    creases: float
    veins: float
    bumps: float
    roughness: float
    gloss: float
    varnish: float
    place: FloatArray


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
class Sleeve:
    """A sleeve of one hand."""

    cut: SleeveCut
    material: Material


@dataclass(frozen=True, slots=True, eq=False)
class Lights:
    """Light that does not depend on the place, but for shadows.

    Attributes:
        key_direction: (3,) unit, towards the light; `key` (3,) its radiance on a surface that faces it.
        softness: rad, radius of the light as seen from the hand.
        sky, ground: (3,) radiance from above and below, mixed by how far a surface faces up.
        fill_direction, fill: a second light without shadows.
    """

    key_direction: FloatArray
    key: FloatArray
    softness: float
    sky: FloatArray
    ground: FloatArray
    fill_direction: FloatArray
    fill: FloatArray


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


@dataclass(frozen=True, slots=True, eq=False)
class Look:
    """Everything that does not move, or moves with a hand.

    Attributes:
        skins, sleeves, shoulders: per hand; a sleeve may be None, a shoulder is (3,) m in the world, where the arm ends.
        lights: of the scene.
        above, below: (3,) radiance that a ray meets which leaves the scene upwards and downwards.
        solids: the surroundings, clutter, and held objects.
    """

    skins: tuple[Skin, ...]
    sleeves: tuple[Sleeve | None, ...]
    shoulders: tuple[FloatArray, ...]
    lights: Lights
    above: FloatArray
    below: FloatArray
    solids: tuple[Solid, ...]


def draw_look(preset: Preset, hands: int, rng: np.random.Generator) -> Look:
    """Draw a scene.

    Args:
        preset: "plain" has even backgrounds and kind light; "room" a furnished room with any skin, sleeves and light;
            "hard" adds clutter, held objects, skin-coloured things, and dim or harsh light.
        hands: how many hands there are, 1 or 2.
        rng: the same state gives the same look.

    Raises:
        ValueError: an unknown preset, or a number of hands that is neither 1 nor 2.
    """
    if preset not in PRESETS:
        raise ValueError(f"unknown preset {preset!r}, expected one of {', '.join(PRESETS)}")
    if hands not in (1, 2):
        raise ValueError(f"a look is for 1 or 2 hands, not {hands}")
    skin = _draw_skin(rng)
    other = skin if rng.random() < 0.8 else _draw_skin(rng)  # two hands are mostly those of one person
    sleeve = _draw_sleeve(rng)
    lights = _draw_lights(preset, rng)
    chest = np.array([rng.uniform(-0.05, 0.05), rng.uniform(-0.62, -0.5), rng.uniform(-0.1, 0.12)])
    half_width = rng.uniform(0.16, 0.2)
    right_first = 1 if hands == 2 or rng.random() < 0.5 else -1
    shoulders = tuple(chest + [side * half_width, 0, 0] for side in (right_first, -right_first)[:hands])
    above = _light_colour(rng) * rng.uniform(0.05, 0.9)
    below = above * rng.uniform(0.5, 1.2) if rng.random() < 0.7 else rng.uniform(0.02, 0.8, 3)
    solids = [] if preset == "plain" else _draw_room(float(chest[1]), rng)
    solids += _draw_person(chest, half_width, skin, sleeve, rng)
    if preset == "hard":
        solids += _draw_clutter(skin, rng)
        for hand in range(hands):
            if rng.random() < 0.35:
                solids.append(_draw_held(hand, rng))
    return Look((skin, other)[:hands], (sleeve,) * hands, shoulders, lights, above, below, tuple(solids))


def with_arms_behind(look: Look, joints: Sequence[FloatArray], rng: np.random.Generator) -> Look:
    """The same look for hands that are turned in any way: each arm goes on about where its hand points from.

    Args:
        look: of as many hands.
        joints: (21, 3) m, world, of each hand.
        rng: of the directions.
    """
    shoulders = []
    for hand in joints:
        back = hand[_WRIST] - hand[_MIDDLE_MCP]
        offset = 0.5 * back / np.linalg.norm(back) + rng.normal(0, 0.12, 3)
        shoulders.append(hand[_WRIST] + offset)
    return replace(look, shoulders=tuple(shoulders))


def linear(srgb: FloatArray | NDArray[np.integer]) -> FloatArray:
    """sRGB values 0 to 255 -> linear 0 to 1 (IEC 61966-2-1)."""
    share = np.asarray(srgb, np.float64) / 255
    return np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)


def _draw_skin(rng: np.random.Generator) -> Skin:
    tone = rng.uniform(0, len(_SKIN_SRGB) - 1)
    scale = linear(_SKIN_SRGB)[:, ::-1]
    back = np.exp([np.interp(tone, np.arange(len(scale)), np.log(scale[:, c])) for c in range(3)])
    redness = rng.normal(0, 0.06)
    back *= np.exp([-redness, -redness, redness / 2]) * np.exp(rng.normal(0, 0.05))
    # The palm is some tones lighter, the more so the darker the skin, and redder.
    dark = tone / (len(_SKIN_SRGB) - 1)
    share = np.clip(0.12 + 0.5 * dark + rng.normal(0, 0.07), 0, 0.7)
    palm = back ** (1 - share) * (linear(_PALM_SRGB)[::-1] * [0.97, 0.95, 1.04]) ** share
    palm *= np.exp([-0.04, -0.07, 0.02])
    nail = palm**0.6 * (linear(np.array([226, 178, 168]))[::-1]) ** 0.4 * [1.05, 0.97, 1.05]
    varnish = rng.uniform(0.25, 0.6)
    if rng.random() < 0.08:  # painted
        nail, varnish = rng.uniform(0.02, 0.9, 3), 1.0
    return Skin(
        back=back,
        palm=palm,
        nail=nail,
        flush=float(rng.uniform(0.2, 1.0) * (1 - 0.6 * dark)),
        blotches=float(rng.uniform(0.3, 1.0)),
        creases=float(rng.uniform(0.5, 1.0)),
        veins=float(rng.uniform(0, 1.0) ** 2),
        bumps=float(rng.uniform(0.4, 1.0)),
        roughness=float(rng.uniform(0.35, 0.65)),
        gloss=float(rng.uniform(0.02, 0.045)),
        varnish=float(varnish),
        place=rng.uniform(0, 1, 2),
    )


_CLOTHES, _CLOTH_REPEAT = ("flat", "cloth", "cloth", "stripes", "checks", "speckle"), (0.06, 0.2)  # m


def _draw_sleeve(rng: np.random.Generator) -> Sleeve | None:
    kind = rng.choice(["none", "short", "long"], p=[0.35, 0.2, 0.45])
    start = {"none": None, "short": rng.uniform(0.3, 0.42), "long": rng.uniform(0.005, 0.07)}[kind]
    cut_rest = rng.uniform([0.003, 0.0005, 0], [0.012, 0.003, 2 * np.pi])
    material = draw_material(rng, _CLOTHES, _CLOTH_REPEAT)
    if start is None:
        return None
    return Sleeve(SleeveCut(float(start), *(float(value) for value in cut_rest)), material)


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


def _light_colour(rng: np.random.Generator) -> FloatArray:
    kelvin = rng.uniform(2700, 8000)
    colour = np.array([np.interp(kelvin, _KELVIN, _KELVIN_RGB[:, c]) for c in (2, 1, 0)])
    colour = colour**_LEFT_BY_WHITE_BALANCE
    return np.asarray(colour / colour.mean())


def _direction(rng: np.random.Generator, lowest: float) -> FloatArray:
    """A random unit vector whose z is at least `lowest`."""
    z, turn = rng.uniform(lowest, 1), rng.uniform(0, 2 * np.pi)
    flat = np.sqrt(1 - z * z)
    return np.array([flat * np.cos(turn), flat * np.sin(turn), z])


def _draw_lights(preset: Preset, rng: np.random.Generator) -> Lights:
    # How bright the scene is on a white surface, and how much of that comes from the key light.
    level, share = rng.uniform(0.8, 1.15), rng.uniform(0.25, 0.65)
    if preset == "plain":
        level, share = rng.uniform(0.85, 1.1), rng.uniform(0.3, 0.55)
    elif preset == "hard":
        level, share = rng.uniform(0.3, 1.2), rng.uniform(0.2, 0.85)
    key = _light_colour(rng) * level * share
    ambient = _light_colour(rng) * level * (1 - share)
    return Lights(
        key_direction=_direction(rng, -0.1 if preset == "hard" else 0.15),
        key=key,
        softness=float(rng.uniform(0.01, 0.25)),
        sky=ambient * rng.uniform(0.9, 1.2),
        ground=ambient * rng.uniform(0.35, 0.8),
        fill_direction=_direction(rng, -0.5),
        fill=_light_colour(rng) * level * rng.uniform(0, 0.3),
    )


_WALLS = ("flat", "flat", "cloud", "speckle", "bricks", "stripes", "photo", "tiles", "wood", "checks")
_FURNITURE = ("flat", "wood", "cloud", "cloth", "photo", "poster", "shelf", "stripes")


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


def _draw_person(
    chest: FloatArray, half_width: float, skin: Skin, sleeve: Sleeve | None, rng: np.random.Generator
) -> list[Solid]:
    """Trunk and head of the person whose hands they are, as plain as can be: they keep arms from ending in the air."""
    shirt = draw_material(rng, _CLOTHES, _CLOTH_REPEAT) if sleeve is None else sleeve.material
    face = Material(0, skin.back * 0.9, np.minimum(skin.back * 1.1, 1), 0.1, 0.02)
    hair = Material(0, np.full(3, 0.01), rng.uniform(0.02, 0.3) * np.array([0.4, 0.7, 1.0]), 0.05, 0.05)
    trunk = np.array([2 * half_width + 0.02, 0.22, 1.4])
    return [
        Solid("cylinder", _place(chest + [0, -0.04, -0.71]), trunk, shirt),
        Solid("sphere", _place(chest + [0, -0.03, 0.0]), np.array([2 * half_width + 0.08, 0.22, 0.17]), shirt),
        Solid("cylinder", _place(chest + [0, -0.03, 0.09]), np.array([0.11, 0.12, 0.14]), face),
        Solid("sphere", _place(chest + [0, 0.0, 0.25]), np.array([0.155, 0.2, 0.235]), face),
        Solid("sphere", _place(chest + [0, -0.025, 0.28]), np.array([0.175, 0.2, 0.22]), hair),
    ]


def _draw_room(person: float, rng: np.random.Generator) -> list[Solid]:
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


def _draw_clutter(skin: Skin, rng: np.random.Generator) -> list[Solid]:
    """Things near the hands, some of the colour of the skin."""
    solids = []
    for _ in range(rng.integers(3, 11)):
        shape: Shape = ("box", "sphere", "cylinder")[int(rng.integers(3))]
        size = rng.uniform(0.02, 0.14, 3) * rng.choice([1, 1, 2.0])
        position = _direction(rng, -1) * rng.uniform(0.14, 0.5)
        material = draw_material(rng, ("flat", "cloth", "photo", "poster", "stripes", "checks", "wood"), (0.04, 0.3))
        if rng.random() < 0.25:
            colour = skin.palm if rng.random() < 0.5 else skin.back
            material = Material(material.layer, colour * 0.85, np.minimum(colour * 1.15, 1), 0.1, 0.02)
        solids.append(Solid(shape, _place(position, 0, _random_rotation(rng)), size, material))
    return solids


def _draw_held(hand: int, rng: np.random.Generator) -> Solid:
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
