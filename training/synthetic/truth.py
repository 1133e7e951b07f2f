"""What is known of a synthetic recording: `truth.npz` beside its `rig.toml`.

The motion of each hand is defined by parameters at evenly spaced times and a cubic spline through them, so joints,
mesh and pixels are exact at any time, for cameras that expose whenever they like. The images are rendered from the
very numbers in the file. Arrays, H hands, K times, F frames of a camera:

    model                      name of the hand model
    side            (H,)       "left" or "right"
    betas           (H, 10)    shape
    t_ns            (K,)       int64, capture clock of the recording
    parameters      (K, H, 51) float32: global_orient 3, hand_pose 45, transl 3; see `hamuco.engine.hand_model`
    <camera>/t_ns              (F,) int64, true middle of the exposure; timestamps.csv has what a computer would note
    <camera>/joints            (F, H, 21, 3) float32, m, world: landmarks of the hand model at that time
    <camera>/visible           (F, H, 21) bool: nothing but the hand's own flesh lies in front of the joint
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.interpolate import CubicSpline

from hamuco.engine.hand_model import HandModel
from hamuco.engine.skinning import HandMesh, forward
from hamuco.fusion.hand import HandParameters, Side
from hamuco.training.npz_file import ArrayFileError, load_arrays

FloatArray = NDArray[np.float64]

TRUTH_FILE = "truth.npz"
PARAMETERS = 51
_ARRAYS = {"model": np.str_, "side": np.str_, "betas": np.floating, "t_ns": np.integer, "parameters": np.floating}


class TruthError(ValueError):
    """A truth.npz that is damaged, or asked for what it does not have."""


@dataclass(frozen=True, eq=False)  # no slots: the spline is kept once it was made
class Trajectory:
    """One hand over time.

    Attributes:
        side: anatomical.
        betas: (10,) shape.
        t_ns: (K,) int64, evenly spaced, K >= 2.
        parameters: (K, 51) float32: global_orient (axis-angle, rad, without jumps by full turns), hand_pose, transl (m).
    """

    side: Side
    betas: NDArray[np.float32]
    t_ns: NDArray[np.int64]
    parameters: NDArray[np.float32]

    @cached_property
    def _spline(self) -> CubicSpline:
        seconds = (self.t_ns - self.t_ns[0]) * 1e-9
        return CubicSpline(seconds, self.parameters.astype(np.float64))

    def covers(self, t_ns: int) -> bool:
        """Whether the hand's motion is known at this time."""
        return bool(self.t_ns[0] <= t_ns <= self.t_ns[-1])

    def at(self, t_ns: ArrayLike) -> HandParameters:
        """Parameters at times (...): arrays (..., 3), (..., 45), (10,) and (..., 3).

        Raises:
            TruthError: a time is outside the trajectory's.
        """
        times = np.asarray(t_ns, np.int64)
        if times.size and (times.min() < self.t_ns[0] or times.max() > self.t_ns[-1]):
            raise TruthError(
                f"truth is asked for {times.min()} to {times.max()} ns, but known from {self.t_ns[0]} to {self.t_ns[-1]} ns"
            )
        values = self._spline((times - self.t_ns[0]) * 1e-9)
        return HandParameters(values[..., :3], values[..., 3:48], self.betas.astype(np.float64), values[..., 48:])

    def landmarks_at(self, t_ns: ArrayLike, model: HandModel) -> FloatArray:
        """Landmarks (..., 21, 3) m, world, at times (...).

        Args:
            t_ns: within the trajectory's times; else as `at`.
            model: with which the recording was made, of either side.
        """
        return self.mesh_at(t_ns, model, with_vertices=False).landmarks

    def mesh_at(self, t_ns: ArrayLike, model: HandModel, *, with_vertices: bool = True) -> HandMesh:
        """The posed hand at times (...), as `landmarks_at`; without vertices it is faster."""
        hand = self.at(t_ns)
        own = model if model.side == self.side else model.mirrored()
        return forward(own, hand.global_orient, hand.hand_pose, hand.betas, hand.transl, with_vertices=with_vertices)


@dataclass(frozen=True, slots=True, eq=False)
class ViewTruth:
    """Truth of one camera's frames.

    Attributes:
        t_ns: (F,) int64 true middle of each frame's exposure.
        joints: (F, H, 21, 3) m, world, at that time.
        visible: (F, H, 21) bool.
    """

    t_ns: NDArray[np.int64]
    joints: NDArray[np.float32]
    visible: NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Truth:
    """Truth of a recording; `views` has an entry for every camera of its rig."""

    model: str
    trajectories: tuple[Trajectory, ...]
    views: Mapping[str, ViewTruth]

    def covers(self, t_ns: int) -> bool:
        """Whether the hands are known at this time."""
        return all(trajectory.covers(t_ns) for trajectory in self.trajectories)

    def meshes_at(self, t_ns: int, model: HandModel, *, with_vertices: bool = True) -> tuple[HandMesh, ...]:
        """The posed hands at one time, world frame.

        Args:
            t_ns: within the time that is covered.
            model: the right hand with which the recording was made.
            with_vertices: False leaves the meshes out, which is faster.

        Raises:
            TruthError: another model, or a time that is not covered.
        """
        if model.name != self.model:
            raise TruthError(f"the recording was made with the hand {self.model!r}, not with {model.name!r}")
        return tuple(one.mesh_at(t_ns, model, with_vertices=with_vertices) for one in self.trajectories)

    def save(self, path: Path) -> None:
        """Write a truth.npz."""
        arrays: dict[str, NDArray[np.generic]] = {
            "model": np.array(self.model),
            "side": np.array([trajectory.side for trajectory in self.trajectories]),
            "betas": np.array([trajectory.betas for trajectory in self.trajectories], np.float32),
            "t_ns": self.trajectories[0].t_ns,
            "parameters": np.stack([trajectory.parameters for trajectory in self.trajectories], axis=1),
        }
        for camera, view in self.views.items():
            arrays[f"{camera}/t_ns"] = view.t_ns
            arrays[f"{camera}/joints"] = view.joints
            arrays[f"{camera}/visible"] = view.visible
        np.savez_compressed(path, allow_pickle=False, **arrays)

    @staticmethod
    def load(path: Path) -> Truth:
        """Read a truth.npz.

        Raises:
            TruthError: the file is damaged or lacks something.
            FileNotFoundError: there is no such file.
        """
        try:
            stored = load_arrays(path, _ARRAYS, "make the recording again")
        except ArrayFileError as error:
            raise TruthError(str(error)) from error
        cameras = [key.removesuffix("/visible") for key in stored if key.endswith("/visible")]
        try:
            trajectories = tuple(
                Trajectory(_side(str(side)), stored["betas"][hand], stored["t_ns"], stored["parameters"][:, hand])
                for hand, side in enumerate(stored["side"])
            )
            views = {
                camera: ViewTruth(*(stored[f"{camera}/{part}"] for part in ("t_ns", "joints", "visible")))
                for camera in cameras
            }
            truth = Truth(str(stored["model"]), trajectories, views)
        except (KeyError, IndexError) as error:
            raise TruthError(f"{path} is not the truth of a recording: {error}; make the recording again") from error
        samples, hands = len(stored["t_ns"]), len(trajectories)
        if stored["parameters"].shape != (samples, hands, PARAMETERS) or stored["betas"].shape != (hands, 10):
            raise TruthError(
                f"{path}: {hands} hands and {samples} times have parameters {stored['parameters'].shape} and betas "
                f"{stored['betas'].shape}, expected {(samples, hands, PARAMETERS)} and {(hands, 10)}"
            )
        for camera, view in views.items():
            expected = (len(view.t_ns), len(trajectories), 21)
            if view.visible.shape != expected or view.joints.shape != (*expected, 3):
                raise TruthError(
                    f"{path}: camera {camera!r} has {view.joints.shape} joints and {view.visible.shape} visibilities, "
                    f"expected {(*expected, 3)} and {expected}"
                )
        return truth


def _side(text: str) -> Side:
    if text == "left" or text == "right":
        return text  # type: ignore[return-value]
    raise KeyError(f"side {text!r}")
