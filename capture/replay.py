"""One camera of a recording as a camera source."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hamuco.capture.recording import RecordedFrame, Recording
from hamuco.capture.source import Image, SourceError, Stamp, check_size
from hamuco.capture.video import VideoFile

Pace = Literal["original", "fast"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayConfig:
    """One camera of a recording.

    Attributes:
        frames: the camera's rows of timestamps.csv.
        first_ns: earliest recorded time of all cameras of the replay; it becomes the epoch of the run.
        pace: "original" delivers each frame when it was captured, "fast" as soon as there is room. Neither loses one:
            on a machine that is too slow the original pace falls behind.
    """

    camera: str
    size: tuple[int, int]
    video: Path
    frames: tuple[RecordedFrame, ...]
    first_ns: int
    pace: Pace

    def create(self) -> ReplaySource:
        return ReplaySource(self)


def replay_configs(recording: Recording, pace: Pace) -> list[ReplayConfig]:
    """Configurations that play all cameras of a recording together."""
    return [
        ReplayConfig(
            camera=camera.name,
            size=camera.size,
            video=recording.videos[camera.name],
            frames=recording.frames[camera.name],
            first_ns=recording.first_ns,
            pace=pace,
        )
        for camera in recording.rig
    ]


class ReplaySource:
    """Frames of a recorded video with their recorded times, moved to the run's epoch.

    `sequence` is the frame's number in the video: a frame that does not decode leaves a gap.
    """

    def __init__(self, config: ReplayConfig) -> None:
        self.undecodable = 0
        self.missing = 0
        self._config = config
        self._video: VideoFile | None = None
        self._row = 0
        self._shift_ns = 0

    def open(self) -> None:
        video = VideoFile(self._config.video)
        try:
            check_size(f"camera {self._config.camera!r} ({video.path})", video.size, self._config.size)
        except SourceError:
            video.close()
            raise
        self._video = video

    def begin(self, epoch_ns: int) -> None:
        self._shift_ns = epoch_ns - self._config.first_ns

    def grab(self) -> Stamp | None:
        row = self._next_row()
        if row is None:
            return None
        t_capture_ns = row.t_capture_ns + self._shift_ns
        if self._config.pace == "original":
            time.sleep(max(t_capture_ns - time.monotonic_ns(), 0) / 1e9)
        t_arrival_ns = time.monotonic_ns()
        return Stamp(row.frame, t_capture_ns, row.t_uncertainty_ns, t_arrival_ns, row.t_device_ns, droppable=False)

    def _next_row(self) -> RecordedFrame | None:
        """The next row whose frame decodes; the video is at that frame."""
        rows = self._config.frames
        number = self._opened().next_frame()
        while self._row < len(rows):
            while number is not None and number < rows[self._row].frame:
                number = self._opened().next_frame()
            row = rows[self._row]
            self._row += 1
            if number == row.frame:
                return row
            if row.frame < self._opened().frame_count:
                self.undecodable += 1
            else:
                self.missing += 1
        return None

    def retrieve(self, image: Image) -> bool:
        decoded = self._opened().retrieve(image)
        self.undecodable += not decoded
        return decoded

    def close(self) -> None:
        if self._video is not None:
            self._video.close()
            self._video = None

    def _opened(self) -> VideoFile:
        if self._video is None:
            raise SourceError(f"camera {self._config.camera!r} of the recording is not open")
        return self._video
