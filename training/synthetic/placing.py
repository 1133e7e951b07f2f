"""Where a right hand is and how it is turned, as a person sitting at -y holds it.

Everything here is for right hands. A left hand is the mirror image at x = 0 of a right hand that is placed in the same way.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hamuco.engine.hand_model import HandModel, mirror_axis_angle
from hamuco.engine.skinning import rest_joints
from hamuco.fusion.hand import HandParameters
from hamuco.training.synthetic.poses import fingers_of

FloatArray = NDArray[np.float64]

# Ranges, in degrees: direction of the forearm from straight ahead to the left, and up; the forearm's turn from thumb up
# towards palm down; flexion and radial deviation of the wrist. The arm's are those of comfortable reaches over a table;
# the forearm's and the wrist's are somewhat within the norms of the American Academy of Orthopaedic Surgeons, Joint
# Motion (1965): supination 80, pronation 80 and what the shoulder adds, extension 70, flexion 80, ulnar 30, radial 20.
_RANGES = np.radians(((-30, 70), (-25, 75), (-70, 100), (-50, 50), (-25, 15)))
_TURNS = len(_RANGES)

_CENTRE_RADIUS = 0.13  # m, about the world origin, for the middle knuckle: the whole hand is then in the workspace


@dataclass(frozen=True, slots=True, eq=False)
class Placement:
    """A right hand, or with leading dimensions (...) several.

    Attributes:
        turns: (..., 5) rad: forearm to the left and up, pronation, flexion and radial deviation of the wrist. All zero:
            the forearm points to +y, the palm to the left, the thumb up.
        wrist: (..., 3) m, the wrist joint in the world.
        angles: (..., 45) rad, of the finger joints; see `hamuco.training.synthetic.poses`.
    """

    turns: FloatArray
    wrist: FloatArray
    angles: FloatArray

    @classmethod
    def of(cls, coordinates: FloatArray) -> Placement:
        """From all (..., 53) of its numbers."""
        return cls(coordinates[..., :_TURNS], coordinates[..., _TURNS : _TURNS + 3], coordinates[..., _TURNS + 3 :])

    @property
    def coordinates(self) -> FloatArray:
        """All (..., 53) numbers: turns, wrist, angles."""
        return np.concatenate([self.turns, self.wrist, self.angles], axis=-1)

    def parameters(self, model: HandModel, betas: FloatArray) -> HandParameters:
        """Of the right hand's model."""
        return HandParameters(
            global_orient(self.turns),
            fingers_of(model).hand_pose(self.angles),
            betas,
            self.wrist - rest_joints(model, betas)[0],
        )


def mirrored(hand: HandParameters) -> HandParameters:
    """Parameters of the mirror image at x = 0, for the mirrored model."""
    return HandParameters(
        mirror_axis_angle(hand.global_orient),
        mirror_axis_angle(hand.hand_pose),
        hand.betas,
        np.asarray(hand.transl) * np.array([-1.0, 1.0, 1.0]),
    )


def global_orient(turns: ArrayLike) -> FloatArray:
    """Axis-angle vectors (..., 3) rad, model to world, of turns (..., 5).

    They are continuous: an angle grows beyond half a turn where it has to, instead of jumping to the other side. Only a
    full turn would be singular, and with the turns in their ranges the angle stays below 240 degrees.
    """
    left, up, pronation, flexion, deviation = np.moveaxis(np.asarray(turns, np.float64), -1, 0)
    z, x, y = (0.0, 0.0, 1.0), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0)
    turn = _quaternion(z, left)
    # In the model's own frame fingers point along -x: a quarter turn makes that straight ahead.
    for axis, angle in ((x, up), (z, np.full_like(left, -0.5 * np.pi)), (x, pronation), (z, flexion), (y, deviation)):
        turn = _multiply(turn, _quaternion(axis, angle))
    vector = turn[..., :3]
    half_sine = np.linalg.norm(vector, axis=-1, keepdims=True)
    angle = 2.0 * np.arctan2(half_sine, turn[..., 3:])  # 0 to a full turn
    return np.asarray(vector * np.where(half_sine > 1e-12, angle / np.maximum(half_sine, 1e-12), 2.0))


def draw_turns(rng: np.random.Generator) -> FloatArray:
    """Turns (5,) anywhere in their ranges, the middle more often."""
    return np.asarray(_RANGES[:, 0] + rng.beta(1.5, 1.5, _TURNS) * np.ptp(_RANGES, axis=1))


def limited_turns(degrees: ArrayLike) -> FloatArray:
    """Turns (5,) given in degrees, within their ranges."""
    return np.asarray(np.clip(np.radians(degrees), _RANGES[:, 0], _RANGES[:, 1]))


def draw_place(rng: np.random.Generator) -> FloatArray:
    """A point (3,) m for a hand's middle knuckle, evenly in its ball."""
    direction = rng.normal(size=3)
    return np.asarray(_CENTRE_RADIUS * rng.uniform() ** (1 / 3) * direction / np.linalg.norm(direction))


def _quaternion(axis: tuple[float, float, float], angle: FloatArray) -> FloatArray:
    """Unit quaternions (..., 4), x y z w, of turns by angles (...) about one axis."""
    half = 0.5 * angle[..., None]
    return np.concatenate([np.sin(half) * np.array(axis), np.cos(half)], axis=-1)


def _multiply(one: FloatArray, other: FloatArray) -> FloatArray:
    """Quaternion products (..., 4), signs kept: scipy's Rotation may flip them, and with them the long way round."""
    a, b, c, d = (one[..., index] for index in range(4))
    x, y, z, w = (other[..., index] for index in range(4))
    return np.stack(
        [
            d * x + a * w + b * z - c * y,
            d * y + b * w + c * x - a * z,
            d * z + c * w + a * y - b * x,
            d * w - a * x - b * y - c * z,
        ],
        axis=-1,
    )
