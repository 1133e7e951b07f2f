"""When cameras expose, and when a computer would say that they did.

Each camera exposes at the ticks of its own clock; the true middle of exposure n is

    t_true = start + phase + n period (1 + drift)

with a phase and a drift that stay, as those of a sensor with a crystal do. A computer knows the time from when frames
arrive: t_noted = t_true + jitter, new for every frame. A lost frame has a sequence number but no times.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

# Of a period. Errors of both signs then leave at least a tenth of a period between two stamps.
_MAX_JITTER = 0.45
_MAX_OFFSET = 0.45
_MAX_DRIFT_PPM = 10_000.0  # a hundred times the worst crystal; beyond it the numbers are of another unit


@dataclass(frozen=True, slots=True)
class Timing:
    """How well cameras keep time. All deviations are standard deviations of normal distributions.

    Attributes:
        fps: frames per second.
        offset_ms: of the cameras' phases from each other; moves true and noted times. Cut at 0.45 periods.
        jitter_ms: of single noted stamps from the truth; moves noted times only. Cut at 0.45 periods.
        drift_ppm: of the cameras' rates from fps; moves true and noted times.
        drop: probability that a frame is lost. The first frame of a camera never is.
        free_running: each camera's phase is anything within a period, and `offset_ms` does not count.

    Raises:
        ValueError: on construction, naming the field.
    """

    fps: float = 30.0
    offset_ms: float = 0.0
    jitter_ms: float = 0.0
    drift_ppm: float = 0.0
    drop: float = 0.0
    free_running: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.fps <= 1000:
            raise ValueError(f"fps is {self.fps:g}, expected more than 0 and at most 1000 frames per second")
        for name in ("offset_ms", "jitter_ms", "drift_ppm"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} is {value:g}, expected a standard deviation of 0 or more")
        if self.drift_ppm > _MAX_DRIFT_PPM:
            raise ValueError(f"drift_ppm is {self.drift_ppm:g}, expected at most {_MAX_DRIFT_PPM:g} parts per million")
        if not 0 <= self.drop < 1:
            raise ValueError(f"drop is {self.drop:g}, expected a probability of at least 0 and less than 1")


TIMINGS: Mapping[str, Timing] = MappingProxyType(
    {
        # Industrial cameras on one trigger line: stamps good to some tens of microseconds.
        "synced": Timing(jitter_ms=0.05),
        # Four USB webcams started together, as recorded by caliscope: stamps 1.6 to 2.2 ms about their camera's line,
        # 6.8 ms between the first and the last of a set (median), which is 2.06 sqrt(2.6^2 + 2.0^2) ms for four; 6 of
        # 1076 frames lost. Crystals of consumer electronics keep to some 30 ppm.
        "webcam": Timing(offset_ms=2.6, jitter_ms=2.0, drift_ppm=30.0, drop=0.006),
        # The same, started whenever.
        "free-running": Timing(jitter_ms=2.0, drift_ppm=30.0, drop=0.006, free_running=True),
    }
)
"""What rigs in use are like."""


@dataclass(frozen=True, slots=True, eq=False)
class Schedule:
    """The frames of one camera that were not lost; F of them, at least one.

    Attributes:
        t_true_ns: (F,) int64 middle of the exposure, strictly increasing.
        t_noted_ns: (F,) int64 what a computer notes for it, strictly increasing.
        sequence: (F,) int64 the camera's count from 0; a gap is lost frames.
    """

    t_true_ns: NDArray[np.int64]
    t_noted_ns: NDArray[np.int64]
    sequence: NDArray[np.int64]


def exposure_schedule(
    timing: Timing, cameras: Sequence[str], seconds: float, start_ns: int, rng: np.random.Generator
) -> Mapping[str, Schedule]:
    """The frames of each camera between `start_ns` and `seconds` later.

    Every true time lies in that interval; a noted one may miss it by its jitter.

    Raises:
        ValueError: no cameras, a name twice, or too little time for one frame of every camera.
    """
    if not cameras or len(set(cameras)) != len(cameras):
        raise ValueError(f"cameras are {list(cameras)}, expected at least one and no name twice")
    # A camera that runs 1 % slow and starts late in its period still has one exposure in two periods.
    if not (math.isfinite(seconds) and seconds * timing.fps >= 2):
        raise ValueError(
            f"{seconds:g} s at {timing.fps:g} frames/s is less than two frames: ask for at least {2 / timing.fps:.3g} s"
        )
    return {camera: _one_camera(timing, seconds, start_ns, rng) for camera in cameras}


def _one_camera(timing: Timing, seconds: float, start_ns: int, rng: np.random.Generator) -> Schedule:
    period = 1e9 / timing.fps  # ns
    rate_error = np.clip(rng.normal(0.0, timing.drift_ppm), -_MAX_DRIFT_PPM, _MAX_DRIFT_PPM) * 1e-6
    if timing.free_running:
        phase = rng.uniform(0.0, period)
    else:
        limit = _MAX_OFFSET * period
        phase = 0.5 * period + np.clip(rng.normal(0.0, timing.offset_ms * 1e6), -limit, limit)
    own_period = period * (1.0 + rate_error)
    count = int((seconds * 1e9 - phase) // own_period) + 1
    true = phase + own_period * np.arange(count)
    jitter = np.clip(rng.normal(0.0, timing.jitter_ms * 1e6, count), -_MAX_JITTER * period, _MAX_JITTER * period)
    kept = rng.uniform(size=count) >= timing.drop
    kept[0] = True
    # Rounded before the start is added: times since boot fit a double to the nanosecond, those since 1970 do not.
    t_true = np.floor(true).astype(np.int64) + start_ns
    t_noted = t_true + np.rint(jitter).astype(np.int64)
    return Schedule(t_true[kept], t_noted[kept], np.flatnonzero(kept))
