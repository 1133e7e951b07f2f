"""Hands that move as people's do: reaches, turns, gestures, rests, and two hands that meet.

A movement is a sum of submovements that overlap, each with the profile of least jerk between rests, 10 s^3 - 15 s^4 + 6 s^5
(Flash and Hogan, J. Neurosci. 1985; their superposition: Flash and Henis, J. Cogn. Neurosci. 1991). It is smooth to the
second derivative, and never leaves the span of its key poses.

Bounds of the sum, which a hand that works or gestures does not reach often:

    wrist            1.5 m/s and 20 m/s^2: brisk reaching; at two metres a second hands are thrown
    orientation      10 rad/s and 150 rad/s^2: quick turning of the forearm
    finger joints    12 rad/s and 200 rad/s^2: a fist closed in a quarter of a second
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import convolve1d, maximum_filter1d
from scipy.spatial.transform import Rotation

from hamuco.engine.hand_model import HandModel
from hamuco.fusion.hand import HandParameters, Side
from hamuco.training.synthetic.contact import flesh_of, separation
from hamuco.training.synthetic.encounters import Hands, closest_step, draw_alone, draw_apart, draw_encounter
from hamuco.training.synthetic.placing import Placement, mirrored
from hamuco.training.synthetic.poses import draw_angles, draw_betas, fingers_of
from hamuco.training.synthetic.truth import Trajectory

FloatArray = NDArray[np.float64]

SAMPLES_PER_SECOND = 100

MAX_SPEED, MAX_ACCELERATION = 1.5, 20.0  # m/s, m/s^2
MAX_TURNING, MAX_TURNING_ACCELERATION = 10.0, 150.0  # rad/s, rad/s^2
MAX_BENDING, MAX_BENDING_ACCELERATION = 12.0, 200.0  # rad/s, rad/s^2

# Peaks of the submovement over unit distance and time; half of an acceleration's bound for each of two that overlap.
_PEAK_SPEED, _PEAK_ACCELERATION = 15.0 / 8.0, 10.0 / np.sqrt(3.0)
_ONE_OF_TWO = 0.5
_OVERLAP = 0.35  # at most, of the shorter of two submovements; three then never overlap
_TEMPO, _TEMPO_SPREAD = 0.45, 0.4  # s, median duration of a submovement; standard deviation of its logarithm
_RESTING, _REST = 0.3, (0.15, 0.9)  # part of the key poses at which a hand rests, and how long, s
_LAG = 0.02  # s, by which single fingers lead or trail; cut at twice as much
_SWAY_HZ = (0.2, 1.2)  # a resting hand is never still: three slow sines of
_SWAY, _SWAY_TURN = 0.0005, float(np.radians(0.2))  # m and rad each
_YIELD = 0.25  # s, before and after flesh would meet flesh, over which hands and fingers make way
_ROUNDS = 4
_PICTURE_SIGMA = 0.01  # m, of the wrist about the origin
_PARTING = 0.5  # at most, of the way to or from where hands meet
_MAX_SECONDS = 3600.0
_SIDES: tuple[Side, Side] = ("right", "left")
_WRIST, _FINGERS = slice(0, 8), slice(8, 53)  # of the coordinates of a placement
_MIRROR = np.array([-1.0, 1.0, 1.0])


def draw_hand(model: HandModel, rng: np.random.Generator) -> HandParameters:
    """One right hand for a picture: any shape, pose and orientation, its wrist within centimetres of the origin.

    Values are rounded to single precision.
    """
    model = _right(model)
    betas = draw_betas(rng)
    hand_pose = fingers_of(model).hand_pose(draw_angles(model, betas, rng))
    wrist = rng.normal(0, _PICTURE_SIGMA, 3)
    orient = Rotation.random(rng=rng).as_rotvec()
    return _rounded(HandParameters(orient, hand_pose, betas, wrist - flesh_of(model).joints_at(betas)[0]))


def draw_hands(
    model: HandModel, rng: np.random.Generator, hands: int, pictures: int
) -> list[tuple[tuple[Side, HandParameters], ...]]:
    """One hand, or two that meet, for each of some pictures. The first is a right hand, its wrist near the origin.

    Two hands are those of one person, at moments of one encounter, from any side: to draw an encounter takes long.

    Raises:
        ValueError: neither one nor two hands.
    """
    _check_hands(hands)
    model = _right(model)
    if hands == 1:
        return [(("right", draw_hand(model, rng)),) for _ in range(pictures)]
    pair = Hands(model, draw_betas(rng))
    steps = draw_encounter(pair, rng)
    meeting, other = closest_step(steps), steps[0 if rng.uniform() < 0.5 else -1]
    parting = _PARTING * rng.uniform(size=(pictures, 1)) ** 2  # mostly close
    places = []
    for close, far in ((meeting.right, other.right), (meeting.left, other.left)):
        coordinates = np.tile(close.coordinates, (pictures, 1))
        coordinates[:, _WRIST] += parting * (far.coordinates - close.coordinates)[_WRIST]
        places.append(Placement.of(coordinates))
    away = np.tile(meeting.away, (pictures, 1))
    push = separation(*pair.bodies(*places), away, np.zeros(pictures))[:, None] * away
    right, left = (place.parameters(model, pair.betas) for place in places)
    view = Rotation.random(pictures, rng=rng)
    rest = flesh_of(model).joints_at(pair.betas)[0]
    origin = places[0].wrist + push + rng.normal(0, _PICTURE_SIGMA, (pictures, 3))
    drawn = []
    for hand, shift, own_rest in ((right, push, rest), (mirrored(left), 0.0, rest * _MIRROR)):
        orient = (view * Rotation.from_rotvec(hand.global_orient)).as_rotvec()
        transl = view.apply(hand.transl + shift + own_rest - origin) - own_rest
        drawn.append(
            [
                _rounded(HandParameters(turned, fingers, pair.betas, moved))
                for turned, fingers, moved in zip(orient, hand.hand_pose, transl, strict=True)
            ]
        )
    return [tuple(zip(_SIDES, both, strict=True)) for both in zip(*drawn, strict=True)]


def draw_trajectories(
    model: HandModel, hands: int, seconds: float, start_ns: int, rng: np.random.Generator
) -> tuple[Trajectory, ...]:
    """Motion of one hand, right or left, or of a right and a left hand that meet now and then.

    Args:
        model: the right hand; the left one is its mirror image.
        hands: 1 or 2.
        seconds: how long; the trajectories end up to one sample later.
        start_ns: time of the first sample.
        rng: the only source of chance.

    Raises:
        ValueError: neither one nor two hands, or a time that is not between 0 and an hour.
    """
    _check_hands(hands)
    if not 0 < seconds <= _MAX_SECONDS:
        raise ValueError(f"{seconds:g} s of motion: expected more than 0 and at most {_MAX_SECONDS:g}")
    model = _right(model)
    pair = Hands(model, draw_betas(rng))
    samples = int(np.ceil(seconds * SAMPLES_PER_SECOND)) + 1
    t_ns = start_ns + np.arange(samples, dtype=np.int64) * (1_000_000_000 // SAMPLES_PER_SECOND)
    times = np.arange(samples) / SAMPLES_PER_SECOND
    if hands == 1:
        side = _SIDES[rng.integers(2)]
        return (_trajectory(side, t_ns, pair, _finished(pair, _alone(pair, times, rng), times, rng)),)

    *places, away = _in_company(pair, times, rng)
    right, left = (_finished(pair, place, times, rng) for place in places)
    bodies = pair.bodies(right, left)
    push = _eased(lambda start: separation(*bodies, away, start), samples)
    half = 0.5 * push[:, None] * away
    return (
        _trajectory("right", t_ns, pair, replace(right, wrist=right.wrist + half)),
        _trajectory("left", t_ns, pair, replace(left, wrist=left.wrist - half * _MIRROR)),
    )


class _Clock:
    """Gives submovements their times, one after the other, from before zero."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self.end = -rng.uniform(0.0, 1.0)
        self._rested = True
        self.start: list[float] = []
        self.duration: list[float] = []

    def add(self, shortest: float, rest: float) -> None:
        """A submovement of at least `shortest` s, after which the hand rests for `rest` s."""
        duration = max(shortest, self._rng.lognormal(np.log(_TEMPO), _TEMPO_SPREAD))
        overlap = 0.0 if self._rested else self._rng.uniform(0.0, _OVERLAP) * min(duration, self.duration[-1])
        self.start.append(self.end - overlap)
        self.duration.append(duration)
        self.end = self.start[-1] + duration + rest
        self._rested = rest > 0

    def path(self, keys: list[FloatArray]) -> Path:
        return Path(np.array(keys), np.array(self.start), np.array(self.duration))


@dataclass(frozen=True, slots=True, eq=False)
class Path:
    """A sum of n - 1 submovements between n keys of D coordinates.

    Attributes:
        keys: (n, D).
        start, duration: (n - 1,) s; starts and ends both ascend, which keeps values within the span of the keys.
    """

    keys: FloatArray
    start: FloatArray
    duration: FloatArray

    def at(self, seconds: FloatArray, lag: FloatArray) -> FloatArray:
        """Values (K, D) at times (K,), each coordinate late by its lag (D,) or (1,) s."""
        values = np.repeat(self.keys[:1], len(seconds), axis=0)
        for step, start, duration in zip(np.diff(self.keys, axis=0), self.start, self.duration, strict=True):
            s = np.clip((seconds[:, None] - lag - start) / duration, 0.0, 1.0)
            values += step * (s * s * s * (10.0 + s * (6.0 * s - 15.0)))
        return values


def _alone(pair: Hands, times: FloatArray, rng: np.random.Generator) -> FloatArray:
    """Coordinates (K, 53) of one hand whose wrist and fingers each go at their own pace."""
    paths = []
    for part, shortest in ((_WRIST, _wrist_time), (_FINGERS, _finger_time)):
        clock, keys = _Clock(rng), [draw_alone(pair, rng).coordinates[part]]
        while clock.end < times[-1] + 2 * _LAG:
            keys.append(draw_alone(pair, rng).coordinates[part])
            clock.add(shortest(keys[-1] - keys[-2]), rng.uniform(*_REST) if rng.uniform() < _RESTING else 0.0)
        paths.append(clock.path(keys))
    lags = _lags(rng)
    return np.concatenate(
        [path.at(times, lags[part]) for path, part in zip(paths, (_WRIST, _FINGERS), strict=True)], axis=1
    )


def _in_company(pair: Hands, times: FloatArray, rng: np.random.Generator) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Coordinates (K, 53) of the right and of the left hand, and the unit vectors (K, 3) in which they make way."""
    clock, steps = _Clock(rng), [draw_apart(pair, rng)]
    while clock.end < times[-1] + 2 * _LAG:
        for step in (*draw_encounter(pair, rng), draw_apart(pair, rng)):
            shortest = 0.0
            for one, other in ((steps[-1].right, step.right), (steps[-1].left, step.left)):
                change = other.coordinates - one.coordinates
                shortest = max(shortest, _wrist_time(change[_WRIST]), _finger_time(change[_FINGERS]))
            clock.add(shortest, step.rest)
            steps.append(step)
    none = np.zeros(1)
    right = clock.path([step.right.coordinates for step in steps]).at(times, _lags(rng))
    left = clock.path([step.left.coordinates for step in steps]).at(times, _lags(rng))
    away = clock.path([step.away for step in steps]).at(times, none)
    return right, left, away / np.linalg.norm(away, axis=1, keepdims=True)


def _lags(rng: np.random.Generator) -> FloatArray:
    """Of all 53 coordinates, s: each finger has its own."""
    return np.concatenate([np.zeros(_WRIST.stop), np.repeat(np.clip(rng.normal(0, _LAG, 5), -2 * _LAG, 2 * _LAG), 9)])


def _finished(pair: Hands, coordinates: FloatArray, times: FloatArray, rng: np.random.Generator) -> Placement:
    """A right hand over time: swaying, and without fingers in each other on their way between poses."""
    swaying = coordinates.copy()
    for amplitude, part in ((_SWAY_TURN, slice(0, 5)), (_SWAY, slice(5, 8))):
        rate, phase = 2 * np.pi * rng.uniform(*_SWAY_HZ, (3, 1)), rng.uniform(0, 2 * np.pi, (3, part.stop - part.start))
        swaying[:, part] += amplitude * np.sin(rate * times[:, None, None] + phase).sum(axis=1)
    fingers, angles = fingers_of(pair.model), swaying[:, _FINGERS]
    retreat = _eased(lambda start: fingers.retreat(pair.model, angles, pair.betas, start), len(times))
    swaying[:, _FINGERS] = fingers.withdrawn(angles, retreat)
    return Placement.of(swaying)


def _wrist_time(change: FloatArray) -> float:
    """Least duration of a submovement by a change (8,) of turns and wrist. Rates of turning add up at worst."""
    turn, way = float(np.abs(change[:5]).sum()), float(np.linalg.norm(change[5:]))
    # Turns about axes that themselves turn: the square of the rate comes on top, hence another half for this bound.
    turning = _least_time(turn, MAX_TURNING, 0.5 * MAX_TURNING_ACCELERATION)
    return max(turning, _least_time(way, MAX_SPEED, MAX_ACCELERATION))


def _finger_time(change: FloatArray) -> float:
    return _least_time(float(np.abs(change).max()), MAX_BENDING, MAX_BENDING_ACCELERATION)


def _least_time(distance: float, speed: float, acceleration: float) -> float:
    return float(
        max(_PEAK_SPEED * distance / speed, np.sqrt(_PEAK_ACCELERATION * distance / (_ONE_OF_TWO * acceleration)))
    )


def _eased(needed: Callable[[FloatArray], FloatArray], samples: int) -> FloatArray:
    """A smooth curve (K,) that is nowhere below what is needed.

    Args:
        needed: gives the values (K,) needed, none of them below those (K,) that it is given.
        samples: K.
    """
    window = round(_YIELD * SAMPLES_PER_SECOND)
    bell = np.hanning(2 * window + 3)[1:-1]  # not wider than the window of which it averages the maxima
    curve = np.zeros(samples)
    for _ in range(_ROUNDS):  # more than needed is now and then too much: hands and fingers have several sides
        values = needed(curve)
        if np.array_equal(values, curve):
            break
        curve = convolve1d(maximum_filter1d(values, 2 * window + 1, mode="nearest"), bell / bell.sum(), mode="nearest")
    return curve


def _trajectory(side: Side, t_ns: NDArray[np.int64], pair: Hands, place: Placement) -> Trajectory:
    hand = place.parameters(pair.model, pair.betas)
    if side == "left":
        hand = mirrored(hand)
    parameters = np.concatenate([hand.global_orient, hand.hand_pose, hand.transl], axis=1).astype(np.float32)
    return Trajectory(side, pair.betas.astype(np.float32), t_ns, parameters)


def _rounded(hand: HandParameters) -> HandParameters:
    values = (hand.global_orient, hand.hand_pose, hand.betas, hand.transl)
    return HandParameters(*(value.astype(np.float32).astype(np.float64) for value in values))


def _right(model: HandModel) -> HandModel:
    return model if model.side == "right" else model.mirrored()


def _check_hands(hands: int) -> None:
    if hands not in (1, 2):
        raise ValueError(f"{hands} hands: there can be 1 or 2")
