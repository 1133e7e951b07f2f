"""Accuracy of methods that make a hand from several views of it, on any data set with calibrated cameras.

What the views say of a hand comes from the landmark network, on crops laid around the true joints after these were
disturbed as much as a tracker's prediction is: finding hands in images is not what is measured here. Which side a hand
is of is given too. Otherwise methods do not know the truth. Every method sees the same observations.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, islice, product

import numpy as np
from numpy.typing import NDArray

from hamuco.calibration.camera import Camera
from hamuco.capture.frame import Frame, FrameSet
from hamuco.engine.landmarks import LandmarkEstimator, regions_from_joints
from hamuco.engine.view_hand import ViewHand
from hamuco.fusion.track import MIN_PRESENCE
from hamuco.training.datasets.sample import Dataset, Sample, TrueHand
from hamuco.training.methods import HandViews, MakeMethods, Method, default_methods
from hamuco.training.tally import METRIC, Protocol, Scores, Tally, TruePose

FloatArray = NDArray[np.float64]
Progress = Callable[[int, int], None]

# The joints of the landmark network, to which the landmarks of the embedded hand were fitted.
ESTIMATOR_JOINTS = "free hand landmarks"

VIEW_COUNTS = (2, 3, 4, 8)
SUBSETS = 3
"""Subsets of the cameras that are evaluated per number of views, at most; all count alike."""
_SUBSET_POOL = 16  # cameras that subsets are chosen from: 12,870 of eight

# How far a tracker's prediction is from the hand, m: as a whole, from one set to the next of a hand at 0.3 m/s, and per
# joint.
_CROP_SHIFT, _CROP_JOINT = 0.01, 0.004


class EvaluationError(ValueError):
    """A data set that the methods cannot be evaluated on."""


Observer = Callable[[Sample, int], Sequence[Sequence[ViewHand]]]
"""(sample, its number) -> per hand of the sample, what the views see of it; a view that cannot see it is absent."""


class LandmarkObserver:
    """The landmark network on crops around the true joints after these were disturbed. The same sample, the same crops."""

    def __init__(self, seed: int = 0) -> None:
        self._estimator = LandmarkEstimator()
        self._seed = seed

    @property
    def runtime(self) -> str:
        return self._estimator.runtime

    def __call__(self, sample: Sample, number: int) -> list[list[ViewHand]]:
        rng = np.random.default_rng((self._seed, number))
        disturbed = [
            hand.joints + rng.normal(0.0, _CROP_SHIFT, 3) + rng.normal(0.0, _CROP_JOINT, (21, 3))
            for hand in sample.hands
        ]
        t_ns = sample.t_ns or 0
        frames = {name: Frame(name, number, t_ns, 0, t_ns, None, image) for name, image in sample.images.items()}
        frame_set = FrameSet(number, frames)
        cameras = [camera for camera in sample.cameras if camera.name in frames]
        regions = regions_from_joints(cameras, list(enumerate(disturbed)))
        seen = self._estimator(frame_set, regions, self._estimator.crop(frame_set, regions))
        return [[view for view in seen if view.region.track_id == hand] for hand in range(len(sample.hands))]


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """Accuracy on one data set.

    Attributes:
        dataset: its name.
        joint_definition: of its joints.
        protocol: of the figures.
        subsets: number of views -> the subsets of cameras whose hands were counted together.
        samples: moments.
        scores: (method, number of views) -> figures; methods in order.
    """

    dataset: str
    joint_definition: str
    protocol: Protocol
    subsets: Mapping[int, tuple[tuple[str, ...], ...]]
    samples: int
    scores: Mapping[tuple[str, int], Scores]

    @property
    def methods(self) -> list[str]:
        return list(dict.fromkeys(method for method, _ in self.scores))

    @property
    def same_joints(self) -> bool:
        """Whether the data set's joints are the points that the landmark network means."""
        return self.joint_definition == ESTIMATOR_JOINTS


def evaluate(
    dataset: Dataset,
    observer: Observer,
    make_methods: MakeMethods = default_methods,
    protocol: Protocol = METRIC,
    limit: int | None = None,
    progress: Progress = lambda done, total: None,
    views: Collection[int] | None = None,
) -> Evaluation:
    """Every method on every subset of the cameras, in one pass over the data set.

    Args:
        dataset: with truth; its cameras keep their names.
        observer: what the views see; the same for all methods.
        make_methods: fresh methods for one subset.
        protocol: what figures are aligned by.
        limit: only so many samples, from the first; None for all.
        progress: called after every sample with how many are done and how many there are.
        views: only these numbers of them; None for all that `view_subsets` finds.

    Raises:
        EvaluationError: the data set has no truth, no hand, or too few cameras for every method; or there are no subsets
            of so many views.
    """
    if not dataset.has_truth:
        raise EvaluationError(f"{dataset.name} has no truth: nobody knows where its hands were")
    total = len(dataset) if limit is None else min(limit, len(dataset))
    runs: list[_Run] = []
    tallies: dict[tuple[str, int], Tally] = {}
    sequence = ""
    for number, sample in enumerate(islice(dataset, total)):
        if not runs and sample.hands:
            runs = _start(dataset, sample, make_methods, views)
            for run in runs:
                tallies |= {(method.name, run.views): Tally(protocol, run.views) for method in run.methods}
        if sample.sequence != sequence:
            sequence = sample.sequence
            for tally in tallies.values():
                tally.end_tracks()
        observed = observer(sample, number)
        for track in product(range(len(runs)), range(len(sample.hands))):
            run, true, seen = runs[track[0]], sample.hands[track[1]], observed[track[1]]
            chosen = tuple(view for view in seen if view.camera.name in run.cameras and view.presence >= MIN_PRESENCE)
            hand = HandViews(sequence, true.side, chosen, sample.images)
            pose = TruePose(true.joints, true.vertices, sample.t_ns, seen_by(true, run.cameras))
            for method in run.methods:
                estimate = method(hand) if len(chosen) >= method.min_views else None
                tallies[method.name, run.views].add(track, pose, estimate)
        progress(number + 1, total)
    if not runs:
        raise EvaluationError(f"{dataset.name} has no hand in {total} samples: there is nothing to measure")
    subsets = {run.views: tuple(other.cameras for other in runs if other.views == run.views) for run in runs}
    scores = {key: tally.scores() for key, tally in tallies.items()}
    return Evaluation(dataset.name, dataset.joint_definition, protocol, subsets, total, scores)


@dataclass(frozen=True, slots=True, eq=False)
class _Run:
    """Methods at work on one subset of the cameras."""

    cameras: tuple[str, ...]
    methods: tuple[Method, ...]

    @property
    def views(self) -> int:
        return len(self.cameras)


def _start(dataset: Dataset, sample: Sample, make_methods: MakeMethods, wanted: Collection[int] | None) -> list[_Run]:
    """Fresh methods for every subset of the cameras of a sample, by number of views."""
    needed = min(method.min_views for method in make_methods())
    return [
        _Run(cameras, tuple(method for method in make_methods() if method.min_views <= views))
        for views, chosen in possible_views(dataset, sample, needed, wanted).items()
        for cameras in chosen
    ]


def possible_views(
    dataset: Dataset,
    sample: Sample,
    min_views: int,
    wanted: Collection[int] | None,
    say: Callable[[str], None] = lambda line: None,
) -> dict[int, tuple[tuple[str, ...], ...]]:
    """The `view_subsets` that a data set is measured with.

    Args:
        dataset: for errors.
        sample: its first one with a hand.
        min_views: that some method can do with.
        wanted: only these numbers of views; None for all.
        say: told which of them there are not.

    Raises:
        EvaluationError: there are too few cameras, or none of the wanted numbers.
    """
    subsets = view_subsets(sample.cameras, _centre(sample), min_views)
    if not subsets:
        raise EvaluationError(
            f"{dataset.name} has {len(sample.cameras)} camera a sample, and every method needs {min_views} or more: "
            "choose a data set with several views"
        )
    if wanted is None:
        return subsets
    if absent := [views for views in wanted if views not in subsets]:
        told = (
            f"{dataset.name} is not measured with {' or '.join(map(str, absent))} views: of its {len(sample.cameras)} "
            f"cameras, choose {', '.join(map(str, subsets))}"
        )
        if len(absent) == len(wanted):
            raise EvaluationError(told)
        say(told)
    return {views: chosen for views, chosen in subsets.items() if views in wanted}


def view_subsets(
    cameras: Sequence[Camera], centre: FloatArray, minimum: int = 2
) -> dict[int, tuple[tuple[str, ...], ...]]:
    """Number of views -> up to `SUBSETS` subsets of the cameras that look at a point from well-spread directions.

    The numbers are those of `VIEW_COUNTS` and all cameras. A subset is good that fixes the point well: for directions d,
    by the least eigenvalue of the sum of (1 - d dT). Among equals the one that stands around the point most evenly comes
    first. Names are in the order of the rig; of a large rig every so manieth camera is considered.
    """
    offsets = np.stack([camera.centre for camera in cameras]) - centre
    directions = offsets / np.linalg.norm(offsets, axis=1, keepdims=True)
    pool = range(0, len(cameras), -(-len(cameras) // _SUBSET_POOL))
    found: dict[int, tuple[tuple[str, ...], ...]] = {}
    for count in sorted({*(views for views in (1, *VIEW_COUNTS) if views < len(pool)), len(cameras)}):
        if count < minimum:
            continue
        if count == len(cameras):
            found[count] = (tuple(camera.name for camera in cameras),)
            continue
        subsets = list(combinations(pool, count))
        own = directions[np.array(subsets)]  # (subsets, count, 3)
        certainty = np.linalg.eigvalsh(count * np.eye(3) - own.transpose(0, 2, 1) @ own)[:, 0]
        # Rounded: cameras that stand nearly as well must not decide by their last digits.
        order = np.lexsort((np.linalg.norm(own.sum(axis=1), axis=1).round(3), -certainty.round(1)))
        found[count] = tuple(tuple(cameras[index].name for index in subsets[best]) for best in order[:SUBSETS])
    return found


def seen_by(hand: TrueHand, cameras: Sequence[str]) -> NDArray[np.int64] | None:
    """(21,) how many of the cameras see each joint; None where that is not known."""
    if not hand.visible:
        return None
    views = [hand.visible[name] for name in cameras if name in hand.visible]
    return np.sum(views, axis=0, dtype=np.int64) if views else np.zeros(21, np.int64)


def _centre(sample: Sample) -> FloatArray:
    """(3,) m, middle of the hands."""
    return np.asarray(np.nanmean([hand.joints for hand in sample.hands], axis=(0, 1)))
