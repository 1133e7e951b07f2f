"""What a run was like, in numbers: the report of `hamuco live --report`."""

from __future__ import annotations

import os
import platform
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hamuco.app.pipeline import Result
from hamuco.calibration.camera import Rig
from hamuco.fusion.refine import RigRefiner
from hamuco.fusion.track import Observation

FloatArray = NDArray[np.float64]
_WRIST, _MIDDLE_MCP = 0, 9


class Report:
    """Collects a run set by set.

    All pixel and bone figures are of triangulated joints before the hand model is fitted, over the observations that
    were used. Leave-one-out: a hand seen by three or more views is triangulated without one view and compared with it.
    """

    def __init__(self, rig: Rig, model: str, runtime: str) -> None:
        self._rig = rig
        self._model = model
        self._runtime = runtime
        self._sets: Counter[str] = Counter(seen=0, complete=0)
        self._by_views: Counter[int] = Counter()
        self._predicted = 0
        self._sides: dict[int, set[str]] = defaultdict(set)
        self._reprojection: list[FloatArray] = []
        self._leave_one_out: list[FloatArray] = []
        self._palms_mm: list[float] = []
        self._fit_residual_mm: list[float] = []
        self._latency: dict[str, list[float]] = defaultdict(list)

    def add(self, result: Result, latency_ms: Mapping[str, float]) -> None:
        """Take in the result of one set, with the milliseconds of each of its stages."""
        self._sets["seen"] += 1
        self._sets["complete"] += len(result.hand_set.cameras) == len(self._rig)
        for stage, value in latency_ms.items():
            self._latency[stage].append(value)
        for hand, observation in zip(result.hand_set.hands, result.observations, strict=True):
            self._sides[hand.track_id].add(hand.side)
            if observation is None:
                self._predicted += 1
                continue
            self._by_views[len(observation.views)] += 1
            self._fit_residual_mm.append(hand.fit_residual_mm)
            if len(observation.views) > 1:
                self._measure(observation)

    def _measure(self, observation: Observation) -> None:
        points, views = observation.triangulation.points, range(len(observation.views))
        self._palms_mm.append(1e3 * float(np.linalg.norm(points[_MIDDLE_MCP] - points[_WRIST])))
        self._reprojection += [observation.errors_px(points, view) for view in views]
        if len(views) > 2:
            self._leave_one_out += [
                observation.errors_px(observation.without(view).triangulation.points, view) for view in views
            ]

    def as_dict(self, dropped: Mapping[str, int], seconds: float, refiner: RigRefiner) -> dict[str, Any]:
        """The report as written to JSON; NaN-free: figures without data are null."""
        corrections = refiner.corrections()
        return {
            "sets": {**self._sets, "dropped": {reason: count for reason, count in dropped.items() if count}},
            "hands": {
                "by_views": {str(count): self._by_views[count] for count in range(1, len(self._rig) + 1)},
                "predicted": self._predicted,
                "tracks": len(self._sides),
                "tracks_that_changed_side": sum(len(sides) > 1 for sides in self._sides.values()),
            },
            "reprojection_px": _spread(self._reprojection),
            "leave_one_out_px": _spread(self._leave_one_out),
            "bones_mm": {
                "wrist_middle_mcp": {"mean": _round(np.mean, self._palms_mm), "sd": _round(np.std, self._palms_mm)}
            },
            "fit_residual_mm": _spread([np.array(self._fit_residual_mm)]),
            "latency_ms": {stage: _latency(values) for stage, values in self._latency.items()},
            "throughput_sets_per_s": round(self._sets["seen"] / seconds, 2) if seconds > 0 else None,
            "calibration_correction": {
                name: {
                    "rotation_deg": round(float(np.rad2deg(np.linalg.norm(value[:3]))), 3),
                    "translation_mm": round(1e3 * float(np.linalg.norm(value[3:])), 2),
                }
                for name, value in corrections.items()
            },
            "warnings": [f"camera {name!r} {what}" for name, what in refiner.alarms().items()],
            "runtime": self._runtime,
            "model": self._model,
            "machine": machine_name(),
        }


def machine_name() -> str:
    """Processor, cores and operating system."""
    processor = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
        processor = names[0] if names else processor
    return f"{processor}, {os.cpu_count()} cores, {platform.system()} {platform.release()}, Python {platform.python_version()}"


def _spread(parts: Sequence[FloatArray]) -> dict[str, float | None]:
    values = np.concatenate([part.ravel() for part in parts]) if parts else np.empty(0)
    values = values[np.isfinite(values)]
    if not len(values):
        return {"median": None, "p95": None}
    return {"median": round(float(np.median(values)), 3), "p95": round(float(np.percentile(values, 95)), 3)}


def _latency(values: Sequence[float]) -> dict[str, float]:
    return {
        "p50": round(float(np.percentile(values, 50)), 3),
        "p99": round(float(np.percentile(values, 99)), 3),
        "max": round(max(values), 3),
    }


def _round(statistic: Any, values: Sequence[float]) -> float | None:
    return round(float(statistic(values)), 2) if values else None
