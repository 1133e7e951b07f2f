"""The single-view estimator: one crop, one hand (HaMuCo, Zheng et al., ICCV 2023, the MANO regressing head)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hamuco.engine.hamuco import IMAGE_DEVIATION, IMAGE_MEAN
from hamuco.engine.hand_model import SHAPES
from hamuco.training.networks.backbones import Maps, make_backbone
from hamuco.training.networks.locator import JointLocator
from hamuco.training.networks.parameters import CAMERA, POSE, HandParameters, ParameterReadout, start_at_zero


@dataclass(frozen=True, slots=True)
class EstimatorConfig:
    """Defaults are the paper's.

    Attributes:
        backbone: name for `make_backbone`.
        image_size: px of the crops that the network is meant for, a multiple of 32; it takes others.
        head_width: hidden units of each head; None for as many as the backbone's last map has channels.
        locator: widths of a `JointLocator` (features at each place, and of each joint); the paper has none.
    """

    backbone: str = "resnet18"
    image_size: int = 256
    head_width: int | None = None
    locator: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if self.image_size <= 0 or self.image_size % 32:
            raise ValueError(f"image_size must be a multiple of 32, it is {self.image_size}")
        if self.locator is not None and min(self.locator) < 1:
            raise ValueError(f"locator must be two widths of at least 1, it is {self.locator}")
        if self.head_width is not None and self.head_width < 1:
            raise ValueError(f"head_width must be at least 1, it is {self.head_width}")


class Estimator(nn.Module):
    """Crops (N, S, S, 3) uint8 BGR -> parameters of N right hands, and feature maps for the interaction network."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, config: EstimatorConfig, mean_pose: Tensor) -> None:
        """`mean_pose`: as `ParameterReadout` takes it."""
        super().__init__()
        self.backbone = make_backbone(config.backbone)
        channels = self.backbone.channels[3]
        width = config.head_width or channels
        self.locator = JointLocator(self.backbone.channels, *config.locator) if config.locator else None
        seen = channels + (self.locator.width if self.locator else 0)
        self.pose_head = _head(seen, width, POSE)
        self.shape_head = _head(seen, width, SHAPES)
        self.camera_head = _head(seen, width, CAMERA)
        self.readout = ParameterReadout(mean_pose)
        self.register_buffer("mean", 255 * torch.tensor(IMAGE_MEAN)[:, None, None], persistent=False)
        self.register_buffer("deviation", 255 * torch.tensor(IMAGE_DEVIATION)[:, None, None], persistent=False)

    def forward(self, images: Tensor) -> tuple[HandParameters, Maps]:
        raw, _, maps = self.regress(images)
        return self.readout(raw), maps

    def regress(self, images: Tensor) -> tuple[Tensor, Tensor | None, Maps]:
        """What `readout` takes, (N, 109); where the joints are, u and v (N, 21, 2), if there is a locator; and the maps.

        Raises:
            ValueError: the crops are no square BGR images, or their size is no multiple of 32.
        """
        _, height, width, depth = images.shape
        if height != width or height % 32 or depth != 3:
            raise ValueError(f"crops must be (N, S, S, 3), S a multiple of 32, they are {tuple(images.shape)}")
        # The flip comes last: on planes OpenVINO does it by addressing, on interleaved bytes it is slow.
        rgb = images.permute(0, 3, 1, 2).float().flip(1)
        maps: Maps = self.backbone((rgb - self.mean) / self.deviation)
        return (*self.read(maps), maps)

    def read(self, maps: Maps) -> tuple[Tensor, Tensor | None]:
        """The first two of `regress`, from maps; their own type does not matter."""
        seen, located = maps[3].float().mean(dim=(2, 3)), None
        if self.locator is not None:
            located, found = self.locator(maps)
            seen = torch.cat([seen, found], dim=1)
        raw = torch.cat([head(seen) for head in (self.pose_head, self.shape_head, self.camera_head)], dim=-1)
        return raw, located


def _head(channels: int, width: int, out: int) -> nn.Sequential:
    last = nn.Linear(width, out)
    start_at_zero(last)
    return nn.Sequential(nn.Linear(channels, width), nn.LeakyReLU(0.1), last)
