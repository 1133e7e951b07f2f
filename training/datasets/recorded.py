"""Recordings with truth, such as `hamuco synth` makes: an ordinary recording with a truth.npz beside its rig.toml."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hamuco.capture.frame import FrameSet
from hamuco.capture.recording import Recording
from hamuco.engine.hand_model import HandModel, load_hand_model
from hamuco.training.datasets.files import DatasetError
from hamuco.training.datasets.footage import decode, planned_sets
from hamuco.training.datasets.sample import Sample, TrueHand
from hamuco.training.synthetic.truth import TRUTH_FILE, Truth, TruthError


class Recorded:
    """One sample per frame set at which the hands are known, in order. Images are decoded one set at a time.

    The truth of a sample is that of its set's capture time, as a host notes it. Cameras that expose at another moment
    see the hand where it was then.
    """

    has_truth = True

    def __init__(self, path: Path, model: HandModel | None = None) -> None:
        """
        Args:
            path: the recording's folder.
            model: right hand with which it was made; None for the embedded one.

        Raises:
            DatasetError: there is no truth, or it does not belong to this recording.
            RecordingError: it is no recording; see `Recording.open`.
            TruthError: the truth is damaged, or made with another hand.
        """
        self.recording = Recording.open(path)
        if not (path / TRUTH_FILE).is_file():
            raise DatasetError(
                f"{path} has no {TRUTH_FILE}, so nobody knows where its hands were: make a recording with truth "
                f"(hamuco synth), or see how well this one agrees with itself (hamuco live --replay {path} --report FILE)"
            )
        self.truth = Truth.load(path / TRUTH_FILE)
        self.model = model or load_hand_model()
        if self.model.name != self.truth.model:
            raise TruthError(f"{path} was made with the hand {self.truth.model!r}, not with {self.model.name!r}")
        _check_frames(self.recording, self.truth)
        self.name = path.resolve().name
        self.joint_definition = f"{self.model.name} landmarks"
        planned = planned_sets(self.recording)
        self.sets = [one for one in planned if self.truth.covers(one.t_capture_ns)]
        if not self.sets:
            raise DatasetError(
                f"{path / TRUTH_FILE} knows the hands from {self.truth.trajectories[0].t_ns[0]} to "
                f"{self.truth.trajectories[0].t_ns[-1]} ns, but the frames are from {planned[0].t_capture_ns} to "
                f"{planned[-1].t_capture_ns} ns: it belongs to another recording"
            )

    def __len__(self) -> int:
        return len(self.sets)

    def __iter__(self) -> Iterator[Sample]:
        cameras = self.recording.rig.cameras
        for planned, decoded in zip(self.sets, decode(self.recording, self.sets), strict=True):
            yield Sample(
                name=f"{self.name}/{planned.set_id}",
                sequence=self.name,
                t_ns=planned.t_capture_ns,
                cameras=cameras,
                images={name: frame.image for name, frame in decoded.frames.items()},
                hands=self.hands_at(planned.t_capture_ns, planned),
            )

    def hands_at(self, t_ns: int, frame_set: FrameSet) -> tuple[TrueHand, ...]:
        """The hands at a time that the truth covers, visible as in the frames of a set."""
        meshes = self.truth.meshes_at(t_ns, self.model)
        return tuple(
            TrueHand(
                trajectory.side, mesh.landmarks, mesh.vertices, trajectory.at(t_ns), self._visible(frame_set, hand)
            )
            for hand, (trajectory, mesh) in enumerate(zip(self.truth.trajectories, meshes, strict=True))
        )

    def _visible(self, frame_set: FrameSet, hand: int) -> dict[str, NDArray[np.bool_]]:
        return {name: self.truth.views[name].visible[frame.sequence, hand] for name, frame in frame_set.frames.items()}


def _check_frames(recording: Recording, truth: Truth) -> None:
    """The truth must have every frame of every camera."""
    for name, rows in recording.frames.items():
        known = len(truth.views[name].t_ns) if name in truth.views else 0
        if rows[-1].frame >= known:
            raise DatasetError(
                f"{recording.path}: {TRUTH_FILE} knows {known} frames of camera {name!r}, but timestamps.csv has frame "
                f"{rows[-1].frame}: they do not belong together; make the recording again"
            )
