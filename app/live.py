"""The live run: grabbers, synchronizer, pipeline and publishers in one loop."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from hamuco.app.report import Report
from hamuco.app.truth_monitor import TruthMatch, TruthMonitor
from hamuco.app.view_link import ViewerLink
from hamuco.calibration.camera import Rig
from hamuco.capture.frame import Frame, FrameSet
from hamuco.capture.grabber import CameraEvent, Grabbers
from hamuco.capture.interruption import postponed_interruption
from hamuco.capture.replay import Pace
from hamuco.capture.source import SourceConfig
from hamuco.capture.synchronizer import Synchronizer
from hamuco.fusion.pipeline import Pipeline, Result
from hamuco.streaming.publisher import Publisher

# How long a set waits for a live camera that does not deliver, before it goes on without it.
_DEADLINE_NS = 100_000_000
_POLL_MS = 20


@dataclass(frozen=True, slots=True, eq=False)
class Status:
    """What a watching person wants to know, after each set."""

    result: Result
    latency_ms: Mapping[str, float]
    dropped: Mapping[str, int]
    warnings: tuple[str, ...]  # all so far
    truth: tuple[TruthMatch, ...] | None = None  # for a set whose truth is known


class LiveRun:
    """Runs cameras, or a recording that plays them, until they end or somebody says stop.

    Live cameras: what cannot be taken in time is dropped and counted, the newest set wins. A recording: nothing is
    dropped, so that it gives the same hands every time.
    """

    def __init__(
        self,
        rig: Rig,
        pipeline: Pipeline,
        sources: Sequence[SourceConfig],
        publishers: Sequence[Publisher] = (),
        viewer: ViewerLink | None = None,
        pace: Pace | None = None,
        monitor: TruthMonitor | None = None,
    ) -> None:
        """
        Args:
            rig: calibrated cameras.
            pipeline: for this rig.
            sources: one for each camera.
            publishers: each set goes to all of them.
            viewer: is told of each set.
            pace: of the recording that plays the cameras; None for cameras.
            monitor: compares each set with the truth of the recording, once it is published.
        """
        self._rig = rig
        self._pipeline = pipeline
        self._sources = sources
        self._publishers = publishers
        self._viewer = viewer
        self._pace = pace
        self._monitor = monitor
        self._synchronizer = Synchronizer(rig.names, deadline_ns=None if pace is not None else _DEADLINE_NS)
        self._report = Report(rig, pipeline.estimator.name, pipeline.estimator.runtime)
        self._counts: Counter[str] = Counter()
        self.lost_cameras: dict[str, str] = {}
        """Cameras that were lost so far, with the reason."""
        self.interrupted = False
        """Somebody said stop before the end."""
        self.warnings: list[str] = []
        """What went wrong so far: cameras that were lost, have moved or take no part, a GPU that failed."""
        self._suspected: set[str] = set()
        self._synchronize_ms = 0.0
        self._seconds = 0.0
        self.process_ids: Mapping[str, int] = {}
        """Of the cameras' grabbers while running, for tools that watch their load."""

    def run(self, watch: Callable[[Status], None]) -> None:
        """Run to the end or to Ctrl-C; `watch` is called after every set.

        Ctrl-C ends it once the sets at hand are done; a second one stops at once.

        Raises:
            SourceError: a camera does not open.
            KeyboardInterrupt: Ctrl-C was pressed before the cameras were open, or twice.
        """
        with Grabbers(self._sources) as grabbers, postponed_interruption(None) as interrupted:
            self.process_ids = grabbers.process_ids
            start = time.monotonic()
            try:
                while grabbers.active and not interrupted():
                    for frame_set in self._receive(grabbers):
                        watch(self._process(grabbers, frame_set))
            finally:
                self.interrupted = interrupted()
                self._seconds = time.monotonic() - start
                self._count_cameras(grabbers)

    def report(self) -> dict[str, Any]:
        """The run in numbers; see `hamuco.app.report`."""
        figures = self._report.as_dict(self._dropped(), self.warnings, self._seconds, self._pipeline.tracker.refiner)
        # Of a GPU that failed in between, this is what ran at the end.
        return figures | {"runtime": self._pipeline.estimator.runtime}

    def _receive(self, grabbers: Grabbers) -> list[FrameSet]:
        """The sets that are complete by now, oldest first; of live cameras the newest only."""
        items = grabbers.receive(_POLL_MS)
        start = time.perf_counter_ns()
        sets: list[FrameSet] = []
        for item in items:
            if isinstance(item, Frame):
                sets += self._synchronizer.push(item)
            else:
                sets += self._camera_over(item)
        sets += self._synchronizer.advance(time.monotonic_ns())
        self._synchronize_ms = (time.perf_counter_ns() - start) * 1e-6 / max(len(sets), 1)
        self._release(grabbers, self._synchronizer.take_dropped())
        if self._pace is None:
            for frame_set in sets[:-1]:
                self._counts["sets_skipped"] += 1
                self._release(grabbers, frame_set.frames.values())
            sets = sets[-1:]
        return sets

    def _camera_over(self, event: CameraEvent) -> list[FrameSet]:
        if event.kind == "lost":
            self.lost_cameras[event.camera] = event.reason
            self._counts["cameras_lost"] += 1
            self._warn(f"camera {event.camera!r} was lost: {event.reason}")
        return self._synchronizer.camera_ended(event.camera)

    def _warn(self, text: str) -> None:
        self.warnings.append(text)
        if self._viewer is not None:
            self._viewer.say(text)

    def _process(self, grabbers: Grabbers, frame_set: FrameSet) -> Status:
        result = self._pipeline.process(frame_set)
        self._count_cameras(grabbers)
        dropped = self._dropped()
        hand_set = replace(
            result.hand_set,
            stage_ms={"synchronize": self._synchronize_ms, **result.hand_set.stage_ms},
            counters={**result.hand_set.counters, **dropped},
        )
        start = time.perf_counter_ns()
        for publisher in self._publishers:
            publisher.publish(hand_set)
        latency_ms = {**hand_set.stage_ms, "publish": (time.perf_counter_ns() - start) * 1e-6}
        latency_ms["total"] = sum(latency_ms.values())
        if self._pace != "fast":  # whose frames are captured at no particular time
            latency_ms["capture_to_publish"] = (time.monotonic_ns() - frame_set.t_capture_ns) * 1e-6
        truth = self._monitor.compare(hand_set, grabbers.epoch_ns) if self._monitor is not None else None
        if self._viewer is not None:
            slots = {name: grabbers.slot_of(frame) for name, frame in frame_set.frames.items()}
            self._viewer.show(frame_set, slots, self._pipeline.tracker.rig, truth or ())
        self._pipeline.prepare(frame_set)
        self._release(grabbers, frame_set.frames.values())
        self._report.add(result, latency_ms)
        if self._monitor is not None:
            self._report.compare(hand_set, truth)
        for about, text in {**self._report.suspicions(), **self._pipeline.alarms}.items():
            if about not in self._suspected:  # once is enough; the numbers change from set to set
                self._suspected.add(about)
                self._warn(text)
        return Status(result, latency_ms, dropped, tuple(self.warnings), truth)

    def _count_cameras(self, grabbers: Grabbers) -> None:
        """Add up what the grabbers lost, over all cameras."""
        totals: Counter[str] = Counter()
        for counts in grabbers.counters.values():
            totals.update(asdict(counts))
        del totals["received"]
        self._counts.update(
            {f"frames_{reason}": count - self._counts[f"frames_{reason}"] for reason, count in totals.items()}
        )

    def _dropped(self) -> dict[str, int]:
        """Running totals of everything that was lost before the pipeline, by reason."""
        of_frames = {
            f"frames_{reason}": count
            for reason, count in asdict(self._synchronizer.counters).items()
            if reason.startswith("dropped")
        }
        return {reason: count for reason, count in {**self._counts, **of_frames}.items() if count}

    @staticmethod
    def _release(grabbers: Grabbers, frames: Iterable[Frame]) -> None:
        for frame in frames:
            grabbers.release(frame)
