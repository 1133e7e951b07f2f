"""The fusion of views in torch: equal to its numpy twin, gradients, masks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation
from torch import Tensor
from torch.autograd import gradcheck
from views_of_a_hand import views_of_a_hand

from hamuco.fusion import alignment as in_numpy
from hamuco.training import alignment as in_torch

FloatArray = NDArray[np.float64]

# What the two may differ by in double precision.
EQUAL = 1e-9


@pytest.fixture(scope="module")
def batch() -> dict[str, FloatArray]:
    """Three hands in four noisy views, not all of them valid; the crops of one hand are not calibrated in one view."""
    rng = np.random.default_rng(1)
    hands = [views_of_a_hand(4, points=21, seed=seed) for seed in range(3)]
    crop_from_world = np.stack([hand.crop_from_world for hand in hands])
    weights = rng.uniform(0.2, 1, (3, 4))
    weights[0, 1] = weights[2, 0] = weights[2, 3] = 0
    crop_from_world[0, 1] = np.nan
    return {
        "crop_from_world": crop_from_world,
        "weights": weights,
        "points": np.stack([hand.in_crops for hand in hands]) + rng.normal(0, 0.01, (3, 4, 21, 3)),
        "world": np.stack([hand.points for hand in hands]),
        "normalized": np.stack([hand.normalized for hand in hands]) + rng.normal(0, 0.005, (3, 4, 21, 2)),
        "rotations": Rotation.random(3 * 4 * 16, rng=rng).as_matrix().reshape(3, 4, 16, 3, 3),
        "betas": rng.normal(size=(3, 4, 10)),
        "confidence": weights[..., None] * rng.uniform(0.2, 1, (3, 4, 21)),
    }


def assert_equal(found: Tensor, expected: FloatArray | NDArray[np.bool_]) -> None:
    assert found.shape == expected.shape
    np.testing.assert_allclose(found.detach(), expected, rtol=0, atol=EQUAL)


@pytest.mark.parametrize("calibrated", [True, False])
def test_fused_points_equal_the_twin(batch: dict[str, FloatArray], calibrated: bool) -> None:
    points, crop_from_world, weights = batch["points"], batch["crop_from_world"], batch["weights"]
    t = {key: torch.tensor(value) for key, value in batch.items()}
    if calibrated:
        expected_rotations = in_numpy.relative_rotations(crop_from_world)
        rotations = in_torch.relative_rotations(t["crop_from_world"])
    else:
        expected_rotations, rotations = (
            in_numpy.procrustes_rotations(points),
            in_torch.procrustes_rotations(t["points"]),
        )
    assert_equal(rotations, expected_rotations)
    expected = in_numpy.align_views(points, expected_rotations, weights > 0)
    similarity = in_torch.align_views(t["points"], rotations, t["weights"] > 0)
    assert_equal(similarity.rotation, expected.rotation)
    assert_equal(similarity.scale, expected.scale)
    assert_equal(similarity.translation, expected.translation)
    assert_equal(similarity.inverse().apply(t["points"][:, None]), expected.inverse().apply(points[:, None]))
    fused = in_numpy.fused_points(expected.apply(points[:, None]), weights)
    fused_torch = in_torch.fused_points(similarity.apply(t["points"][:, None]), t["weights"])
    assert_equal(fused_torch, fused)
    world = in_torch.fused_points_in_world(fused_torch, t["crop_from_world"], t["weights"])
    assert_equal(world, in_numpy.fused_points_in_world(fused, crop_from_world, weights))


def test_fused_parameters_equal_the_twin(batch: dict[str, FloatArray]) -> None:
    names = ("rotations", "betas", "crop_from_world", "weights")
    rotations, betas, crop_from_world, weights = (batch[name] for name in names)
    expected = in_numpy.fused_parameters(rotations, betas, crop_from_world[..., :3, :3].mT, weights)
    t = [torch.tensor(batch[name]) for name in names]
    found = in_torch.fused_parameters(t[0], t[1], t[2][..., :3, :3].mT, t[3])
    for a, b in zip(found, expected, strict=True):
        assert_equal(a, b)


@pytest.mark.parametrize("with_scale", [False, True])
@pytest.mark.parametrize("solver", ["solve_centre", "ransac_centre"])
def test_placements_equal_the_twin(batch: dict[str, FloatArray], solver: str, with_scale: bool) -> None:
    normalized = batch["normalized"].copy()
    normalized[1, 2] += 0.1
    normalized[2, :, 5] = np.nan
    arguments = (batch["world"], normalized, batch["crop_from_world"], batch["confidence"])
    expected = getattr(in_numpy, solver)(*arguments, with_scale)
    found = getattr(in_torch, solver)(*map(torch.tensor, arguments), with_scale)
    assert np.isfinite(expected.centre).all()
    assert_equal(found.centre, expected.centre)
    assert_equal(found.scale, expected.scale)
    assert_equal(found.inliers, expected.inliers)


def test_unknown_places_are_nan_in_both(batch: dict[str, FloatArray]) -> None:
    arguments = (batch["world"], batch["normalized"], batch["crop_from_world"], 0 * batch["confidence"])
    for solver in ("solve_centre", "ransac_centre"):
        assert np.isnan(getattr(in_numpy, solver)(*arguments).centre).all()
        assert getattr(in_torch, solver)(*map(torch.tensor, arguments)).centre.isnan().all()


def fused(points: Tensor, rotations: Tensor, weights: Tensor) -> Tensor:
    similarity = in_torch.align_views(points, rotations, weights > 0)
    return in_torch.fused_points(similarity.apply(points[..., None, :, :, :]), weights)


@pytest.mark.parametrize("calibrated", [True, False])
def test_single_precision_is_good_to_micrometres(calibrated: bool) -> None:
    views = views_of_a_hand(4)
    points = torch.tensor(views.in_crops, dtype=torch.float32)
    known = in_torch.relative_rotations(torch.tensor(views.crop_from_world, dtype=torch.float32))
    result = fused(points, known if calibrated else in_torch.procrustes_rotations(points), torch.ones(4))
    assert result.dtype == torch.float32
    np.testing.assert_allclose(result, views.in_crops, rtol=0, atol=1e-6)


@pytest.mark.parametrize("calibrated", [True, False])
def test_gradients_of_fused_points(calibrated: bool) -> None:
    views = views_of_a_hand(3, points=5)
    rng = np.random.default_rng(2)
    points = torch.tensor(views.in_crops * 10 + rng.normal(0, 0.1, views.in_crops.shape), requires_grad=True)
    known = in_torch.relative_rotations(torch.tensor(views.crop_from_world))
    weights = torch.tensor([1.0, 0.5, 2.0], dtype=torch.float64)

    def function(points: Tensor) -> Tensor:
        return fused(points, known if calibrated else in_torch.procrustes_rotations(points), weights)

    assert gradcheck(function, (points,))


def test_gradients_of_parameters_and_places() -> None:
    views = views_of_a_hand(3, points=4)
    rng = np.random.default_rng(3)
    rotations = torch.tensor(Rotation.from_rotvec(rng.normal(0, 0.5, (48, 3))).as_matrix().reshape(3, 16, 3, 3))
    betas = torch.tensor(rng.normal(size=(3, 10)))
    crop_from_world = torch.tensor(views.crop_from_world)
    weights = torch.tensor([1.0, 0.5, 2.0], dtype=torch.float64)
    to_world = crop_from_world[:, :3, :3].mT
    rotations.requires_grad_()
    betas.requires_grad_()
    assert gradcheck(lambda r, b: in_torch.fused_parameters(r, b, to_world, weights), (rotations, betas))

    normalized = torch.tensor(views.normalized + rng.normal(0, 0.005, views.normalized.shape), requires_grad=True)
    points = torch.tensor(views.points, requires_grad=True)
    ones = torch.ones(3, 4, dtype=torch.float64)
    assert gradcheck(lambda p, n: in_torch.solve_centre(p, n, crop_from_world, ones).centre, (points, normalized))
    # Nothing is an outlier here, so that only the weights by depth, 0.4 to 1 m, differ.
    robust = in_torch.ransac_centre(points, normalized, crop_from_world, ones, threshold=0.1)
    depth = (robust.centre + points) @ crop_from_world[:, 2, :3, None] + crop_from_world[:, 2:3, 3:]
    by_hand = in_torch.solve_centre(points, normalized, crop_from_world, depth.detach()[..., 0] ** -2)
    for a, b in zip(
        *(torch.autograd.grad(p.centre.sum(), (points, normalized)) for p in (robust, by_hand)), strict=True
    ):
        # The depths of the proposal differ from the final ones by some mm of 0.4 m, and are squared.
        torch.testing.assert_close(a, b, rtol=0.05, atol=0.01)


def test_gradients_are_finite_whatever_the_views_are() -> None:
    """Points in one place or on a line, equal views, mirror images, and views that are not valid."""
    line = torch.arange(6.0)[:, None] * torch.tensor([1.0, 2.0, 0.5])
    solid = torch.tensor(views_of_a_hand(1, points=6).in_crops[0], dtype=torch.float32)
    cases = [torch.zeros(6, 3), line, solid, solid, solid * torch.tensor([1.0, 1.0, -1.0]), -solid]
    points = torch.stack(cases).requires_grad_()
    crop_from_world = torch.eye(4).repeat(6, 1, 1)
    crop_from_world[5] = torch.nan
    weights = torch.tensor([1.0, 1.0, 1.0, 1.0, 1.0, 0.0])
    for rotations in (in_torch.procrustes_rotations(points), in_torch.relative_rotations(crop_from_world)):
        result = fused(points, rotations, weights)
        world = in_torch.fused_points_in_world(result, crop_from_world, weights)
        points.grad = None
        (result.square().sum() + world.square().sum()).backward()
        assert points.grad is not None
        assert result.isfinite().all()
        assert points.grad.isfinite().all()
        assert (points.grad[2] != 0).any()


def test_gradients_pass_by_unknown_places() -> None:
    views = views_of_a_hand(2, points=4)
    points = torch.tensor(views.points).expand(2, 4, 3).clone().requires_grad_()
    weights = torch.ones(2, 2, 4, dtype=torch.float64)
    weights[0] = 0
    normalized = torch.tensor(views.normalized).expand(2, 2, 4, 2).clone()
    normalized[0] = torch.nan
    placement = in_torch.solve_centre(
        points, normalized, torch.tensor(views.crop_from_world).expand(2, 2, 4, 4), weights
    )
    placement.centre[1].sum().backward()
    assert points.grad is not None
    assert points.grad.isfinite().all()
    assert (points.grad[1] != 0).any()
