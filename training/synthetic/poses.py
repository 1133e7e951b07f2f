"""What hands do with their fingers: families of poses with the variety of people, within what joints can do.

A pose is the 45 joint angles of `hamuco.fusion.kinematics`: flexion, abduction and twist of 15 joints in MANO order. The
families are written as flexion in degrees from straight and, for abduction, twist and the thumb's base, which have no
straight, in degrees from the model's mean pose.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from hamuco.engine.hand_model import HandModel
from hamuco.fusion.anatomy import COUPLING, Anatomy
from hamuco.fusion.hand import HandParameters
from hamuco.fusion.kinematics import Skeleton
from hamuco.training.synthetic.contact import TOLERATED_DEPTH, capsules, own_penetration

FloatArray = NDArray[np.float64]

_BLENDED = 0.35  # part of the poses that lie between two families
_BLEND_SIGMA = 0.15  # by which each finger goes its own way in a blend
# Standard deviations, degrees: of a hand's flexion as a whole, of each finger's knuckle and middle joint, of the departure
# of a fingertip joint from its coupling, of abduction and of twist; of the thumb's angles.
_TOGETHER, _KNUCKLE, _MIDDLE, _TIP, _ASIDE, _TWIST, _THUMB = 5.0, 5.0, 6.0, 5.0, 3.0, 1.5, 4.0
_CHILDREN = 0.15  # part of the hands
_CHILD_SIZE = (-4.0, -2.0)  # first shape component, which is size: 23 mm of wrist to middle knuckle in four
_MARGIN = np.radians(1.0)  # kept from the limits
# Of the way to the relaxed hand, tried one after the other until no finger is in another; the relaxed hand is free.
_RETREATS = (0.03, 0.06, 0.1, 0.15, 0.22, 0.32, 0.5, 1.0)
_THUMB_ANGLES = 36  # first of the thumb's

# Per family: a row (knuckle flexion, middle joint flexion, abduction) for index, middle, ring and little finger, then the
# thumb (base flexion, abduction and twist, middle and end joint flexion).
_Row = tuple[float, ...]
_FAMILIES: Mapping[str, tuple[_Row, _Row, _Row, _Row, _Row]] = {
    "relaxed": ((12, 22, 0), (13, 27, 0), (11, 30, 0), (12, 30, 0), (0, 0, 0, 9, 8)),
    "open": ((-5, 4, 0), (-5, 4, 0), (-5, 5, 0), (-5, 6, 0), (-5, 0, 0, 0, 0)),
    "spread": ((-5, 3, 12), (-6, 3, 1), (-6, 4, -8), (-5, 5, -16), (-10, 8, 0, 2, -3)),
    "fist": ((72, 91, 0), (70, 91, 0), (74, 94, 0), (77, 87, 0), (17, 12, 11, 27, 41)),
    "pinch": ((48, 63, 0), (25, 30, 0), (20, 25, 0), (15, 22, 0), (26, -2, 24, 13, 1)),
    "point": ((3, 6, 0), (70, 88, 0), (75, 93, 0), (77, 86, 0), (22, 11, 11, 30, 36)),
    "two": ((0, 5, 8), (0, 5, -4), (76, 92, 0), (78, 86, 0), (28, 10, 10, 35, 45)),
    "three": ((0, 5, 8), (0, 5, 0), (0, 7, -6), (78, 85, 0), (30, 5, 10, 40, 45)),
    "four": ((-2, 5, 8), (-2, 5, 1), (-2, 6, -5), (-2, 7, -10), (35, 0, 10, 35, 40)),
    "power grasp": ((40, 52, 2), (43, 56, 0), (46, 56, -1), (50, 52, -4), (10, 10, 10, 15, 25)),
    "cylinder grasp": ((30, 38, 3), (32, 42, 0), (34, 42, -2), (36, 40, -6), (0, 5, 5, 12, 20)),
    "thumbs up": ((73, 92, 0), (70, 91, 0), (75, 95, 0), (78, 86, 0), (-12, 0, 0, 0, -6)),
}
FAMILIES = tuple(_FAMILIES)
"""Names of the families of poses."""


@dataclass(frozen=True, slots=True, eq=False)
class Fingers:
    """What the fingers of one model can do; one for right hands serves mirrored ones, whose angles are the same.

    Attributes:
        skeleton: of the mean shape; its axes are good to a degree or two for any shape.
        lower, upper: (45,) limits of the angles, rad.
        families: (families, 45) angles at the middle of each family, within the limits, in the order of `FAMILIES`.
    """

    skeleton: Skeleton
    lower: FloatArray
    upper: FloatArray
    families: FloatArray

    def hand_pose(self, angles: FloatArray) -> FloatArray:
        """Angles (..., 45) -> parameters (..., 45) of the hand model, relative to its mean pose."""
        relative = (angles - self.skeleton.mean_angles[0]).reshape(*angles.shape[:-1], 15, 3, 1)
        return np.asarray((self.skeleton.basis[0, 1:] @ relative).reshape(angles.shape))

    def withdrawn(self, angles: FloatArray, part: FloatArray) -> FloatArray:
        """Angles (K, 45) after parts (K,), 0 to 1, of the way to the relaxed hand; the thumb goes first."""
        rest = (1.0 - part)[:, None]
        left_over = np.where(np.arange(45) < _THUMB_ANGLES, rest, rest**3)
        return np.asarray(self.families[0] + left_over * (angles - self.families[0]))

    def retreat(self, model: HandModel, angles: FloatArray, betas: FloatArray, start: FloatArray) -> FloatArray:
        """Part (K,) of the way to the relaxed hand, at least `start` (K,), on which no finger is in another or the palm."""
        part = start.copy()
        active = np.flatnonzero(self.depth(model, self.withdrawn(angles, start), betas) > TOLERATED_DEPTH)
        if len(active):
            parts = np.maximum(start[active, None], _RETREATS)
            tried = self.withdrawn(np.repeat(angles[active], len(_RETREATS), axis=0), parts.ravel())
            deep = self.depth(model, tried, betas).reshape(parts.shape) > TOLERATED_DEPTH
            deep[:, -1] = False  # the relaxed hand, beyond which there is nothing to try
            part[active] = np.take_along_axis(parts, deep.argmin(axis=1)[:, None], axis=1)[:, 0]
        return part

    def depth(self, model: HandModel, angles: FloatArray, betas: FloatArray) -> FloatArray:
        """How deep (K,) m parts of the hand are in each other for angles (K, 45)."""
        hand = HandParameters(np.zeros((1, 3)), self.hand_pose(angles), betas, np.zeros((1, 3)))
        return own_penetration(capsules(model, hand))


@lru_cache(maxsize=8)
def fingers_of(model: HandModel) -> Fingers:
    """Kept, as a model never changes."""
    skeleton = Skeleton.of(model, np.zeros(10))
    anatomy = Anatomy.of(skeleton)
    lower, upper = anatomy.lower[0], anatomy.upper[0]
    straight = skeleton.straight[0]
    families = np.tile(skeleton.mean_angles[0], (len(FAMILIES), 1)).reshape(-1, 15, 3)
    for angles, rows in zip(families, _FAMILIES.values(), strict=True):
        for row, first in zip(rows[:4], (0, 3, 9, 6), strict=True):  # MANO has the little finger before the ring finger
            knuckle, middle, aside = np.radians(row)
            flexion = np.array([knuckle, middle, COUPLING * middle])
            angles[first : first + 3, 0] = straight[first : first + 3] + flexion
            angles[first, 1] += aside
        base_flexion, base_abduction, base_twist, thumb_middle, thumb_end = np.radians(rows[4])
        angles[12] += base_flexion, base_abduction, base_twist
        angles[13:, 0] = straight[13:] + (thumb_middle, thumb_end)
    return Fingers(skeleton, lower, upper, np.clip(families.reshape(-1, 45), lower, upper))


def draw_angles(model: HandModel, betas: FloatArray, rng: np.random.Generator, family: str | None = None) -> FloatArray:
    """Joint angles (45,) of one pose, within the limits and without fingers in each other.

    Args:
        model: the hand.
        betas: (10,) its shape, which says how thick fingers are.
        rng: the only source of chance.
        family: one of `FAMILIES`; None takes any, or a blend of two.
    """
    fingers = fingers_of(model)
    if family is None:
        first, second = rng.integers(len(FAMILIES), size=2)
        share = rng.uniform() if rng.uniform() < _BLENDED else 0.0
        shares = np.clip(share + (share > 0) * rng.normal(0, _BLEND_SIGMA, 5), 0, 1)
        start, stop = fingers.families[first].reshape(5, 9), fingers.families[second].reshape(5, 9)
        angles = (start + shares[:, None] * (stop - start)).reshape(5, 3, 3)
    else:
        angles = fingers.families[FAMILIES.index(family)].reshape(5, 3, 3).copy()
    noise = np.radians(rng.normal(size=(5, 3, 3)))
    noise[:4, 0, 0] *= _KNUCKLE
    noise[:4, 1, 0] *= _MIDDLE
    noise[:4, :2, 0] += np.radians(rng.normal(0, _TOGETHER))
    noise[:4, 2, 0] = COUPLING * noise[:4, 1, 0] + _TIP * noise[:4, 2, 0]
    # The knuckle's ligaments are tight when it is bent: then a finger hardly moves sideways.
    noise[:4, 0, 1] *= _ASIDE * np.clip(np.cos(angles[:4, 0, 0]), 0.1, 1.0)
    noise[:4, 1:, 1] = 0.0
    noise[:4, :, 2] *= _TWIST
    noise[4] *= _THUMB
    noise[4, 1:, 1:] = 0.0
    drawn = np.clip((angles + noise).ravel(), fingers.lower + _MARGIN, fingers.upper - _MARGIN)
    part = fingers.retreat(model, drawn[None], betas, np.zeros(1))
    return np.asarray(fingers.withdrawn(drawn[None], part)[0])


def draw_betas(rng: np.random.Generator) -> FloatArray:
    """A shape (10,): adults of both sexes, whom the model's shape space was made from, and some children."""
    betas = np.clip(rng.normal(size=10), -2.5, 2.5)
    if rng.uniform() < _CHILDREN:
        betas[0] = rng.uniform(*_CHILD_SIZE)
    return np.asarray(betas.astype(np.float32), np.float64)
