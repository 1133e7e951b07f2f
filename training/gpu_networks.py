"""HaMuCo's networks as a GPU runs them: cut where our kernels take over, folded, and in half precision where it is safe.

The graphs that TensorRT gets, `hamuco.engine.device_graphs`, are cut at the same places.
"""

from __future__ import annotations

import math
from copy import deepcopy
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from hamuco.engine.hand_model import LANDMARKS
from hamuco.training.networks.backbones import Maps, resized
from hamuco.training.networks.hamuco import HaMuCo
from hamuco.training.networks.parameters import HandParameters


class DeviceNetworks(nn.Module):
    """A trained HaMuCo between the kernels.

    Attributes:
        dtype: of images, maps and what is sampled from them; what says where a hand is, is float32.
        sampled: channels of all maps that are sampled.
    """

    def __init__(self, network: HaMuCo, device: torch.device, dtype: torch.dtype, channels_last: bool = False) -> None:
        """
        Args:
            network: trained; it is not changed.
            device: to run on.
            dtype: float16, or float32 to compare with.
            channels_last: order of maps in memory; which is faster depends on the GPU and the backbone.
        """
        super().__init__()
        self.dtype = dtype
        self.estimator, self.interaction = deepcopy(network.estimator), deepcopy(network.interaction)
        self.sampled = sum(self.estimator.backbone.channels[:3])
        graph = self.interaction.graph
        convolution = graph.joint_maps[0]
        assert isinstance(convolution, nn.Conv2d)
        self._map_size = math.isqrt(graph.parts[1] * LANDMARKS // convolution.out_channels)
        self.eval().requires_grad_(False)
        _fold_normalization(self.estimator.backbone)
        self._memory = torch.channels_last if channels_last else torch.contiguous_format
        self.to(device)
        if channels_last:
            self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # which torch's annotations lack
        locator, interaction = self.estimator.locator, self.interaction
        halved = [self.estimator.backbone, graph, interaction.project, interaction.layers]
        halved += [interaction.head_graph, interaction.head]
        if locator is not None:  # what follows its softmax stays
            halved += [locator.lateral, locator.mix, locator.heat]
        for module in halved:
            module.to(dtype)

    def look(self, images: Tensor) -> tuple[HandParameters, Maps]:
        """`Estimator.forward` of images (n, 3, S, S) that the crop kernel has normalized."""
        estimator = self.estimator
        maps: Maps = estimator.backbone(images.contiguous(memory_format=self._memory))
        seen = maps[3].float().mean(dim=(2, 3))
        if estimator.locator is not None:
            seen = torch.cat([seen, estimator.locator(maps)[1]], dim=1)
        heads = (estimator.pose_head, estimator.shape_head, estimator.camera_head)
        return estimator.readout(torch.cat([head(seen) for head in heads], dim=-1)), maps

    def refine(self, last_map: Tensor, sampled: Tensor, hands: Tensor, valid: Tensor) -> HandParameters:
        """`Interaction.forward` with features that the sampler has found.

        Args:
            last_map: of the estimator, (n, ...).
            sampled: (n, 21, C) of the other maps.
            hands: (n, 63 + 90 + 1) float32: location (21, 3), fingers' rotations (15, 6) and half_angle of each.
            valid: (B, V) bool, n = B V.

        Returns:
            Parameters (B, V).
        """
        graph = self.interaction.graph
        embedded = graph.location(hands.to(self.dtype)).unflatten(1, (LANDMARKS, -1))
        maps = resized(graph.joint_maps(last_map), self._map_size)
        own = maps.flatten(2).unflatten(1, (LANDMARKS, -1)).flatten(2)
        tokens = self.interaction.project(torch.cat([own, sampled, embedded], dim=2))
        parameters: HandParameters = self.interaction.refine(tokens.unflatten(0, valid.shape), valid)
        return parameters


def _fold_normalization(module: nn.Module) -> None:
    """Batch normalization into the convolution that is registered just before it, as in all our backbones.

    In single precision, before anything is rounded; what normalizes something else stays as it is.
    """
    for (name, child), (after, normalization) in pairwise(list(module.named_children())):
        if isinstance(child, nn.Conv2d) and type(normalization) is nn.BatchNorm2d:
            setattr(module, name, fuse_conv_bn_eval(child, normalization))
            setattr(module, after, nn.Identity())
    for child in module.children():
        _fold_normalization(child)
