"""Labels by the default estimator: the landmark network on what the tracker follows through a recording.

The labels are what the network sees in each view, not the fused hands. The tracker says where to look, which views
belong to one hand, and how far a view agrees with the others. The recording is labelled in pieces that do not depend
on each other, each begun some sets early, so that an interrupted run goes on and ends with the same labels.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hamuco.calibration.camera import Camera
from hamuco.capture.frame import FrameSet
from hamuco.capture.recording import Recording
from hamuco.engine.landmarks import regions_from_joints
from hamuco.fusion.hand import Hand
from hamuco.fusion.observation import Observation
from hamuco.fusion.pipeline import Pipeline
from hamuco.fusion.track import HandTracker
from hamuco.training.datasets.footage import decode, planned_sets
from hamuco.training.labels import SIDES, Label, Labels, LabelsError, collect, fingerprint, labels_path
from hamuco.training.npz_file import ArrayFileError

FloatArray = NDArray[np.float64]
Progress = Callable[[int, int], None]

NAME = "landmarks"
CHUNK = 256
"""Sets per piece."""
WARM_UP = 15
"""Sets before a piece in which its tracker finds the hands: half a second at 30 sets/s."""

# Tracks of a piece are numbered from its own multiple of this.
_TRACKS = 1000
# Nobody confirms what a single view says.
_LONE_VIEW = 0.5


def label_recording(
    recording: Recording, hands: int = 2, progress: Progress = lambda done, total: None, chunk: int = CHUNK
) -> Labels:
    """Label a recording and save the labels as `labels/landmarks.npz` in its folder; read them if they are there.

    Pieces that are done lie in `labels/landmarks.partial`, from where the next run goes on.

    Args:
        recording: of two cameras or more.
        hands: the most hands there are at a time.
        progress: is called with the number of sets that are done and the number of all.
        chunk: sets per piece.

    Raises:
        ModelFileError: the networks are not there and cannot be fetched.
        ValueError: the recording has one camera only.
        OSError: the labels cannot be written.
    """
    if len(recording.rig) < 2:
        raise ValueError(
            f"{recording.path} has one camera: these labels need hands that two see at least; labels of one can come from "
            "OpenPose, see `hamuco label --help`"
        )
    sets = planned_sets(recording)
    pieces = [range(start, min(start + chunk, len(sets))) for start in range(0, len(sets), chunk)]
    # The next piece warms up while this one ends; of short pieces, several do.
    pipelines = [Pipeline(recording.rig, max_hands=hands) for _ in range(min(1 + -(-WARM_UP // chunk), len(pieces)))]
    source = _source(recording, pipelines[0], hands)
    path = labels_path(recording, NAME)
    if (finished := _load(path, recording, source)) is not None:
        progress(len(sets), len(sets))
        return finished
    partial = path.with_suffix(".partial")
    _make_folder(partial)
    files = [partial / f"{piece.start:08d}-{piece.stop:08d}.npz" for piece in pieces]
    done = {
        number: labels for number, file in enumerate(files) if (labels := _load(file, recording, source)) is not None
    }
    progress(done_sets := sum(len(pieces[number]) for number in done), len(sets))
    missing = [number for number in range(len(pieces)) if number not in done]
    first = max(pieces[missing[0]].start - WARM_UP, 0) if missing else len(sets)
    rows: dict[int, list[Label]] = {number: [] for number in missing}
    for index, frame_set in enumerate(decode(recording, sets[first:]), first):
        for number in list(rows):
            piece = pieces[number]
            if index < piece.start - WARM_UP:
                break
            pipeline = pipelines[number % len(pipelines)]
            if index == max(piece.start - WARM_UP, 0):
                pipeline.tracker = HandTracker(recording.rig, pipeline.model, hands, refine=False)
            found = _label(pipeline, frame_set, number * _TRACKS)
            if index < piece.start:
                continue
            rows[number] += found
            progress(done_sets := done_sets + 1, len(sets))
            if index == piece.stop - 1:
                done[number] = collect(source, recording, len(sets), rows.pop(number))
                done[number].save(files[number])
    whole = _join([done[number] for number in range(len(pieces))])
    whole.save(path)
    shutil.rmtree(partial)
    return whole


def _label(pipeline: Pipeline, frame_set: FrameSet, first_track: int) -> list[Label]:
    """The labels of one set."""
    if not frame_set.frames:
        return []
    result = pipeline.process(frame_set)
    pipeline.prepare(frame_set)
    rig = pipeline.tracker.rig
    rows = []
    for hand, observation in zip(result.hand_set.hands, result.observations, strict=True):
        if observation is None:
            continue
        for number, camera in enumerate(rig):
            if camera.name in frame_set.frames and (view := _view(camera, hand, observation)) is not None:
                rows.append(Label(frame_set.set_id, number, SIDES.index(hand.side), first_track + hand.track_id, *view))
    return rows


def _view(camera: Camera, hand: Hand, observation: Observation) -> tuple[FloatArray, FloatArray] | None:
    """Pixels and confidence of a hand in one view; None where it is not in the image."""
    confidence = view_confidence(observation)
    for view, seen in enumerate(observation.views):
        if seen.camera.name == camera.name:
            pixels = seen.pixels
            inside = ((pixels > -0.5) & (pixels < np.array(camera.size) - 0.5)).all(axis=1)
            return pixels, confidence[view] * inside
    if not regions_from_joints([camera], [(None, np.asarray(hand.joints, np.float64))]):
        return None
    return camera.project(hand.joints), np.zeros(21)


def view_confidence(observation: Observation) -> FloatArray:
    """How sure the views of a hand are of their landmarks, (V, 21), 0 to 1.

    That there is a hand, by the network, times how well the ray of each landmark fits the other views' (Geman-McClure
    weights: 0.25 at five standard deviations). The network knows no confidence of single landmarks; a finger that is
    hidden in one view gives itself away by where the other views see it.
    """
    presence = np.array([view.presence for view in observation.views])
    agreement = observation.triangulation.inliers if len(observation.views) > 1 else np.full((1, 21), _LONE_VIEW)
    return np.asarray(np.clip(presence[:, None] * agreement, 0, 1))


def _source(recording: Recording, pipeline: Pipeline, hands: int) -> str:
    """All that labels depend on but for the frames."""
    rig = hashlib.sha256((recording.path / "rig.toml").read_bytes()).hexdigest()[:8]
    return f"landmark network ({pipeline.estimator.runtime}), up to {hands} hands, rig {rig}"


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(
            f"folder {folder} cannot be made ({error.strerror}): labels lie beside the recording, so copy it to where "
            "you may write"
        ) from error


def _load(path: Path, recording: Recording, source: str) -> Labels | None:
    """Labels that are done; None for those that are missing, damaged or made in another way."""
    with suppress(FileNotFoundError, ArrayFileError, LabelsError):
        labels = Labels.load(path)
        if labels.source == source and labels.recording == fingerprint(recording):
            return labels
    return None


def _join(pieces: list[Labels]) -> Labels:
    def rows(name: str) -> Iterator[NDArray[np.generic]]:
        return (getattr(piece, name) for piece in pieces)

    first = pieces[0]
    joined = (
        np.concatenate(list(rows(name))) for name in ("set_id", "camera", "side", "track", "pixels", "confidence")
    )
    return Labels(first.source, first.recording, first.cameras, first.sets, *joined)
