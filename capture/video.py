"""A video file read by frame number, also where some of its frames do not decode."""

from __future__ import annotations

import bisect
from pathlib import Path

import cv2
import numpy as np

from hamuco.capture.source import Image, SourceError, check_size


class VideoFile:
    """Frames of a video in order, each with its number in the file.

    A decoder leaves a broken frame out and says nothing, which would shift every later frame against its time stamp.
    So the container is scanned once without decoding for the presentation time of every frame, and a decoded frame's
    number is looked up by its own.

    Attributes:
        size: width and height, px.
        frame_count: frames in the container, decodable or not.
    """

    def __init__(self, path: Path) -> None:
        """Open and scan `path`. Raises SourceError, naming the file, when there is no video in it."""
        if not path.is_file():
            raise SourceError(f"video {path} does not exist")
        self.path = path
        self._times_us = _presentation_times(path)
        self._capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
        if not self._capture.isOpened() or not self._times_us:
            self._capture.release()
            raise SourceError(f"video {path} cannot be read: damaged, cut off or not a video")
        self.size = (
            round(self._capture.get(cv2.CAP_PROP_FRAME_WIDTH)),
            round(self._capture.get(cv2.CAP_PROP_FRAME_HEIGHT)),
        )
        self.frame_count = len(self._times_us)
        self._attempts = 0

    def next_frame(self) -> int | None:
        """Number of the next frame that decodes, held for `retrieve`; None at the end."""
        while self._attempts < self.frame_count:
            self._attempts += 1
            if self._capture.grab():
                return bisect.bisect_left(self._times_us, _position_us(self._capture))
        return None

    def retrieve(self, image: Image) -> bool:
        """Write the frame of `next_frame` into `image`, (height, width, 3) uint8 BGR; False if it does not decode."""
        decoded, result = self._capture.retrieve(image)
        if not decoded:
            return False
        check_size(f"video {self.path}", (result.shape[1], result.shape[0]), (image.shape[1], image.shape[0]))
        if result is not image:
            np.copyto(image, result)
        return True

    def close(self) -> None:
        self._capture.release()


def _presentation_times(path: Path) -> list[int]:
    """Presentation time of every frame in the container, sorted, µs; empty if it does not open."""
    # Format -1 hands out packets undecoded, in decoding order; with B-frames that is not the order of display.
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_FORMAT, -1])
    times_us = []
    while capture.grab():
        times_us.append(_position_us(capture))
    capture.release()
    return sorted(times_us)


def _position_us(capture: cv2.VideoCapture) -> int:
    return round(capture.get(cv2.CAP_PROP_POS_MSEC) * 1e3)
