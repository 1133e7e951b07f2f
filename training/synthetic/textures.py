"""A small stock of textures, drawn from a fixed seed: surfaces to tint, and pictures with colours of their own.

A texture is (256, 256, 3) uint8, repeats without a seam, and holds shares: each channel mixes between two colours of a
material. Grey textures so take any two colours; with black and white the channels are the colours themselves (BGR).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.float64]

SIZE = 256
_SEED = 20240511


@cache
def stock() -> tuple[NDArray[np.uint8], Mapping[str, tuple[int, ...]]]:
    """All textures (layers, 256, 256, 3), and the layers of each kind."""
    rng = np.random.default_rng(_SEED)
    layers: list[NDArray[np.uint8]] = []
    kinds: dict[str, tuple[int, ...]] = {}
    for kind, (count, draw) in _KINDS.items():
        first = len(layers)
        for _ in range(count):
            image = draw(rng)
            image = image[..., None].repeat(3, axis=2) if image.ndim == 2 else image
            layers.append((np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8))
        kinds[kind] = tuple(range(first, len(layers)))
    return np.stack(layers), kinds


def noise(rng: np.random.Generator, slope: float, size: int = SIZE, stretch: float = 1.0) -> Image:
    """Seamless noise (size, size), mean 0, deviation 1, whose amplitude falls as 1 / frequency**slope.

    A stretch above 1 draws it out along the first axis.
    """
    frequency = np.fft.fftfreq(size) * size
    radius = np.hypot(frequency[:, None] * stretch, frequency[None, :])
    radius[0, 0] = np.inf
    spectrum = np.fft.fft2(rng.standard_normal((size, size))) / radius**slope
    image = np.fft.ifft2(spectrum).real
    return np.asarray(image / image.std())


def _coordinates() -> tuple[Image, Image]:
    y, x = np.meshgrid(np.arange(SIZE) / SIZE, np.arange(SIZE) / SIZE, indexing="ij")
    return y, x


def _flat(rng: np.random.Generator) -> Image:
    return 0.5 + 0.02 * noise(rng, 0.3) + 0.02 * noise(rng, 1.5)


def _cloth(rng: np.random.Generator) -> Image:
    y, x = _coordinates()
    threads = rng.integers(24, 48)
    weave = np.sin(2 * np.pi * threads * x) * np.sin(2 * np.pi * threads * y)
    return 0.5 + 0.12 * weave + 0.08 * noise(rng, 0.2) + 0.1 * noise(rng, 1.5)


def _stripes(rng: np.random.Generator) -> Image:
    y, _ = _coordinates()
    wave = np.zeros_like(y)
    for _ in range(rng.integers(1, 4)):
        count, phase, duty = rng.integers(2, 9), rng.random(), rng.uniform(0.2, 0.6)
        wave = np.maximum(wave, rng.uniform(0.4, 1) * ((count * y + phase) % 1 < duty))
    return wave + 0.05 * noise(rng, 0.3)


def _checks(rng: np.random.Generator) -> Image:
    y, x = _coordinates()
    count = rng.integers(2, 7)
    duty = rng.uniform(0.3, 0.6)
    rows, columns = (count * y) % 1 < duty, (count * x) % 1 < duty
    return (rows * 0.5 + columns * 0.5) + 0.05 * noise(rng, 0.3)


def _wood(rng: np.random.Generator) -> Image:
    grain = noise(rng, 1.1, stretch=12.0)
    rings = np.sin(6 * noise(rng, 2.2, stretch=5.0))
    planks = np.ones((SIZE, SIZE))
    if rng.random() < 0.7:
        width = SIZE // int(rng.integers(2, 5))
        for left in range(0, SIZE - width + 1, width):
            planks[:, left : left + 2] = 0.3
            planks[:, left + 2 : left + width] = rng.uniform(0.8, 1.1)
    return (0.5 + 0.14 * grain + 0.12 * rings) * planks


def _speckle(rng: np.random.Generator) -> Image:
    return 0.5 + 0.22 * noise(rng, float(rng.uniform(0.2, 0.7)))


def _cloud(rng: np.random.Generator) -> Image:
    return 0.5 + 0.22 * noise(rng, float(rng.uniform(1.2, 2.0)))


def _bricks(rng: np.random.Generator) -> Image:
    y, x = _coordinates()
    rows, columns = 2 * int(rng.integers(2, 6)), int(rng.integers(2, 5))
    row = np.floor(rows * y).astype(int)
    shifted = columns * x + 0.5 * (row % 2)
    column = np.floor(shifted).astype(int) % columns
    tone = rng.uniform(0.45, 0.9, (rows, columns))[row, column]
    joint = ((rows * y) % 1 < 0.1) | (shifted % 1 < 0.05)
    return np.where(joint, 0.1, tone) + 0.06 * noise(rng, 0.8)


def _tiles(rng: np.random.Generator) -> Image:
    y, x = _coordinates()
    count = int(rng.integers(2, 5))
    joint = ((count * y) % 1 < 0.04) | ((count * x) % 1 < 0.04)
    tone = rng.uniform(0.55, 0.85, (count, count))[np.floor(count * y).astype(int), np.floor(count * x).astype(int)]
    return np.where(joint, 0.25, tone) + 0.06 * noise(rng, 1.4)


def _shapes(rng: np.random.Generator, image: Image, count: int) -> Image:
    """Discs, boxes and bars of random colours on an image (256, 256, 3)."""
    y, x = _coordinates()
    for _ in range(count):
        cy, cx, turn = rng.random(), rng.random(), rng.uniform(0, np.pi)
        dy, dx = (y - cy + 0.5) % 1 - 0.5, (x - cx + 0.5) % 1 - 0.5
        along, across = dx * np.cos(turn) + dy * np.sin(turn), dy * np.cos(turn) - dx * np.sin(turn)
        a, b = rng.uniform(0.02, 0.25, 2)
        inside = np.hypot(along / a, across / b) < 1 if rng.random() < 0.5 else (abs(along) < a) & (abs(across) < b)
        image = np.where(inside[..., None], rng.uniform(0, 1, 3) ** 1.5, image)
    return image


def _poster(rng: np.random.Generator) -> Image:
    image = np.ones((SIZE, SIZE, 3)) * rng.uniform(0.05, 0.9, 3)
    image = _shapes(rng, image, int(rng.integers(3, 12)))
    ink = rng.uniform(0, 1, 3) * rng.choice([0.1, 1.0])
    for row in range(int(rng.integers(20, 160)), SIZE - 12, int(rng.integers(9, 20))):  # lines of something like text
        letters = np.repeat(rng.random(SIZE // 4) < 0.6, 4)
        height = int(rng.integers(3, 8))
        image[row : row + height, 16:-16][:, letters[16:-16]] = ink
    return image


def _photo(rng: np.random.Generator) -> Image:
    colours = rng.dirichlet([1, 1, 1], 3) * rng.uniform(0.5, 1.6)
    layers = np.stack([noise(rng, float(rng.uniform(0.8, 2.0))) for _ in range(3)], axis=-1)
    image = 0.35 + 0.25 * layers @ colours
    return _shapes(rng, image, int(rng.integers(0, 6))) + 0.04 * noise(rng, 0.5)[..., None]


def _shelf(rng: np.random.Generator) -> Image:
    image = np.full((SIZE, SIZE, 3), 0.08)
    for top in range(0, SIZE, 64):
        left = 0
        while left < SIZE:
            width, height = int(rng.integers(5, 18)), int(rng.integers(36, 58))
            colour = rng.uniform(0.03, 0.8, 3) * rng.uniform(0.4, 1)
            image[top + 60 - height : top + 60, left : left + width] = colour
            image[top + 60 - height : top + 60, left : left + 1] *= 0.4
            image[top + 66 - height : top + 70 - height, left + 1 : left + width] = rng.uniform(0, 1, 3)
            left += width
        image[top + 60 : top + 64] = 0.35
    return image


_KINDS: Mapping[str, tuple[int, Callable[[np.random.Generator], Image]]] = {
    "flat": (2, _flat),
    "cloth": (3, _cloth),
    "stripes": (4, _stripes),
    "checks": (4, _checks),
    "wood": (3, _wood),
    "speckle": (3, _speckle),
    "cloud": (3, _cloud),
    "bricks": (2, _bricks),
    "tiles": (2, _tiles),
    "poster": (8, _poster),
    "photo": (8, _photo),
    "shelf": (2, _shelf),
}
