"""Which detections in different views are the same hand?"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from hamuco.engine.view_hand import ViewHand
from hamuco.fusion.triangulate import triangulate

FloatArray = NDArray[np.float64]

# A group's median residual must stay below this many standard deviations of its rays. A pair of views must satisfy 21
# epipolar constraints at once: views of one hand lie near 1; two different hands rarely come below 4.
_MAX_MEDIAN_SIGMAS = 3.0
# Wrist to middle knuckle, m: from a small child's hand to the 99th percentile of adults with room for error.
_PALM_LENGTH = (0.05, 0.14)
_WRIST, _MIDDLE_MCP = 0, 9


def group_views(hands: Sequence[ViewHand]) -> list[list[ViewHand]]:
    """Group the hands that several views see, best agreement first.

    Every hand is used at most once, a group has at most one hand per camera and at least two; hands without a partner
    are left out. Views that disagree about the side may share a group: the side is voted later.
    """
    pairs = []
    for one, other in combinations(range(len(hands)), 2):
        if hands[one].camera.name != hands[other].camera.name:
            cost = _disagreement([hands[one], hands[other]])
            if cost is not None:
                # Sides break ties: mirrored hands at mirrored places can satisfy the epipolar constraints.
                pairs.append((cost + abs(hands[one].right - hands[other].right), one, other))
    groups = []
    free = set(range(len(hands)))
    for _, one, other in sorted(pairs):
        if not {one, other} <= free:
            continue
        group = [hands[one], hands[other]]
        free -= {one, other}
        taken = {hand.camera.name for hand in group}
        fitting = [
            (cost, index)
            for index in free
            if hands[index].camera.name not in taken and (cost := _disagreement([*group, hands[index]])) is not None
        ]
        for _, index in sorted(fitting):
            if hands[index].camera.name not in taken:
                group.append(hands[index])
                taken.add(hands[index].camera.name)
                free.remove(index)
        groups.append(group)
    return groups


def plausible_palm(points: FloatArray) -> bool:
    """Whether joints (21, 3) m have a palm of human length."""
    return bool(_PALM_LENGTH[0] < np.linalg.norm(points[_MIDDLE_MCP] - points[_WRIST]) < _PALM_LENGTH[1])


def _disagreement(hands: Sequence[ViewHand]) -> float | None:
    """Median residual in standard deviations of the worst view; None where these cannot be one hand."""
    origins = np.stack([np.broadcast_to(hand.camera.centre, (21, 3)) for hand in hands])
    rays, sigmas = np.stack([hand.rays for hand in hands]), np.array([hand.ray_sigma for hand in hands])
    triangulation = triangulate(origins, rays, sigmas)
    points = triangulation.points
    if not plausible_palm(points):
        return None
    if (np.median(((points - origins) * rays).sum(axis=2), axis=1) <= 0).any():
        return None  # behind a camera
    worst = float((np.median(triangulation.residuals, axis=1) / sigmas).max())
    return worst if worst < _MAX_MEDIAN_SIGMAS else None
