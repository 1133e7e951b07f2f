from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from hamuco.training.synthetic.timing import TIMINGS, Timing, exposure_schedule

CAMERAS = ("cam_0", "cam_1", "cam_2", "cam_3")
START = 1_700_000_000_000_000_000  # ns: larger than a double counts exactly
# More of everything than any preset: what is promised has to hold all the same.
WILD = Timing(fps=60, offset_ms=30, jitter_ms=30, drift_ppm=5000, drop=0.5)


@pytest.mark.parametrize("timing", [*TIMINGS.values(), WILD, replace(WILD, free_running=True)])
@pytest.mark.parametrize("seed", range(3))
def test_times_ascend_within_the_interval(timing: Timing, seed: int) -> None:
    seconds = 4.0
    schedules = exposure_schedule(timing, CAMERAS, seconds, START, np.random.default_rng(seed))
    assert tuple(schedules) == CAMERAS
    for schedule in schedules.values():
        assert schedule.t_true_ns.dtype == schedule.t_noted_ns.dtype == schedule.sequence.dtype == np.int64
        assert len(schedule.t_true_ns) == len(schedule.t_noted_ns) == len(schedule.sequence) > 0
        for times in (schedule.t_true_ns, schedule.t_noted_ns, schedule.sequence):
            assert (np.diff(times) > 0).all()
        assert schedule.sequence[0] == 0
        assert schedule.t_true_ns[0] >= START
        assert schedule.t_true_ns[-1] <= START + round(seconds * 1e9)


def test_synced_cameras_expose_together() -> None:
    schedules = exposure_schedule(TIMINGS["synced"], CAMERAS, 2.0, START, np.random.default_rng(0))
    true = np.array([schedule.t_true_ns for schedule in schedules.values()])
    assert true.shape == (4, 60)
    assert (np.ptp(true, axis=0) == 0).all()
    np.testing.assert_allclose(np.diff(true[0]), 1e9 / 30, atol=1)  # whole nanoseconds


def test_offset_and_drift_move_the_truth_and_the_stamps_alike() -> None:
    timing = Timing(offset_ms=3.0, drift_ppm=200.0)
    schedules = exposure_schedule(timing, CAMERAS, 60.0, START, np.random.default_rng(1))
    first = [schedule.t_true_ns[0] - START for schedule in schedules.values()]
    rate = [np.diff(schedule.t_true_ns).mean() * 30 / 1e9 - 1 for schedule in schedules.values()]
    assert np.ptp(first) > 1e6
    assert np.ptp(rate) > 50e-6
    for schedule in schedules.values():
        assert (schedule.t_true_ns == schedule.t_noted_ns).all()


def test_jitter_moves_the_stamps_only() -> None:
    quiet, jittery = (
        exposure_schedule(Timing(jitter_ms=jitter), ["a"], 60.0, START, np.random.default_rng(2))["a"]
        for jitter in (0.0, 2.0)
    )
    np.testing.assert_array_equal(quiet.t_true_ns, jittery.t_true_ns)
    error_ms = (jittery.t_noted_ns - jittery.t_true_ns) * 1e-6
    # 1800 stamps: the deviation is known to 1 / sqrt(2 * 1800) = 1.7 %, the mean to 0.05 ms; four of these.
    assert np.std(error_ms) == pytest.approx(2.0, rel=0.07)
    assert abs(error_ms.mean()) < 0.2


def test_lost_frames_are_gaps_in_the_sequence() -> None:
    whole, lossy = (
        exposure_schedule(Timing(drop=drop), ["a"], 100.0, START, np.random.default_rng(3))["a"] for drop in (0.0, 0.1)
    )
    assert len(whole.sequence) == whole.sequence[-1] + 1 == 3000
    np.testing.assert_array_equal(lossy.t_true_ns, whole.t_true_ns[lossy.sequence])
    # Of 3000 frames 300 are lost, within four times sqrt(3000 * 0.1 * 0.9) = 16.
    assert 3000 - len(lossy.sequence) == pytest.approx(300, abs=66)


def test_free_running_phases_fill_the_period() -> None:
    names = [f"cam_{index}" for index in range(200)]
    schedules = exposure_schedule(Timing(free_running=True), names, 1.0, START, np.random.default_rng(4))
    phase = np.array([schedule.t_true_ns[0] - START for schedule in schedules.values()]) * 30 / 1e9
    assert phase.min() >= 0
    assert phase.max() < 1
    # A uniform distribution's mean of 200: 0.5, within four times 0.29 / sqrt(200).
    assert phase.mean() == pytest.approx(0.5, abs=0.082)


def test_webcams_are_as_far_apart_as_recorded_ones() -> None:
    # Four webcams of a recording: 6.8 ms between the first and the last stamp of a set, median.
    spreads = []
    for seed in range(60):
        schedules = exposure_schedule(
            replace(TIMINGS["webcam"], drop=0.0), CAMERAS, 2.0, START, np.random.default_rng(seed)
        )
        noted = [schedule.t_noted_ns[:50] for schedule in schedules.values()]
        spreads.append(np.median(np.ptp(noted, axis=0)) * 1e-6)
    # The range of four has a deviation of 0.88 sigma, here 2.9 ms for rigs: the median of 60 rigs is good to 0.4 ms.
    assert np.median(spreads) == pytest.approx(6.8, abs=1.2)


def test_same_seed_same_times() -> None:
    one, other = (exposure_schedule(TIMINGS["webcam"], CAMERAS, 1.0, START, np.random.default_rng(5)) for _ in range(2))
    for camera in CAMERAS:
        np.testing.assert_array_equal(one[camera].t_noted_ns, other[camera].t_noted_ns)


@pytest.mark.parametrize(
    ("field", "value"),
    [("fps", 0.0), ("fps", np.nan), ("offset_ms", -1.0), ("jitter_ms", np.inf), ("drift_ppm", 20000.0), ("drop", 1.0)],
)
def test_bad_values_are_named(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"^{field} is {value:g}"):
        replace(Timing(), **{field: value})  # type: ignore[arg-type]


def test_too_little_to_schedule() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match=r"less than two frames: ask for at least 0\.0667 s"):
        exposure_schedule(Timing(), ["a"], 0.05, 0, rng)
    for cameras in ([], ["a", "a"]):
        with pytest.raises(ValueError, match="at least one and no name twice"):
            exposure_schedule(Timing(), cameras, 1.0, 0, rng)
