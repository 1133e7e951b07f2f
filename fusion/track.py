"""Hands over time: from what the views see of one frame set to fused hands with stable identities.

Per set and track: views are gated and triangulated, the hand model is fitted to the joints and smoothed. Detections
that belong to no track are grouped across views and become new tracks. The calibration is refined by tracked hands.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from hamuco.calibration.camera import Rig
from hamuco.engine.hand_model import HandModel
from hamuco.engine.skinning import skin
from hamuco.engine.view_hand import ViewHand
from hamuco.fusion.association import group_views
from hamuco.fusion.body import Body
from hamuco.fusion.fit import HandPoses, PosePrior, fit_pose, landmarks
from hamuco.fusion.hand import Hand, HandParameters, Side
from hamuco.fusion.kinematics import Skeleton
from hamuco.fusion.observation import Observation
from hamuco.fusion.refine import RigRefiner
from hamuco.fusion.smoothing import PoseSmoother
from hamuco.fusion.targets import can_align

FloatArray = NDArray[np.float64]

MIN_PRESENCE = 0.5
"""A view with less is taken to have lost the hand; the network's authors track down to the same value."""

# A view whose median residual exceeds this many standard deviations sees something else, or sees the hand too badly to
# help. On real footage this keeps nine views in ten and cuts the leave-one-out error by a sixth.
_VIEW_GATE = 2.0
# A hand that no view confirms is extrapolated this long, then given up.
_LOST_AFTER_NS = 350_000_000
# Hands faster than this, m/s, do not judge the calibration: an unknown latency of 10 ms is then more than 3 mm.
_SLOW = 0.3
# Log-odds that a single view can add for a side, the evidence that a new track needs (a view that is sure, or two that
# are not), the most that is collected, and how much against its side ends a track.
_SIDE_VOTE, _SIDE_NEEDED, _SIDE_MOST, _SIDE_AGAINST = 2.0, 1.5, 20.0, -5.0
# Log-odds from which a hand's side is sure enough to measure the person's hand by it.
_SIDE_SURE = 5.0
# Two tracks whose joints are this close, m, follow one hand: of the same side, and of different sides. The palms of
# folded hands are 28 mm apart.
_SAME_HAND, _SAME_PLACE = 0.025, 0.012
# How far a hand may go from where it was expected, standard deviations: fixed part, m and rad, and part that grows
# with the time since, per s. Weak: it decides only what the views leave open, such as depth from a single view.
_EXPECTED_TRANSL, _EXPECTED_TURN = (0.02, 0.5), (0.2, 4.0)

_COUNTERS = (
    "views_without_hand",  # a followed hand's crop in which the network sees none
    "views_rejected",  # that contradict the others
    "detections_unpaired",  # that agree with no other view's
    "hands_implausible",  # triangulated, but not of a hand's size or side
    "hands_lost",
    "hands_merged",
    "hands_of_wrong_side",
)
# Wrist and knuckles, whose mean is the hand's position for the velocity, and the time constant, s, with which the velocity
# follows: half of what is measured from one set to the next at 30 sets/s, nearly all of it at 6.
_PALM = [0, 5, 9, 13, 17]
_VELOCITY_S = 0.05
# No hand is expected to be faster, m/s; what seems so was found in another place.
_FASTEST = 4.0
# A hand teaches this seldom: what it says a frame later is the same again.
_LEARN_EVERY_NS = 100_000_000
# It teaches the calibration only where it is new, m of any point of the palm: what a resting hand says again and again is
# one piece of information, with the errors of the network for this one view of a hand.
_TEACHES_AFTER = 0.015
# A lost hand that turns up again within this distance, m, is the same hand.
_REACH = 0.4
# A single view cannot be checked by another one: it must be this close to expectation, standard deviations.
_SINGLE_VIEW_GATE = 5.0


@dataclass(slots=True, eq=False)
class _Track:
    """State of one followed hand."""

    id: int
    side: Side
    evidence: float  # log-odds for its side
    t_ns: int  # of the last set in which a view confirmed it
    joints: FloatArray  # (21, 3) m at t_ns, fitted, not smoothed
    poses: HandPoses  # (1, ...) at t_ns
    residual_mm: float = float("nan")  # of the last fit, median
    learned_ns: int = 0  # when it was last looked at for shape and calibration
    taught: FloatArray | None = None  # (5, 3) m, its palm when it last taught the calibration
    weak: bool = False  # the last update had less than two views of it
    velocity: FloatArray = field(default_factory=lambda: np.zeros(3))  # m/s
    smoother: PoseSmoother = field(default_factory=PoseSmoother)

    def move(self, t_ns: int, joints: FloatArray) -> None:
        """Set the joints at a later time."""
        seconds = (t_ns - self.t_ns) * 1e-9
        if seconds > 0:
            moved = (joints[_PALM] - self.joints[_PALM]).mean(axis=0) / seconds
            self.velocity = self.velocity + (1 - np.exp(-seconds / _VELOCITY_S)) * (moved - self.velocity)
            if np.linalg.norm(self.velocity) > _FASTEST:
                self.velocity = np.zeros(3)
        self.t_ns, self.joints = t_ns, joints

    def joints_at(self, t_ns: int) -> FloatArray:
        """(21, 3) m, moved on with constant velocity."""
        return self.joints + self.velocity * ((t_ns - self.t_ns) * 1e-9)


class HandTracker:
    """Follows up to `max_hands` hands through the frame sets of one rig."""

    def __init__(
        self, rig: Rig, model: HandModel, max_hands: int = 2, vertices: bool = False, refine: bool = True
    ) -> None:
        """
        Args:
            rig: calibrated cameras.
            model: right hand model; left hands use its mirror image.
            max_hands: no new hand is taken up beyond this number.
            vertices: put the mesh into every hand.
            refine: correct the rig's extrinsics by the hands.
        """
        self.refiner = RigRefiner(rig)
        self.rig = rig
        """The rig with its extrinsics as refined so far."""
        if len(rig) < 2:
            raise ValueError(f"{len(rig)} camera in the rig: hands are triangulated, which takes two cameras at least")
        self.counters = dict.fromkeys(_COUNTERS, 0)
        """Running totals of what was turned down or given up."""
        self.alarms: Mapping[str, str] = {}
        """Cameras that seem to have moved since they were calibrated, with the numbers."""
        self.smoothing_delay_ns = 0
        """How far the hands of the last update lag behind slow motion, the most of all hands."""
        self._bodies: dict[Side, Body] = {"right": Body(model), "left": Body(model.mirrored())}
        self._max_hands = max_hands
        self._vertices = vertices
        self._refine = refine
        self._tracks: list[_Track] = []
        self._next_id = 0
        self._to_learn: list[tuple[_Track, Observation]] = []

    @property
    def tracked(self) -> int:
        """How many hands are followed now."""
        return len(self._tracks)

    @property
    def has_room(self) -> bool:
        """True while fewer hands are followed than may be there."""
        return len(self._tracks) < self._max_hands

    @property
    def has_lost(self) -> bool:
        """True when the last update could not confirm a hand by two views."""
        return any(track.weak for track in self._tracks)

    @property
    def sides(self) -> dict[int, Side]:
        """Of the followed hands, by track id."""
        return {track.id: track.side for track in self._tracks}

    def predictions(self, t_ns: int) -> list[tuple[int, FloatArray]]:
        """Where the followed hands should be at time t_ns: (track id, joints (21, 3) m)."""
        return [(track.id, track.joints_at(t_ns)) for track in self._tracks]

    def update(self, t_ns: int, view_hands: Sequence[ViewHand]) -> list[tuple[Hand, Observation | None]]:
        """Fuse what the views saw into hands at time t_ns (of the set; each view has its own), by track id.

        A hand comes with the observation behind it, or with None when it is an extrapolation.
        """
        observations = {}
        for track in self._tracks:
            views = [hand for hand in view_hands if hand.region.track_id == track.id]
            seeing = [hand for hand in views if hand.presence >= MIN_PRESENCE]
            self.counters["views_without_hand"] += len(views) - len(seeing)
            observation = self._observe(t_ns, seeing, track)
            track.weak = observation is None or len(observation.views) < 2
            if observation is not None:
                observations[track.id] = observation
        observed = [track for track in self._tracks if track.id in observations]
        self._fit(t_ns, observed, [observations[track.id] for track in observed])
        self._end_tracks(t_ns)
        self._to_learn = [(track, observations[track.id]) for track in self._tracks if track.id in observations]
        self.smoothing_delay_ns = 0
        return self._hands(t_ns, observations)

    def learn(self) -> None:
        """Measure shapes and refine the calibration by the hands of the last update.

        Apart from it, so that no hand waits for this.
        """
        for track, observation in self._to_learn:
            if len(observation.views) < 2 or track.t_ns - track.learned_ns < _LEARN_EVERY_NS:
                continue
            track.learned_ns = track.t_ns
            if track.evidence > _SIDE_SURE:
                self._bodies[track.side].measure(observation.triangulation)
            palm = track.joints[_PALM]
            moved = np.inf if track.taught is None else float(np.linalg.norm(palm - track.taught, axis=1).max())
            if self._refine and np.linalg.norm(track.velocity) < _SLOW and moved > _TEACHES_AFTER:
                track.taught = palm
                self.refiner.add(observation.views, observation.triangulation)
                self.rig, self.alarms = self.refiner.rig(), self.refiner.alarms()
        self._to_learn = []

    def _observe(self, t_ns: int, views: list[ViewHand], track: _Track) -> Observation | None:
        """Triangulate a followed hand from the views that agree; None where none is left."""
        if not views:
            return None
        expected = track.joints_at(t_ns)
        shifts = np.array([track.velocity * ((view.t_capture_ns - t_ns) * 1e-9) for view in views])
        observation = self._gated(Observation.of(views, shifts, expected), expected)
        if len(observation.views) == 1 and observation.contradiction(expected)[0] > _SINGLE_VIEW_GATE:
            self.counters["views_rejected"] += 1
            return None
        if not observation.plausible:
            self.counters["hands_implausible"] += 1
            return None
        return observation

    def _gated(self, observation: Observation, expected: FloatArray) -> Observation:
        """Leave out views that contradict the others, the worst first; of two, the one farther from expectation."""
        while len(observation.views) > 1 and observation.disagreement.max() > _VIEW_GATE:
            pair = len(observation.views) == 2
            doubt = observation.contradiction(expected) if pair else observation.disagreement
            observation = observation.without(int(doubt.argmax()), expected)
            self.counters["views_rejected"] += 1
        return observation

    def take_up(self, t_ns: int, view_hands: Sequence[ViewHand]) -> None:
        """Take up hands that were detected at time t_ns: find lost ones again, begin to follow new ones.

        A hand is believed when two views agree on it. It is published by the next `update`.
        """
        followed = [track.joints_at(t_ns) for track in self._tracks if not track.weak]
        detected = [
            hand
            for hand in view_hands
            if hand.presence >= MIN_PRESENCE and not any(_shows(hand, joints) for joints in followed)
        ]
        groups = group_views(detected)
        self.counters["detections_unpaired"] += len(detected) - sum(len(views) for views in groups)
        for views in groups:
            observation = Observation.of(views, np.zeros((len(views), 3)))
            evidence = sum(_vote(view) for view in views)
            if abs(evidence) < _SIDE_NEEDED or not observation.plausible:
                self.counters["hands_implausible"] += 1
                continue
            points, information = observation.triangulation.points[None], observation.triangulation.information[None]
            if not can_align(points, information)[0]:
                continue
            side: Side = "right" if evidence > 0 else "left"
            fit = fit_pose(self._bodies[side].skeleton, points, information)
            lost = self._nearest_lost(side, points[0])
            if lost is not None:
                lost.move(t_ns, fit.landmarks[0])
                lost.poses, lost.weak = fit.poses, False
            elif self.has_room:
                self._tracks.append(_Track(self._next_id, side, abs(evidence), t_ns, fit.landmarks[0], fit.poses))
                self._next_id += 1

    def _nearest_lost(self, side: Side, points: FloatArray) -> _Track | None:
        """The lost hand that was last where this one is now, within reach."""
        lost = [track for track in self._tracks if track.weak and track.side == side]
        distances = [float(np.linalg.norm((track.joints - points).mean(axis=0))) for track in lost]
        return lost[int(np.argmin(distances))] if distances and min(distances) < _REACH else None

    def _fit(self, t_ns: int, tracks: list[_Track], observations: list[Observation]) -> None:
        """Fit the hand model to all observed hands at once and move their tracks on."""
        if not tracks:
            return
        points = np.stack([observation.triangulation.points for observation in observations])
        information = np.stack([observation.triangulation.information for observation in observations])
        seconds = np.array([(t_ns - track.t_ns) * 1e-9 for track in tracks])
        start = HandPoses(
            np.concatenate([track.poses.global_orient for track in tracks]),
            np.concatenate([track.poses.hand_pose for track in tracks]),
            np.stack([track.poses.transl[0] + track.velocity * dt for track, dt in zip(tracks, seconds, strict=True)]),
        )
        turn = (_EXPECTED_TURN[0] + _EXPECTED_TURN[1] * seconds) ** -2.0
        prior = PosePrior(start, (_EXPECTED_TRANSL[0] + _EXPECTED_TRANSL[1] * seconds) ** -2.0, turn, turn)
        skeleton = Skeleton.stack([self._bodies[track.side].skeleton for track in tracks])
        fit = fit_pose(skeleton, points, information, start, prior)
        for index, (track, observation) in enumerate(zip(tracks, observations, strict=True)):
            track.move(t_ns, fit.landmarks[index])
            votes = sum(_vote(view) for view in observation.views) * (1 if track.side == "right" else -1)
            track.evidence = min(track.evidence + votes, _SIDE_MOST)
            track.poses = _row(fit.poses, index)
            track.residual_mm = float(np.nanmedian(fit.residual_m[index])) * 1e3

    def _end_tracks(self, t_ns: int) -> None:
        """Give up hands that were not seen for long, turn out to be of the other side, or coincide with an older one."""
        kept: list[_Track] = []
        for track in sorted(self._tracks, key=lambda track: (track.weak, track.id)):  # well seen before old
            if t_ns - track.t_ns > _LOST_AFTER_NS:
                self.counters["hands_lost"] += 1
            elif not np.isfinite(track.joints).all():  # a fit that failed must not end the run
                self.counters["hands_implausible"] += 1
            elif track.evidence < _SIDE_AGAINST:
                self.counters["hands_of_wrong_side"] += 1
            elif any(_same_hand(track, other, t_ns) for other in kept):
                self.counters["hands_merged"] += 1
            else:
                kept.append(track)
        self._tracks = sorted(kept, key=lambda track: track.id)

    def _hands(self, t_ns: int, observations: dict[int, Observation]) -> list[tuple[Hand, Observation | None]]:
        """The published hands: smoothed, and where a hand was not seen, moved on."""
        if not self._tracks:
            return []
        parameters = []
        for track in self._tracks:
            transl = track.poses.transl[0] + track.velocity * ((t_ns - track.t_ns) * 1e-9)
            betas = self._bodies[track.side].betas
            measured = HandParameters(track.poses.global_orient[0], track.poses.hand_pose[0], betas, transl)
            smoothed = track.smoother(t_ns, measured)
            self.smoothing_delay_ns = max(self.smoothing_delay_ns, smoothed.delay_ns)
            parameters.append(smoothed.parameters)
        skeleton = Skeleton.stack([self._bodies[track.side].skeleton for track in self._tracks])
        poses = HandPoses(
            np.stack([one.global_orient for one in parameters]),
            np.stack([one.hand_pose for one in parameters]),
            np.stack([one.transl for one in parameters]),
        )
        joints = landmarks(skeleton, poses)
        hands = []
        for index, track in enumerate(self._tracks):
            hand = _hand(track, parameters[index], joints[index], observations.get(track.id))
            if self._vertices:
                hand = replace(hand, vertices=_vertices(self._bodies[track.side].model, hand.parameters))
            hands.append((hand, observations.get(track.id)))
        return hands


def _hand(track: _Track, parameters: HandParameters, joints: FloatArray, observation: Observation | None) -> Hand:
    if observation is None:
        views: tuple[str, ...] = ()
        confidence, reprojection_px, residual_mm = np.zeros(21), np.nan, np.nan
    else:
        views = tuple(view.camera.name for view in observation.views)
        confidence, reprojection_px = observation.joint_confidence, observation.reprojection_px
        residual_mm = track.residual_mm
    return Hand(
        track_id=track.id,
        side=track.side,
        side_confidence=float(1 / (1 + np.exp(-max(track.evidence, 0.0)))),
        state="tracked" if views else "predicted",
        joints=joints,
        joint_confidence=confidence,
        parameters=parameters,
        views=views,
        reprojection_px=reprojection_px,
        fit_residual_mm=residual_mm,
    )


def _vertices(model: HandModel, parameters: HandParameters) -> NDArray[np.float32]:
    """(N, 3) m, world."""
    return skin(model, parameters.global_orient, parameters.hand_pose, parameters.betas, parameters.transl)


def _row(poses: HandPoses, index: int) -> HandPoses:
    kept = slice(index, index + 1)
    return HandPoses(poses.global_orient[kept], poses.hand_pose[kept], poses.transl[kept])


def _shows(view: ViewHand, joints: FloatArray) -> bool:
    """Whether a detection is a hand with these joints (21, 3) m."""
    projected = view.camera.project(joints)
    size = np.ptp(view.pixels, axis=0).max()
    return bool(np.median(np.linalg.norm(projected - view.pixels, axis=1)) < size / 2)


def _vote(view: ViewHand) -> float:
    """Log-odds for a right hand."""
    right = min(max(view.right, 1e-6), 1 - 1e-6)
    return float(np.clip(np.log(right / (1 - right)), -_SIDE_VOTE, _SIDE_VOTE))


def _same_hand(one: _Track, other: _Track, t_ns: int) -> bool:
    """Whether two tracks follow one hand, by the median distance of their joints."""
    distance = float(np.median(np.linalg.norm(one.joints_at(t_ns) - other.joints_at(t_ns), axis=1)))
    return distance < (_SAME_HAND if one.side == other.side else _SAME_PLACE)
