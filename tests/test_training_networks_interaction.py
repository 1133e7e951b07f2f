"""The interaction network: its features, its graph convolutions, and which view hears of which."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hamuco.training.networks.backbones import Maps
from hamuco.training.networks.interaction import (
    AdaptiveGraphConvolution,
    GraphFeatures,
    Interaction,
    InteractionConfig,
    random_views,
)
from hamuco.training.networks.parameters import OUTPUTS

MEAN_POSE = torch.tensor([1.0, 0, 0, 1, 0, 0]).expand(16, 6)
RESNET18, RESNET50 = (64, 128, 256, 512), (256, 512, 1024, 2048)
SMALL = InteractionConfig(location_width=4, joint_maps=2, map_size=2, width=16, readout_width=4)
CHANNELS = (4, 6, 8, 12)


def _maps(count: int, channels: tuple[int, int, int, int], size: int) -> Maps:
    first, second, third, fourth = (
        torch.randn(count, depth, size // stride, size // stride)
        for depth, stride in zip(channels, (4, 8, 16, 32), strict=True)
    )
    return first, second, third, fourth


def _small(config: InteractionConfig = SMALL) -> Interaction:
    torch.manual_seed(0)
    network = Interaction(config, CHANNELS, MEAN_POSE)
    last = network.head[-1]
    assert isinstance(last, torch.nn.Linear)
    torch.nn.init.xavier_uniform_(last.weight)  # otherwise all views' hands are nearly the mean hand at first
    return network


@pytest.mark.parametrize(("channels", "sampled"), [(RESNET18, 448), (RESNET50, 1792)])
def test_features_are_as_wide_as_in_the_paper(channels: tuple[int, int, int, int], sampled: int) -> None:
    with torch.device("meta"):
        features = GraphFeatures(InteractionConfig(), channels)
    assert features.parts == (64, 512, sampled)
    assert features.width == 576 + sampled  # D = 1024 for ResNet-18, 2368 for ResNet-50


@pytest.mark.parametrize(("channels", "millions"), [(RESNET18, 20.52), (RESNET50, 98.36)])
def test_the_network_is_of_the_papers_size(channels: tuple[int, int, int, int], millions: float) -> None:
    with torch.device("meta"):
        network = Interaction(InteractionConfig(), channels, MEAN_POSE)
    last = network.head[-1]
    assert isinstance(last, torch.nn.Linear)
    assert last.out_features == OUTPUTS == 109
    # The field of view, which the paper's code does not know, adds 1344 weights: 0.0013 M.
    assert round(sum(parameter.numel() for parameter in network.parameters()) / 1e6, 2) == millions


@pytest.mark.parametrize("size", [64, 96, 160])
def test_maps_of_any_size_make_tokens_of_one_size(size: int) -> None:
    network = _small()
    location = torch.rand(3, 21, 3)
    assert network.nodes(_maps(3, CHANNELS, size), location, torch.zeros(3, 16, 6), torch.zeros(3)).shape == (3, 21, 16)


def test_a_map_is_sampled_where_the_joints_are() -> None:
    features = GraphFeatures(SMALL, CHANNELS)
    maps = _maps(1, CHANNELS, 64)
    for level in maps[:3]:
        size = level.shape[-1]
        # Each cell holds the u, then the v, of its centre: bilinear sampling between centres gives u, v back.
        centres = (2 * torch.arange(size) + 1) / size - 1
        level[0, 0], level[0, 1] = centres.expand(size, size), centres[:, None].expand(size, size)
    location = torch.rand(1, 21, 3) * 1.4 - 0.7  # inside the centres of the coarsest map, 4 cells: 0.75
    out = features(maps, location, torch.zeros(1, 16, 6), torch.zeros(1))
    own, start = features.parts[1], features.parts[1]
    for channels in CHANNELS[:3]:
        torch.testing.assert_close(out[..., start : start + 2], location[..., :2])
        start += channels
    assert start == own + features.parts[2]


def test_each_joint_has_maps_of_its_own() -> None:
    features = GraphFeatures(SMALL, CHANNELS)
    maps = _maps(1, CHANNELS, 64)
    convolution = features.joint_maps[0]
    assert isinstance(convolution, torch.nn.Conv2d)
    out = features(maps, torch.zeros(1, 21, 3), torch.zeros(1, 16, 6), torch.zeros(1))
    with torch.no_grad():
        convolution.weight[6:8] += 1  # of joint 3, with two maps per joint
    changed = features(maps, torch.zeros(1, 21, 3), torch.zeros(1, 16, 6), torch.zeros(1)) != out
    assert changed.any(dim=2)[0].nonzero().flatten().tolist() == [3]
    assert not changed[..., features.parts[1] :].any()


def test_where_to_look_is_not_learnt() -> None:
    features = GraphFeatures(SMALL, CHANNELS)
    maps = tuple(level.requires_grad_() for level in _maps(2, CHANNELS, 64))
    location = (torch.rand(2, 21, 3) - 0.5).requires_grad_()
    out = features(maps, location, torch.zeros(2, 16, 6), torch.zeros(2))
    sampled = out[..., : -features.parts[0]].square().sum()
    (through_samples,) = torch.autograd.grad(sampled, location, retain_graph=True, allow_unused=True)
    assert through_samples is None or not through_samples.any()
    (through_embedding,) = torch.autograd.grad(out.square().sum(), location, retain_graph=True)
    assert (through_embedding != 0).any()
    assert all((gradient != 0).any() for gradient in torch.autograd.grad(out.square().sum(), maps))


def test_a_graph_convolution_begins_as_a_linear_layer() -> None:
    convolution = AdaptiveGraphConvolution(5, 7)
    x = torch.rand(2, 3, 21, 5)
    # The divisor is 1e-5 more than 1, on sums of five products below 0.5.
    torch.testing.assert_close(convolution(x), convolution.linear(x), rtol=0, atol=2.5e-5)


def test_rows_that_sum_to_zero_do_no_harm() -> None:
    convolution = AdaptiveGraphConvolution(5, 7)
    with torch.no_grad():
        convolution.adjacency[0, :2] = torch.tensor([1.0, -1.0 - 1e-5])  # with the divisor's 1e-5: exactly zero
        convolution.adjacency[1] = 0
    x = torch.rand(2, 21, 5)
    out = convolution(x)
    # Rows have an absolute sum of at most 1, so a joint's mixture is no larger than the largest of its parts.
    bound = convolution.linear.weight.abs().sum(dim=1) + convolution.linear.bias.abs()
    assert (out.abs() <= bound + 1e-6).all()
    out.sum().backward()
    assert convolution.adjacency.grad is not None
    assert convolution.adjacency.grad.isfinite().all()


def test_views_change_places_without_changing_anything() -> None:
    network = _small().eval()
    nodes, valid = torch.randn(2, 5, 21, 16), torch.tensor([[1, 1, 0, 1, 1], [1, 1, 1, 1, 1]], dtype=torch.bool)
    order = torch.tensor([3, 0, 4, 2, 1])
    one, other = network.refine(nodes, valid), network.refine(nodes[:, order], valid[:, order])
    torch.testing.assert_close(other.pose, one.pose[:, order], rtol=0, atol=1e-5)  # sums in another order
    torch.testing.assert_close(other.camera, one.camera[:, order], rtol=0, atol=1e-5)


def test_views_hear_of_each_other() -> None:
    network = _small().eval()
    nodes = torch.randn(1, 3, 21, 16).requires_grad_()
    pose = network.refine(nodes, torch.ones(1, 3, dtype=torch.bool)).pose
    (gradient,) = torch.autograd.grad(pose[0, 0].square().sum(), nodes)
    assert (gradient.abs().amax(dim=(0, 2, 3)) > 0).all()


def test_with_one_view_the_shared_branch_is_a_plain_graph_convolution() -> None:
    network = _small().eval()
    layer = network.layers[0]
    x, valid = torch.randn(2, 1, 21, 16), torch.ones(2, 1, dtype=torch.bool)
    attended = layer.get_submodule("attention")(x, valid[..., None])
    torch.testing.assert_close(layer(x, valid) - attended, layer.get_submodule("shared")(x), rtol=0, atol=1e-5)


def test_left_out_views_reach_nobody_not_even_as_not_a_number() -> None:
    network = _small().eval()
    nodes, valid = torch.randn(1, 4, 21, 16), torch.tensor([[True, False, True, False]])
    garbage = nodes.clone()
    garbage[:, 1], garbage[:, 3] = torch.nan, 1e30
    one, other = network.refine(nodes, valid), network.refine(garbage, valid)
    assert torch.equal(one.pose, other.pose)
    assert one.pose.isfinite().all()
    fewer = network.refine(nodes[:, [0, 2]], valid[:, [0, 2]])
    torch.testing.assert_close(fewer.pose, one.pose[:, [0, 2]], rtol=0, atol=1e-5)


def test_no_view_at_all_gives_finite_hands_and_gradients() -> None:
    network = _small()
    nodes = torch.randn(2, 3, 21, 16).requires_grad_()
    parameters = network.refine(nodes, torch.tensor([[False, False, False], [True, False, False]]))
    parameters.pose.sum().backward()
    assert parameters.pose.isfinite().all()
    assert parameters.camera.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in network.parameters() if parameter.grad is not None)


def test_views_are_hidden_in_training_only() -> None:
    nodes, valid = torch.randn(2, 6, 21, 16), torch.ones(2, 6, dtype=torch.bool)

    def twice(network: Interaction) -> tuple[Tensor, Tensor]:
        return network.refine(nodes, valid).pose, network.refine(nodes, valid).pose

    still = InteractionConfig(4, 2, 2, width=16, readout_width=4, dropout=0)
    one, other = twice(_small(still).train())
    assert not torch.equal(one, other)
    one, other = twice(_small(still).eval())
    assert torch.equal(one, other)
    without = InteractionConfig(4, 2, 2, width=16, readout_width=4, dropout=0, random_views=False)
    assert torch.equal(twice(_small(without).train())[0], one)


def test_random_views_are_of_every_number_and_only_candidates() -> None:
    torch.manual_seed(0)
    candidates = torch.tensor([True, True, False, True, True]).expand(4000, 5)
    drawn = random_views(candidates, torch.full((4000,), 4))
    assert not drawn[:, 2].any()
    # Numbers 1 to 4 with probability 1/4 each: 1000 of 4000, with a standard deviation of 27; five of them.
    counts = torch.bincount(drawn.sum(dim=1), minlength=6).tolist()
    assert counts[0] == counts[5] == 0
    assert all(abs(count - 1000) < 135 for count in counts[1:5])
    # A candidate is drawn with probability (1 + 2 + 3 + 4) / 16 = 5/8: 2500, standard deviation 31.
    assert all(abs(count - 2500) < 155 for count in drawn[:, [0, 1, 3, 4]].sum(dim=0).tolist())
    always = torch.tensor([False, False, False, True, False])
    assert random_views(candidates, torch.full((4000,), 4), first=always)[:, 3].all()


def test_heads_have_to_divide_the_token() -> None:
    with pytest.raises(ValueError, match="4 attention heads do not divide a token of 18 features"):
        Interaction(InteractionConfig(width=18), CHANNELS, MEAN_POSE)


@pytest.mark.parametrize("missing", ["attention", "shared"])
def test_views_hear_of_each_other_by_either_branch_alone(missing: str) -> None:
    config = InteractionConfig(4, 2, 2, width=16, readout_width=4, **{missing: False})
    network = _small(config).eval()
    assert not any(missing in name for name, _ in network.layers.named_parameters())
    nodes = torch.randn(1, 3, 21, 16).requires_grad_()
    pose = network.refine(nodes, torch.ones(1, 3, dtype=torch.bool)).pose
    (gradient,) = torch.autograd.grad(pose[0, 0].square().sum(), nodes)
    assert (gradient.abs().amax(dim=(0, 2, 3)) > 0).all()


def test_without_any_branch_there_is_no_interaction() -> None:
    with pytest.raises(ValueError, match="the views would not see each other"):
        InteractionConfig(attention=False, shared=False)
