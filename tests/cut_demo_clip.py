"""The first moments of the clip that comes with the package, as a recording of their own."""

from __future__ import annotations

from pathlib import Path

from hamuco.app.offline import DEMO_CLIP
from hamuco.calibration.camera import Rig
from hamuco.capture.frame import FrameSet
from hamuco.capture.recording import RecordingWriter
from hamuco.training.datasets.footage import decode
from hamuco.training.datasets.recorded import Recorded
from hamuco.training.synthetic.truth import TRUTH_FILE


def cut_demo_clip(path: Path, cameras: int, sets: int, truth: bool = True) -> Path:
    """Of its first cameras, with its truth or without."""
    demo = Recorded(DEMO_CLIP)
    rig = Rig(demo.recording.rig.cameras[:cameras])
    with RecordingWriter(path, rig, 30.0, "mjpeg") as writer:
        for frame_set in decode(demo.recording, demo.sets[:sets]):
            writer.write(FrameSet(frame_set.set_id, {name: frame_set.frames[name] for name in rig.names}))
    if truth:
        (path / TRUTH_FILE).write_bytes((DEMO_CLIP / TRUTH_FILE).read_bytes())
    return path
