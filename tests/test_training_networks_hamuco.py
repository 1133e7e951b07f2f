"""Both networks together, with the free hand."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from synthetic_hand import synthetic_hand
from torch import Tensor

from hamuco.engine.hamuco import ROOT
from hamuco.engine.hand_model import HandModel, load_hand_model
from hamuco.engine.skinning import forward
from hamuco.training.batch import Batch, Views
from hamuco.training.networks.estimator import EstimatorConfig
from hamuco.training.networks.hamuco import HaMuCo, HaMuCoConfig, HaMuCoOutput, default_config
from hamuco.training.networks.interaction import InteractionConfig
from hamuco.training.networks.parameters import OUTPUTS
from hamuco.training.networks.prediction import HandPrediction
from hamuco.training.validation import fused_joints

SMALL = HaMuCoConfig(
    EstimatorConfig("mobile", 64, head_width=32),
    InteractionConfig(location_width=4, joint_maps=2, map_size=2, width=32, readout_width=8),
)
VALID = torch.tensor([[True, True, False], [True, True, True]])
# Outputs of about 1 (metres, radians, half crops) through some 50 layers in single precision, 6e-8.
ROUNDING = 2e-5


@pytest.fixture(scope="module")
def hand_model() -> HandModel:
    return load_hand_model()


@pytest.fixture
def network(hand_model: HandModel) -> HaMuCo:
    """Not at its beginning: hands differ visibly, and batch statistics are those of the crops."""
    torch.manual_seed(0)
    network = HaMuCo(SMALL, hand_model)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.ones_(module.weight)
            module.momentum = 1.0
        if isinstance(module, torch.nn.Linear):
            torch.nn.init.xavier_uniform_(module.weight)
    with torch.no_grad():
        network(_views(torch.ones(2, 3, dtype=torch.bool)))
    return network.eval()


def _views(valid: Tensor, size: int = 64) -> Views:
    generator = torch.Generator().manual_seed(int(valid.sum()) + size)
    images = torch.randint(0, 256, (*valid.shape, size, size, 3), dtype=torch.uint8, generator=generator)
    return Views(images, valid, 0.3 * torch.rand(valid.shape, generator=generator))


def _tensors(hands: HandPrediction) -> Iterator[Tensor]:
    return (getattr(hands, field.name) for field in fields(hands))


def _assert_close(one: HaMuCoOutput, other: HaMuCoOutput, where: Tensor) -> None:
    for first, second in ((one.single, other.single), (one.refined, other.refined)):
        assert first is not None
        assert second is not None
        for a, b in zip(_tensors(first), _tensors(second), strict=True):
            torch.testing.assert_close(a[where], b[where], rtol=0, atol=ROUNDING)


@pytest.mark.parametrize(("samples", "views", "size"), [(2, 1, 64), (1, 2, 96), (2, 5, 64)])
def test_any_number_of_views_of_any_size(network: HaMuCo, samples: int, views: int, size: int) -> None:
    seen = _views(torch.ones(samples, views, dtype=torch.bool), size)
    with torch.no_grad():
        output = network(seen)
        alone = network(seen, refine=False).single
    vertices = len(network.hand.v_template) // 3
    shapes = [(16, 3, 3), (10,), (3,), (vertices, 3), (21, 3), (21, 2)]
    for hands in (output.single, output.refined):
        for tensor, shape in zip(_tensors(hands), shapes, strict=True):
            assert tensor.shape == (samples, views, *shape)
            assert tensor.isfinite().all()
        assert torch.equal(hands.joints[..., ROOT, :], torch.zeros(samples, views, 3))
    assert all(torch.equal(a, b) for a, b in zip(_tensors(alone), _tensors(output.single), strict=True))


def test_views_change_places_without_changing_anything(network: HaMuCo) -> None:
    views, order = _views(VALID), torch.tensor([2, 0, 1])
    moved = Views(views.images[:, order], views.valid[:, order], views.half_angle[:, order])
    with torch.no_grad():
        one, other = network(views), network(moved)
    back = order.argsort()
    single, refined = (
        HandPrediction(*(t[:, back] for t in _tensors(hands))) for hands in (other.single, other.refined)
    )
    restored = HaMuCoOutput(single, refined)
    _assert_close(one, restored, VALID)


@pytest.mark.parametrize("calibrated", [True, False])
def test_the_fused_hand_does_not_depend_on_the_order_of_the_views(network: HaMuCo, calibrated: bool) -> None:
    views, order = _views(VALID), torch.tensor([2, 0, 1])
    pose = torch.eye(4).repeat(2, 3, 1, 1)
    pose[..., :3, :3] = torch.linalg.qr(torch.randn(2, 3, 3, 3, generator=torch.Generator().manual_seed(1)))[0]
    pose[..., :3, :3] *= torch.linalg.det(pose[..., :3, :3])[..., None, None]
    labels = torch.zeros(2, 3, 21, 2), torch.zeros(2, 3, 21)
    truth = torch.zeros(2, 21, 3), torch.zeros(2, 16, 3, 3), torch.zeros(2, 10)
    moved = Views(views.images[:, order], views.valid[:, order], views.half_angle[:, order])
    fused = []
    for seen, poses in ((views, pose), (moved, pose[:, order])):
        with torch.no_grad():
            refined = network(seen).refined
        assert refined is not None
        fused.append(fused_joints(refined, Batch(seen, poses, *labels, *truth), calibrated))
    assert fused[0].shape == (2, 3, 21, 3)
    # In the axes of each view, which have changed places as well.
    torch.testing.assert_close(fused[0][VALID], fused[1][:, order.argsort()][VALID], rtol=0, atol=ROUNDING)


def test_another_hand_in_manos_layout_is_posed() -> None:
    torch.manual_seed(0)
    hand = synthetic_hand()
    with torch.no_grad():
        output = HaMuCo(SMALL, hand).eval()(_views(VALID))
    for hands in (output.single, output.refined):
        assert hands.vertices.shape == (2, 3, len(hand.v_template), 3)
        assert hands.joints.shape == (2, 3, 21, 3)
        assert hands.vertices.shape[2] + hands.joints.shape[2] == 84 + 21  # the points that views agree by


@pytest.mark.parametrize("training", [False, True])
def test_left_out_views_have_no_influence_and_finite_values(network: HaMuCo, training: bool) -> None:
    """In training least of all through batch statistics."""
    network.train(training)
    views = _views(VALID)
    images, half_angle = views.images.clone(), views.half_angle.clone()
    images[0, 2], half_angle[0, 2] = 255, torch.nan
    outputs = []
    for seen in (views, Views(images, VALID, half_angle)):
        torch.manual_seed(1)  # which views are hidden in training
        outputs.append(network(seen))
    _assert_close(outputs[0], outputs[1], VALID)
    for hands in (outputs[1].single, outputs[1].refined):
        assert all(tensor.isfinite().all() for tensor in _tensors(hands))
    outputs[1].refined.vertices.square().sum().backward()
    assert all(p.grad.isfinite().all() for p in network.parameters() if p.grad is not None)


def test_leaving_a_view_out_is_as_if_it_were_not_there(network: HaMuCo) -> None:
    views = _views(VALID)
    fewer = Views(views.images[:1, :2], VALID[:1, :2], views.half_angle[:1, :2])
    with torch.no_grad():
        one, other = network(views).refined, network(fewer).refined
    for a, b in zip(_tensors(one), _tensors(other), strict=True):
        torch.testing.assert_close(a[:1, :2], b, rtol=0, atol=ROUNDING)


def test_gradients_reach_the_backbone_from_the_refined_hands_but_not_through_their_shape(network: HaMuCo) -> None:
    output = network.train()(_views(VALID))
    assert not output.refined.betas.requires_grad
    assert torch.equal(output.refined.betas, output.single.betas)
    assert output.single.betas.requires_grad
    output.refined.joints[VALID].square().sum().backward()
    gradients = [parameter.grad for parameter in network.estimator.backbone.parameters()]
    assert all(gradient is not None and (gradient != 0).any() for gradient in gradients)


def test_zero_outputs_are_the_mean_hand(network: HaMuCo, hand_model: HandModel) -> None:
    hands = network.decode(network.estimator.readout(torch.zeros(1, OUTPUTS)), torch.zeros(1))
    zeros = np.zeros(3), np.zeros(45), np.zeros(10), np.zeros(3)
    expected = forward(hand_model, *zeros)
    assert expected.vertices is not None
    root = expected.landmarks[ROOT]
    # Metres of about 0.1, sums of a few dozen terms in single precision.
    np.testing.assert_allclose(hands.joints[0], expected.landmarks - root, rtol=0, atol=1e-6)
    np.testing.assert_allclose(hands.vertices[0], expected.vertices - root, rtol=0, atol=1e-6)
    np.testing.assert_allclose(hands.rotations[0, 0], np.eye(3), rtol=0, atol=1e-6)
    np.testing.assert_allclose(hands.pixels[0], 5 * hands.joints[0, :, :2], rtol=0, atol=1e-5)


def test_hands_are_single_precision_under_autocast(network: HaMuCo) -> None:
    views = _views(VALID)
    with torch.no_grad():
        exact = network(views)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output = network(views)
            parameters = network.estimator.readout(torch.randn(4, OUTPUTS))
            inside = network.decode(parameters, torch.full((4,), 0.2))
        outside = network.decode(parameters, torch.full((4,), 0.2))
    for hands in (output.single, output.refined):
        assert {tensor.dtype for tensor in _tensors(hands)} == {torch.float32}
        product = hands.rotations @ hands.rotations.transpose(-1, -2)
        torch.testing.assert_close(product, torch.eye(3).expand_as(product), rtol=0, atol=1e-5)
    assert all(torch.equal(a, b) for a, b in zip(_tensors(inside), _tensors(outside), strict=True))
    # bfloat16 rounds by 0.4 %; from some 50 layers, all in one direction, a fifth of a hand of 0.1 m.
    assert (output.single.joints - exact.single.joints)[VALID].abs().max() < 0.02


def test_without_a_known_camera_hands_are_seen_in_weak_perspective(network: HaMuCo) -> None:
    views = replace(_views(VALID), half_angle=torch.zeros(VALID.shape))
    with torch.no_grad():
        hands = network(views).refined
    scale, shift = hands.camera[..., None, :1], hands.camera[..., None, 1:]
    torch.testing.assert_close(hands.pixels, scale * hands.joints[..., :2] + shift)


@pytest.mark.parametrize(
    ("name", "size", "millions"), [("hamuco-s", 128, None), ("hamuco-r18", 256, 32.54), ("hamuco-r50", 256, 134.68)]
)
def test_the_configurations_are_of_the_right_size(
    hand_model: HandModel, name: str, size: int, millions: float | None
) -> None:
    config = default_config(name)
    with torch.device("meta"):
        network = HaMuCo(config, hand_model)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    assert config.estimator.image_size == size
    if millions is None:
        assert 2 * parameters < 7.6e6  # bytes in half precision, of 8 MB that the bundle may have
    else:
        assert round(parameters / 1e6, 2) == millions


def test_an_unknown_configuration_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match="'hamuco-xl'; known are hamuco-s, hamuco-r18, hamuco-r50"):
        default_config("hamuco-xl")
