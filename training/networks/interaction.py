"""The cross-view interaction network of HaMuCo (Zheng et al., ICCV 2023): views of one hand improve each other.

Each view becomes a graph of 21 joints (VSGFE); the graphs of all views exchange what they know, by attention and by a
graph convolution whose maximum over the views comes back to each of them (DCVI); a head reads each view's hand out.
Any number of views, in any order; what is in a view that is not valid reaches no other.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hamuco.engine.hand_model import JOINTS, LANDMARKS
from hamuco.training.networks.backbones import Maps, resized
from hamuco.training.networks.parameters import OUTPUTS, HandParameters, ParameterReadout, start_at_zero


@dataclass(frozen=True, slots=True)
class InteractionConfig:
    """Defaults are the paper's, but for `random_views`, which its code has and does not use.

    Attributes:
        location_width: features per joint of where the single-view hand is.
        joint_maps: feature maps that belong to each joint alone.
        map_size: width and height that these are brought to; 8 is what crops of 256 px have.
        width: of a joint's token, to which its features are projected; None for no projection.
        layers: of interaction.
        heads: of attention; the token's width is a multiple of it.
        readout_width: features per joint that the head reads the hand from.
        dropout: in graph convolutions.
        random_views: hide random views in training, from each layer others, so that any number of views will do.
        attention: have the branch in which the joints of all views attend to each other.
        shared: have the branch whose maximum over the views comes back to each of them.
    """

    location_width: int = 64
    joint_maps: int = 8
    map_size: int = 8
    width: int | None = None
    layers: int = 2
    heads: int = 4
    readout_width: int = 32
    dropout: float = 0.1
    random_views: bool = True
    attention: bool = True
    shared: bool = True

    def __post_init__(self) -> None:
        if not self.attention and not self.shared:
            raise ValueError("attention and shared are both off: the views would not see each other")


class Interaction(nn.Module):
    """Single-view hands and feature maps -> tokens (`nodes`) -> refined parameters (`refine`); their shape is not meant to
    be used."""

    def __init__(self, config: InteractionConfig, channels: tuple[int, int, int, int], mean_pose: Tensor) -> None:
        """`channels`: of the maps. `mean_pose`: as `ParameterReadout` takes it."""
        super().__init__()
        self.graph = GraphFeatures(config, channels)
        width = config.width or self.graph.width
        if width % config.heads:
            raise ValueError(f"{config.heads} attention heads do not divide a token of {width} features")
        self.project = nn.Identity() if config.width is None else nn.Linear(self.graph.width, width)
        self.layers = nn.ModuleList(_InteractionLayer(width, config) for _ in range(config.layers))
        self.head_graph = _GraphConvolutions(width, config.readout_width, config.dropout)
        flat = LANDMARKS * config.readout_width
        last = nn.Linear(flat, OUTPUTS)
        start_at_zero(last)
        self.head = nn.Sequential(nn.Linear(flat, flat), nn.LeakyReLU(0.1), last)
        self.readout = ParameterReadout(mean_pose)

    def nodes(self, maps: Maps, location: Tensor, pose: Tensor, half_angle: Tensor) -> Tensor:
        """Tokens (N, 21, D) of crops, each on its own.

        Args:
            maps: of the estimator.
            location: (N, 21, 3) of the single-view joints: u, v, and depth behind the root in units of 0.2 m.
            pose: (N, 16, 6) of the estimator.
            half_angle: (N,) tangent of half the crop's field of view, 0 where not known.
        """
        tokens: Tensor = self.project(self.graph(maps, location, pose, half_angle))
        return tokens

    def refine(self, nodes: Tensor, valid: Tensor) -> HandParameters:
        """Parameters (B, V) from tokens (B, V, 21, D) and `valid` (B, V); finite also for views that are not valid."""
        # Where there is no view at all, all count: maxima over nothing would not be finite.
        valid = valid | ~valid.any(dim=1, keepdim=True)
        x = torch.where(valid[..., None, None], nodes, 0.0)
        for layer in self.layers:
            x = layer(x, valid)
        read = self.head_graph(x).flatten(-2)
        parameters: HandParameters = self.readout(self.head(read))
        return parameters


class GraphFeatures(nn.Module):
    """View-shared graph feature extraction (VSGFE): D features for each of the 21 joints of a crop.

    Attributes:
        parts: features from the location embedding (G1), from maps of the joint's own (G2), and sampled (G3).
        width: their sum.
    """

    def __init__(self, config: InteractionConfig, channels: tuple[int, int, int, int]) -> None:
        super().__init__()
        self._map_size = config.map_size
        self.parts = (config.location_width, config.joint_maps * config.map_size**2, sum(channels[:3]))
        self.width = sum(self.parts)
        known = 3 * LANDMARKS + 6 * (JOINTS - 1) + 1
        hidden = LANDMARKS * config.location_width
        self.location = nn.Sequential(nn.Linear(known, hidden), nn.LeakyReLU(0.1), nn.Linear(hidden, hidden))
        self.joint_maps = nn.Sequential(
            nn.Conv2d(channels[3], LANDMARKS * config.joint_maps, kernel_size=1), nn.LeakyReLU(0.1)
        )

    def forward(self, maps: Maps, location: Tensor, pose: Tensor, half_angle: Tensor) -> Tensor:
        known = torch.cat([location.flatten(1), pose[:, 1:].flatten(1), half_angle[:, None]], dim=1)
        embedded = self.location(known).unflatten(1, (LANDMARKS, -1))
        own = resized(self.joint_maps(maps[3]), self._map_size).flatten(2).unflatten(1, (LANDMARKS, -1)).flatten(2)
        # Detached, as in the paper: where to look is not learnt from what is found there.
        at = location[:, :, None, :2].detach()  # (N, 21, 1, 2)
        sampled = [F.grid_sample(level.float(), at, align_corners=False)[..., 0] for level in maps[:3]]
        return torch.cat([own, torch.cat(sampled, dim=1).transpose(1, 2), embedded], dim=2)


class _InteractionLayer(nn.Module):
    """Dual-branch cross-view interaction (DCVI): attention over the joints of all views, plus what all views share."""

    def __init__(self, width: int, config: InteractionConfig) -> None:
        super().__init__()
        self._random_views = config.random_views
        self.attention = _Attention(width, config.heads) if config.attention else None
        self.shared = _GraphConvolutions(width, width, config.dropout) if config.shared else None

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        """Tokens (B, V, 21, D) and which views are valid (B, V), in each sample one at least."""
        views = valid.shape[1]
        itself = torch.eye(views, dtype=torch.bool, device=valid.device)
        pooled, visible = valid, valid[:, None, :] | itself
        if self.training and self._random_views:
            present = valid.sum(dim=1)
            pooled = random_views(valid, present)
            visible = random_views(visible, present[:, None].expand_as(valid), first=itself)
        mixed = x if self.attention is None else self.attention(x, visible)
        if self.shared is not None:
            features = self.shared(x).masked_fill(~pooled[..., None, None], -torch.inf)
            mixed = mixed + features.amax(dim=1, keepdim=True)
        return mixed


def random_views(candidates: Tensor, most: Tensor, first: Tensor | None = None) -> Tensor:
    """Random subsets of the candidates (..., V) bool: how many is uniform in 1 .. most (...); `first` (..., V) go first."""
    order = torch.rand(candidates.shape, device=candidates.device).masked_fill(~candidates, 2.0)
    if first is not None:
        order = order.masked_fill(first, -1.0)
    rank = order.argsort(dim=-1).argsort(dim=-1)
    count = 1 + (torch.rand(most.shape, device=most.device) * most).floor()
    return candidates & (rank < count[..., None])


class _Attention(nn.Module):
    """A transformer block, normalization first; every joint attends to all joints of the views it may see."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self._heads = heads
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.mlp = nn.Sequential(
            nn.LayerNorm(width, eps=1e-6), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width)
        )

    def forward(self, x: Tensor, visible: Tensor) -> Tensor:
        """Tokens (B, V, 21, D); `visible` (B, V, V) bool: whether the first view may see the second."""
        shape = x.shape
        x = x.flatten(1, 2)  # (B, 21 V, D)
        normed = self.norm(x)
        query, key, value = (
            layer(normed).unflatten(-1, (self._heads, -1)).transpose(1, 2)  # (B, heads, 21 V, D / heads)
            for layer in (self.query, self.key, self.value)
        )
        mask = visible.repeat_interleave(LANDMARKS, dim=1).repeat_interleave(LANDMARKS, dim=2)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask[:, None])
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        x = x + self.mlp(x)
        return x.reshape(shape)


class _GraphConvolutions(nn.Module):
    """Two adaptive graph convolutions over the 21 joints of each view."""

    def __init__(self, width: int, out: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.LayerNorm(width),
            AdaptiveGraphConvolution(width, width),
            nn.LeakyReLU(0.1),
            nn.Dropout(dropout),
            AdaptiveGraphConvolution(width, out),
            nn.LeakyReLU(0.1),
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers(x)
        return y


class AdaptiveGraphConvolution(nn.Module):
    """Mixes the joints (..., 21, D) by a learnt matrix that starts as the identity, then their features.

    Rows are divided by the sum of their absolute values. The paper's code divides by the plain sum, which learning can
    bring to zero.
    """

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.adjacency = nn.Parameter(torch.eye(LANDMARKS))
        self.linear = nn.Linear(width, out)

    def forward(self, x: Tensor) -> Tensor:
        rows = self.adjacency / (self.adjacency.abs().sum(dim=1, keepdim=True) + 1e-5)
        y: Tensor = self.linear(rows @ x)
        return y
