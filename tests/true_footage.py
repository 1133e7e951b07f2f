"""A small recording with truth: a right and a left hand before a ring of cameras whose images are uniformly grey."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from capture_footage import LEVEL
from numpy.typing import NDArray
from rigs import SIZE, ring_rig

from hamuco.calibration.camera import Rig
from hamuco.capture.frame import Frame, FrameSet
from hamuco.capture.recording import Codec, RecordingWriter
from hamuco.engine.hand_model import load_hand_model
from hamuco.fusion.hand import Side
from hamuco.training.synthetic.truth import TRUTH_FILE, Trajectory, Truth, ViewTruth

FloatArray = NDArray[np.float64]

FIRST_NS, PERIOD_NS = 7_000_000_000, 33_000_000
SPEED = 0.2  # m/s, of the right hand along x; the left one rests


def trajectories(seconds: float, start_ns: int = FIRST_NS) -> tuple[Trajectory, Trajectory]:
    """The hands, 30 cm apart, from 0.1 s before the start to 0.1 s after the end."""
    t_ns = start_ns + np.arange(-10, round(100 * seconds) + 11) * 10_000_000

    def hand(side: Side, x: float, speed: float) -> Trajectory:
        parameters = np.zeros((len(t_ns), 51), np.float32)
        parameters[:, 48] = x + speed * (t_ns - start_ns) * 1e-9
        return Trajectory(side, np.zeros(10, np.float32), t_ns, parameters)

    return hand("right", 0.15, SPEED), hand("left", -0.15, 0.0)


def make_truth(rig: Rig, frames: int, start_ns: int = FIRST_NS) -> Truth:
    """Of recordings as `write_recording` makes. The first camera does not see the right hand's little finger."""
    hands = trajectories(frames * PERIOD_NS * 1e-9, start_ns)
    truth = Truth(load_hand_model().name, hands, {})
    times = start_ns + np.arange(frames) * PERIOD_NS
    joints = np.array(
        [[mesh.landmarks for mesh in truth.meshes_at(int(t), load_hand_model(), with_vertices=False)] for t in times],
        np.float32,
    )
    views = {}
    for index, camera in enumerate(rig):
        visible = np.ones((frames, 2, 21), np.bool_)
        visible[:, 0, 17:] = index > 0
        views[camera.name] = ViewTruth(times, joints, visible)
    return Truth(truth.model, hands, views)


def write_recording(path: Path, frames: int, cameras: int = 3, truth: bool = True, codec: Codec = "mjpeg") -> Path:
    """Frame k is k times `LEVEL` bright."""
    rig = ring_rig(cameras)
    with RecordingWriter(path, rig, 30.0, codec) as writer:
        for number in range(frames):
            t_ns = FIRST_NS + number * PERIOD_NS
            image = np.full((SIZE[1], SIZE[0], 3), number * LEVEL, np.uint8)
            writer.write(
                FrameSet(number, {name: Frame(name, number, t_ns, 0, t_ns, None, image) for name in rig.names})
            )
    if truth:
        make_truth(rig, frames).save(path / TRUTH_FILE)
    return path
