"""The single-view estimator: what goes in, what comes out, and how large it is."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hamuco.training.networks.backbones import Maps
from hamuco.training.networks.estimator import Estimator, EstimatorConfig
from hamuco.training.networks.parameters import OUTPUTS

MEAN_POSE = torch.tensor([1.0, 0, 0, 1, 0, 0]).expand(16, 6)


def _crops(count: int, size: int) -> Tensor:
    return torch.randint(0, 256, (count, size, size, 3), dtype=torch.uint8)


@pytest.mark.parametrize("size", [64, 128])
def test_crops_of_any_size_become_parameters_and_maps(size: int) -> None:
    estimator = Estimator(EstimatorConfig("mobile", 128, head_width=96), MEAN_POSE).eval()
    with torch.no_grad():
        parameters, maps = estimator(_crops(3, size))
    assert parameters.pose.shape == (3, 16, 6)
    assert parameters.betas.shape == (3, 10)
    assert parameters.camera.shape == (3, 3)
    assert [level.shape[2] for level in maps] == [size // 4, size // 8, size // 16, size // 32]


def test_training_starts_at_the_mean_hand() -> None:
    torch.manual_seed(0)
    parameters, _ = Estimator(EstimatorConfig("mobile", 128), MEAN_POSE)(_crops(4, 64))
    # Pooled features are some units large, and the heads' last layers a hundredth of usual.
    torch.testing.assert_close(parameters.pose, MEAN_POSE.expand(4, 16, 6), rtol=0, atol=0.1)
    torch.testing.assert_close(parameters.camera, torch.tensor([5.0, 0, 0]).expand(4, 3), rtol=0, atol=0.3)
    assert parameters.pose.std() > 0  # but what comes after the last layer is not cut off from what is before


@pytest.mark.parametrize(("backbone", "heads"), [("resnet18", 843_885), ("resnet50", 12_812_397)])
def test_heads_are_of_the_papers_size(backbone: str, heads: int) -> None:
    """Three times (C + 1) C, and (C + 1) 109, for C = 512 and 2048: 0.84 M and 12.81 M."""
    estimator = Estimator(EstimatorConfig(backbone), MEAN_POSE)
    everything = sum(parameter.numel() for parameter in estimator.parameters())
    assert everything - sum(parameter.numel() for parameter in estimator.backbone.parameters()) == heads


def test_the_backbone_sees_normalized_rgb() -> None:
    class Seen(torch.nn.Module):
        def forward(self, images: Tensor) -> Maps:
            self.images = images
            maps = torch.zeros(len(images), 512, 2, 2)
            return maps, maps, maps, maps

    estimator = Estimator(EstimatorConfig("resnet18"), MEAN_POSE)
    seen = Seen()
    estimator.backbone = seen  # type: ignore[assignment]
    crops = torch.zeros(1, 64, 64, 3, dtype=torch.uint8)
    crops[0, 5, 7] = torch.tensor([10, 100, 255])  # blue, green, red
    raw, _, _ = estimator.regress(crops)
    assert raw.shape == (1, OUTPUTS)
    expected = torch.tensor([(1.0 - 0.485) / 0.229, (100 / 255 - 0.456) / 0.224, (10 / 255 - 0.406) / 0.225])
    torch.testing.assert_close(seen.images[0, :, 5, 7], expected)


@pytest.mark.parametrize("shape", [(1, 64, 96, 3), (1, 100, 100, 3), (1, 3, 64, 64), (1, 64, 64, 1)])
def test_what_is_no_square_crop_is_refused(shape: tuple[int, ...]) -> None:
    estimator = Estimator(EstimatorConfig("mobile", 128), MEAN_POSE)
    with pytest.raises(ValueError, match=r"crops must be \(N, S, S, 3\), S a multiple of 32"):
        estimator(torch.zeros(shape, dtype=torch.uint8))


@pytest.mark.parametrize(("size", "width"), [(100, None), (0, None), (128, 0)])
def test_a_configuration_that_cannot_be_is_refused(size: int, width: int | None) -> None:
    with pytest.raises(ValueError, match=r"image_size|head_width"):
        EstimatorConfig("mobile", size, width)
