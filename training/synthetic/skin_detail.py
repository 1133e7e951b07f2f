"""Detail of the skin, painted on the flat hand of `HandSurface.chart`: creases, knuckles, nails; and noise.

Painted once from the hand model's own joints and fingertips, so that it fits any model of the format.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray

from hamuco.training.synthetic.textures import noise

FloatArray = NDArray[np.float64]

_SEED = 20240512
_PIXEL = 0.0005  # m


@dataclass(frozen=True, slots=True, eq=False)
class Finger:
    """A finger on the flat hand.

    Attributes:
        joints: (4, 2) m, knuckle to tip.
        width: m, at the last joint.
    """

    joints: FloatArray
    width: float


@dataclass(frozen=True, slots=True, eq=False)
class SkinDetail:
    """Maps in the chart's x (columns) and z (rows).

    Attributes:
        frame: (4,) low corner (m) and 1 / size (1 / m) of the maps.
        maps: (2, rows, columns, 4) uint8, palm and back: height (128 is level), cavity, flush, nail.
    """

    frame: FloatArray
    maps: NDArray[np.uint8]


def paint_detail(fingers: tuple[Finger, ...], wrist: FloatArray, low: FloatArray, high: FloatArray) -> SkinDetail:
    """Paint both sides of a hand.

    Args:
        fingers: thumb, index, middle, ring, little.
        wrist: (2,) m.
        low, high: (2,) m, corners of the part of the chart that the hand covers.
    """
    rng = np.random.default_rng(_SEED)
    low, high = low - 0.01, high + 0.01
    columns, rows = (-(-(high - low) // (4 * _PIXEL)) * 4).astype(int)
    size = np.array([columns, rows]) * _PIXEL
    place = np.stack(np.meshgrid(low[0] + np.arange(columns) * _PIXEL, low[1] + np.arange(rows) * _PIXEL), axis=-1)
    # Nothing natural is straight: everything is painted at places moved by a millimetre.
    wobble = np.stack([noise(rng, 2.0, 1024)[:rows, :columns] for _ in range(2)], axis=-1)
    place = place + 0.0006 * wobble
    palm, back = np.zeros((rows, columns, 4)), np.zeros((rows, columns, 4))
    for index, finger in enumerate(fingers):
        reach = 0.01 + finger.width / 2
        first = ((finger.joints.min(axis=0) - reach - low) / _PIXEL).astype(int).clip(0)
        last = ((finger.joints.max(axis=0) + reach - low) / _PIXEL).astype(int)
        window = np.s_[first[1] : last[1], first[0] : last[0]]
        _paint_finger(palm[window], back[window], place[window], finger, rng, thumb=index == 0)
    _paint_palm_lines(palm, low, fingers, wrist)
    maps = np.stack([palm, back])
    maps[..., 0] += 0.5
    # Neutral at the border, which goes on over the forearm.
    border = np.minimum.reduce(
        [np.arange(columns)[None] / 8, (columns - 1 - np.arange(columns))[None] / 8, np.full((1, columns), 1.0)]
    )
    maps = np.array([0.5, 0, 0, 0]) + (maps - np.array([0.5, 0, 0, 0])) * np.clip(border, 0, 1)[..., None]
    return SkinDetail(np.concatenate([low - _PIXEL / 2, 1 / size]), (np.clip(maps, 0, 1) * 255 + 0.5).astype(np.uint8))


def skin_noise() -> NDArray[np.uint8]:
    """Seamless noise (256, 256, 4) uint8: blotches, mottling, fine height, veins."""
    rng = np.random.default_rng(_SEED)
    veins = np.exp(-((noise(rng, 2.6, stretch=0.5) / 0.09) ** 2)) * np.clip(0.5 + noise(rng, 2.0), 0, 1)
    fine = 0.5 * noise(rng, 0.4) - 0.8 * np.abs(noise(rng, 0.8))
    layers = [0.5 + 0.2 * noise(rng, 1.9), 0.5 + 0.2 * noise(rng, 0.9), 0.6 + 0.25 * fine, veins]
    return np.asarray(np.clip(np.stack(layers, axis=-1), 0, 1) * 255 + 0.5, np.uint8)


def _bar(along: FloatArray, across: FloatArray, half: float, width: float) -> FloatArray:
    """A soft line across a finger, at along = 0."""
    return np.exp(-((along / width) ** 2)) * np.exp(-((across / half) ** 4))


def _paint_finger(
    palm: FloatArray, back: FloatArray, place: FloatArray, finger: Finger, rng: np.random.Generator, *, thumb: bool
) -> None:
    joints, half = finger.joints, finger.width / 2
    for index, (start, end) in enumerate(pairwise(joints)):
        direction = (end - start) / np.linalg.norm(end - start)
        local = place - start
        along = local @ direction
        across = local @ np.array([-direction[1], direction[0]])
        if index > 0:  # the joints within the finger
            strong = 1.0 if index == 1 else 0.8
            for shift in (-0.0012, 0.0014) if index == 1 and not thumb else (0.0,):
                line = strong * _bar(along - shift - 0.002, across, half * 0.95, 0.0009)
                palm[..., 1] += 0.8 * line
                palm[..., 0] -= 0.35 * line
            for shift in np.array([-0.0045, -0.0028, -0.001, 0.0006, 0.0022, 0.004]) * (1.1 if index == 1 else 0.8):
                curved = along - shift - 6 * np.sign(shift) * across**2
                line = _bar(curved, across, half * rng.uniform(0.55, 0.8), 0.00055) * rng.uniform(0.45, 0.8)
                back[..., 1] += 0.8 * line * strong
                back[..., 0] -= 0.22 * line
            bulge = np.exp(-((along / 0.007) ** 2) - (across / (0.8 * half)) ** 2)
            back[..., 2] += 0.9 * bulge * strong
            back[..., 0] += 0.25 * bulge
        else:
            # The crease between finger and palm lies well beyond the knuckle.
            length = float(np.linalg.norm(end - start))
            line = _bar(along - (0.15 if thumb else 0.52) * length, across, half * 1.1, 0.001)
            palm[..., 1] += 0.85 * line
            palm[..., 0] -= 0.3 * line
            bulge = np.exp(-(((along + 0.003) / 0.009) ** 2) - (across / half) ** 2)
            back[..., 2] += 0.8 * bulge
            back[..., 0] += 0.2 * bulge
            for shift in rng.uniform(-0.006, 0.006, 5):
                back[..., 1] += 0.25 * _bar(along - shift - 4 * across**2 * np.sign(shift), across, half * 0.7, 0.0006)
    last = joints[3] - joints[2]
    direction = last / np.linalg.norm(last)
    local = place - joints[3]
    along, across = local @ direction, local @ np.array([-direction[1], direction[0]])
    pad = np.exp(-(((along + 0.008) / 0.011) ** 2) - (across / half) ** 2)
    palm[..., 2] += 0.8 * pad
    back[..., 2] += 0.5 * pad
    _paint_nail(back, along, across, half)


def _paint_nail(back: FloatArray, along: FloatArray, across: FloatArray, half: float) -> None:
    """A nail, given places along and across the finger from its tip."""
    length, wide = 1.30 * half, 0.66 * half
    middle = -length - 0.10 * half + 0.35 * half
    x, y = (along - middle) / length, across / wide
    # Straight sides, round at the root, flatter at the free edge.
    radius = np.abs(y) ** 3.0 + np.abs(x) ** np.where(x < 0, 2.4, 4.0)
    nail = np.clip((1.0 - radius) * 4 + 0.5, 0, 1)
    rim = np.exp(-(((radius - 1.12) / 0.16) ** 2)) * (x < 0.8)
    back[..., 1] = back[..., 1] * (1 - nail) + 0.45 * rim
    back[..., 0] = back[..., 0] * (1 - nail) + 0.12 * nail - 0.15 * rim
    back[..., 2] *= 1 - nail
    back[..., 3] = np.maximum(back[..., 3], nail)


def _paint_palm_lines(palm: FloatArray, low: FloatArray, fingers: tuple[Finger, ...], wrist: FloatArray) -> None:
    """The three large lines of the palm and the bracelet at the wrist."""
    thumb, index, middle, ring, little = (finger.joints[0] for finger in fingers)
    side = (little - index) / np.linalg.norm(little - index)  # towards the little finger
    down = (wrist - middle) / np.linalg.norm(wrist - middle)
    heart = [little + 0.014 * side + 0.016 * down, ring + 0.014 * down, middle + 0.010 * down, middle - 0.006 * side]
    head = [index - 0.012 * side + 0.016 * down, middle + 0.026 * down, ring + 0.036 * down, little + 0.045 * down]
    life = [
        index - 0.012 * side + 0.018 * down,
        index + 0.012 * side + 0.034 * down,
        (thumb + middle) / 2 + 0.020 * side + 0.018 * down,
        wrist - 0.012 * down,
    ]
    bracelet = [wrist - 0.022 * side, wrist + 0.002 * down, wrist + 0.022 * side]
    for points, strength in ((heart, 0.55), (head, 0.45), (life, 0.6), (bracelet, 0.35)):
        drawn = np.full(palm.shape[:2], 255, np.uint8)
        pixels = np.rint((_smooth(np.array(points)) - low) / _PIXEL).astype(np.int32)
        cv2.polylines(drawn, [pixels], False, 0)
        distance = cv2.distanceTransform(drawn, cv2.DIST_L2, cv2.DIST_MASK_5) * _PIXEL
        line = strength * np.exp(-((distance / 0.0008) ** 2))
        palm[..., 1] = np.maximum(palm[..., 1], line)
        palm[..., 0] -= 0.3 * line


def _smooth(points: FloatArray) -> FloatArray:
    """Points every half millimetre or so along a polyline rounded by repeated corner cutting (Chaikin)."""
    for _ in range(6):
        cut = np.stack([0.75 * points[:-1] + 0.25 * points[1:], 0.25 * points[:-1] + 0.75 * points[1:]], axis=1)
        points = np.concatenate([points[:1], cut.reshape(-1, 2), points[-1:]])
    return points
