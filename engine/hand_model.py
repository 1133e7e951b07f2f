"""Hand models in the layout of MANO (Romero et al., SIGGRAPH Asia 2017): blend shapes, 16 joints, linear blend skinning."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class HandModel:
    """A right or left hand in its rest pose (all rotations zero, mean shape), metres, its own model frame.

    N vertices, F triangles, 16 joints in MANO order: wrist, index 1-3, middle 1-3, little 1-3, ring 1-3, thumb 1-3.
    """

    name: str
    licence: str
    side: str  # "right" or "left"
    v_template: FloatArray  # (N, 3)
    shapedirs: FloatArray  # (N, 3, 10)
    posedirs: FloatArray | None  # (N, 3, 135), on the 15 finger rotations minus identity, row-major
    weights: FloatArray  # (N, 16) skinning weights, rows sum to 1
    J_regressor: FloatArray  # (16, N) on the shaped template
    parents: NDArray[np.int64]  # (16,) -1 for the wrist
    faces: NDArray[np.int32]  # (F, 3) counter-clockwise from outside
    pose_mean: FloatArray  # (45,) axis-angle, added to hand_pose
    landmark_regressor: FloatArray  # (21, N) sparse, rows sum to 1: the landmark network's joints, on the posed mesh
    fingertips: NDArray[np.int64]  # (5,) vertex ids: thumb, index, middle, ring, little
    uv: FloatArray | None  # (N, 2)
