"""What fingers can do, as the prior of a fit: ranges of motion, what is held, what moves together.

Angles are those of `hamuco.fusion.kinematics`; precisions (inverse variances) are per square radian.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hamuco.fusion.kinematics import Skeleton

FloatArray = NDArray[np.float64]

# Flexion, abduction and twist per joint, in degrees, flexion from straight; the rows are the joints of a finger from the
# knuckle and of the thumb from its base. Limits of flexion and of finger abduction: American Academy of Orthopaedic
# Surgeons, Joint Motion (1965), widened by 5 to 10 where active motion goes further; of finger extension: half
# of the passive 45. Abduction, twist and the thumb's base count from the mean pose: no landmark shows their zero.
_FINGER_LIMITS = ((-30, 95), (-20, 20), (-8, 8)), ((-10, 110), (-6, 6), (-6, 6)), ((-15, 90), (-6, 6), (-6, 6))
_THUMB_LIMITS = ((-40, 40), (-45, 45), (-30, 30)), ((-15, 65), (-15, 15), (-10, 10)), ((-20, 85), (-6, 6), (-6, 6))
_LIMIT_SIGMA = 3.0
# Standard deviations about the mean pose. Wide for what a joint does, narrow for what it cannot do.
_FINGER_SIGMA = (40, 12, 4), (40, 3, 3), (30, 3, 3)
_THUMB_SIGMA = (25, 25, 12), (25, 8, 5), (30, 4, 4)
# Fingertip joints follow the middle ones by two thirds: Rijpkema and Girard, SIGGRAPH 1991.
COUPLING = 2.0 / 3.0
"""Flexion of a fingertip joint over that of the middle joint."""
_COUPLING_SIGMA = 20.0
LIMIT_PRECISION = float(np.radians(_LIMIT_SIGMA) ** -2.0)
"""Of the pull back on an angle beyond its limit."""

_LOWER, _UPPER = np.radians(np.array([*_FINGER_LIMITS] * 4 + [*_THUMB_LIMITS], np.float64)).reshape(45, 2).T
_PRECISION = np.radians(np.array([*_FINGER_SIGMA] * 4 + [*_THUMB_SIGMA], np.float64)).ravel() ** -2.0
_FLEXION = 3 * np.array([joint for joint in range(15) if joint != 12])  # among the 45; not the thumb's base
_PIP, _DIP = 3 + 9 * np.arange(4), 6 + 9 * np.arange(4)  # flexion angles of the four fingers
_COUPLING_ROWS = np.zeros((4, 45))
_COUPLING_ROWS[range(4), _DIP], _COUPLING_ROWS[range(4), _PIP] = 1.0, -COUPLING
_COUPLING_INFORMATION = np.radians(_COUPLING_SIGMA) ** -2.0 * _COUPLING_ROWS.T @ _COUPLING_ROWS
_INFORMATION = np.diag(_PRECISION) + _COUPLING_INFORMATION


@dataclass(frozen=True, slots=True, eq=False)
class Anatomy:
    """The prior on the joint angles a (45,) of H hands: a normal distribution, and limits that yield like springs.

    Attributes:
        lower, upper: (H, 45) rad.
        information: (45, 45) rad^-2, inverse covariance; the same for every hand.
        vector: (H, 45) information times the most probable angles.
    """

    lower: FloatArray
    upper: FloatArray
    information: FloatArray
    vector: FloatArray

    @classmethod
    def of(cls, skeleton: Skeleton) -> Anatomy:
        mean = skeleton.mean_angles
        zero = mean.copy()
        zero[:, _FLEXION] = skeleton.straight[:, _FLEXION // 3]
        return cls(
            lower=zero + _LOWER,
            upper=zero + _UPPER,
            information=_INFORMATION,
            vector=_PRECISION * mean + zero @ _COUPLING_INFORMATION,
        )
