"""Two hands that meet: the key poses of what hands do together. `hamuco.training.synthetic.motion` moves between them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hamuco.engine.hand_model import HandModel
from hamuco.engine.skinning import forward
from hamuco.training.synthetic.contact import Capsules, capsules, separation
from hamuco.training.synthetic.placing import Placement, draw_place, draw_turns, limited_turns
from hamuco.training.synthetic.poses import draw_angles

FloatArray = NDArray[np.float64]

_THUMB_TIP, _INDEX_TIP = 4, 8
_KNUCKLE, _MIDDLE_JOINT, _MIDDLE_TIP = 9, 10, 12  # of the middle finger
_RING_KNUCKLE, _LITTLE_KNUCKLE = 13, 17
# Hands that would be in each other make way, and some draws leave little of the encounter: the best of a few, or the first
# that needs no more than this way, m.
_TRIES, _GOOD = 3, 0.025
_CENTRE_SIGMA = np.array([0.03, 0.03, 0.025])  # m, of the place where hands meet
_SIDEWAYS, _UPWARDS = np.array([1.0, 0.0, 0.0]), np.array([0.0, 0.0, 1.0])
_APART = np.array([0.10, 0.0, 0.0])  # m, middle knuckle of a hand on its own side
_APART_SIGMA = np.array([0.03, 0.04, 0.04])


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """Both hands at one moment.

    Attributes:
        right, left: each as a right hand, see `placing`.
        away: (3,) the way the right hand makes, as seen from the left one, if they would be in each other; world.
        rest: how long they stay, s.
    """

    right: Placement
    left: Placement
    away: FloatArray
    rest: float

    def exchanged(self) -> Step:
        """The same with the roles of the hands exchanged, as seen in a mirror."""
        return Step(self.left, self.right, -_mirrored(self.away), self.rest)


@dataclass(frozen=True, slots=True, eq=False)
class Hands:
    """The hands of one person: the right one's model, and the shape (10,) of both."""

    model: HandModel
    betas: FloatArray

    def place(
        self, turns: FloatArray, family: str | None, landmarks: list[int], target: FloatArray, rng: np.random.Generator
    ) -> Placement:
        """A right hand in a pose of a family, the mean of some of its landmarks at a target (3,) m."""
        return self.moved(turns, draw_angles(self.model, self.betas, rng, family), landmarks, target)

    def moved(self, turns: FloatArray, angles: FloatArray, landmarks: list[int], target: FloatArray) -> Placement:
        """The same with given joint angles (45,)."""
        there = Placement(turns, np.zeros(3), angles).parameters(self.model, self.betas)
        hand = forward(self.model, there.global_orient, there.hand_pose, self.betas, there.transl, with_vertices=False)
        return Placement(turns, target - hand.landmarks[landmarks].mean(axis=0), angles)

    def bodies(self, right: Placement, left: Placement) -> tuple[Capsules, Capsules]:
        """Capsules of both hands at K moments, of placements with a leading dimension of K."""
        model, betas = self.model, self.betas
        return (
            capsules(model, right.parameters(model, betas)),
            capsules(model, left.parameters(model, betas)).mirrored(),
        )

    def push(self, step: Step) -> float:
        """How far, m, the right hand has to make way."""
        moment = (Placement.of(place.coordinates[None]) for place in (step.right, step.left))
        return float(separation(*self.bodies(*moment), step.away[None], np.zeros(1))[0])


def draw_alone(hands: Hands, rng: np.random.Generator) -> Placement:
    """A hand anywhere in the workspace."""
    return hands.place(draw_turns(rng), None, [_KNUCKLE], draw_place(rng), rng)


def draw_encounter(hands: Hands, rng: np.random.Generator, kind: str | None = None) -> tuple[Step, ...]:
    """Key poses of one encounter, one of `ENCOUNTERS`; None takes any."""
    name = kind or ENCOUNTERS[rng.integers(len(ENCOUNTERS))]
    best: tuple[Step, ...] = ()
    least = np.inf
    for _ in range(_TRIES):
        steps = _ENCOUNTERS[name](hands, rng)
        needed = hands.push(closest_step(steps))
        if needed < least:
            best, least = steps, needed
        if needed < _GOOD:
            break
    return tuple(step.exchanged() for step in best) if rng.uniform() < 0.5 else best


def draw_apart(hands: Hands, rng: np.random.Generator) -> Step:
    """Each hand by itself on its own side."""

    def one() -> Placement:
        target = _APART + rng.normal(0, _APART_SIGMA)
        return hands.place(draw_turns(rng), None, [_KNUCKLE], target, rng)

    return Step(one(), one(), _SIDEWAYS, rest=rng.uniform(0.1, 0.6) if rng.uniform() < 0.3 else 0.0)


def _mirrored(point: FloatArray) -> FloatArray:
    return np.asarray(point * np.array([-1.0, 1.0, 1.0]))


def _turns(rng: np.random.Generator, *ranges: tuple[float, float]) -> FloatArray:
    return limited_turns([rng.uniform(*degrees) for degrees in ranges])


def _together(
    right: Placement, left: Placement, away: FloatArray, aside: float, rng: np.random.Generator
) -> tuple[Step, ...]:
    """Come near, meet, part: before and after, the wrists are farther to their own sides by a distance, m."""
    near, other = (Placement(place.turns, place.wrist + (aside, 0.0, 0.0), place.angles) for place in (right, left))
    before = Step(near, other, away, rest=0.0)
    return before, Step(right, left, away, rest=rng.uniform(0.2, 0.9)), before


def _touch(hands: Hands, rng: np.random.Generator) -> tuple[Step, ...]:
    """Fingertips on fingertips."""
    family = ("point", "open", "pinch", "relaxed", "two")[rng.integers(5)]
    tip = {"point": _INDEX_TIP, "two": _INDEX_TIP, "pinch": _THUMB_TIP}.get(family, _MIDDLE_TIP)
    centre = rng.normal(0, _CENTRE_SIGMA)
    turns = _turns(rng, (45, 70), (0, 45), (0, 80), (-15, 15), (-10, 10))
    places = []
    for point in (centre, _mirrored(centre)):
        own = turns + np.radians(rng.normal(0, 4, 5))
        places.append(hands.place(own, family, [tip], point + (0.009, 0.0, 0.0), rng))
    return _together(places[0], places[1], _SIDEWAYS, 0.06, rng)


def _clasp(hands: Hands, rng: np.random.Generator) -> tuple[Step, ...]:
    """Side by side like an open book, or nearly palm to palm."""
    family = ("open", "relaxed", "spread", "cylinder grasp")[rng.integers(4)]
    centre = rng.normal(0, _CENTRE_SIGMA)
    turns = _turns(rng, (0, 20), (20, 70), (-65, -10), (-10, 5), (-5, 5))
    places = []
    for point in (centre, _mirrored(centre)):
        own = turns + np.radians(rng.normal(0, 3, 5))
        places.append(hands.place(own, family, [_RING_KNUCKLE, _LITTLE_KNUCKLE], point + (0.016, 0.0, 0.0), rng))
    return _together(places[0], places[1], _SIDEWAYS, 0.08, rng)


def _cup(hands: Hands, rng: np.random.Generator) -> tuple[Step, ...]:
    """A fist before the palm of the other hand."""
    family = ("open", "relaxed", "cylinder grasp")[rng.integers(3)]
    centre = rng.normal(0, _CENTRE_SIGMA)
    turns = _turns(rng, (0, 30), (0, 60), (-15, 20), (-10, 20), (-10, 5))
    palm = hands.place(turns, family, [_KNUCKLE], centre + (0.016, 0.0, 0.0), rng)
    turns = _turns(rng, (40, 65), (-5, 30), (-15, 60), (-10, 15), (-10, 5))
    fist = hands.place(turns, "fist", [_KNUCKLE, _MIDDLE_JOINT], _mirrored(centre) + (0.016, 0.0, 0.0), rng)
    return _together(palm, fist, _SIDEWAYS, 0.08, rng)


def _cover(hands: Hands, rng: np.random.Generator) -> tuple[Step, ...]:
    """One palm down over the back of the other hand."""
    centre = rng.normal(0, _CENTRE_SIGMA)
    upper = _turns(rng, (35, 65), (-15, 20), (75, 95), (-10, 15), (-10, 10))
    lower = _turns(rng, (20, 50), (-15, 15), (75, 95), (-10, 20), (-10, 10))
    over = hands.place(
        upper, ("relaxed", "open", "spread")[rng.integers(3)], [_KNUCKLE], centre + (0.0, 0.0, 0.022), rng
    )
    under = hands.place(lower, ("relaxed", "open", "fist")[rng.integers(3)], [_KNUCKLE], _mirrored(centre), rng)
    return _together(over, under, _UPWARDS, 0.09, rng)


def _grasp(hands: Hands, rng: np.random.Generator) -> tuple[Step, ...]:
    """Thumb and fingers of one hand around the raised index fingertip of the other."""
    centre = rng.normal(0, _CENTRE_SIGMA)
    turns = _turns(rng, (0, 20), (55, 75), (-20, 20), (-10, 10), (-5, 10))
    held = hands.place(turns, "point", [_INDEX_TIP], _mirrored(centre), rng)
    turns = _turns(rng, (35, 65), (-10, 20), (-10, 50), (-15, 10), (-10, 5))
    # A pinch that is half open holds a finger.
    narrow, wide = (draw_angles(hands.model, hands.betas, rng, family) for family in ("pinch", "cylinder grasp"))
    holding = hands.moved(turns, 0.5 * (narrow + wide), [_THUMB_TIP, _INDEX_TIP], centre + (0.0, 0.0, 0.008))
    return _together(holding, held, _UPWARDS, 0.08, rng)


def _cross(hands: Hands, rng: np.random.Generator) -> tuple[Step, ...]:
    """One hand passes in front of the other to its side, above or nearer to the far end of the table, and back."""
    gap = np.array([0.0, rng.uniform(-0.02, 0.06), rng.uniform(0.09, 0.12)])
    across = rng.uniform(-0.12, -0.04)
    upper = _turns(rng, (10, 55), (-10, 40), (-40, 95), (-30, 30), (-20, 10))
    lower = _turns(rng, (10, 55), (-25, 10), (-40, 95), (-30, 30), (-20, 10))
    steps = []
    for side in (-across, across, -across):
        shift = np.array([side, 0.0, 0.0])
        over = hands.place(upper, None, [_KNUCKLE], 0.5 * gap + shift, rng)
        under = hands.place(lower, None, [_KNUCKLE], -0.5 * gap + shift, rng)
        steps.append(Step(over, under, gap / np.linalg.norm(gap), rest=0.0))
    return tuple(steps)


_ENCOUNTERS: dict[str, Callable[[Hands, np.random.Generator], tuple[Step, ...]]] = {
    "touch": _touch,
    "clasp": _clasp,
    "cup": _cup,
    "cover": _cover,
    "grasp": _grasp,
    "cross": _cross,
}
ENCOUNTERS = tuple(_ENCOUNTERS)
"""Names of the encounters."""


def closest_step(steps: tuple[Step, ...]) -> Step:
    """The encounter itself, of its steps: the one in the middle."""
    return steps[len(steps) // 2]
