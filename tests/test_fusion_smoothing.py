from __future__ import annotations

import numpy as np
import pytest

from hamuco.fusion.hand import HandParameters
from hamuco.fusion.smoothing import PoseSmoother

PERIOD_NS = 33_333_333


def _parameters(x: float = 0.0, turn: float = 0.0, bend: float = 0.0) -> HandParameters:
    return HandParameters(np.array([turn, 0.0, 0.0]), np.full(45, bend), np.zeros(10), np.array([x, 0.0, 0.0]))


def test_the_first_pose_passes_unchanged() -> None:
    smoothed = PoseSmoother()(0, _parameters(x=0.3))
    assert smoothed.delay_ns == 0
    assert smoothed.parameters.transl[0] == 0.3


def test_a_resting_hand_shakes_less() -> None:
    smoother, random = PoseSmoother(), np.random.default_rng(0)
    noise = random.normal(0, 0.001, 600)
    out = [smoother(i * PERIOD_NS, _parameters(x)).parameters.transl[0] for i, x in enumerate(noise)]
    # 1 mm of white noise looks like 34 mm/s, which opens the filter to 5.4 Hz: a weight of 0.53 for the new sample, and
    # sqrt(0.53 / (2 - 0.53)) = 0.6 of the noise.
    assert 0.4 < np.std(out[100:]) / 0.001 < 0.7


def test_a_fast_hand_lags_little() -> None:
    smoother = PoseSmoother()
    speed = 0.5  # m/s
    for index in range(60):
        t_ns = index * PERIOD_NS
        smoothed = smoother(t_ns, _parameters(speed * t_ns * 1e-9))
    lag_m = speed * 59 * PERIOD_NS * 1e-9 - smoothed.parameters.transl[0]
    # 24 Hz: a time constant of 6.6 ms, 3.3 mm at 0.5 m/s; and that is what it says of itself.
    assert lag_m == pytest.approx(0.0033, abs=0.0005)
    assert smoothed.delay_ns * 1e-9 * speed == pytest.approx(lag_m, rel=0.05)


def test_orientation_takes_the_short_way_across_pi() -> None:
    smoother = PoseSmoother()
    smoother(0, _parameters(turn=np.pi - 0.05))
    smoothed = smoother(PERIOD_NS, _parameters(turn=-np.pi + 0.05))
    assert abs(smoothed.parameters.global_orient[0]) > np.pi - 0.051


def test_steps_settle() -> None:
    smoother = PoseSmoother()
    smoother(0, _parameters())
    for index in range(1, 60):
        smoothed = smoother(index * PERIOD_NS, _parameters(0.1, 0.5, 0.4))
    np.testing.assert_allclose(smoothed.parameters.transl[0], 0.1, atol=1e-4)
    np.testing.assert_allclose(smoothed.parameters.global_orient[0], 0.5, atol=1e-3)
    np.testing.assert_allclose(smoothed.parameters.hand_pose, 0.4, atol=1e-3)


def test_time_must_increase() -> None:
    smoother = PoseSmoother()
    smoother(10, _parameters())
    with pytest.raises(ValueError, match="time went back"):
        smoother(10, _parameters())
