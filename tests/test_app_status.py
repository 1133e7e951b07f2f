"""What people read while a run goes on and after it."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hands_for_streaming import example_hand, example_set
from rich.console import Console

from hamuco.app.doctor import Finding
from hamuco.app.live import Status
from hamuco.app.status import print_findings, print_summary, status_line
from hamuco.app.truth_monitor import TruthMatch
from hamuco.fusion.pipeline import Result

SPREAD = {"median": None, "p95": None}
NONE = {"mean": None, **SPREAD}
REPORT = {
    "sets": {"seen": 10, "complete": 9, "dropped": {"frames_missing": 1}},
    "hands": {"by_views": {"1": 0, "2": 18}},
    "reprojection_px": {"median": 1.5, "p95": 3.25},
    "leave_one_out_px": SPREAD,
    "fit_residual_mm": SPREAD,
    "latency_ms": {"total": {"p50": 20.0, "p99": 30.0, "max": 31.0}},
    "throughput_sets_per_s": 30.0,
    "runtime": "CPU",
    "warnings": [],
}
TRUTH = {
    "hands": 824,
    "coverage": 0.98543,
    "wrong_side": 0,
    "not_there": 0,
    "sets_outside": 0,
    "mpjpe_mm": {"mean": 7.04, "median": 6.231, "p95": 11.04},
    "pa_mpjpe_mm": {"mean": 4.52, "median": 4.111, "p95": 7.2},
}


def line(*truth: TruthMatch) -> str:
    result = Result(example_set(12, (example_hand(3),)), (None,))
    return status_line(Status(result, {"total": 21.4}, {}, (), truth or None), 30.0)


def match(mpjpe_mm: float | None) -> TruthMatch:
    if mpjpe_mm is None:
        return TruthMatch("left", np.zeros((21, 3)), None, np.nan, np.nan)
    return TruthMatch("right", np.zeros((21, 3)), example_hand(3), mpjpe_mm, mpjpe_mm / 2)


def test_status_line_has_the_error_of_the_hands_that_were_found() -> None:
    assert line().endswith("right 3 2/3 views")
    assert line(match(None)) == line()
    assert line(match(None), match(6.24)).endswith("right 3 2/3 views  error 6.2 mm, aligned 3.1")
    assert line(match(8.0), match(4.0)).endswith("  error 6.0 mm, aligned 3.0")


def summary(truth: Mapping[str, Any] | None) -> str:
    text = io.StringIO()
    print_summary(REPORT if truth is None else REPORT | {"truth": truth}, Console(file=text, width=120))
    return text.getvalue()


def test_summary_says_how_near_the_truth_the_hands_were() -> None:
    text = summary(TRUTH)
    assert "98.5 % of 824" in text
    assert "7.0 mm mean (MPJPE), 6.2 median, 11.0 p95" in text
    assert "4.5 mm mean (PA-MPJPE), 4.1 median, 7.2 p95" in text
    assert "other side" not in text
    assert "not there" not in text
    poor = summary(TRUTH | {"wrong_side": 5, "not_there": 7})
    assert "98.5 % of 824, 5 taken for the other side" in poor
    assert [row.split("│")[2].strip() for row in poor.splitlines() if "not there" in row] == ["7"]


@pytest.mark.parametrize(("truth", "expected"), [(None, 0), (TRUTH | {"hands": 0, "coverage": None}, 1)])
def test_summary_without_a_comparison(truth: Mapping[str, Any] | None, expected: int) -> None:
    text = summary(truth)
    assert text.count("true hands") == expected
    assert "MPJPE" not in text


def test_summary_of_hands_that_were_never_found() -> None:
    text = summary(TRUTH | {"coverage": 0.0, "mpjpe_mm": NONE, "pa_mpjpe_mm": NONE})
    assert "0.0 % of 824" in text
    assert "MPJPE" not in text


@pytest.mark.parametrize(("latest_ms", "said"), [(120.0, False), (2300.0, True)])
def test_summary_says_when_hands_lag_behind(latest_ms: float, said: bool) -> None:
    text = io.StringIO()
    latency = {"capture_to_publish": {"p50": 100.0, "p99": latest_ms, "max": latest_ms}}
    print_summary(REPORT | {"latency_ms": latency}, Console(file=text, width=120))
    assert ("up to 2.3 s" in text.getvalue()) is said


def test_findings_are_printed_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    print_findings([Finding("viewer", False, False, "not installed: pip install 'hamuco[view]'")])
    assert capsys.readouterr().out == "--  viewer             not installed: pip install 'hamuco[view]'\n"
