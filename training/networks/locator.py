"""Where the joints are in a crop, by integral regression (Sun et al., ECCV 2018). An addition to HaMuCo, for small networks.

The paper's head sees the mean of the last map alone, in which places are coded in channels: with a small backbone and few
steps it learns them late. Here each joint has a map of where it may be, whose mean place is learnt from the 2D labels
directly; and the head sees the places, and the features that are found there (as Moon et al., CVPR Workshops 2022).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hamuco.engine.hand_model import LANDMARKS
from hamuco.training.networks.backbones import Maps, resized

# Joints may lie a little beyond the crop, in image coordinates.
_REACH = 1.25


class JointLocator(nn.Module):
    """Feature maps -> image coordinates (N, 21, 2) of the joints, and features (N, width).

    Attributes:
        width: of the features.
    """

    def __init__(self, channels: tuple[int, int, int, int], mixed: int, joint: int) -> None:
        """
        Args:
            channels: of the maps.
            mixed: features at each place, made of the maps at strides 8, 16 and 32.
            joint: features of each joint.
        """
        super().__init__()
        self.width = LANDMARKS * (joint + 2)
        self.lateral = nn.ModuleList(nn.Conv2d(own, mixed, kernel_size=1) for own in channels[1:])
        self.mix = nn.Conv2d(mixed, mixed, kernel_size=3, padding=1)
        self.heat = nn.Conv2d(mixed, LANDMARKS, kernel_size=1)
        self.joint = nn.Linear(mixed, joint)

    def forward(self, maps: Maps) -> tuple[Tensor, Tensor]:
        size = maps[1].shape[-1]
        levels = [resized(layer(level), size) for layer, level in zip(self.lateral, maps[1:], strict=True)]
        places = torch.relu(levels[0] + levels[1] + levels[2])
        places = torch.relu(places + self.mix(places))
        heat = self.heat(places).flatten(2).float().softmax(dim=-1)  # (N, 21, size^2)
        located = heat @ _grid(size, heat)
        found = heat @ places.flatten(2).transpose(1, 2).float()
        return located, torch.cat([located.flatten(1), self.joint(found).flatten(1)], dim=1)


def _grid(size: int, like: Tensor) -> Tensor:
    """Image coordinates (size^2, 2) of the places of a map."""
    along = _REACH * ((2 * torch.arange(size, device=like.device, dtype=like.dtype) + 1) / size - 1)
    v, u = torch.meshgrid(along, along, indexing="ij")
    return torch.stack([u, v], dim=-1).flatten(0, 1)
