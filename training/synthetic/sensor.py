"""What a camera makes of light: exposure, lens blur, noise, encoding. Turns linear pictures into images."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from hamuco.training.synthetic.look import PRESETS, Preset

_LEVELS = 4096
_STOCK, _STOCK_SEED = 1 << 20, 20240513  # of noise


@dataclass(frozen=True, slots=True, eq=False)
class Sensor:
    """One camera's settings.

    Attributes:
        gain: exposure; 1 leaves white at white.
        white_balance: (3,) factors of blue, green, red.
        vignetting: how much darker the corners are, 0 to 1.
        blur_px: standard deviation of the defocus.
        motion_px: (2,) px, path of the image during the exposure; for crops, where the hand is the image.
        read_noise: standard deviation in the dark, as a share of white.
        shot_noise: standard deviation at white, as a share of white, that grows with the root of the light.
        contrast: power on the encoded image, 1 is plain sRGB; above 1 is darker.
        sharpening: strength of the camera's own sharpening, 0 for none.
        jpeg_quality: 1 to 100, or 0 for no compression.
    """

    gain: float
    white_balance: NDArray[np.float32]
    vignetting: float
    blur_px: float
    motion_px: NDArray[np.float64]
    read_noise: float
    shot_noise: float
    contrast: float
    sharpening: float
    jpeg_quality: int

    def expose(self, colour: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.uint8]:
        """Turn linear light into an image.

        Args:
            colour: (height, width, 3) linear BGR, 0 to 1.
            rng: of the noise.

        Returns:
            (height, width, 3) uint8 BGR, sRGB-encoded.
        """
        light = colour
        if self.blur_px > 0.2:
            light = cv2.GaussianBlur(light, (0, 0), self.blur_px).astype(np.float32, copy=False)
        if np.hypot(*self.motion_px) > 1:
            light = cv2.filter2D(light, -1, _motion_kernel(*self.motion_px)).astype(np.float32, copy=False)
        # Written for speed: three values do not broadcast along an image quickly, and temporaries cost as much as sums.
        light = np.asarray(cv2.transform(light, np.diag(self.white_balance * np.float32(self.gain))), np.float32)
        if self.vignetting > 0:
            light *= 1 - np.float32(self.vignetting / 2) * _squared_radius(colour.shape[1], colour.shape[0])
        if self.read_noise > 0 or self.shot_noise > 0:
            deviation = light * np.float32(self.shot_noise**2)
            deviation += np.float32(self.read_noise**2)
            np.sqrt(deviation, out=deviation)
            deviation *= _noise(light.shape, rng)
            light += deviation
        np.clip(light, 0, 1, out=light)
        light *= _LEVELS - 1
        light += 0.5
        image = _encoding(self.contrast).take(light.astype(np.uint16))
        if self.sharpening > 0:
            soft = cv2.GaussianBlur(image, (0, 0), 1.2)
            image = cv2.addWeighted(image, 1 + self.sharpening, soft, -self.sharpening, 0).astype(np.uint8, copy=False)
        if self.jpeg_quality > 0:
            _, packed = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, self.jpeg_quality])
            image = np.asarray(cv2.imdecode(packed, cv2.IMREAD_COLOR), np.uint8)
        return image


def draw_sensor(preset: Preset, rng: np.random.Generator) -> Sensor:
    """Settings of a webcam: good ones for "plain", any for "room", with bad light's noise and blur for "hard".

    Raises:
        ValueError: an unknown preset.
    """
    if preset not in PRESETS:
        raise ValueError(f"unknown preset {preset!r}, expected one of {', '.join(PRESETS)}")
    severity = {"plain": 0.3, "room": 0.7, "hard": 1.3}[preset]
    balance = np.exp(rng.normal(0, 0.05 * severity, 3))
    blurred = rng.random() < 0.3 * severity
    moved = rng.random() < 0.25 * severity and preset != "plain"
    path = rng.uniform(1, 7) * severity * np.array([1.0, 0.0])
    turn = rng.uniform(0, np.pi)
    return Sensor(
        gain=float(np.exp(rng.normal(0, 0.18 * severity))),
        white_balance=(balance / balance.mean()).astype(np.float32),
        vignetting=float(rng.uniform(0, 0.35) * severity),
        blur_px=float(rng.uniform(0.3, 1.4) * severity if blurred else rng.uniform(0, 0.45)),
        motion_px=path[0] * np.array([np.cos(turn), np.sin(turn)]) if moved else np.zeros(2),
        read_noise=float(rng.uniform(0.0005, 0.006) * severity),
        shot_noise=float(rng.uniform(0.005, 0.035) * severity),
        contrast=round(float(np.exp(rng.normal(0, 0.12 * severity))), 2),  # few of them: each has a table
        sharpening=float(rng.uniform(0, 0.8) if rng.random() < 0.5 else 0.0),
        jpeg_quality=int(rng.integers(100 - int(45 * severity), 98)),
    )


def _noise(shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.float32]:
    """Normal noise; for crops out of a stock, at a random place, since drawing it takes half as long as all the rest."""
    size = int(np.prod(shape))
    if size > _STOCK // 8:
        return rng.standard_normal(shape, np.float32)
    start = int(rng.integers(_STOCK - size))
    return _noise_stock()[start : start + size].reshape(shape)


@cache
def _noise_stock() -> NDArray[np.float32]:
    return np.random.default_rng(_STOCK_SEED).standard_normal(_STOCK, np.float32)


@lru_cache(maxsize=256)
def _encoding(contrast: float) -> NDArray[np.uint8]:
    """Encoded values of 4096 even levels of light (IEC 61966-2-1), with a contrast on top."""
    level = np.arange(_LEVELS) / (_LEVELS - 1)
    encoded = np.where(level <= 0.0031308, 12.92 * level, 1.055 * level ** (1 / 2.4) - 0.055)
    return np.rint(255 * encoded**contrast).astype(np.uint8)


@lru_cache(maxsize=4)
def _squared_radius(width: int, height: int) -> NDArray[np.float32]:
    """(height, width, 3) square of the distance from the middle of the image, 1 at its sides, for all three colours.

    With it a lens takes light away, about as the fourth power of the cosine does.
    """
    x, y = np.linspace(-1, 1, width, dtype=np.float32), np.linspace(-1, 1, height, dtype=np.float32)
    return np.repeat((x**2 + y[:, None] ** 2)[..., None], 3, axis=2)


def _motion_kernel(dx: float, dy: float) -> NDArray[np.float32]:
    """A line of this length, px, with weights that sum to 1."""
    half = int(np.ceil(max(abs(dx), abs(dy)) / 2)) + 1
    kernel = np.zeros((2 * half + 1, 2 * half + 1), np.float32)
    for share in np.linspace(-0.5, 0.5, 8 * half + 1):
        x, y = half + share * dx, half + share * dy
        column, row = int(x), int(y)
        for i, wy in ((row, 1 - (y - row)), (row + 1, y - row)):
            for j, wx in ((column, 1 - (x - column)), (column + 1, x - column)):
                kernel[i, j] += wx * wy
    return np.asarray(kernel / kernel.sum())
