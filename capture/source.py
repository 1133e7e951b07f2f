"""Where frames come from: one protocol, and the source for everything that OpenCV can open.

A source runs in one thread of one process. Grabbing (wait for a frame and stamp it) is apart from retrieving (decode
it into a buffer of the caller), so that the stamp is taken before decoding and a frame nobody has room for costs none.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import cv2
import numpy as np
from numpy.typing import NDArray

from hamuco.capture.frame import Frame

Image = NDArray[np.uint8]

_DEFAULT_PERIOD_NS = 33_333_333  # assumed where a driver does not tell its rate
_DRIVER_BUFFERS = 4  # what V4L2 queues by default; asked to be 1, but not every driver obeys
_FAILURES_UNTIL_LOST = 5  # failed grabs in a row; V4L2 gives up each one after ten seconds, a stream at once


class SourceError(OSError):
    """A camera, stream or file that does not open, changes its size or stops delivering."""


@dataclass(frozen=True, slots=True)
class Stamp:
    """A grabbed frame before decoding; the fields are those of `Frame`.

    `droppable` says what to do when no buffer is free: drop the frame (live), or wait for one (replay).
    """

    sequence: int
    t_capture_ns: int
    t_uncertainty_ns: int
    t_arrival_ns: int
    t_device_ns: int | None
    droppable: bool


class CameraSource(Protocol):
    """One camera, live or recorded. Call order: open, begin, then grab and retrieve in turn, close."""

    undecodable: int
    """Frames that were there but could not be decoded, so far."""
    missing: int
    """Frames that a recording lists but its video does not have, so far."""

    def open(self) -> None:
        """Acquire the device; all or nothing: after a SourceError everything is released and open may be retried."""

    def begin(self, epoch_ns: int) -> None:
        """Start to deliver. `epoch_ns` is the host time that all sources of a run share as their start."""

    def grab(self) -> Stamp | None:
        """Wait for the next frame and stamp it; None at the end. Raises SourceError when the camera is lost."""

    def retrieve(self, image: Image) -> bool:
        """Decode the grabbed frame into `image`, (height, width, 3) BGR; False (and counted) if it does not decode."""

    def close(self) -> None:
        """Release the device; harmless when closed already."""


@runtime_checkable
class SourceConfig(Protocol):
    """What a source needs to know, apart from the device, so that it can be sent to another process."""

    @property
    def camera(self) -> str:
        """Name in the rig."""

    @property
    def size(self) -> tuple[int, int]:
        """Width and height that the calibration belongs to, px."""

    def create(self) -> CameraSource:
        """A closed source of this configuration."""


def read(source: CameraSource, config: SourceConfig) -> Frame | None:
    """The next frame that decodes, in memory of its own; None at the end."""
    width, height = config.size
    image = np.empty((height, width, 3), np.uint8)
    while (stamp := source.grab()) is not None:
        if source.retrieve(image):
            return Frame(
                camera=config.camera,
                sequence=stamp.sequence,
                t_capture_ns=stamp.t_capture_ns,
                t_uncertainty_ns=stamp.t_uncertainty_ns,
                t_arrival_ns=stamp.t_arrival_ns,
                t_device_ns=stamp.t_device_ns,
                image=image,
            )
    return None


def check_size(what: str, actual: tuple[int, int], calibrated: tuple[int, int]) -> None:
    """Raise SourceError unless images have the size that the calibration is for."""
    if actual != calibrated:
        raise SourceError(
            f"{what} delivers {actual[0]}x{actual[1]} px but its calibration is for {calibrated[0]}x{calibrated[1]}: "
            "set the camera to the calibrated size, or calibrate it at this one"
        )


def capture_estimate(t_arrival_ns: int, t_device_ns: int | None, period_ns: int) -> tuple[int, int]:
    """Middle of the exposure and the half-width of what is known about it, ns of host time.

    Linux stamps a UVC frame on the host's monotonic clock when its first bytes come in, that is after the exposure of
    the first rows and before that of the last: within half a period of the middle. Without such a stamp only the
    arrival is known: readout and transfer take up to a period, and drivers may hold a frame for one more.
    """
    if t_device_ns is not None and 0 <= t_arrival_ns - t_device_ns <= _DRIVER_BUFFERS * period_ns:
        return t_device_ns, period_ns // 2
    return t_arrival_ns - period_ns // 2, period_ns


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenCVConfig:
    """A device index, a file or a URL for `cv2.VideoCapture`.

    Attributes:
        fps: rate to ask a device for; None leaves it as it is. A file plays at its own rate.
        fourcc: pixel format to ask a device for, such as "MJPG" where USB has no room for raw images.
    """

    camera: str
    device: int | str
    size: tuple[int, int]
    fps: float | None = None
    fourcc: str | None = None

    def create(self) -> OpenCVSource:
        return OpenCVSource(self)


class OpenCVSource:
    """Frames of a device, a stream, or of a file that plays the camera: at its rate, dropped when nobody has room."""

    def __init__(self, config: OpenCVConfig) -> None:
        self.undecodable = 0
        self.missing = 0
        self._config = config
        self._what = f"camera {config.camera!r} ({config.device})"
        self._is_file = isinstance(config.device, str) and Path(config.device).is_file()
        self._capture: cv2.VideoCapture | None = None
        self._sequence = 0
        self._period_ns = _DEFAULT_PERIOD_NS
        self._frame_count = 0
        self._start_ns = 0

    def open(self) -> None:
        config = self._config
        capture = cv2.VideoCapture(config.device)
        try:
            if not capture.isOpened():
                raise SourceError(
                    f"{self._what} does not open: check that it is connected (or that the path is right), "
                    "that no other program uses it and that you may read it"
                )
            if not self._is_file:
                self._request_mode(capture)
            actual = (round(capture.get(cv2.CAP_PROP_FRAME_WIDTH)), round(capture.get(cv2.CAP_PROP_FRAME_HEIGHT)))
            check_size(self._what, actual, config.size)
            fps = capture.get(cv2.CAP_PROP_FPS)
            if config.fps is not None and not self._is_file and fps > 0 and abs(fps - config.fps) > 0.05 * config.fps:
                raise SourceError(f"{self._what} was asked for {config.fps:g} frames/s and runs at {fps:g}")
        except SourceError:
            capture.release()
            raise
        self._capture = capture
        self._period_ns = round(1e9 / fps) if fps > 0 else _DEFAULT_PERIOD_NS
        self._frame_count = round(capture.get(cv2.CAP_PROP_FRAME_COUNT))

    def _request_mode(self, capture: cv2.VideoCapture) -> None:
        # The format first: on many cameras it decides which sizes and rates there are.
        config = self._config
        if config.fourcc is not None:
            capture.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*config.fourcc))
        capture.set(cv2.CAP_PROP_FRAME_WIDTH, config.size[0])
        capture.set(cv2.CAP_PROP_FRAME_HEIGHT, config.size[1])
        if config.fps is not None:
            capture.set(cv2.CAP_PROP_FPS, config.fps)
        # A queue in the driver only adds age: what is not taken in time is to be dropped, and by us.
        capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)

    def begin(self, epoch_ns: int) -> None:
        self._start_ns = epoch_ns
        if self._is_file:
            return
        # Frames that queued up while the other cameras opened come without delay and would be stamped as new.
        for _ in range(2 * _DRIVER_BUFFERS):
            asked_ns = time.monotonic_ns()
            if not self._opened().grab() or time.monotonic_ns() - asked_ns > self._period_ns // 2:
                break

    def grab(self) -> Stamp | None:
        capture = self._opened()
        for _ in range(self._frame_count - self._sequence if self._is_file else _FAILURES_UNTIL_LOST):
            sequence = self._sequence
            self._sequence += 1
            if self._is_file:
                due_ns = self._start_ns + sequence * self._period_ns
                time.sleep(max(due_ns - time.monotonic_ns(), 0) / 1e9)
            if capture.grab():
                t_arrival_ns = time.monotonic_ns()
                t_device_ns = None
                if capture.getBackendName() == "V4L2":
                    t_device_ns = round(capture.get(cv2.CAP_PROP_POS_MSEC) * 1e6)
                t_capture_ns, t_uncertainty_ns = capture_estimate(t_arrival_ns, t_device_ns, self._period_ns)
                return Stamp(sequence, t_capture_ns, t_uncertainty_ns, t_arrival_ns, t_device_ns, droppable=True)
            self.undecodable += 1
        if self._is_file:
            return None
        raise SourceError(f"{self._what} stopped delivering after {self._sequence - _FAILURES_UNTIL_LOST} frames")

    def retrieve(self, image: Image) -> bool:
        decoded, result = self._opened().retrieve(image)
        if not decoded:
            self.undecodable += 1
            return False
        check_size(self._what, (result.shape[1], result.shape[0]), self._config.size)
        if result is not image:
            np.copyto(image, result)
        return True

    def close(self) -> None:
        if self._capture is not None:
            self._capture.release()
            self._capture = None

    def _opened(self) -> cv2.VideoCapture:
        if self._capture is None:
            raise SourceError(f"{self._what} is not open")
        return self._capture
