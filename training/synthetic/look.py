"""What a synthetic scene looks like: skin, sleeves, light, surroundings. Plain values, drawn from a generator.

Colours are linear BGR reflectances or radiances. Cameras and the motion of the hands are not part of a look.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from hamuco.fusion.hand import Side
from hamuco.training.synthetic.hand_surface import SleeveCut
from hamuco.training.synthetic.surroundings import (
    Material,
    Solid,
    draw_clothes,
    draw_clutter,
    draw_direction,
    draw_held,
    draw_person,
    draw_room,
)

FloatArray = NDArray[np.float64]
Preset = Literal["plain", "room", "hard"]
PRESETS: tuple[Preset, ...] = get_args(Preset)
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


def draw_look(preset: Preset, hands: int, rng: np.random.Generator, side: Side = "right") -> Look:
    """Draw a scene.

    Args:
        preset: "plain" has even backgrounds and kind light; "room" a furnished room with any skin, sleeves and light;
            "hard" adds clutter, held objects, skin-coloured things, and dim or harsh light.
        hands: how many hands there are, 1 or 2.
        rng: the same state gives the same look.
        side: of the first hand, whose arm comes from that shoulder of the person.

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
    first = half_width if side == "right" else -half_width  # the person looks along +y
    shoulders = tuple(chest + [across, 0, 0] for across in (first, -first)[:hands])
    above = _light_colour(rng) * rng.uniform(0.05, 0.9)
    below = above * rng.uniform(0.5, 1.2) if rng.random() < 0.7 else rng.uniform(0.02, 0.8, 3)
    solids = [] if preset == "plain" else draw_room(float(chest[1]), rng)
    shirt = draw_clothes(rng) if sleeve is None else sleeve.material
    solids += draw_person(chest, half_width, skin.back, shirt, rng)
    if preset == "hard":
        solids += draw_clutter(skin.palm, skin.back, rng)
        for hand in range(hands):
            if rng.random() < 0.35:
                solids.append(draw_held(hand, rng))
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


def _draw_sleeve(rng: np.random.Generator) -> Sleeve | None:
    kind = rng.choice(["none", "short", "long"], p=[0.35, 0.2, 0.45])
    start = {"none": None, "short": rng.uniform(0.3, 0.42), "long": rng.uniform(0.005, 0.07)}[kind]
    cut_rest = rng.uniform([0.003, 0.0005, 0], [0.012, 0.003, 2 * np.pi])
    material = draw_clothes(rng)
    if start is None:
        return None
    return Sleeve(SleeveCut(float(start), *(float(value) for value in cut_rest)), material)


def _light_colour(rng: np.random.Generator) -> FloatArray:
    kelvin = rng.uniform(2700, 8000)
    colour = np.array([np.interp(kelvin, _KELVIN, _KELVIN_RGB[:, c]) for c in (2, 1, 0)])
    colour = colour**_LEFT_BY_WHITE_BALANCE
    return np.asarray(colour / colour.mean())


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
        key_direction=draw_direction(rng, -0.1 if preset == "hard" else 0.15),
        key=key,
        softness=float(rng.uniform(0.01, 0.25)),
        sky=ambient * rng.uniform(0.9, 1.2),
        ground=ambient * rng.uniform(0.35, 0.8),
        fill_direction=draw_direction(rng, -0.5),
        fill=_light_colour(rng) * level * rng.uniform(0, 0.3),
    )
