"""A small recording with true labels: a right and a left hand, in whose images wrist and middle knuckle are white spots."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from rigs import ring_rig
from true_footage import FIRST_NS, PERIOD_NS, make_truth

from hamuco.capture.frame import Frame, FrameSet
from hamuco.capture.recording import Recording, RecordingWriter
from hamuco.engine.hand_model import load_hand_model
from hamuco.training.datasets.footage import planned_sets
from hamuco.training.labels import SIDES, Label, collect, labels_path
from hamuco.training.synthetic.truth import TRUTH_FILE

SPOTS = (0, 9)
"""Joints with a spot."""
_RADIUS, _SHIFT = 6, 4


def write_labelled(path: Path, frames: int = 3, cameras: int = 3) -> Recording:
    """Both hands in every image; labels "landmarks" with confidence 1, but 0.5 for the last camera."""
    rig = ring_rig(cameras)
    truth = make_truth(rig, frames)
    with RecordingWriter(path, rig, 30.0) as writer:
        for number in range(frames):
            t_ns = FIRST_NS + number * PERIOD_NS
            images = {}
            for camera in rig:
                images[camera.name] = image = np.full((camera.size[1], camera.size[0], 3), 40, np.uint8)
                for joints in truth.views[camera.name].joints[number]:
                    for spot in camera.project(joints[list(SPOTS)]):
                        centre = tuple(int(value) for value in (spot * 2**_SHIFT).round())
                        cv2.circle(image, centre, _RADIUS << _SHIFT, (255, 255, 255), -1, cv2.LINE_AA, _SHIFT)
            writer.write(
                FrameSet(
                    number, {name: Frame(name, number, t_ns, 0, t_ns, None, image) for name, image in images.items()}
                )
            )
    truth.save(path / TRUTH_FILE)
    recording = Recording.open(path)
    rows = []
    for frame_set in planned_sets(recording):
        meshes = truth.meshes_at(frame_set.t_capture_ns, load_hand_model(), with_vertices=False)
        for hand, (trajectory, mesh) in enumerate(zip(truth.trajectories, meshes, strict=True)):
            for number, camera in enumerate(rig):
                confidence = np.full(21, 0.5 if number == cameras - 1 else 1.0)
                side = SIDES.index(trajectory.side)
                rows.append(Label(frame_set.set_id, number, side, hand, camera.project(mesh.landmarks), confidence))
    labels_path(recording, "landmarks").parent.mkdir()
    collect("the truth", recording, frames, rows).save(labels_path(recording, "landmarks"))
    return recording


def spot_near(image: NDArray[np.uint8], pixel: NDArray[np.floating], reach: int = 5) -> NDArray[np.float64]:
    """Centre (2,) px of the white spot around a pixel, weighted by brightness."""
    column, row = (round(float(value)) for value in pixel)
    assert reach <= column < image.shape[1] - reach
    assert reach <= row < image.shape[0] - reach
    rows, columns = np.mgrid[row - reach : row + reach + 1, column - reach : column + reach + 1]
    light = np.clip(image[rows, columns].min(axis=2).astype(np.float64) - 60, 0, None)
    assert light.max() > 100
    return np.asarray(np.array([(columns * light).sum(), (rows * light).sum()]) / light.sum())
