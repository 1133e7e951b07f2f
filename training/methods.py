"""What makes a hand of the views of one moment: the rows of an accuracy table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from hamuco.engine.hand_model import HandModel, load_hand_model
from hamuco.engine.skinning import forward
from hamuco.engine.view_hand import ViewHand
from hamuco.fusion.body import Body
from hamuco.fusion.fit import fit_pose
from hamuco.fusion.hand import Side
from hamuco.fusion.observation import Observation
from hamuco.fusion.targets import can_align
from hamuco.training.tally import Estimate

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class HandViews:
    """All that a method is told about a hand at one moment.

    Attributes:
        sequence: the same while a person's hand is followed.
        side: anatomical, given by the data set.
        views: of the cameras of the subset that see the hand, with their crops.
        images: camera name -> (height, width, 3) uint8 BGR, for methods that look for themselves.
    """

    sequence: str
    side: Side
    views: tuple[ViewHand, ...]
    images: Mapping[str, NDArray[np.uint8]]


class Method(Protocol):
    """A row of the table. One instance sees the moments of one subset of the cameras, in order; it may remember."""

    @property
    def name(self) -> str: ...

    @property
    def min_views(self) -> int:
        """Fewer views are not given to it."""
        ...

    def __call__(self, hand: HandViews, /) -> Estimate | None:
        """The hand in the world, or None where the views do not make one."""
        ...


class DLT:
    """The direct linear transform (Hartley and Zisserman, Multiple View Geometry, 12.2), every view counting alike."""

    name = "DLT"
    min_views = 2

    def __call__(self, hand: HandViews) -> Estimate | None:
        return Estimate(_linear_points(hand.views, np.ones(len(hand.views))))


class ConfidenceWeightedDLT:
    """The same with the equations of each view weighted by its certainty (as Iskakov et al., ICCV 2019): 1 / ray sigma."""

    name = "confidence weighted"
    min_views = 2

    def __call__(self, hand: HandViews) -> Estimate | None:
        weights = np.array([1 / view.ray_sigma for view in hand.views])
        return Estimate(_linear_points(hand.views, weights / weights.max()))


class Ransac:
    """Consensus of pairs of views, then reweighted least squares: `hamuco.fusion.triangulate`."""

    name = "RANSAC"
    min_views = 2

    def __call__(self, hand: HandViews) -> Estimate | None:
        return Estimate(_observation(hand).triangulation.points)


class TriangulationAndFit:
    """RANSAC, and the hand model fitted to its joints; the shape is measured over the first good moments, then locked.

    As a tracker does it, but every moment for itself: neither smoothed nor started from the moment before.
    """

    name = "triangulation + fit"
    min_views = 2

    def __init__(self, model: HandModel) -> None:
        """`model` is a right hand."""
        self._models: Mapping[Side, HandModel] = {"right": model, "left": model.mirrored()}
        self._bodies: dict[Side, Body] = {}
        self._sequence = ""

    def __call__(self, hand: HandViews) -> Estimate | None:
        if hand.sequence != self._sequence:
            self._sequence, self._bodies = hand.sequence, {}
        observation = _observation(hand)
        points, information = observation.triangulation.points[None], observation.triangulation.information[None]
        if not observation.plausible or not can_align(points, information)[0]:
            return None
        if hand.side not in self._bodies:
            self._bodies[hand.side] = Body(self._models[hand.side])
        body = self._bodies[hand.side]
        body.measure(observation.triangulation)
        fit = fit_pose(body.skeleton, points, information)
        poses = fit.poses
        mesh = forward(body.model, poses.global_orient[0], poses.hand_pose[0], body.betas, poses.transl[0])
        return Estimate(fit.landmarks[0], mesh.vertices)


MakeMethods = Callable[[], Sequence[Method]]


def default_methods() -> list[Method]:
    """The rows that need no training."""
    return [DLT(), ConfidenceWeightedDLT(), Ransac(), TriangulationAndFit(load_hand_model())]


def _observation(hand: HandViews) -> Observation:
    return Observation.of(hand.views, np.zeros((len(hand.views), 3)))


def _linear_points(views: Sequence[ViewHand], weights: FloatArray) -> FloatArray:
    """Joints (21, 3) m that solve w (x p3 - p1) X = 0, w (y p3 - p2) X = 0 of all views best, |X| = 1."""
    equations = []
    for view, weight in zip(views, weights, strict=True):
        rows = view.camera.camera_from_world[:3]
        direction = view.rays @ rows[:, :3].T
        normalized = direction[:, :2] / direction[:, 2:]
        equations.append(weight * (normalized[:, :, None] * rows[2] - rows[:2]))  # (21, 2, 4)
    _, _, right = np.linalg.svd(np.concatenate(equations, axis=1))  # (21, 2 V, 4)
    solution = right[:, -1]
    return np.asarray(solution[:, :3] / solution[:, 3:])
