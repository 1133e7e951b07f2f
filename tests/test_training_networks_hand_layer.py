"""The hand model as a layer against the numpy reference, and its gradients."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from synthetic_hand import synthetic_hand
from torch import Tensor
from torch.autograd import gradcheck

from hamuco.engine.hand_model import HandModel
from hamuco.engine.skinning import forward, pose_rotations
from hamuco.training.networks.hand_layer import HandLayer
from hamuco.training.networks.rotations import matrix_to_6d, rotation_6d_to_matrix

FloatArray = NDArray[np.float64]

# The layer keeps the model's numbers in single precision (2^-24 = 6e-8); sums of 10 shape terms of 0.1 m stay within:
SINGLE_PRECISION_M = 1e-7


@pytest.fixture(scope="module")
def with_posedirs(free_hand: HandModel) -> HandModel:
    rng = np.random.default_rng(3)
    return replace(
        free_hand,
        v_template=rng.normal(0, 0.05, free_hand.v_template.shape),
        shapedirs=rng.normal(0, 0.003, free_hand.shapedirs.shape),
        posedirs=rng.normal(0, 0.003, (len(free_hand.v_template), 3, 135)),
        pose_mean=rng.normal(0, 0.3, 45),
    )


@pytest.fixture(scope="module")
def mano_layout() -> HandModel:
    """Another hand than the one that trainings load: 84 vertices, a mean pose of its own, and corrections by pose."""
    hand = synthetic_hand()
    return replace(hand, posedirs=np.random.default_rng(4).normal(0, 0.003, (len(hand.v_template), 3, 135)))


def random_hands(model: HandModel, seed: int, *leading: int) -> tuple[FloatArray, FloatArray, FloatArray]:
    rng = np.random.default_rng(seed)
    return rng.normal(0, 1.0, (*leading, 3)), rng.normal(0, 0.3, (*leading, 45)), rng.normal(0, 1.0, (*leading, 10))


def posed(layer: HandLayer, model: HandModel, orient: FloatArray, pose: FloatArray, betas: FloatArray) -> list[Tensor]:
    rotations = torch.tensor(pose_rotations(model, orient, pose))
    return [part.detach() for part in layer(rotations, torch.tensor(betas))]


@pytest.mark.parametrize("leading", [(), (3,), (2, 4)])
@pytest.mark.parametrize("name", ["free_hand", "with_posedirs", "mano_layout"])
def test_equals_the_reference(name: str, leading: tuple[int, ...], request: pytest.FixtureRequest) -> None:
    model: HandModel = request.getfixturevalue(name)
    orient, pose, betas = random_hands(model, 5, *leading)
    expected = forward(model, orient, pose, betas, np.zeros(3))
    vertices, joints, landmarks = posed(HandLayer(model).double(), model, orient, pose, betas)
    assert expected.vertices is not None
    for found, reference in ((vertices, expected.vertices), (joints, expected.joints), (landmarks, expected.landmarks)):
        assert found.shape == reference.shape
        np.testing.assert_allclose(found, reference, rtol=1e-6, atol=SINGLE_PRECISION_M)


def test_single_precision_is_good_to_micrometres(free_hand: HandModel) -> None:
    orient, pose, betas = random_hands(free_hand, 6, 16)
    expected = forward(free_hand, orient, pose, betas, np.zeros(3))
    vertices, _, landmarks = posed(HandLayer(free_hand), free_hand, orient, pose, betas)
    assert vertices.dtype == torch.float32
    assert expected.vertices is not None
    np.testing.assert_allclose(vertices, expected.vertices, rtol=0, atol=1e-6)
    np.testing.assert_allclose(landmarks, expected.landmarks, rtol=0, atol=1e-6)


def test_autocast_does_not_take_precision_away(free_hand: HandModel) -> None:
    orient, pose, betas = random_hands(free_hand, 7, 4)
    layer = HandLayer(free_hand)
    plain = posed(layer, free_hand, orient, pose, betas)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        halved = posed(layer, free_hand, orient, pose, betas)
    for a, b in zip(plain, halved, strict=True):
        assert torch.equal(a, b)


def test_zero_6d_residual_is_the_mean_hand(free_hand: HandModel) -> None:
    layer = HandLayer(free_hand)
    six = matrix_to_6d(layer.mean_rotations)
    vertices, _, _ = layer(rotation_6d_to_matrix(six), torch.zeros(10))
    mean = forward(free_hand, np.zeros(3), np.zeros(45), np.zeros(10), np.zeros(3))
    assert mean.vertices is not None
    np.testing.assert_allclose(vertices, mean.vertices, rtol=0, atol=1e-6)
    np.testing.assert_allclose(layer.pose_mean, free_hand.pose_mean, rtol=1e-6)


def test_the_first_rotation_turns_the_hand_about_its_wrist(free_hand: HandModel) -> None:
    orient, pose, betas = random_hands(free_hand, 8)
    layer = HandLayer(free_hand).double()
    vertices, joints, _ = posed(layer, free_hand, orient, pose, betas)
    rotations = torch.tensor(pose_rotations(free_hand, orient, pose))
    turn = rotations[0].clone()
    rotations[0] = torch.eye(3)
    unturned, still, _ = layer(rotations, torch.tensor(betas))
    # Skinning weights rounded to single precision sum to 1 within 1e-7, times the wrist's few mm from the origin.
    torch.testing.assert_close(vertices, (unturned - still[0]) @ turn.T + still[0], rtol=0, atol=1e-9)
    torch.testing.assert_close(joints[0], still[0])


def test_gradients(with_posedirs: HandModel) -> None:
    orient, pose, betas = random_hands(with_posedirs, 9, 1)
    rotations = torch.tensor(pose_rotations(with_posedirs, orient, pose), requires_grad=True)
    shape = torch.tensor(betas, requires_grad=True)
    layer = HandLayer(with_posedirs).double()

    def some_points(rotations: Tensor, shape: Tensor) -> Tensor:
        vertices, joints, landmarks = layer(rotations, shape)
        return torch.cat([vertices[:, ::400], joints, landmarks], dim=1)

    assert gradcheck(some_points, (rotations, shape))


def test_the_state_holds_no_hand_model(free_hand: HandModel) -> None:
    assert not HandLayer(free_hand).state_dict()
    assert not list(HandLayer(free_hand).parameters())
