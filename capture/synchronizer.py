"""Frames of several cameras -> sets of one moment, by capture time alone. No thread, no clock, no I/O.

Free-running cameras are not in phase: at 30 frames/s two cameras lie anywhere up to half a period apart, and a frame
between two sets belongs to the nearer one. So the earliest waiting frame of each camera is looked at, in order of
time, together with the earliest frame expected next (one median period after its camera's waiting one). If the
widest gap in that row is the one before the expected frame, all waiting frames are one set; otherwise the row is cut
at its widest gap and the frames before it are the set. Which frames form a set is therefore a function of the
capture times, not of the order in which frames of different cameras arrive, as long as no deadline strikes and no
queue overflows; and no frame has to be waited for beyond the set's own.
"""

from __future__ import annotations

import statistics
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from hamuco.capture.frame import Frame, FrameSet

# A gap must be this part of a period wider than the one before the expected frame to split a row. Two cameras half a
# period apart would otherwise change partners with every jitter, losing a complete set each time. On simulated
# cameras of random phase with 2 ms jitter at 30 frames/s and 1 % loss, complete sets per frame time (2, 4, 6
# cameras): margin 0: 93, 87, 80 %; 0.2: 97, 95, 93 %; 0.3: 98, 96, 94 %. At 0.4 frames of real recordings change sets.
_SPLIT_MARGIN = 0.25
_INTERVALS_KEPT = 31  # for the median period: about a second at 30 frames/s


@dataclass(frozen=True, slots=True)
class SynchronizerCounters:
    """What came in and what became of it: frames_seen = frames in sets + dropped + still waiting."""

    frames_seen: int = 0
    sets_complete: int = 0
    sets_incomplete: int = 0
    dropped_late: int = 0  # its set had been closed by the deadline
    dropped_duplicate: int = 0  # the same sequence number or capture time as the camera's frame before
    dropped_out_of_order: int = 0  # older than the camera's frame before, or of a set older than the set before
    dropped_queue_full: int = 0  # the oldest makes room for the newest


@dataclass(slots=True)
class _Queue:
    """One camera's waiting frames, and the history of its intervals."""

    frames: deque[Frame] = field(default_factory=deque)
    intervals_ns: deque[int] = field(default_factory=lambda: deque(maxlen=_INTERVALS_KEPT))
    taken_ns: int | None = None  # capture time of the last frame taken into a set
    newest: Frame | None = None
    ended: bool = False
    missed_last_set: bool = False  # not there when the deadline closed it

    def ready(self) -> bool:
        """Nothing more is needed of this camera; its very first frame also needs the second, for the period."""
        return self.ended or len(self.frames) >= (2 if self.taken_ns is None else 1)

    def period_ns(self) -> int | None:
        """Median interval up to the first waiting frame, never beyond it; None while there is none."""
        if not self.frames:
            return round(statistics.median(self.intervals_ns)) if self.intervals_ns else None
        if self.taken_ns is not None:
            return round(statistics.median((*self.intervals_ns, self.frames[0].t_capture_ns - self.taken_ns)))
        return self.frames[1].t_capture_ns - self.frames[0].t_capture_ns if len(self.frames) > 1 else None

    def take(self) -> Frame:
        frame = self.frames.popleft()
        if self.taken_ns is not None:
            self.intervals_ns.append(frame.t_capture_ns - self.taken_ns)
        self.taken_ns = frame.t_capture_ns
        return frame


class Synchronizer:
    """Groups frames into sets of at most one frame per camera."""

    def __init__(
        self,
        cameras: Sequence[str],
        tolerance_ns: int | None = None,
        deadline_ns: int | None = None,
        capacity: int = 32,
    ) -> None:
        """
        Args:
            cameras: names in rig order.
            tolerance_ns: widest spread of capture times in one set; None leaves it to the cameras' measured periods.
            deadline_ns: age of its earliest frame at which `advance` closes a set without the cameras still missing;
                None waits for every camera that has not ended, as replay must.
            capacity: frames that may wait per camera.
        """
        if not cameras or len(set(cameras)) != len(cameras):
            raise ValueError(f"camera names must be given and unique: {', '.join(cameras)}")
        if capacity < 2:
            raise ValueError(f"a capacity of {capacity} frames per camera is too small; at least 2 are needed")
        self._queues = {name: _Queue() for name in cameras}
        self._tolerance_ns = tolerance_ns
        self._deadline_ns = deadline_ns
        self._capacity = capacity
        self._dropped: list[Frame] = []
        self._counts: Counter[str] = Counter()
        self._set_id = 0
        self._last_middle_ns = 0

    @property
    def counters(self) -> SynchronizerCounters:
        return SynchronizerCounters(**self._counts)

    def push(self, frame: Frame) -> list[FrameSet]:
        """Take in a frame; returns the sets it completes, in order. Raises ValueError for an unknown or ended camera.

        A frame that cannot be used is counted and handed back by `take_dropped`.
        """
        queue = self._queue(frame.camera)
        if queue.ended:
            raise ValueError(f"camera {frame.camera!r} has ended; no frame can follow")
        self._counts["frames_seen"] += 1
        if (reason := self._unusable(queue, frame)) is not None:
            self._drop(frame, reason)
            return []
        if len(queue.frames) == self._capacity:
            self._drop(queue.frames.popleft(), "dropped_queue_full")
        queue.frames.append(frame)
        queue.newest = frame
        return self._form_ready()

    def camera_ended(self, name: str) -> list[FrameSet]:
        """No frame of this camera will follow and none is waited for; returns the sets that this completes."""
        self._queue(name).ended = True
        return self._form_ready()

    def advance(self, now_ns: int) -> list[FrameSet]:
        """Close, without the cameras still missing, the sets whose deadline has passed at host time `now_ns`."""
        sets: list[FrameSet] = []
        while self._deadline_ns is not None and (waiting := self._waiting()):
            if waiting[0].t_capture_ns + self._deadline_ns > now_ns:
                break
            sets += self._form(waiting)
            sets += self._form_ready()
        return sets

    def flush(self) -> list[FrameSet]:
        """End all cameras; returns the sets of all waiting frames."""
        for queue in self._queues.values():
            queue.ended = True
        return self._form_ready()

    def take_dropped(self) -> list[Frame]:
        """Frames dropped since the last call, for the caller to release."""
        dropped, self._dropped = self._dropped, []
        return dropped

    def _queue(self, name: str) -> _Queue:
        if name not in self._queues:
            raise ValueError(f"camera {name!r} is not one of {', '.join(self._queues)}")
        return self._queues[name]

    def _drop(self, frame: Frame, reason: str) -> None:
        self._counts[reason] += 1
        self._dropped.append(frame)

    def _unusable(self, queue: _Queue, frame: Frame) -> str | None:
        """The counter of why this frame cannot be queued, or None."""
        newest = queue.newest
        if newest is not None:
            if frame.sequence == newest.sequence or frame.t_capture_ns == newest.t_capture_ns:
                return "dropped_duplicate"
            if frame.sequence < newest.sequence or frame.t_capture_ns < newest.t_capture_ns:
                return "dropped_out_of_order"
        if queue.missed_last_set and frame.t_capture_ns <= self._last_middle_ns + (queue.period_ns() or 0) // 2:
            return "dropped_late"
        return None

    def _waiting(self) -> list[Frame]:
        """The earliest waiting frame of each camera that has one, by time; equal times in rig order."""
        heads = [queue.frames[0] for queue in self._queues.values() if queue.frames]
        return sorted(heads, key=lambda frame: frame.t_capture_ns)

    def _form_ready(self) -> list[FrameSet]:
        sets = []
        while all(queue.ready() for queue in self._queues.values()) and (waiting := self._waiting()):
            sets += self._form(waiting)
        return sets

    def _form(self, waiting: list[Frame]) -> list[FrameSet]:
        """The next set, or none where it would not be later than the last: a burst of one camera, say."""
        chosen = {frame.camera for frame in self._cut(waiting)}
        frames = {}
        for name, queue in self._queues.items():
            queue.missed_last_set = not queue.frames and not queue.ended
            if name in chosen:
                frames[name] = queue.take()
        frame_set = FrameSet(self._set_id, frames)
        if self._set_id > 0 and frame_set.t_capture_ns <= self._last_middle_ns:
            for frame in frames.values():
                self._drop(frame, "dropped_out_of_order")
            return []
        self._set_id += 1
        self._last_middle_ns = frame_set.t_capture_ns
        self._counts["sets_complete" if len(frames) == len(self._queues) else "sets_incomplete"] += 1
        return [frame_set]

    def _cut(self, waiting: list[Frame]) -> list[Frame]:
        """The first frames of `waiting`, which is sorted by time, that belong together."""
        row = waiting
        if self._tolerance_ns is not None:
            row = [frame for frame in row if frame.t_capture_ns - row[0].t_capture_ns <= self._tolerance_ns]
        while len(row) > 1:
            periods = [(frame, period) for frame in row if (period := self._queues[frame.camera].period_ns())]
            if not periods:  # every camera has a single frame
                break
            expected_ns = min(frame.t_capture_ns + period for frame, period in periods)
            margin_ns = _SPLIT_MARGIN * min(period for _, period in periods)
            gaps_ns = [later.t_capture_ns - earlier.t_capture_ns for earlier, later in pairwise(row)]
            widest_ns = max(gaps_ns)
            if widest_ns <= expected_ns - row[-1].t_capture_ns + margin_ns:
                break
            row = row[: gaps_ns.index(widest_ns) + 1]
        return row
