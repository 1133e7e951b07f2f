"""Backbones: their maps, the names and counts of their parameters, and weights from files."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

from hamuco.training.networks.backbones import STRIDES, BackboneError, load_weights, make_backbone

RESNET_PARAMETERS = {"resnet18": 11_689_512 - 513_000, "resnet50": 25_557_032 - 2_049_000}
"""As torchvision's documentation has them, without the classifier: (channels + 1) x 1000 classes."""


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "mobile"])
@pytest.mark.parametrize("size", [64, 96])
def test_maps_have_the_promised_channels_and_strides(name: str, size: int) -> None:
    backbone = make_backbone(name).eval()
    with torch.no_grad():
        maps = backbone(torch.rand(2, 3, size, size))
    for level, channels, stride in zip(maps, backbone.channels, STRIDES, strict=True):
        assert level.shape == (2, channels, size // stride, size // stride)
        assert level.isfinite().all()


@pytest.mark.parametrize(
    ("name", "channels"), [("resnet18", (64, 128, 256, 512)), ("resnet50", (256, 512, 1024, 2048))]
)
def test_resnets_are_of_the_published_size(name: str, channels: tuple[int, ...]) -> None:
    backbone = make_backbone(name)
    assert backbone.channels == channels
    assert sum(parameter.numel() for parameter in backbone.parameters()) == RESNET_PARAMETERS[name]


def test_resnets_use_torchvision_names() -> None:
    state = make_backbone("resnet18").state_dict()
    assert len(state) == 122 - 2  # torchvision's, without fc.weight and fc.bias
    shapes = {
        "conv1.weight": (64, 3, 7, 7),
        "bn1.running_mean": (64,),
        "bn1.num_batches_tracked": (),
        "layer1.0.conv1.weight": (64, 64, 3, 3),
        "layer2.0.downsample.0.weight": (128, 64, 1, 1),
        "layer2.0.downsample.1.running_var": (128,),
        "layer4.1.bn2.bias": (512,),
    }
    assert {key: tuple(state[key].shape) for key in shapes} == shapes
    assert "layer1.0.downsample.0.weight" not in state

    state = make_backbone("resnet50").state_dict()
    assert len(state) == 320 - 2
    shapes = {
        "layer1.0.conv3.weight": (256, 64, 1, 1),
        "layer1.0.downsample.0.weight": (256, 64, 1, 1),
        "layer3.5.conv2.weight": (256, 256, 3, 3),
        "layer4.2.bn3.running_var": (2048,),
    }
    assert {key: tuple(state[key].shape) for key in shapes} == shapes


def test_a_bottleneck_strides_in_its_middle_convolution() -> None:
    block = make_backbone("resnet50").get_submodule("layer2.0")
    strides = [convolution.stride for convolution in block.modules() if isinstance(convolution, torch.nn.Conv2d)]
    assert strides == [(1, 1), (2, 2), (1, 1), (2, 2)]  # the last is the shortcut's


def test_the_mobile_backbone_leaves_room_in_the_bundle() -> None:
    parameters = sum(parameter.numel() for parameter in make_backbone("mobile").parameters())
    assert parameters < 2_000_000


def test_weights_load_from_a_file_with_a_classifier(tmp_path: Path) -> None:
    donor = make_backbone("resnet18")
    state = dict(donor.state_dict())
    state["fc.weight"], state["fc.bias"] = torch.zeros(1000, 512), torch.zeros(1000)
    old = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
    images = torch.rand(1, 3, 64, 64)
    for number, content in enumerate((state, old)):
        torch.save(content, tmp_path / f"{number}.pth")
        backbone = make_backbone("resnet18")
        load_weights(backbone, tmp_path / f"{number}.pth")
        with torch.no_grad():
            for own, given in zip(backbone.eval()(images), donor.eval()(images), strict=True):
                assert torch.equal(own, given)


def test_weights_of_another_network_are_named_and_change_nothing(tmp_path: Path) -> None:
    state = dict(make_backbone("resnet18").state_dict())
    del state["layer4.1.bn2.bias"]
    state["conv1.weight"] = torch.zeros(64, 1, 7, 7)
    state["head.weight"] = torch.zeros(3)
    torch.save(state, tmp_path / "weights.pth")
    backbone = make_backbone("resnet18")
    before = backbone.state_dict()["bn1.weight"].clone()
    with pytest.raises(BackboneError) as caught:
        load_weights(backbone, tmp_path / "weights.pth")
    message = str(caught.value)
    assert "1 missing (layer4.1.bn2.bias)" in message
    assert "1 unexpected (head.weight)" in message
    assert "1 of another shape (conv1.weight)" in message
    assert torch.equal(backbone.state_dict()["bn1.weight"], before)

    torch.save(make_backbone("mobile").state_dict(), tmp_path / "mobile.pth")
    with pytest.raises(BackboneError, match="missing"):
        load_weights(backbone, tmp_path / "mobile.pth")


# The last but one looks like a list of pickle's to which a number is to be added, the last like a protocol that there is not.
@pytest.mark.parametrize(
    "content", [b"", b"not a torch file", b"PK\x03\x04 cut off", b"hello text\n", b"a]K\x01a.", b"\x80\xff"]
)
def test_what_is_no_torch_file_is_said_to_be_none(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    with pytest.raises(
        BackboneError, match=r"weights\.pth, of \d+ bytes, is not a torch file .*; wanted is a state"
    ) as caught:
        load_weights(make_backbone("mobile"), path)
    assert "\n" not in str(caught.value)


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save([torch.zeros(3)], path)
    with pytest.raises(BackboneError, match="no state dict"):
        load_weights(make_backbone("mobile"), path)
    with pytest.raises(FileNotFoundError, match=r"none\.pth: this is not there; wanted is a state dict"):
        load_weights(make_backbone("mobile"), tmp_path / "none.pth")
    with pytest.raises(FileNotFoundError, match="this is a folder"):
        load_weights(make_backbone("mobile"), tmp_path)


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(BackboneError, match=r"'vgg'; known are resnet18, resnet50, mobile, timm:<name>"):
        make_backbone("vgg")


@pytest.mark.skipif(importlib.util.find_spec("timm") is not None, reason="timm is installed")
def test_without_timm_the_error_says_how_to_get_it() -> None:
    with pytest.raises(ModuleNotFoundError, match=r"timm:resnet18 needs the timm library: pip install timm"):
        make_backbone("timm:resnet18")


@pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="timm is not installed")
def test_timm_networks_give_four_maps() -> None:
    backbone = make_backbone("timm:resnet18").eval()
    with torch.no_grad():
        maps = backbone(torch.rand(1, 3, 64, 64))
    assert [level.shape[1] for level in maps] == list(backbone.channels) == [64, 128, 256, 512]
    assert [64 // level.shape[2] for level in maps] == list(STRIDES)
    with pytest.raises(BackboneError, match="strides"):
        make_backbone("timm:vit_tiny_patch16_224")
