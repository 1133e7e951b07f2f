"""A training that takes seconds: a small network at 64 px, and a few drawn hands with truth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation
from views_of_a_hand import unit

from hamuco.engine.hand_model import load_hand_model
from hamuco.engine.skinning import forward
from hamuco.fusion.hand import JOINT_EDGES, HandParameters
from hamuco.training.config import TrainConfig, config_from
from hamuco.training.crop_set import CropSetWriter, CropView, HandTruth
from hamuco.training.structuring import laid_over

_SIZE, _MARGIN, _DISTANCE_M = 96, 1.5, 0.6
_FOCAL = _SIZE / 0.6 * _DISTANCE_M  # a crop shows 0.6 m, which the network's crop has two thirds of
_SHIFT = 4


def write_drawn_hands(path: Path, samples: int, views: int = 2, seed: int = 0) -> Path:
    """A crop set of hands that are drawn as sticks; labels and truth are exact."""
    rng = np.random.default_rng(seed)
    model = load_hand_model()
    with CropSetWriter(path, _SIZE, _MARGIN) as writer:
        for _ in range(samples):
            turn = Rotation.random(rng=rng).as_rotvec()
            hand = HandParameters(turn, rng.normal(0, 0.15, 45), np.zeros(10), np.zeros(3))
            joints = forward(model, turn, hand.hand_pose, hand.betas, hand.transl).landmarks
            writer.write([_drawn(joints, rng) for _ in range(views)], HandTruth(joints, hand))
    return path


def _drawn(joints: NDArray[np.float64], rng: np.random.Generator) -> CropView:
    """Seen from anywhere, by a camera whose axis passes through the root."""
    z = unit(rng.normal(size=3))
    x = unit(np.cross(z, rng.normal(size=3)))
    crop_from_world = np.eye(4)
    crop_from_world[:3, :3] = [x, np.cross(z, x), z]
    crop_from_world[:3, 3] = [0, 0, _DISTANCE_M] - crop_from_world[:3, :3] @ joints[9]
    points = joints @ crop_from_world[:3, :3].T + crop_from_world[:3, 3]
    pixels = _FOCAL * points[:, :2] / points[:, 2:] + (_SIZE - 1) / 2
    image = np.full((_SIZE, _SIZE, 3), 40, np.uint8)
    corners = [tuple(int(value) for value in (pixel * 2**_SHIFT).round()) for pixel in pixels]
    for start, end in JOINT_EDGES:
        finger = (end - 1) // 4
        colour = (60 + 45 * finger, 255 - 45 * finger, 255 * (finger % 2))
        cv2.line(image, corners[start], corners[end], colour, 2, cv2.LINE_AA, _SHIFT)
    return CropView(image, _FOCAL, crop_from_world, pixels, np.ones(21))


def small_config(crops: Path, **changes: Any) -> TrainConfig:
    """Six steps of four hands with two views, on one thread; validated on the same hands."""
    values = {
        "seed": 1,
        "steps": 6,
        "batch": 4,
        "views": 2,
        "warmup_steps": 2,
        "sources": [{"crops": str(crops)}],
        "validation": {"every": 3, "batches": 1, "sources": [{"crops": str(crops)}]},
        "model": {
            "estimator": {"image_size": 64, "head_width": 32},
            "interaction": {"location_width": 8, "joint_maps": 2, "map_size": 2, "width": 32, "readout_width": 8},
        },
        "run": {"device": "cpu", "threads": 1, "workers": 0, "log_every": 2, "checkpoint_every": 3},
    }
    return config_from(laid_over(values, changes), "of the test")
