"""Palm detector (BlazePalm; Bazarevsky and Zhang 2019): where are hands in a whole image?

The network is a single-shot detector: 2016 anchors on a 24x24 and a 12x12 grid of a 192x192 image, each with a score,
a palm box and seven palm points relative to the anchor's centre.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from hamuco.engine.openvino_networks import Network

FloatArray = NDArray[np.float64]

# (cells per side, anchors per cell): one layer of stride 8 and three of stride 16, two anchors each.
_ANCHOR_LAYERS = ((24, 2), (12, 6))
# Overlap (intersection over union) from which two boxes are the same palm; the value MediaPipe runs the network with.
_SAME_PALM_IOU = 0.3
# Anchors of a lower one see no palm.
_MIN_SCORE = 0.5

WRIST_POINT, MIDDLE_MCP_POINT = 0, 2
"""Indices into `PalmDetection.points`: the line from the first to the second is the hand's up direction."""


@dataclass(frozen=True, slots=True, eq=False)
class PalmDetection:
    """One palm in one image, px of the image.

    Attributes:
        box: (4,) left, top, right, bottom.
        points: (7, 2) palm points; see `WRIST_POINT`, `MIDDLE_MCP_POINT`.
        score: 0 to 1.
    """

    box: FloatArray
    points: FloatArray
    score: float


class PalmDetector:
    """Finds palms in whole images."""

    def __init__(self, model: Path) -> None:
        self._network = Network(model)
        self._anchors = _anchor_centres()

    def __call__(self, images: Sequence[NDArray[np.uint8]]) -> list[list[PalmDetection]]:
        """Detect in BGR images (height, width, 3) of any sizes; per image, best score first."""
        if not images:
            return []
        size = self._network.width
        batch = np.zeros((len(images), size, size, 3), np.uint8)
        placed = [_letterbox(image, out) for image, out in zip(images, batch, strict=True)]
        values, logits = self._network(batch)
        # Far beyond +-100 the exponential would overflow; the network does emit such logits.
        scores = 1 / (1 + np.exp(-np.clip(logits[..., 0].astype(np.float64), -100, 100)))
        detections = []
        for raw, score, (scale, offset) in zip(values.astype(np.float64), scores, placed, strict=True):
            keep = score >= _MIN_SCORE
            detections.append(self._decode(raw[keep], score[keep], self._anchors[keep], scale, offset))
        return detections

    def _decode(
        self, raw: FloatArray, scores: FloatArray, anchors: FloatArray, scale: float, offset: FloatArray
    ) -> list[PalmDetection]:
        """Values (n, 18) at anchors (n, 2) -> detections in px of the image that was placed at scale and offset."""
        size = self._network.width
        values = raw.reshape(-1, 9, 2) / size
        values[:, [0, *range(2, 9)]] += anchors[:, None]  # all but width and height are relative to the anchor
        centre, extent = values[:, 0], values[:, 1]
        corners = np.stack([centre - extent / 2, centre + extent / 2], axis=1)
        points = np.concatenate([corners, values[:, 2:]], axis=1)  # (n, 2 corners + 7 points, 2), 0 to 1
        # Continuous coordinates of the network's input -> pixel centres at integers of the image.
        points = (points * size - offset) / scale - 0.5
        return [
            PalmDetection(merged[:2].ravel(), merged[2:], score)
            for merged, score in _weighted_suppression(points, scores)
        ]


def _anchor_centres() -> FloatArray:
    """Centres (2016, 2) of the anchors, 0 to 1, in the network's order: layer, row, column, anchor."""
    layers = []
    for cells, per_cell in _ANCHOR_LAYERS:
        centre = (np.arange(cells) + 0.5) / cells
        grid = np.stack(np.meshgrid(centre, centre), axis=-1).reshape(-1, 2)
        layers.append(np.repeat(grid, per_cell, axis=0))
    return np.concatenate(layers)


def _letterbox(image: NDArray[np.uint8], out: NDArray[np.uint8]) -> tuple[float, FloatArray]:
    """Fit the image into the square `out`, centred; returns scale and offset: out = image * scale + offset."""
    height, width = image.shape[:2]
    scale = out.shape[0] / max(height, width)
    new_width, new_height = max(1, round(width * scale)), max(1, round(height * scale))
    left, top = (out.shape[1] - new_width) // 2, (out.shape[0] - new_height) // 2
    resized = cv2.resize(image, (new_width, new_height), interpolation=cv2.INTER_AREA)
    out[top : top + new_height, left : left + new_width] = resized
    return scale, np.array([left, top], np.float64)


def _weighted_suppression(points: FloatArray, scores: FloatArray) -> list[tuple[FloatArray, float]]:
    """Merge overlapping detections: each group's points (9, 2) are averaged by score, its score is the best one's."""
    remaining = np.argsort(-scores, kind="stable")
    merged = []
    while len(remaining):
        best = remaining[0]
        same = _overlap(points[best], points[remaining]) > _SAME_PALM_IOU
        same[0] = True  # also a box of no area belongs to its own group
        group = remaining[same]
        weights = scores[group] / scores[group].sum()
        merged.append((np.tensordot(weights, points[group], axes=1), float(scores[best])))
        remaining = remaining[~same]
    return merged


def _overlap(one: FloatArray, many: FloatArray) -> FloatArray:
    """Intersection over union of a box (corners in the first two rows) with boxes (n, ...)."""
    low, high = np.maximum(one[0], many[:, 0]), np.minimum(one[1], many[:, 1])
    intersection = np.prod(np.clip(high - low, 0, None), axis=1)
    area = np.prod(np.clip(many[:, 1] - many[:, 0], 0, None), axis=1)
    union = np.prod(np.clip(one[1] - one[0], 0, None)) + area - intersection
    return np.asarray(intersection / np.maximum(union, 1e-12))
