"""Accuracy figures of many estimates, kept as sums: what has been added is not kept, so memory does not grow.

Errors are over the joints that were estimated; how many that are stands beside them as the coverage. All means are over
joints, not over hands.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hamuco.training import metrics

FloatArray = NDArray[np.float64]

PCK_THRESHOLDS_M = np.arange(101) * 0.0005
_AUC_M = (0.0, 0.050)

# A hand is at rest while no joint of the true hand is faster than this, m/s, which leaves room for the sway of a hand that
# is held still; a stretch counts from so many samples on.
REST_SPEED = 0.02
_REST_SAMPLES = 8

_COUNTS = ("hands", "estimated", "joints_missing", "wrong_side", "extra_hands", "identity_changes")


@dataclass(frozen=True, slots=True)
class Protocol:
    """What is aligned with the truth, where a figure's name says that something is.

    Attributes:
        name: on the command line.
        root: joint of the root-relative figures and of N-MPJPE.
        scale: of N-MPJPE; "least squares" over all joints, or "bone": the true length of wrist to middle MCP.
        description: for the output.
    """

    name: str
    root: int
    scale: Literal["least squares", "bone"]
    description: str


METRIC = Protocol(
    "metric",
    metrics.WRIST,
    "least squares",
    "MPJPE: in the world, nothing aligned. Root-relative: the wrist moved onto the true one. N-MPJPE: root-relative, and "
    "scaled by the least squares factor (Rhodin et al. 2018). PA: under the best similarity transform.",
)
HAMUCO = Protocol(
    "hamuco",
    metrics.MIDDLE_MCP,
    "bone",
    "As the code published with HaMuCo (ICCV 2023) evaluates. N-MPJPE: the middle MCP moved onto the true one, and the hand "
    "scaled about it until wrist to middle MCP has its true length. PA-MPJPE: under the best similarity transform. Both use "
    "the true hand's size. There every hand has an estimate and counts; here the share of hands stands beside the means.",
)
PROTOCOLS = {one.name: one for one in (METRIC, HAMUCO)}


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """Accuracy of one method. Lengths in mm, NaN where there was nothing to measure.

    Attributes:
        hands: true hands.
        estimated: of these, how many got an estimate.
        joints_missing: joints that an estimate leaves open.
        wrong_side: estimates of the other side.
        extra_hands: estimates where no true hand is.
        identity_changes: how often a true hand's estimate came under another identity than before.
        mpjpe: in the world, nothing aligned.
        root_mpjpe: root-aligned.
        n_mpjpe: root- and scale-aligned.
        pa_mpjpe: under a similarity transform.
        auc: area under `pck` from 0 to 50 mm.
        root_auc_20_50: area under the root-aligned curve from 20 to 50 mm (Zimmermann and Brox, ICCV 2017).
        pa_auc: as `auc`, under a similarity transform.
        mpvpe: vertices in the world.
        pa_mpvpe: vertices under their own similarity transform.
        f5, f15: F-scores of the vertices in the world at 5 and 15 mm, 0 to 1.
        pa_f5, pa_f15: the same under the vertices' similarity transform.
        acceleration: error, m/s^2.
        rest: how much joints move against the true ones while these rest: standard deviation in space of the error.
        by_joint: (21,) mean error in the world.
        by_views: (V + 1,) the same by the number of views that see a joint; empty where that is not known.
        joints_by_views: (V + 1,) how many joints those are.
        pck, pa_pck: (101,) shares of joints within `PCK_THRESHOLDS_M`, as they are and under a similarity transform.
    """

    hands: int
    estimated: int
    joints_missing: int
    wrong_side: int
    extra_hands: int
    identity_changes: int
    mpjpe: float
    root_mpjpe: float
    n_mpjpe: float
    pa_mpjpe: float
    auc: float
    root_auc_20_50: float
    pa_auc: float
    mpvpe: float
    pa_mpvpe: float
    f5: float
    f15: float
    pa_f5: float
    pa_f15: float
    acceleration: float
    rest: float
    by_joint: FloatArray
    by_views: FloatArray
    joints_by_views: NDArray[np.int64]
    pck: FloatArray
    pa_pck: FloatArray

    @property
    def coverage(self) -> float:
        """Share of the true hands that got an estimate, 0 to 1."""
        return self.estimated / self.hands if self.hands else float("nan")


@dataclass(frozen=True, slots=True, eq=False)
class TruePose:
    """A true hand at one moment.

    Attributes:
        joints: (21, 3) m, NaN where not annotated.
        vertices: (N, 3) m, or None.
        t_ns: None where the data set has no times.
        seen_by: (21,) views that see each joint, or None where that is not known.
    """

    joints: FloatArray
    vertices: FloatArray | None
    t_ns: int | None
    seen_by: NDArray[np.int64] | None


@dataclass(frozen=True, slots=True, eq=False)
class Estimate:
    """What a method says of a hand: joints (21, 3) m, NaN where it does not know, and vertices (N, 3) m or None.

    `identity` is whatever names the hand from one moment to the next; None where a method has no notion of it.
    """

    joints: FloatArray
    vertices: FloatArray | None = None
    identity: int | None = None
    wrong_side: bool = False


class _Mean:
    """A mean of values in several columns, without those that are not finite."""

    def __init__(self, columns: int) -> None:
        self._sums, self.counts = np.zeros(columns), np.zeros(columns, np.int64)

    def add(self, values: ArrayLike, columns: ArrayLike | slice = slice(None)) -> None:
        """Add values (...) to the columns of the same shape; by default one to each column."""
        new = np.asarray(values, np.float64)
        where = np.broadcast_to(np.arange(len(self._sums))[columns], new.shape)  # type: ignore[index]
        finite = np.isfinite(new)
        np.add.at(self._sums, where[finite], new[finite])
        np.add.at(self.counts, where[finite], 1)

    @property
    def values(self) -> FloatArray:
        """(columns,) NaN where nothing was added."""
        return np.asarray(self._sums / np.where(self.counts, self.counts, np.nan))


@dataclass(slots=True, eq=False)
class _Track:
    """The last moments of one true hand without a gap, oldest first, and the stretch of rest it is in."""

    moments: list[tuple[int, FloatArray, FloatArray]]  # t_ns, estimated joints, true joints
    rest: tuple[FloatArray, ...]  # count (21,), sums (21, 3) and sums of squares (21, 3) of its errors
    identity: int | None = None


class Tally:
    """Collects the estimates of one method; samples of one track must come in order of time."""

    def __init__(self, protocol: Protocol, views: int) -> None:
        """`views` is the most that can see a joint."""
        self._protocol = protocol
        self._counts = dict.fromkeys(_COUNTS, 0)
        self._by_joint, self._by_views = _Mean(21), _Mean(views + 1)
        self._aligned = _Mean(3)  # root, normalized, Procrustes
        self._areas = _Mean(3)  # in the world, root-aligned 20 to 50 mm, Procrustes
        self._within = np.zeros((2, len(PCK_THRESHOLDS_M)), np.int64)  # in the world, Procrustes
        self._surface = _Mean(6)  # mpvpe, pa_mpvpe, f5, f15, pa_f5, pa_f15
        self._acceleration = _Mean(1)
        self._rest_squares, self._rest_freedoms = 0.0, 0.0
        self._tracks: dict[Hashable, _Track] = {}

    def add(self, track: Hashable, true: TruePose, estimate: Estimate | None) -> None:
        """Take in one true hand of a track (the same hand over time) and what the method makes of it, if anything."""
        followed = self._tracks.setdefault(track, _Track([], ()))
        self._counts["hands"] += 1
        if estimate is None:
            self._end_stretch(followed)
            return
        self._counts["estimated"] += 1
        self._counts["wrong_side"] += estimate.wrong_side
        if estimate.identity is not None:
            self._counts["identity_changes"] += followed.identity not in (None, estimate.identity)
            followed.identity = estimate.identity
        self._add_joints(true, estimate.joints)
        if true.vertices is not None and estimate.vertices is not None and len(true.vertices) == len(estimate.vertices):
            self._add_vertices(estimate.vertices, true.vertices)
        if true.t_ns is not None:
            self._add_motion(followed, true.t_ns, estimate.joints, true.joints)

    def end_tracks(self) -> None:
        """What follows is of other hands: another sequence."""
        for track in self._tracks.values():
            self._end_rest(track)
        self._tracks.clear()

    def add_extra(self, hands: int) -> None:
        """Estimates that no true hand is near."""
        self._counts["extra_hands"] += hands

    def _add_joints(self, true: TruePose, joints: FloatArray) -> None:
        root = self._protocol.root
        errors = metrics.joint_errors(joints, true.joints)
        rooted = metrics.joint_errors(metrics.root_aligned(joints, true.joints, root), true.joints)
        if self._protocol.scale == "bone":
            bone = (metrics.WRIST, metrics.MIDDLE_MCP)
            normalized = metrics.bone_scale_aligned(joints, true.joints, root, bone)
        else:
            normalized = metrics.scale_aligned(joints, true.joints, root)
        procrustes = metrics.joint_errors(metrics.procrustes_aligned(joints, true.joints), true.joints)
        annotated = np.isfinite(true.joints).all(axis=-1)
        self._counts["joints_missing"] += int((annotated & ~np.isfinite(errors)).sum())
        self._by_joint.add(errors)
        if true.seen_by is not None:
            self._by_views.add(errors, true.seen_by)
        for column, values in enumerate((rooted, metrics.joint_errors(normalized, true.joints), procrustes)):
            self._aligned.add(values, np.full(21, column))
        for column, (values, low) in enumerate(((errors, _AUC_M[0]), (rooted, 0.020), (procrustes, _AUC_M[0]))):
            self._areas.add(metrics.auc_parts(values, low, _AUC_M[1]), np.full(21, column))
        for row, values in enumerate((errors, procrustes)):
            self._within[row] += (values[:, None] <= PCK_THRESHOLDS_M).sum(axis=0)  # NaN is within nothing

    def _add_vertices(self, vertices: FloatArray, true: FloatArray) -> None:
        aligned = metrics.procrustes_aligned(vertices, true)
        errors = [metrics.joint_errors(points, true).mean() for points in (vertices, aligned)]
        self._surface.add([*errors, *metrics.f_scores(vertices, true), *metrics.f_scores(aligned, true)])

    def _add_motion(self, track: _Track, t_ns: int, joints: FloatArray, true: FloatArray) -> None:
        track.moments = [*track.moments[-2:], (t_ns, joints, true)]
        times = np.array([moment[0] for moment in track.moments])
        estimates, truths = (np.stack([moment[part] for moment in track.moments]) for part in (1, 2))
        if len(times) == 3:
            errors = metrics.acceleration_errors(estimates, truths, times)[0]
            self._acceleration.add(errors, np.zeros(21, np.int64))
        if len(times) < 2:
            return
        speed = np.linalg.norm(truths[-1] - truths[-2], axis=-1) / ((times[-1] - times[-2]) * 1e-9)
        if not speed.max(initial=0.0, where=np.isfinite(speed)) <= REST_SPEED:
            self._end_rest(track)
            return
        # Errors, not positions: a true hand that drifts below the threshold is no jitter of the estimate.
        error = joints - true
        known: NDArray[np.bool_] = np.asarray(np.isfinite(error).all(axis=-1))
        error = np.where(known[:, None], error, 0.0)
        parts = (known.astype(np.float64), error, error**2)
        track.rest = tuple(old + new for old, new in zip(track.rest, parts, strict=True)) if track.rest else parts

    def _end_stretch(self, track: _Track) -> None:
        """A moment without an estimate: what follows is no continuation."""
        self._end_rest(track)
        track.moments = []

    def _end_rest(self, track: _Track) -> None:
        if track.rest:
            count, sums, squares = track.rest
            enough = count >= _REST_SAMPLES
            self._rest_squares += float((squares - sums**2 / np.maximum(count, 1)[:, None])[enough].sum())
            self._rest_freedoms += float((count[enough] - 1).sum())
        track.rest = ()

    def scores(self) -> Scores:
        """The figures of all that was added; ends all tracks."""
        self.end_tracks()
        by_joint, joints = self._by_joint.values, int(self._by_joint.counts.sum())
        errors = np.nansum(by_joint * self._by_joint.counts) / joints if joints else np.nan
        root, normalized, procrustes = 1e3 * self._aligned.values
        mpvpe, pa_mpvpe, f5, f15, pa_f5, pa_f15 = self._surface.values
        auc, root_auc_20_50, pa_auc = self._areas.values
        pck = self._within / joints if joints else np.full(self._within.shape, np.nan)
        seen = self._by_views.counts.any()
        rest = 1e3 * np.sqrt(self._rest_squares / self._rest_freedoms) if self._rest_freedoms else np.nan
        return Scores(
            **self._counts,
            mpjpe=float(1e3 * errors),
            root_mpjpe=float(root),
            n_mpjpe=float(normalized),
            pa_mpjpe=float(procrustes),
            auc=float(auc),
            root_auc_20_50=float(root_auc_20_50),
            pa_auc=float(pa_auc),
            mpvpe=float(1e3 * mpvpe),
            pa_mpvpe=float(1e3 * pa_mpvpe),
            f5=float(f5),
            f15=float(f15),
            pa_f5=float(pa_f5),
            pa_f15=float(pa_f15),
            acceleration=float(self._acceleration.values[0]),
            rest=float(rest),
            by_joint=1e3 * by_joint,
            by_views=1e3 * self._by_views.values if seen else np.empty(0),
            joints_by_views=self._by_views.counts.copy() if seen else np.empty(0, np.int64),
            pck=pck[0],
            pa_pck=pck[1],
        )
