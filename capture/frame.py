"""One camera image with its times, and the images of all cameras at one moment.

Times are int64 nanoseconds of the host's monotonic clock (`time.monotonic_ns`), which never steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One image as the camera delivered it.

    Attributes:
        camera: name of the camera in its rig.
        sequence: counts the frames that the camera delivered, from 0; a gap is a lost frame.
        t_capture_ns: estimate of the middle of the exposure.
        t_uncertainty_ns: half-width of what is known about `t_capture_ns`.
        t_arrival_ns: when the frame reached the host, before decoding.
        t_device_ns: the device's own stamp, unchanged, on the device's clock; None when it gives none.
        image: (height, width, 3) uint8, BGR. Valid until the frame is released; copy what must outlive it.
    """

    camera: str
    sequence: int
    t_capture_ns: int
    t_uncertainty_ns: int
    t_arrival_ns: int
    t_device_ns: int | None
    image: NDArray[np.uint8]


@dataclass(frozen=True, slots=True, eq=False)
class FrameSet:
    """The frames that belong to one moment, at most one per camera; a missing camera is absent.

    Attributes:
        set_id: counts the sets of a run, from 0.
        frames: camera name -> frame, in the order of the rig.
    """

    set_id: int
    frames: Mapping[str, Frame]

    @property
    def t_capture_ns(self) -> int:
        """Capture time of the set: the median of its frames."""
        times = sorted(frame.t_capture_ns for frame in self.frames.values())
        middle = len(times) // 2
        return times[middle] if len(times) % 2 else (times[middle - 1] + times[middle]) // 2

    @property
    def spread_ns(self) -> int:
        """Latest minus earliest capture time."""
        times = [frame.t_capture_ns for frame in self.frames.values()]
        return max(times) - min(times)
