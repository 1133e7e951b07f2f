"""Labels from OpenPose (Cao et al., TPAMI 2021): its hand keypoints, with a confidence for each, as JSON files.

    <folder>/<camera>/<anything>_<frame>_keypoints.json

with the frame's number in the camera's video, as `openpose --video <camera>.mkv --hand --write_json <folder>/<camera>`
writes them. Each file has the people of an image in an order of its own, so that nobody knows who is who in another
view: only the person whose hands are seen best is taken, with one right and one left hand. Each view chooses by itself, so
that the hands of several people would get mixed.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hamuco.capture.recording import Recording
from hamuco.training.datasets.footage import planned_sets
from hamuco.training.labels import SIDES, Label, Labels, collect, labels_path

FloatArray = NDArray[np.float64]

NAME = "openpose"

_FRAME = re.compile(r"(\d+)_keypoints\.json$")


class OpenPoseError(ValueError):
    """Files that are missing, damaged, or not OpenPose's."""


def import_openpose(recording: Recording, folder: Path) -> Labels:
    """Read the keypoints of a recording and save them as `labels/openpose.npz` in its folder.

    Args:
        recording: the recording that OpenPose was run on.
        folder: with a folder for every camera.

    Raises:
        OpenPoseError: a camera or a file is missing or damaged, or there is no hand in any of them.
        OSError: the labels cannot be written.
    """
    absent = [name for name in recording.rig.names if not (folder / name).is_dir()]
    if absent:
        found = sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
        raise OpenPoseError(
            f"{folder} has no folder of camera {', '.join(absent)}; it has {', '.join(found) or 'none'}. Run OpenPose on "
            f"the videos of {recording.path}, for example with --video {recording.videos[absent[0]].name} --hand "
            f"--write_json {folder / absent[0]}"
        )
    sets = planned_sets(recording)
    set_of = {(name, frame.sequence): one.set_id for one in sets for name, frame in one.frames.items()}
    rows = []
    for number, camera in enumerate(recording.rig):
        files = sorted(path for path in (folder / camera.name).iterdir() if _FRAME.search(path.name))
        if not files:
            raise OpenPoseError(
                f"{folder / camera.name} has no file *_<frame>_keypoints.json: run OpenPose on the video"
            )
        for file in files:
            frame = int(_FRAME.findall(file.name)[0])
            if (set_id := set_of.get((camera.name, frame))) is None:
                continue  # a frame without a time
            for side, (pixels, confidence) in _hands(file, camera.size).items():
                rows.append(Label(set_id, number, side, side, pixels, confidence))
    if not rows:
        raise OpenPoseError(f"there is no hand in any file of {folder}: run OpenPose with --hand")
    labels = collect("OpenPose", recording, len(sets), rows)
    path = labels_path(recording, NAME)
    try:
        path.parent.mkdir(exist_ok=True)
    except OSError as error:
        raise OSError(
            f"folder {path.parent} cannot be made ({error.strerror}): labels lie beside the recording"
        ) from error
    labels.save(path)
    return labels


def _hands(file: Path, size: tuple[int, int]) -> dict[int, tuple[FloatArray, FloatArray]]:
    """Number of the side -> pixels (21, 2), NaN where OpenPose saw nothing, and confidence (21,)."""
    try:
        people = json.loads(file.read_bytes())["people"]
        persons = [{side: _keypoints(person, SIDES[side]) for side in range(2)} for person in people]
    except (ValueError, KeyError, TypeError) as error:
        raise OpenPoseError(
            f"{file} is damaged, or not of OpenPose ({type(error).__name__}: {error}): run OpenPose again"
        ) from error
    if not persons:
        return {}
    best = max(persons, key=lambda hands: sum(float(values[:, 2].sum()) for values in hands.values()))
    hands = {}
    for side, values in best.items():
        confidence = np.clip(values[:, 2], 0, 1)
        if not (seen := confidence > 0).any():
            continue
        if values[seen, :2].max() <= 1 and max(size) > 1:
            raise OpenPoseError(
                f"{file} has coordinates from 0 to 1, expected px: run OpenPose with --keypoint_scale 0"
            )
        hands[side] = np.where(seen[:, None], values[:, :2], np.nan), confidence
    return hands


def _keypoints(person: dict[str, Any], side: str) -> FloatArray:
    """(21, 3) x, y and confidence; zeros where there are none."""
    values = np.asarray(person.get(f"hand_{side}_keypoints_2d") or np.zeros(63), np.float64)
    if values.shape != (63,) or not np.isfinite(values).all():
        raise ValueError(f"a {side} hand of {values.size} numbers, expected 63 finite ones")
    return values.reshape(21, 3)
