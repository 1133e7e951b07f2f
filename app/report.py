"""What a run was like, in numbers: the report of `hamuco live --report`."""

from __future__ import annotations

import os
import platform
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hamuco.app.truth_monitor import TruthMatch
from hamuco.calibration.camera import Rig
from hamuco.engine.gpu_views import GPU_COUNTERS
from hamuco.fusion.hand import HandSet
from hamuco.fusion.observation import Observation
from hamuco.fusion.pipeline import Result
from hamuco.fusion.refine import RigRefiner

FloatArray = NDArray[np.float64]
_WRIST, _MIDDLE_MCP = 0, 9

# Values kept of each figure; a run of any length fits, a short one is kept whole.
_SAMPLE_SIZE = 20_000
# A camera is suspect that takes part in less than this of so many hands or more.
_TAKES_PART, _ENOUGH_HANDS = 0.1, 50
# Leaving out each view costs 7 ms of two hands in four views, so it is done this seldom (capture time).
_LEAVE_OUT_EVERY_NS = 150_000_000


class Sample:
    """A random sample of bounded size of what was added (reservoir sampling, Vitter 1985), and the largest value."""

    def __init__(self) -> None:
        self._values = np.empty(_SAMPLE_SIZE)
        self._count = 0
        self._random = np.random.default_rng(0)
        self.largest = -np.inf

    def add(self, values: ArrayLike) -> None:
        """Add finite values of any shape; others are left out."""
        new = np.asarray(values, np.float64).ravel()
        new = new[np.isfinite(new)]
        if not len(new):
            return
        self.largest = max(self.largest, float(new.max()))
        places = self._count + np.arange(len(new))
        beyond = places >= _SAMPLE_SIZE
        places[beyond] = self._random.integers(0, places[beyond] + 1)
        kept = places < _SAMPLE_SIZE
        self._values[places[kept]] = new[kept]
        self._count += len(new)

    @property
    def values(self) -> FloatArray:
        """What was kept, in no particular order."""
        return self._values[: min(self._count, _SAMPLE_SIZE)]


class Report:
    """Collects a run set by set; its memory does not grow with the run.

    All pixel and bone figures are of triangulated joints before the hand model is fitted, over the observations that
    were used. Leave-one-out: a hand seen by three or more views is triangulated without one view and compared with it.
    """

    def __init__(self, rig: Rig, model: str, runtime: str) -> None:
        self._rig = rig
        self._model = model
        self._runtime = runtime
        self._sets: Counter[str] = Counter(processed=0, complete=0)
        self._by_views: Counter[int] = Counter()
        self._by_camera: Counter[str] = Counter()  # hands that a camera took part in
        self._shown: Counter[str] = Counter()  # hands followed in sets that had a frame of a camera
        self._unpaired = 0
        self._gpu: dict[str, int] = {}
        self._hands: Counter[str] = Counter(predicted=0, views_against_side=0)
        self._last_track = -1
        self._left_out_ns: int | None = None
        self._reprojection, self._leave_one_out = Sample(), Sample()
        self._palm_mm, self._fit_residual_mm = Sample(), Sample()
        self._latency: dict[str, Sample] = defaultdict(Sample)
        self._truth: Counter[str] = Counter()
        self._mpjpe_mm, self._pa_mpjpe_mm = Sample(), Sample()

    def add(self, result: Result, latency_ms: Mapping[str, float]) -> None:
        """Take in the result of one set, with the milliseconds of each of its stages."""
        hand_set = result.hand_set
        self._sets["processed"] += 1
        self._sets["complete"] += len(hand_set.cameras) == len(self._rig)
        for stage, value in latency_ms.items():
            self._latency[stage].add(value)
        self._unpaired = hand_set.counters["detections_unpaired"]
        self._gpu = {name: hand_set.counters[name] for name in GPU_COUNTERS if name in hand_set.counters}
        leave_out = self._left_out_ns is None or hand_set.t_capture_ns - self._left_out_ns >= _LEAVE_OUT_EVERY_NS
        if leave_out:
            self._left_out_ns = hand_set.t_capture_ns
        for hand, observation in zip(hand_set.hands, result.observations, strict=True):
            self._last_track = max(self._last_track, hand.track_id)
            if observation is None:
                self._hands["predicted"] += 1
                continue
            self._by_views[len(observation.views)] += 1
            self._by_camera.update(view.camera.name for view in observation.views)
            self._shown.update(hand_set.cameras)
            right = float(np.mean([view.right for view in observation.views]))
            self._hands["views_against_side"] += (right > 0.5) != (hand.side == "right")
            self._fit_residual_mm.add(hand.fit_residual_mm)
            if len(observation.views) > 1:
                self._measure(observation, leave_out)

    def compare(self, hand_set: HandSet, truth: tuple[TruthMatch, ...] | None) -> None:
        """Take in how far the hands of one set are from the truth; None where the truth is not known."""
        self._truth["sets"] += 1
        if truth is None:
            self._truth["sets_outside"] += 1
            return
        found = sum(match.hand is not None for match in truth)
        self._truth["hands"] += len(truth)
        self._truth["found"] += found
        self._truth["wrong_side"] += sum(match.wrong_side for match in truth)
        self._truth["not_there"] += len(hand_set.hands) - found
        self._mpjpe_mm.add([match.mpjpe_mm for match in truth])  # those of hands that were not found are left out
        self._pa_mpjpe_mm.add([match.pa_mpjpe_mm for match in truth])

    def _measure(self, observation: Observation, leave_out: bool) -> None:
        points, views = observation.triangulation.points, range(len(observation.views))
        self._palm_mm.add(1e3 * np.linalg.norm(points[_MIDDLE_MCP] - points[_WRIST]))
        for view in views:
            self._reprojection.add(observation.errors_px(points, view))
        if leave_out and len(views) > 2:
            for view in views:
                without = observation.without(view).triangulation.points
                self._leave_one_out.add(observation.errors_px(without, view))

    def as_dict(
        self, dropped: Mapping[str, int], warnings: Sequence[str], seconds: float, refiner: RigRefiner
    ) -> dict[str, Any]:
        """The report as written to JSON; NaN-free: figures without data are null."""
        corrections = refiner.corrections()
        report = {
            "sets": {
                "seen": self._sets["processed"] + dropped.get("sets_skipped", 0),
                "complete": self._sets["complete"],
                "dropped": dict(dropped),
            },
            "hands": {
                "by_views": {str(count): self._by_views[count] for count in range(1, len(self._rig) + 1)},
                **self._hands,
                "tracks": self._last_track + 1,
            },
            "reprojection_px": _spread(self._reprojection),
            "leave_one_out_px": _spread(self._leave_one_out),
            "bones_mm": {"wrist_middle_mcp": _mean(self._palm_mm)},
            "fit_residual_mm": _spread(self._fit_residual_mm),
            "latency_ms": {stage: _latency(values) for stage, values in self._latency.items()},
            "throughput_sets_per_s": round(self._sets["processed"] / seconds, 2) if seconds > 0 else None,
            "calibration_correction": {
                name: {
                    "rotation_deg": round(float(np.rad2deg(np.linalg.norm(value[:3]))), 3),
                    "translation_mm": round(1e3 * float(np.linalg.norm(value[3:])), 2),
                }
                for name, value in corrections.items()
            },
            "warnings": list(warnings),
            "runtime": self._runtime,
            "model": self._model,
            "machine": machine_name(),
        }
        if self._gpu:
            report["gpu"] = self._gpu
        if self._truth["sets"]:
            report["truth"] = self._against_truth()
        return report

    def _against_truth(self) -> dict[str, Any]:
        count = self._truth
        return {
            "hands": count["hands"],
            "coverage": round(count["found"] / count["hands"], 4) if count["hands"] else None,
            "wrong_side": count["wrong_side"],
            "not_there": count["not_there"],
            "sets_outside": count["sets_outside"],
            "mpjpe_mm": _with_mean(self._mpjpe_mm),
            "pa_mpjpe_mm": _with_mean(self._pa_mpjpe_mm),
        }

    def suspicions(self) -> dict[str, str]:
        """What the figures would hide, by what it is about: a camera that is left out makes all others look better."""
        found = {}
        for name, shown in self._shown.items():
            if shown >= _ENOUGH_HANDS and self._by_camera[name] < _TAKES_PART * shown:
                found[name] = (
                    f"camera {name!r} took part in {self._by_camera[name]} of {shown} hands: either it hardly sees them, "
                    "or its calibration is wrong or belongs to another camera"
                )
        if not self._by_views and self._unpaired >= _ENOUGH_HANDS:
            found["calibration"] = (
                f"hands were seen {self._unpaired} times, but no two cameras agreed where: is this their calibration, is its "
                "unit of length right, and were the images taken at the same time?"
            )
        return found


def machine_name() -> str:
    """Processor, cores and operating system."""
    processor = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
        processor = names[0] if names else processor
    return f"{processor}, {os.cpu_count()} cores, {platform.system()} {platform.release()}, Python {platform.python_version()}"


def _spread(sample: Sample) -> dict[str, float | None]:
    if not len(sample.values):
        return {"median": None, "p95": None}
    median, p95 = np.percentile(sample.values, (50, 95))
    return {"median": round(float(median), 3), "p95": round(float(p95), 3)}


def _with_mean(sample: Sample) -> dict[str, float | None]:
    return {"mean": _mean(sample)["mean"], **_spread(sample)}


def _mean(sample: Sample) -> dict[str, float | None]:
    if not len(sample.values):
        return {"mean": None, "sd": None}
    return {"mean": round(float(sample.values.mean()), 2), "sd": round(float(sample.values.std()), 2)}


def _latency(sample: Sample) -> dict[str, float]:
    p50, p99 = np.percentile(sample.values, (50, 99))
    return {"p50": round(float(p50), 3), "p99": round(float(p99), 3), "max": round(sample.largest, 3)}
