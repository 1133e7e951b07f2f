"""Fitting the hand model to 21 triangulated joints: the most probable pose given the joints and anatomy.

Everything is a precision (inverse variance): metres^-2 for joints, radians^-2 for angles. So what the cameras saw and
what hands can do meet in one sum, and a joint that nobody saw is placed by the rest of its finger.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.transform import Rotation

from hamuco.fusion.anatomy import LIMIT_PRECISION, Anatomy
from hamuco.fusion.kinematics import FROM_SKEW, Posed, Skeleton, pose
from hamuco.fusion.targets import JointTargets, align_palm, median

FloatArray = NDArray[np.float64]

_ROOT_ANCHOR = 0.01  # m^-2 and rad^-2: only says where a hand stays that nothing else holds
_MAX_DAMPING = 1e8
_ANNEALING = 0.5  # of the squared outlier scale, per iteration

_NOT_ORIENTATION = np.repeat([1.0, 0.0, 1.0], (3, 3, 45))
_READ_TURN = np.column_stack([FROM_SKEW, np.eye(3).ravel()])  # (9, 4) rotation matrix -> sine times axis, and trace


@dataclass(frozen=True, slots=True, eq=False)
class HandPoses:
    """Pose parameters of H hands; see `hamuco.fusion.hand.HandParameters`."""

    global_orient: FloatArray  # (H, 3) rad
    hand_pose: FloatArray  # (H, 45) rad, relative to the model's mean pose
    transl: FloatArray  # (H, 3) m


@dataclass(frozen=True, slots=True, eq=False)
class PosePrior:
    """Where H hands are expected, and how surely: typically the last set's fit after the motion model."""

    poses: HandPoses
    transl_precision: FloatArray  # (H,) m^-2
    orient_precision: FloatArray  # (H,) rad^-2
    pose_precision: FloatArray  # (H,) rad^-2, each finger joint


@dataclass(frozen=True, slots=True)
class FitOptions:
    """How to fit.

    Attributes:
        model_sigma_m: how far the model's joints are from this person's, standard deviation; added to the joints' own.
        outlier_scale: joints this many standard deviations away lose three quarters of their weight.
        tolerance: stop after a step that promised to gain less than this in log-likelihood. The step before it is
            then off by a third of a standard deviation at most, and this one by much less; 0.1 is within 0.01 mm of
            1e-3 on moving hands with 3 mm of noise, for two iterations less.
        max_iterations: give up after so many.
    """

    model_sigma_m: float = 0.002
    outlier_scale: float = 4.0
    tolerance: float = 0.6
    max_iterations: int = 40


@dataclass(frozen=True, slots=True, eq=False)
class PoseFit:
    """The fit of H hands.

    Attributes:
        poses: the parameters.
        landmarks: (H, 21, 3) m, world.
        residual_m: (H, 21) distance of the landmarks from their targets; NaN without a target.
        trust: (H, 21) 1 for a target that fits, towards 0 for an outlier; 0 without a target.
        iterations: (H,) steps tried.
        converged: (H,).
    """

    poses: HandPoses
    landmarks: FloatArray
    residual_m: FloatArray
    trust: FloatArray
    iterations: NDArray[np.int64]
    converged: NDArray[np.bool_]


def fit_pose(
    skeleton: Skeleton,
    targets: ArrayLike,
    information: ArrayLike,
    start: HandPoses | None = None,
    prior: PosePrior | None = None,
    options: FitOptions = FitOptions(),
) -> PoseFit:
    """Fit H hands of locked shape to their joints.

    Args:
        skeleton: the H hands.
        targets: (H, 21, 3) m, world, in `JOINT_NAMES` order; NaN for a joint that is missing.
        information: inverse covariances (H, 21, 3, 3), or one inverse variance per joint (H, 21), m^-2; zero for a
            joint that is missing. What triangulation knows least, depth, is best said with the former.
        start: where to begin; None to align the palm first, which needs `can_align` to be true.
        prior: pulls towards an expected pose. Without it a hand that nothing holds stays at its start.
        options: see there.

    Raises:
        FitError: shapes disagree, an information is negative, or a hand without a start has too few joints.
    """
    observed = JointTargets.of(targets, information, len(skeleton))
    start_pose = align_palm(skeleton, observed) if start is None else _posed(skeleton, start)
    problem = _Problem.of(skeleton, observed, start_pose, prior, options)
    return _result(problem, *_minimize(problem, start_pose, options))


@dataclass(frozen=True, slots=True, eq=False)
class _State:
    """H poses and how far they are from the joints and from what is expected of a hand."""

    posed: Posed
    pull: FloatArray  # (H, 63) information times residual: the gradient by the landmarks, before reweighting
    squared_distance: FloatArray  # (H, 21) squared standard deviations between each landmark and its target
    prior_cost: FloatArray  # (H,)
    prior_gradient: FloatArray  # (H, 51)
    beyond_limit: NDArray[np.bool_]  # (H, 45)


@dataclass(frozen=True, slots=True, eq=False)
class _Problem:
    """What is minimised, for H hands. The 63 coordinates of a hand are three rows of 21, like the landmarks of `Posed`."""

    skeleton: Skeleton
    target: FloatArray  # (H, 63)
    information: FloatArray  # (H, 63, 63)
    seen: NDArray[np.bool_]  # (H, 21)
    lower: FloatArray  # (H, 45)
    upper: FloatArray  # (H, 45)
    wrist_position: FloatArray  # (H, 3) expected
    wrist_rotation: FloatArray  # (H, 3, 3) expected
    prior_information: FloatArray  # (H, 51, 51)
    prior_vector: FloatArray  # (H, 51) information times the expected angles
    outlier_scale: float

    @classmethod
    def of(
        cls,
        skeleton: Skeleton,
        observed: JointTargets,
        start: Posed,
        prior: PosePrior | None,
        options: FitOptions,
    ) -> _Problem:
        hands = len(skeleton)
        softened = np.linalg.solve(np.eye(3) + options.model_sigma_m**2 * observed.information, observed.information)
        block = np.zeros((hands, 3, 21, 3, 21))
        joints = np.arange(21)
        block[:, :, joints, :, joints] = softened.transpose(1, 0, 2, 3)

        anatomy = Anatomy.of(skeleton)
        prior_information = np.zeros((hands, 51, 51))
        prior_information[:, 6:, 6:] = anatomy.information
        prior_vector = np.concatenate([np.zeros((hands, 6)), anatomy.vector], axis=1)
        diagonal = _diagonal(prior_information)
        expected = start
        if prior is not None:
            expected = _posed(skeleton, prior.poses)
            diagonal += np.repeat(
                np.stack([prior.transl_precision, prior.orient_precision, prior.pose_precision], axis=1),
                (3, 3, 45),
                axis=1,
            )
            prior_vector[:, 6:] += prior.pose_precision[:, None] * expected.angles
        diagonal[:, :6] = np.maximum(diagonal[:, :6], _ROOT_ANCHOR)
        return cls(
            skeleton=skeleton,
            target=observed.targets.transpose(0, 2, 1).reshape(hands, 63),
            information=block.reshape(hands, 63, 63),
            seen=observed.seen,
            lower=anatomy.lower,
            upper=anatomy.upper,
            wrist_position=expected.wrist_position,
            wrist_rotation=expected.wrist_rotation,
            prior_information=prior_information,
            prior_vector=prior_vector,
            outlier_scale=options.outlier_scale,
        )

    def at(self, posed: Posed) -> _State:
        """Evaluate H poses."""
        hands = len(posed.angles)
        residual = posed.landmarks.reshape(hands, 63) - self.target
        pull = (self.information @ residual[..., None])[..., 0]

        turned = posed.wrist_rotation @ self.wrist_rotation.transpose(0, 2, 1)
        # Orientation costs p (1 - cos) of the angle to the expected one: smooth everywhere, and p angle^2 / 2 nearby.
        sine_axis_and_trace = turned.reshape(hands, 9) @ _READ_TURN
        deviation = np.concatenate(
            [posed.wrist_position - self.wrist_position, sine_axis_and_trace[:, :3], posed.angles], axis=1
        )
        gradient = (self.prior_information @ deviation[..., None])[..., 0] - self.prior_vector
        quadratic = (deviation * (gradient - self.prior_vector)) @ _NOT_ORIENTATION
        beyond = posed.angles - np.minimum(np.maximum(posed.angles, self.lower), self.upper)
        limit_pull = LIMIT_PRECISION * beyond
        gradient[:, 6:] += limit_pull
        return _State(
            posed=posed,
            pull=pull,
            squared_distance=(residual * pull).reshape(hands, 3, 21).sum(axis=1),
            prior_cost=0.5 * (quadratic + (beyond * limit_pull).sum(axis=1))
            + self.prior_information[:, 3, 3] * (1.5 - 0.5 * sine_axis_and_trace[:, 3]),
            prior_gradient=gradient,
            beyond_limit=beyond != 0.0,
        )

    def squared_scale(self, state: _State) -> FloatArray:
        """(H, 1) squared distance at which a joint counts as an outlier.

        It follows the median, so that a hand that has moved is not mistaken for 21 outliers. 2.5 medians of a distance
        in three dimensions are 3.9 standard deviations, so the median takes over where the noise is above what was stated.
        """
        return np.maximum(6.25 * median(state.squared_distance, self.seen), self.outlier_scale**2)

    def normal_equations(self, state: _State, joint_weights: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Gradient (H, 51) and Gauss-Newton Hessian (H, 51, 51) of the cost by the pose increments."""
        jacobian = state.posed.jacobian()
        weights = np.concatenate([joint_weights] * 3, axis=1)  # (H, 63)
        hessian = (jacobian @ (weights[..., None] * self.information)) @ jacobian.transpose(0, 2, 1)
        hessian += self.prior_information
        _diagonal(hessian)[:, 6:] += LIMIT_PRECISION * state.beyond_limit
        gradient = (jacobian @ (weights * state.pull)[..., None])[..., 0] + state.prior_gradient
        return gradient, hessian


def _cost(state: _State, squared_scale: FloatArray) -> FloatArray:
    """(H,) negative log posterior, up to a constant. The joints' part is Geman and McClure's."""
    squared = state.squared_distance
    joints: FloatArray = (squared * squared_scale / (squared + squared_scale)).sum(axis=1)
    return 0.5 * joints + state.prior_cost


def _minimize(
    problem: _Problem, start: Posed, options: FitOptions
) -> tuple[_State, NDArray[np.int64], NDArray[np.bool_]]:
    """Levenberg-Marquardt, each hand with its own damping. -> state, iterations (H,), converged (H,).

    The outlier scale starts at the worst joint and shrinks, so that a finger that moved is found again
    before it could count as an outlier.
    """
    hands = len(problem.target)
    damping = np.full(hands, 1e-6)
    iterations = np.zeros(hands, np.int64)
    converged = np.zeros(hands, np.bool_)
    state = problem.at(start)
    annealed = state.squared_distance.max(axis=1, keepdims=True)
    for _ in range(options.max_iterations):
        settled = problem.squared_scale(state)
        scale = np.maximum(settled, annealed)
        gradient, hessian = problem.normal_equations(state, (scale / (scale + state.squared_distance)) ** 2)
        _diagonal(hessian)[...] *= 1.0 + damping[:, None]
        step = np.asarray(np.linalg.solve(hessian, -gradient[..., None])[..., 0], np.float64)
        trial = problem.at(state.posed.moved(problem.skeleton, step))
        better = _cost(trial, scale) <= _cost(state, scale)

        iterations += ~converged
        # The Newton decrement is twice the gain to be had, unless damping has shortened the step.
        gain = -(gradient * step).sum(axis=1)
        converged |= (gain < options.tolerance) & (damping < 0.1) & (annealed <= settled)[:, 0]
        damping = np.where(better, damping * 0.1, np.maximum(damping * 10.0, 1e-3))
        state = trial if better.all() else _chosen(better, trial, state)
        annealed = np.minimum(_ANNEALING * annealed, state.squared_distance.max(axis=1, keepdims=True))
        if (converged | (damping > _MAX_DAMPING)).all():
            break
    return state, iterations, converged


def _result(problem: _Problem, state: _State, iterations: NDArray[np.int64], converged: NDArray[np.bool_]) -> PoseFit:
    skeleton, posed = problem.skeleton, state.posed
    scale = problem.squared_scale(state)
    distance = np.linalg.norm(posed.landmarks - problem.target.reshape(-1, 3, 21), axis=1)
    angles = (posed.angles - skeleton.mean_angles).reshape(-1, 15, 3, 1)
    return PoseFit(
        poses=HandPoses(
            global_orient=Rotation.from_matrix(posed.wrist_rotation).as_rotvec(),
            hand_pose=(skeleton.basis[:, 1:] @ angles).reshape(-1, 45),
            transl=posed.wrist_position - skeleton.wrist,
        ),
        landmarks=posed.landmarks.transpose(0, 2, 1).copy(),
        residual_m=np.where(problem.seen, distance, np.nan),
        trust=np.where(problem.seen, (scale / (scale + state.squared_distance)) ** 2, 0.0),
        iterations=iterations,
        converged=converged,
    )


def _diagonal(matrices: FloatArray) -> FloatArray:
    """A view of the diagonals (H, K) of contiguous matrices (H, K, K)."""
    return matrices.reshape(len(matrices), -1)[:, :: matrices.shape[-1] + 1]


def _chosen(where: NDArray[np.bool_], new: _State, old: _State) -> _State:
    """For each hand the new state where (H,) true, the old one elsewhere."""

    def pick(kind: type[_State | Posed], one: object, other: object) -> list[FloatArray]:
        pairs = [(getattr(one, part.name), getattr(other, part.name)) for part in fields(kind) if part.name != "posed"]
        return [np.where(where.reshape(-1, *(1,) * (a.ndim - 1)), a, b) for a, b in pairs]

    return _State(Posed(*pick(Posed, new.posed, old.posed)), *pick(_State, new, old))  # type: ignore[arg-type]


def landmarks(skeleton: Skeleton, poses: HandPoses) -> FloatArray:
    """Landmarks (H, 21, 3) m, world, of H posed hands."""
    return _posed(skeleton, poses).landmarks.transpose(0, 2, 1).copy()


def _posed(skeleton: Skeleton, poses: HandPoses) -> Posed:
    angles = skeleton.basis[:, 1:].transpose(0, 1, 3, 2) @ poses.hand_pose.reshape(-1, 15, 3, 1)
    position = poses.transl + skeleton.wrist
    return pose(skeleton, poses.global_orient, position, angles.reshape(-1, 45) + skeleton.mean_angles)
