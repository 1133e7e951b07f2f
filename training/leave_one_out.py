"""Recordings of which nobody knows the truth: what the other views say of a hand, seen from the view that was left out.

Hands are followed by the default estimator, as in live tracking, which also refines the calibration. Of every hand
that three views or more see, each view is left out in turn: a method makes the hand from the others, its joints are
projected into the view that was left out, and compared with what the landmark network sees there. That network has seen
nothing of the other views, nor is a method given this one: unlike in live reports, where refined views know of each
other. Yet the crops are laid by the tracker and the calibration is refined, both by earlier sets of all views.

Methods take the views for simultaneous. Their joints are moved to the moment of the left-out view by the motion that the
tracker knows.

The network's own error in the left-out view is in every figure alike, and so are offsets between calibration, cameras'
clocks and definitions of joints. Views that the tracker refuses, because they contradict the others, are not compared.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from hamuco.capture.recording import Recording
from hamuco.fusion.pipeline import Pipeline
from hamuco.training.datasets.footage import decode, planned_sets
from hamuco.training.methods import HandViews, MakeMethods, Method, default_methods

FloatArray = NDArray[np.float64]
Progress = Callable[[int, int], None]

MIN_VIEWS = 3
"""One is left out, and two at least make the hand."""


class LeaveOneOutError(ValueError):
    """A recording that has too few cameras, or no hand that enough of them see."""


@dataclass(frozen=True, slots=True)
class ViewErrors:
    """Figures of one method in one left-out view, or in all.

    Attributes:
        views: how often a hand was seen there.
        estimated: how often the other views made that hand.
        median_px, mean_px, p90_px: over the joints of these; NaN where there are none.
    """

    views: int
    estimated: int
    median_px: float
    mean_px: float
    p90_px: float


@dataclass(frozen=True, slots=True, eq=False)
class LeftOut:
    """What the views of a recording say of each other.

    Attributes:
        name: of the recording.
        cameras: its cameras.
        moments: that were looked at.
        hands: seen by `MIN_VIEWS` views or more, in all moments together.
        left_out: (N,) number of the camera that was left out, for every view of these hands.
        errors_px: method -> (N, 21) px of an image as the camera took it; NaN where the other views made no hand.
    """

    name: str
    cameras: tuple[str, ...]
    moments: int
    hands: int
    left_out: NDArray[np.int64]
    errors_px: Mapping[str, FloatArray]

    def figures(self, method: str, camera: str | None = None) -> ViewErrors:
        """In the views of one camera, or in all."""
        errors = self.errors_px[method]
        if camera is not None:
            errors = errors[self.left_out == self.cameras.index(camera)]
        made = errors[np.isfinite(errors).any(axis=1)]
        joints = made[np.isfinite(made)]
        median, p90 = np.percentile(joints, [50, 90]) if len(joints) else (np.nan, np.nan)
        mean = joints.mean() if len(joints) else np.nan
        return ViewErrors(len(errors), len(made), float(median), float(mean), float(p90))


def check_cameras(recording: Recording) -> None:
    """Raises LeaveOneOutError where a recording has too few cameras; it says what can be measured instead."""
    if (count := len(recording.rig)) < MIN_VIEWS:
        raise LeaveOneOutError(
            f"{recording.path} has no truth, and {count} camera{'s' * (count > 1)}: without truth, one view is left out "
            f"and the others have to make the hand, so that {MIN_VIEWS} cameras are needed. "
            + (
                f"How well two agree says hamuco live --replay {recording.path} --report FILE"
                if count > 1
                else "One camera cannot say how far away a hand is: record with more"
            )
        )


def leave_one_out(
    recording: Recording,
    make_methods: MakeMethods = default_methods,
    limit: int | None = None,
    progress: Progress = lambda done, total: None,
) -> LeftOut:
    """Every method with every view left out, in one pass over the recording.

    Args:
        recording: of three calibrated cameras or more.
        make_methods: fresh methods for one left-out camera, none of which ever sees what that camera sees.
        limit: only so many moments, from the first; None for all.
        progress: called after every moment with how many are done and how many there are.

    Raises:
        LeaveOneOutError: there are fewer cameras, or no hand that three of them see at once.
        ModelFileError: the landmark network is not there and cannot be fetched.
        SourceError: a video cannot be read.
    """
    check_cameras(recording)
    name, cameras = recording.path.resolve().name, recording.rig.names
    methods: dict[str, tuple[Method, ...]] = {camera: tuple(make_methods()) for camera in cameras}
    errors: dict[str, list[FloatArray]] = {method.name: [] for method in methods[cameras[0]]}
    left_out: list[int] = []
    hands = 0
    pipeline = Pipeline(recording.rig)
    everything = planned_sets(recording)
    planned = everything[:limit]
    for number, frame_set in enumerate(decode(recording, planned)):
        result = pipeline.process(frame_set)
        images = {camera: frame.image for camera, frame in frame_set.frames.items()}
        for hand, observation in zip(result.hand_set.hands, result.observations, strict=True):
            if observation is None or len(observation.views) < MIN_VIEWS:
                continue
            hands += 1
            seen = HandViews(name, hand.side, observation.views, images)
            for index, view in enumerate(observation.views):
                others = replace(seen, views=(*seen.views[:index], *seen.views[index + 1 :]))
                left_out.append(cameras.index(view.camera.name))
                for method in methods[view.camera.name]:
                    estimate = method(others) if len(others.views) >= method.min_views else None
                    joints = np.full((21, 3), np.nan) if estimate is None else estimate.joints
                    errors[method.name].append(observation.errors_px(joints, index))
        pipeline.prepare(frame_set)
        progress(number + 1, len(planned))
    if not hands:
        raise LeaveOneOutError(
            f"{recording.path} has no truth, and no hand that {MIN_VIEWS} of its {len(cameras)} cameras see at once in "
            + (
                f"the first {len(planned)} of {len(everything)} moments: look at more of them"
                if len(planned) < len(everything)
                else f"{len(planned)} moments, so that none can be left out: look at what is found with hamuco live --replay "
                f"{recording.path} --view; a wrong calibration is the usual reason"
            )
        )
    stacked = {method: np.array(own) for method, own in errors.items()}
    return LeftOut(name, cameras, len(planned), hands, np.array(left_out, np.int64), stacked)
