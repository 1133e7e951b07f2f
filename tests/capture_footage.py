"""Small videos, rigs and recordings for the capture tests. Frame k of a video is uniformly grey, k times LEVEL."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from hamuco.calibration.camera import Camera, Rig
from hamuco.capture.frame import Frame
from hamuco.capture.importing import import_recording
from hamuco.capture.recording import Recording
from hamuco.capture.source import Image, Stamp

SIZE = (160, 120)
LEVEL = 8  # JPEG and MPEG-4 keep a uniform grey within 4, so that frames 0 to 31 are told apart
FOURCC = {".avi": "MJPG", ".mkv": "MJPG", ".mp4": "mp4v"}


def make_rig(*names: str, size: tuple[int, int] = SIZE) -> Rig:
    matrix = np.array([[100.0, 0, size[0] / 2], [0, 100.0, size[1] / 2], [0, 0, 1]])
    return Rig(tuple(Camera(name, size, matrix, np.zeros(5), np.eye(4)) for name in names))


def write_video(path: Path, count: int, size: tuple[int, int] = SIZE, fps: float = 30.0) -> Path:
    video = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*FOURCC[path.suffix]), fps, size)
    assert video.isOpened()
    for k in range(count):
        video.write(np.full((size[1], size[0], 3), k * LEVEL, np.uint8))
    video.release()
    return path


def number_of(image: Image) -> int:
    """Which frame an image of `write_video` is."""
    return round(float(image.mean()) / LEVEL)


def corrupt_frames(path: Path, *numbers: int) -> None:
    """Overwrite some JPEGs of a Motion JPEG file."""
    data = bytearray(path.read_bytes())
    starts = [match.start() for match in re.finditer(b"\xff\xd8\xff", data)]
    for number in numbers:
        # 16 bytes are left for the container's header of the next frame.
        start, end = starts[number], starts[number + 1] - 16
        data[start:end] = bytes(end - start)
    path.write_bytes(data)


def make_recording(folder: Path, names: Sequence[str], count: int = 20, fps: float = 30.0) -> Recording:
    videos = {name: write_video(folder / f"{name}.avi", count, fps=fps) for name in names}
    return import_recording(folder / "recording", make_rig(*names), videos, None, fps)


def make_frame(camera: str, sequence: int, t_capture_ns: int, image: Image | None = None) -> Frame:
    if image is None:
        image = np.zeros((1, 1, 3), np.uint8)
    return Frame(camera, sequence, t_capture_ns, 0, t_capture_ns, None, image)


@dataclass(frozen=True, slots=True)
class HangingConfig:
    """A driver that hangs in its first grab."""

    camera: str
    size: tuple[int, int] = SIZE

    def create(self) -> HangingSource:
        return HangingSource()


class HangingSource:
    undecodable = 0
    missing = 0

    def open(self) -> None:
        pass

    def begin(self, epoch_ns: int) -> None:
        pass

    def grab(self) -> Stamp | None:
        time.sleep(3600)
        return None

    def retrieve(self, image: Image) -> bool:
        return False

    def close(self) -> None:
        pass
