"""The sensor: sRGB encoding, exposure, blur and noise with the statistics that they claim."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from hamuco.training.synthetic.look import PRESETS, Preset
from hamuco.training.synthetic.sensor import Sensor, draw_sensor

IDEAL = Sensor(1.0, np.ones(3, np.float32), 0.0, 0.0, np.zeros(2), 0.0, 0.0, 1.0, 0.0, 0)


def grey(level: float, size: int = 64) -> NDArray[np.float32]:
    return np.full((size, size, 3), level, np.float32)


def decoded(image: NDArray[np.uint8]) -> NDArray[np.float64]:
    share = image / 255
    return np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)


def test_an_ideal_sensor_encodes_srgb() -> None:
    rng = np.random.default_rng(0)
    # Middle grey of 18 % is sRGB 118, half the light 188 (IEC 61966-2-1).
    for level, expected in ((0.0, 0), (0.18, 118), (0.5, 188), (1.0, 255), (3.0, 255)):
        assert set(IDEAL.expose(grey(level), rng).ravel().tolist()) == {expected}


def test_exposure_and_white_balance_scale_light() -> None:
    balance = np.array([1.2, 1.0, 0.8], np.float32)
    image = replace(IDEAL, gain=0.5, white_balance=balance).expose(grey(0.4), np.random.default_rng(0))
    # A level at 0.2 is 1 / 255 of the code, 0.4 % of light: half of it is the rounding.
    np.testing.assert_allclose(decoded(image)[0, 0], 0.2 * balance, atol=0.003)


def test_noise_grows_with_the_root_of_light() -> None:
    sensor = replace(IDEAL, read_noise=0.01, shot_noise=0.04)
    for level in (0.1, 0.5):
        image = decoded(sensor.expose(grey(level, 128), np.random.default_rng(1)))
        expected = np.sqrt(0.01**2 + 0.04**2 * level)
        # 49152 samples: 0.3 % of deviation; the rest is the rounding to levels.
        assert image.std() == pytest.approx(expected, rel=0.03)
        assert image.mean() == pytest.approx(level, abs=0.002)


@pytest.mark.parametrize("change", [{"blur_px": 1.5}, {"motion_px": np.array([4.0, 3.0])}])
def test_blur_spreads_light_and_keeps_its_sum(change: dict[str, object]) -> None:
    point = np.zeros((41, 41, 3), np.float32)
    point[20, 20] = 1.0
    point[19:22, 19:22] = 1.0
    image = decoded(replace(IDEAL, **change).expose(point, np.random.default_rng(0)))  # type: ignore[arg-type]
    assert image.max() < 0.9
    assert image[..., 0].sum() == pytest.approx(9, rel=0.02)
    y, x = np.mgrid[:41, :41]
    weight = image[..., 0] / image[..., 0].sum()
    assert (weight * x).sum() == pytest.approx(20, abs=0.02)  # and nothing moves
    assert (weight * y).sum() == pytest.approx(20, abs=0.02)


def test_motion_blur_is_as_long_as_asked_and_in_its_direction() -> None:
    line = np.zeros((41, 41, 3), np.float32)
    line[20, 20] = 1.0
    image = decoded(replace(IDEAL, motion_px=np.array([12.0, 0.0])).expose(line, np.random.default_rng(0)))[..., 0]
    lit = np.argwhere(image > 0.02)
    assert set(lit[:, 0]) == {20}
    assert np.ptp(lit[:, 1]) == pytest.approx(12, abs=1)


def test_vignetting_darkens_corners() -> None:
    image = decoded(replace(IDEAL, vignetting=0.4).expose(grey(0.5, 65), np.random.default_rng(0)))
    assert image[32, 32, 0] == pytest.approx(0.5, abs=0.005)
    assert image[0, 0, 0] == pytest.approx(0.3, abs=0.005)


@pytest.mark.parametrize("preset", PRESETS)
def test_the_same_seed_gives_the_same_image(preset: Preset) -> None:
    colour = np.random.default_rng(3).random((48, 64, 3), np.float32)
    before = colour.copy()

    def image(seed: int) -> NDArray[np.uint8]:
        rng = np.random.default_rng(seed)
        return draw_sensor(preset, rng).expose(colour, rng)

    assert image(1).shape == (48, 64, 3)
    assert image(1).dtype == np.uint8
    np.testing.assert_array_equal(image(1), image(1))
    assert (image(1) != image(2)).any()
    np.testing.assert_array_equal(colour, before)  # the picture itself is left alone


def test_hard_is_noisier_than_plain() -> None:
    rng = np.random.default_rng(0)
    noise = {preset: np.median([draw_sensor(preset, rng).shot_noise for _ in range(100)]) for preset in PRESETS}
    assert noise["plain"] < noise["room"] < noise["hard"]


def test_unknown_preset_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown preset 'foggy'"):
        draw_sensor("foggy", np.random.default_rng(0))  # type: ignore[arg-type]
