"""The result: one fused hand, and all hands of one frame set. numpy only, so that subscribers stay small."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Side = Literal["left", "right"]
TrackState = Literal["tracked", "predicted"]

JOINT_NAMES = (
    "wrist",
    *(f"thumb_{part}" for part in ("cmc", "mcp", "ip", "tip")),
    *(f"{finger}_{part}" for finger in ("index", "middle", "ring", "little") for part in ("mcp", "pip", "dip", "tip")),
)
"""The 21 joints, in OpenPose and MediaPipe order."""

JOINT_EDGES = tuple((0 if joint % 4 == 1 else joint - 1, joint) for joint in range(1, 21))
"""The 20 bones as (parent, child) joint indices: five chains from the wrist."""


@dataclass(frozen=True, slots=True, eq=False)
class HandParameters:
    """Parameters of the hand model; see `hamuco.engine.hand_model`. float32 or float64.

    Attributes:
        global_orient: (3,) axis-angle, model to world, rad.
        hand_pose: (45,) axis-angle of the 15 finger joints in MANO order, rad, relative to the model's mean pose.
        betas: (10,) shape.
        transl: (3,) m, added after everything else.
    """

    global_orient: NDArray[np.floating]
    hand_pose: NDArray[np.floating]
    betas: NDArray[np.floating]
    transl: NDArray[np.floating]


@dataclass(frozen=True, slots=True, eq=False)
class Hand:
    """One hand at one moment, in the world frame of the rig.

    Attributes:
        track_id: stays with the hand as long as it is followed; never used again in a run.
        side: anatomical.
        side_confidence: 0.5 (unknown) to 1, voted over views and time.
        state: "predicted" when no view saw the hand in this set and the pose is an extrapolation.
        joints: (21, 3) m, of the fitted and smoothed model, in `JOINT_NAMES` order.
        joint_confidence: (21,) 0 to 1.
        parameters: of the fitted and smoothed model.
        views: names of the cameras whose observations were used.
        reprojection_px: median distance of the used observations from the triangulated joints; NaN without any.
        fit_residual_mm: median distance of the model's joints from the triangulated ones; NaN without any.
        vertices: (N, 3) m, or None where the mesh was not asked for.
    """

    track_id: int
    side: Side
    side_confidence: float
    state: TrackState
    joints: NDArray[np.floating]
    joint_confidence: NDArray[np.floating]
    parameters: HandParameters
    views: tuple[str, ...]
    reprojection_px: float
    fit_residual_mm: float
    vertices: NDArray[np.floating] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class HandSet:
    """All hands of one frame set, with where the time went.

    Attributes:
        set_id: id of the frame set.
        t_capture_ns: capture time of the set, host monotonic clock.
        spread_ns: latest minus earliest capture time of its frames.
        cameras: names of the cameras that delivered a frame to the set.
        hands: sorted by track id.
        smoothing_delay_ns: how far the smoothed hands lag behind slow motion, the most of all hands; 0 without hands.
        stage_ms: milliseconds per pipeline stage, in the order in which they ran.
        counters: running totals of everything that was dropped or degraded, by name.
    """

    set_id: int
    t_capture_ns: int
    spread_ns: int
    cameras: tuple[str, ...]
    hands: tuple[Hand, ...]
    smoothing_delay_ns: int = 0
    stage_ms: Mapping[str, float] = field(default_factory=dict)
    counters: Mapping[str, int] = field(default_factory=dict)
