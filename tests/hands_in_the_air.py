"""A data set of right hands at exactly known places, and views that see them exactly."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from rigs import view_hand

from hamuco.calibration.camera import Rig
from hamuco.engine.hand_model import load_hand_model
from hamuco.engine.skinning import forward
from hamuco.engine.view_hand import ViewHand
from hamuco.training.datasets.sample import Sample, TrueHand


@dataclass(frozen=True)
class HandsInTheAir:
    """Samples of right hands at given places; no images."""

    rig: Rig
    hands: Sequence[TrueHand]
    name: str = "air"
    joint_definition: str = "free hand landmarks"
    has_truth: bool = True

    def __len__(self) -> int:
        return len(self.hands)

    def __iter__(self) -> Iterator[Sample]:
        for number, hand in enumerate(self.hands):
            yield Sample(str(number), "all", number * 33_000_000, self.rig.cameras, {}, (hand,))


def true_hand(centre: Sequence[float] = (0.0, 0.0, 0.0), orient: Sequence[float] = (0.0, 0.0, 0.0)) -> TrueHand:
    """In the model's mean pose and shape, with its mesh."""
    mesh = forward(load_hand_model(), orient, np.zeros(45), np.zeros(10), centre)
    return TrueHand("right", mesh.landmarks, mesh.vertices, None, {})


def exact(sample: Sample, number: int) -> list[list[ViewHand]]:
    return [[view_hand(camera, hand.joints) for camera in sample.cameras] for hand in sample.hands]


def places(count: int) -> list[TrueHand]:
    rng = np.random.default_rng(0)
    return [true_hand(rng.uniform(-0.1, 0.1, 3).tolist(), rng.normal(0, 1, 3).tolist()) for _ in range(count)]
