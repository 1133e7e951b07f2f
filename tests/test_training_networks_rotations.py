"""Rotations in torch: round trips, agreement with SciPy, degenerate inputs and their gradients."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor
from torch.autograd import gradcheck

from hamuco.training.networks.rotations import (
    axis_angle_to_matrix,
    matrix_to_6d,
    matrix_to_axis_angle,
    mean_rotation,
    nearest_rotation,
    rotation_6d_to_matrix,
)

# A few dozen roundings of numbers around 1 in double precision.
ROUNDING = 1e-13


def random_rotations(seed: int, *leading: int) -> Tensor:
    rotations = Rotation.random(math.prod(leading), rng=np.random.default_rng(seed)).as_matrix()
    return torch.tensor(rotations).reshape(*leading, 3, 3)


def assert_rotations(matrices: Tensor, tolerance: float = ROUNDING) -> None:
    identity = torch.eye(3, dtype=matrices.dtype).expand_as(matrices)
    torch.testing.assert_close(matrices @ matrices.mT, identity, rtol=0, atol=tolerance)
    assert (torch.linalg.det(matrices) > 0).all()


@pytest.mark.parametrize("leading", [(), (5,), (2, 3)])
def test_six_numbers_are_the_first_two_columns_row_by_row(leading: tuple[int, ...]) -> None:
    matrices = random_rotations(1, *leading)
    six = matrix_to_6d(matrices)
    assert six.shape == (*leading, 6)
    r = matrices
    columns = torch.stack([r[..., 0, 0], r[..., 0, 1], r[..., 1, 0], r[..., 1, 1], r[..., 2, 0], r[..., 2, 1]], dim=-1)
    assert torch.equal(six, columns)
    torch.testing.assert_close(rotation_6d_to_matrix(six), matrices, rtol=0, atol=ROUNDING)


def test_any_six_numbers_give_a_rotation_by_gram_schmidt() -> None:
    six = torch.randn(200, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    matrices = rotation_6d_to_matrix(six)
    # Tolerance: nearly parallel columns amplify rounding by one over the sine of their angle, here below 100.
    assert_rotations(matrices, 100 * ROUNDING)
    a, b = six.unflatten(-1, (3, 2)).unbind(-1)
    first = a / a.norm(dim=-1, keepdim=True)
    second = b - (first * b).sum(dim=-1, keepdim=True) * first
    second = second / second.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(matrices[..., 0], first, rtol=0, atol=100 * ROUNDING)
    torch.testing.assert_close(matrices[..., 1], second, rtol=0, atol=100 * ROUNDING)


DEGENERATE = {
    "zero": [0, 0, 0, 0, 0, 0],
    "first column zero": [0, 1, 0, 2, 0, 3],
    "second column zero": [1, 0, 2, 0, 3, 0],
    "equal columns": [1, 1, 2, 2, 3, 3],
    "opposite columns along z": [0, 0, 0, 0, 2, -2],
    "first column zero, second where the fallback is": [0, 1, 0, 0, 0, 0],
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("numbers", DEGENERATE.values(), ids=DEGENERATE.keys())
def test_degenerate_columns_give_a_rotation_and_finite_gradients(numbers: list[float], dtype: torch.dtype) -> None:
    six = torch.tensor(numbers, dtype=dtype, requires_grad=True)
    matrix = rotation_6d_to_matrix(six)
    assert_rotations(matrix.detach(), 10 * torch.finfo(dtype).eps)
    for entry in matrix.flatten():
        (gradient,) = torch.autograd.grad(entry, six, retain_graph=True)
        assert gradient.isfinite().all()


def test_gradients_stay_bounded_beside_degenerate_columns() -> None:
    for size in (1e-3, 1e-5, 2e-6, 1e-8, 1e-30):
        six = torch.tensor([1.0, 1.0, 2.0, 2.0 + size, size, size], dtype=torch.float64, requires_grad=True)
        rotation_6d_to_matrix(six)[:, 1:].square()[0].sum().backward()
        assert six.grad is not None
        assert six.grad.isfinite().all()
        # d(direction) <= 1 / length, and lengths below 1e-6 are not used; the column has length 2.
        assert six.grad.abs().max() < 4e6


def test_6d_gradients() -> None:
    six = torch.randn(4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(3), requires_grad=True)
    assert gradcheck(rotation_6d_to_matrix, (six,))


ANGLES = [0.0, 1e-12, 1e-7, 1e-3, 0.5, 2.0, 3.0, math.pi - 1e-3, math.pi - 1e-7, math.pi]


@pytest.mark.parametrize("angle", ANGLES)
def test_axis_angle_agrees_with_scipy_at_any_angle(angle: float) -> None:
    axes = np.random.default_rng(4).normal(size=(20, 3))
    vectors = angle * axes / np.linalg.norm(axes, axis=1, keepdims=True)
    matrices = axis_angle_to_matrix(torch.tensor(vectors))
    # Small angles are taken to first order below 1e-6, which is good to 1e-12.
    np.testing.assert_allclose(matrices, Rotation.from_rotvec(vectors).as_matrix(), rtol=0, atol=2e-12)
    back = matrix_to_axis_angle(torch.tensor(Rotation.from_rotvec(vectors).as_matrix()))
    if angle == math.pi:  # v and -v are the same rotation
        back = back * torch.sign((back * torch.tensor(vectors)).sum(dim=-1, keepdim=True))
    np.testing.assert_allclose(back, vectors, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("angle", ANGLES)
def test_axis_angle_gradients_are_finite_at_any_angle(angle: float, dtype: torch.dtype) -> None:
    vector = (angle * torch.tensor([0.6, 0.0, -0.8], dtype=dtype)).requires_grad_()
    matrix = axis_angle_to_matrix(vector)
    matrix.sum().backward()
    assert vector.grad is not None
    assert vector.grad.isfinite().all()
    leaf = matrix.detach().requires_grad_()
    matrix_to_axis_angle(leaf).sum().backward()
    assert leaf.grad is not None
    assert leaf.grad.isfinite().all()
    # The derivative of the vector by the matrix is at most some pi: no blow-up at either end.
    assert leaf.grad.abs().max() < 10


def test_the_gradient_of_the_logarithm_at_the_identity() -> None:
    """d(vector) is half the antisymmetric part of d(matrix)."""
    identity = torch.eye(3, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(matrix_to_axis_angle(identity)[2], identity)
    expected = torch.tensor([[0.0, -0.5, 0.0], [0.5, 0.0, 0.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(gradient, expected)


def test_axis_angle_gradients() -> None:
    vectors = torch.tensor([[0.3, -0.2, 0.9], [2.0, 1.0, -2.0]], dtype=torch.float64, requires_grad=True)
    assert gradcheck(axis_angle_to_matrix, (vectors,))
    assert gradcheck(lambda v: matrix_to_axis_angle(axis_angle_to_matrix(v)), (vectors,))


def test_the_nearest_rotation_is_never_a_reflection() -> None:
    matrices = torch.randn(500, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    assert (torch.linalg.det(matrices) < 0).any()
    nearest = nearest_rotation(matrices)
    assert_rotations(nearest)
    distance = (nearest - matrices).square().sum(dim=(-2, -1))
    others = random_rotations(6, 300)
    assert ((others - matrices[:, None]).square().sum(dim=(-2, -1)) >= distance[:, None]).all()


@pytest.mark.parametrize(
    "diagonal", [[0, 0, 0], [1, 0, 0], [1, 1, 1], [1, 1, -1], [2, 1, -1], [1, 1, 0]], ids=lambda d: str(d)
)
def test_gradients_of_the_nearest_rotation_are_finite_for_equal_singular_values(diagonal: list[float]) -> None:
    turn = random_rotations(7)
    matrix = (turn @ torch.diag(torch.tensor(diagonal, dtype=torch.float64))).requires_grad_()
    nearest = nearest_rotation(matrix)
    assert_rotations(nearest.detach())
    nearest.sum().backward()
    assert matrix.grad is not None
    assert matrix.grad.isfinite().all()


def test_gradients_of_the_nearest_rotation() -> None:
    matrices = torch.randn(3, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(8))
    assert gradcheck(nearest_rotation, (matrices.requires_grad_(),))


def test_the_mean_of_two_rotations_is_half_way() -> None:
    start, step = random_rotations(9), Rotation.from_rotvec([0.4, -1.0, 0.7])
    end = start @ torch.tensor(step.as_matrix())
    half = start @ torch.tensor(Rotation.from_rotvec(step.as_rotvec() / 2).as_matrix())
    mean = mean_rotation(torch.stack([start, end]), torch.ones(2, dtype=torch.float64))
    torch.testing.assert_close(mean, half, rtol=0, atol=ROUNDING)


def test_the_mean_agrees_with_scipy_and_does_not_depend_on_the_order() -> None:
    rng = np.random.default_rng(10)
    vectors = rng.normal(0, 1.0, (6, 5, 3))
    weights = rng.uniform(0.1, 2.0, (6, 5))
    rotations = axis_angle_to_matrix(torch.tensor(vectors))
    means = mean_rotation(rotations, torch.tensor(weights))
    assert_rotations(means)
    for mean, vector, weight in zip(means, vectors, weights, strict=True):
        expected = Rotation.from_rotvec(vector).mean(weight).as_matrix()
        np.testing.assert_allclose(mean, expected, rtol=0, atol=1e-10)  # SciPy's way squares the singular values
    order = torch.tensor([3, 0, 4, 1, 2])
    shuffled = mean_rotation(rotations[:, order], torch.tensor(weights)[:, order])
    torch.testing.assert_close(shuffled, means, rtol=0, atol=ROUNDING)


def test_rotations_of_weight_zero_do_not_count_and_without_weights_the_mean_is_the_identity() -> None:
    rotations = random_rotations(11, 3).requires_grad_()
    one = mean_rotation(rotations, torch.tensor([0.0, 2.0, 0.0], dtype=torch.float64))
    torch.testing.assert_close(one, rotations[1], rtol=0, atol=ROUNDING)
    none = mean_rotation(rotations, torch.zeros(3, dtype=torch.float64))
    torch.testing.assert_close(none, torch.eye(3, dtype=torch.float64), rtol=0, atol=ROUNDING)
    (one.sum() + none.sum()).backward()
    assert rotations.grad is not None
    assert rotations.grad.isfinite().all()
    assert (rotations.grad[[0, 2]] == 0).all()
