"""Hands and sets with a value of their own in every field, for the streaming tests."""

from __future__ import annotations

import numpy as np

from hamuco.fusion.hand import Hand, HandParameters, HandSet


def example_hand(track_id: int) -> Hand:
    rng = np.random.default_rng(track_id)
    return Hand(
        track_id=track_id,
        side="right",
        side_confidence=0.9,
        state="tracked",
        joints=rng.normal(size=(21, 3)),
        joint_confidence=rng.uniform(size=21),
        parameters=HandParameters(
            rng.normal(size=3), rng.normal(size=45), rng.normal(size=10), rng.normal(size=3).astype(np.float32)
        ),
        views=("cam_0", "cam_2"),
        reprojection_px=1.25,
        fit_residual_mm=2.5,
    )


def example_set(set_id: int, hands: tuple[Hand, ...]) -> HandSet:
    return HandSet(
        set_id=set_id,
        t_capture_ns=1_000_000_007 + set_id,
        spread_ns=3_000_000,
        cameras=("cam_0", "cam_1", "cam_2"),
        hands=hands,
        smoothing_delay_ns=21_000_000,
        stage_ms={"infer": 12.5, "fuse": 2.25},
        counters={"late frames": 4},
    )
