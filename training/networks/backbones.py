"""Image backbones: crops in, feature maps at four scales out."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Maps = tuple[Tensor, Tensor, Tensor, Tensor]
"""Feature maps (N, channels, S / stride, S / stride) at strides 4, 8, 16 and 32."""

STRIDES = (4, 8, 16, 32)

_WEIGHTS = "wanted is a state dict as torch.save writes it, such as torchvision's resnet18-f37072fd.pth"


def resized(maps: Tensor, size: int) -> Tensor:
    """Maps (N, C, S, S) as (N, C, size, size)."""
    if maps.shape[-1] == size:
        return maps
    return F.interpolate(maps, size=(size, size), mode="bilinear", align_corners=False)


class BackboneError(ValueError):
    """There is no such backbone, or a file's weights do not belong to it."""


class Backbone(nn.Module):
    """Normalized RGB images (N, 3, S, S) -> `Maps`; S is a multiple of 32.

    Attributes:
        channels: of the four maps.
    """

    channels: tuple[int, int, int, int]

    @abstractmethod
    def forward(self, images: Tensor) -> Maps: ...


def make_backbone(name: str) -> Backbone:
    """A backbone with random weights: `resnet18`, `resnet50`, `mobile`, or `timm:<name>` where timm is installed.

    Raises:
        BackboneError: the name is not known, or what it names does not give maps at strides 4 to 32.
        ModuleNotFoundError: timm is wanted and not installed.
    """
    if name in RESNETS:
        return ResNet(name)
    if name == "mobile":
        return Mobile()
    if name.startswith("timm:"):
        return TimmBackbone(name.removeprefix("timm:"))
    known = ", ".join([*RESNETS, "mobile", "timm:<name>"])
    raise BackboneError(f"there is no backbone {name!r}; known are {known}")


def load_weights(backbone: Backbone, path: Path) -> None:
    """Read a state dict with the backbone's own parameter names; a ResNet's are torchvision's, whose `fc` is left out.

    Raises:
        BackboneError: not a file of tensors, or not of this backbone: names what is missing, unexpected, or of
            another shape. The backbone keeps the weights that it had.
        OSError: the file cannot be read; FileNotFoundError: it is not there.
    """
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "is not there"
        raise FileNotFoundError(f"the backbone's weights, {path}: this {what}; {_WEIGHTS}")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # bytes that are no torch file make it stumble in all kinds of ways
        raise BackboneError(
            f"{path}, of {path.stat().st_size} bytes, is not a torch file of plain tensors; {_WEIGHTS}"
        ) from error
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise BackboneError(f"{path} holds no state dict (names and tensors), but {type(state).__name__}")
    own = backbone.state_dict()
    given = {key: value for key, value in state.items() if key not in ("fc.weight", "fc.bias")}
    # Files from before torch 0.4.1, torchvision's ResNets among them, do not count batches.
    missing = [key for key in own if key not in given and not key.endswith("num_batches_tracked")]
    unexpected = [key for key in given if key not in own]
    other_shape = [key for key in given if key in own and given[key].shape != own[key].shape]
    problems = {"missing": missing, "unexpected": unexpected, "of another shape": other_shape}
    said = [f"{len(keys)} {what} ({_some(keys)})" for what, keys in problems.items() if keys]
    if said:
        raise BackboneError(f"{path} does not fit this backbone: {', '.join(said)}")
    backbone.load_state_dict({**own, **given})


def _some(keys: list[str]) -> str:
    return ", ".join(keys[:3]) + (", ..." if len(keys) > 3 else "")


class ResNet(Backbone):
    """He et al., CVPR 2016, without the classifier; the stride of a bottleneck is in its 3x3 convolution.

    Parameters are named as in torchvision.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        block, depths = RESNETS[name]
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.pool = nn.MaxPool2d(3, stride=2, padding=1)
        widths = [64, 128, 256, 512]
        inputs = [64] + [block.expansion * width for width in widths[:-1]]
        layers = []
        for index, (depth, channels, width) in enumerate(zip(depths, inputs, widths, strict=True)):
            blocks = [block(channels, width, stride=1 if index == 0 else 2)]
            blocks += [block(block.expansion * width, width, stride=1) for _ in range(depth - 1)]
            layers.append(nn.Sequential(*blocks))
        self.layer1, self.layer2, self.layer3, self.layer4 = layers
        self.channels = (
            64 * block.expansion,
            128 * block.expansion,
            256 * block.expansion,
            512 * block.expansion,
        )
        _initialize(self)

    def forward(self, images: Tensor) -> Maps:
        stem = self.pool(torch.relu(self.bn1(self.conv1(images))))
        first = self.layer1(stem)
        second = self.layer2(first)
        third = self.layer3(second)
        return first, second, third, self.layer4(third)


class _BasicBlock(nn.Module):
    expansion = 1

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = _shortcut(channels, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return torch.relu(y + (x if self.downsample is None else self.downsample(x)))


class _Bottleneck(nn.Module):
    expansion = 4

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.downsample = _shortcut(channels, 4 * width, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.bn1(self.conv1(x)))
        y = torch.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return torch.relu(y + (x if self.downsample is None else self.downsample(x)))


RESNETS: dict[str, tuple[type[_BasicBlock | _Bottleneck], tuple[int, int, int, int]]] = {
    "resnet18": (_BasicBlock, (2, 2, 2, 2)),
    "resnet50": (_Bottleneck, (3, 4, 6, 3)),
}


def _shortcut(channels: int, out: int, stride: int) -> nn.Sequential | None:
    if channels == out and stride == 1:
        return None
    return nn.Sequential(nn.Conv2d(channels, out, 1, stride=stride, bias=False), nn.BatchNorm2d(out))


# (kernel before the expansion, kernel inside it, stride, expansion, channels out); kernel 0 stands for no convolution.
_MOBILE_STAGES = (
    ((5, 5, 2, 3, 96), (0, 3, 1, 2, 96), (0, 3, 1, 2, 96), (0, 3, 1, 2, 96), (0, 3, 1, 2, 96), (3, 0, 1, 4, 96)),
    ((3, 3, 2, 6, 192), (5, 5, 1, 4, 192), (0, 5, 1, 3, 192), (0, 5, 1, 3, 192), (0, 3, 1, 3, 192), (0, 3, 1, 3, 192)),
)


class Mobile(Backbone):
    """Small and quick on a CPU: universal inverted bottlenecks (Qin et al., MobileNetV4, 2024), ReLU only.

    The first two scales are plain convolutions: on few channels they use a processor better than depthwise ones.
    """

    channels = (32, 64, 96, 384)

    def __init__(self) -> None:
        super().__init__()
        self.stage1 = nn.Sequential(_conv(3, 32, 3, 2), _conv(32, 32, 3, 2), _conv(32, 32, 1))
        self.stage2 = nn.Sequential(_conv(32, 96, 3, 2), _conv(96, 64, 1), _InvertedBottleneck(64, 64, (0, 3), 1, 3))
        stages = []
        channels = 64
        for blocks in _MOBILE_STAGES:
            stage = nn.Sequential()
            for before, inside, stride, expansion, out in blocks:
                stage.append(_InvertedBottleneck(channels, out, (before, inside), stride, expansion))
                channels = out
            stages.append(stage)
        self.stage3, self.stage4 = stages
        self.stage4.append(_conv(channels, self.channels[3], 1))
        _initialize(self)

    def forward(self, images: Tensor) -> Maps:
        first = self.stage1(images)
        second = self.stage2(first)
        third = self.stage3(second)
        return first, second, third, self.stage4(third)


class _InvertedBottleneck(nn.Module):
    """Depthwise, expand, depthwise, project; either depthwise convolution may be missing, the last present strides."""

    def __init__(self, channels: int, out: int, kernels: tuple[int, int], stride: int, expansion: int) -> None:
        super().__init__()
        before, inside = kernels
        wide = expansion * channels
        self.layers = nn.Sequential()
        if before:
            self.layers.append(_conv(channels, channels, before, 1 if inside else stride, groups=channels, relu=False))
        self.layers.append(_conv(channels, wide, 1))
        if inside:
            self.layers.append(_conv(wide, wide, inside, stride, groups=wide))
        norm = nn.BatchNorm2d(out)
        self.layers.append(nn.Conv2d(wide, out, 1, bias=False)).append(norm)
        self._residual = channels == out and stride == 1
        if self._residual:
            nn.init.zeros_(norm.weight)  # begins as the identity: activations do not grow from block to block

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers(x)
        return x + y if self._residual else y


def _conv(
    channels: int, out: int, kernel: int, stride: int = 1, *, groups: int = 1, relu: bool = True
) -> nn.Sequential:
    convolution = _DepthwiseConv2d if groups > 1 else nn.Conv2d
    layers = nn.Sequential(
        convolution(channels, out, kernel, stride, padding=kernel // 2, groups=groups, bias=False), nn.BatchNorm2d(out)
    )
    return layers.append(nn.ReLU()) if relu else layers


class _DepthwiseConv2d(nn.Conv2d):
    """On a CPU always in single precision: torch takes ten times as long for its gradients in bfloat16."""

    def forward(self, input: Tensor) -> Tensor:
        if input.device.type != "cpu":
            return super().forward(input)
        with torch.autocast("cpu", enabled=False):
            return super().forward(input.float())


def _initialize(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            # By inputs: of a depthwise convolution these are the kernel's alone, while torch counts outputs of all groups.
            nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")


class TimmBackbone(Backbone):
    """Any network of the timm library that gives maps at strides 4, 8, 16 and 32."""

    def __init__(self, name: str) -> None:
        super().__init__()
        try:
            import timm
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(f"backbone timm:{name} needs the timm library: pip install timm") from error
        if not timm.is_model(name):
            raise BackboneError(f"timm {timm.__version__} has no network {name!r}; timm.list_models() names them")
        network: Any = timm.create_model(name, pretrained=False, features_only=True)
        reductions: list[int] = network.feature_info.reduction()
        if not set(STRIDES) <= set(reductions):
            raise BackboneError(f"timm:{name} gives maps at strides {reductions}, needed are {list(STRIDES)}")
        # A stride may come more than once; the last map of it is the deepest.
        self._chosen = [len(reductions) - 1 - reductions[::-1].index(stride) for stride in STRIDES]
        channels: list[int] = network.feature_info.channels()
        first, second, third, fourth = (channels[index] for index in self._chosen)
        self.channels = (first, second, third, fourth)
        self.network = network

    def forward(self, images: Tensor) -> Maps:
        maps = self.network(images)
        first, second, third, fourth = (maps[index] for index in self._chosen)
        return first, second, third, fourth
