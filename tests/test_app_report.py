"""The report's figures against the truth; those of the tracking itself are tested by whole runs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hands_for_streaming import example_hand, example_set

from hamuco.app.report import Report
from hamuco.app.truth_monitor import TruthMatch
from hamuco.calibration.camera import Camera, Rig
from hamuco.fusion.hand import Side
from hamuco.fusion.refine import RigRefiner

RIG = Rig((Camera("a", (640, 480), np.diag([500.0, 500.0, 1.0]), np.zeros(5), np.eye(4)),))


def as_dict(report: Report) -> dict[str, Any]:
    return report.as_dict({}, [], 1.0, RigRefiner(RIG))


def match(side: Side, mpjpe_mm: float | None = None) -> TruthMatch:
    """Of a hand that is tracked as a right one, or of one that is not tracked."""
    if mpjpe_mm is None:
        return TruthMatch(side, np.zeros((21, 3)), None, np.nan, np.nan)
    return TruthMatch(side, np.zeros((21, 3)), example_hand(0), mpjpe_mm, mpjpe_mm / 2)


def test_figures_against_the_truth() -> None:
    report = Report(RIG, "landmarks", "none")
    two_hands = example_set(0, (example_hand(0), example_hand(1)))
    report.compare(two_hands, (match("right", 4.0), match("left", 6.0)))  # the left one is tracked as a right one
    report.compare(two_hands, (match("right", 8.0), match("left")))  # one of the tracked hands is not there
    report.compare(two_hands, None)
    assert as_dict(report)["truth"] == {
        "hands": 4,
        "coverage": 0.75,
        "wrong_side": 1,
        "not_there": 1,
        "sets_outside": 1,
        # Of 4, 6, 8; the 95th percentile is nine tenths of the way from the second to the third.
        "mpjpe_mm": {"mean": 6.0, "median": 6.0, "p95": pytest.approx(7.8)},
        "pa_mpjpe_mm": {"mean": 3.0, "median": 3.0, "p95": pytest.approx(3.9)},
    }


def test_without_truth_there_is_no_word_of_it() -> None:
    assert "truth" not in as_dict(Report(RIG, "landmarks", "none"))


def test_figures_without_data_are_null() -> None:
    report = Report(RIG, "landmarks", "none")
    report.compare(example_set(0, ()), None)
    truth = as_dict(report)["truth"]
    assert truth["coverage"] is None
    assert truth["mpjpe_mm"] == {"mean": None, "median": None, "p95": None}
