"""The joint locator: its places are those of the image, and it learns them from 2D labels."""

from __future__ import annotations

import pytest
import torch

from hamuco.training.networks.estimator import Estimator, EstimatorConfig
from hamuco.training.networks.locator import JointLocator

MEAN_POSE = torch.tensor([1.0, 0, 0, 1, 0, 0]).expand(16, 6)


def _maps(size: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    first, second, third, fourth = (torch.zeros(1, 3, size // stride, size // stride) for stride in (4, 8, 16, 32))
    return first, second, third, fourth


@pytest.mark.parametrize("size", [64, 128])
def test_a_bright_place_is_located_where_it_is(size: int) -> None:
    """The map at stride 8 has one place that is not zero; u runs along its columns, v along its rows."""
    locator = JointLocator((3, 3, 3, 3), mixed=4, joint=2)
    with torch.no_grad():
        for parameter in locator.parameters():
            parameter.zero_()
        dict(locator.named_parameters())["lateral.0.weight"][:, 0] = 1.0  # of the map at stride 8
        locator.heat.weight.fill_(100.0)
    maps = _maps(size)
    row, column, cells = 2, 5, size // 8
    maps[1][0, 0, row, column] = 1.0
    located, features = locator(maps)
    # Centres of cells, from -1 to 1 between the edges, widened by a quarter. exp(-400) is nothing in single precision.
    expected = 1.25 * (2 * torch.tensor([column, row]) + 1 - cells) / cells
    torch.testing.assert_close(located, expected.expand(1, 21, 2), rtol=0, atol=1e-6)
    assert features.shape == (1, locator.width)


def test_locations_follow_2d_labels() -> None:
    """An estimator that is shown a white square at random places learns where it is: no lucky constant would do."""
    torch.manual_seed(0)
    estimator = Estimator(EstimatorConfig("mobile", 64, head_width=16, locator=(16, 4)), MEAN_POSE).train()
    optimizer = torch.optim.AdamW(estimator.parameters(), 3e-3)
    distances = []
    for _ in range(100):
        corner = torch.randint(0, 48, (16, 2))
        crops = torch.zeros(16, 64, 64, 3, dtype=torch.uint8)
        for crop, (u, v) in zip(crops, corner.tolist(), strict=True):
            crop[v : v + 16, u : u + 16] = 255
        labels = ((2 * (corner + 8)) / 64 - 1)[:, None].expand(16, 21, 2)
        _, located, _ = estimator.regress(crops)
        assert located is not None
        loss = (located - labels).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        distances.append(loss.item())
    # Uniform in [-0.75, 0.75], the best constant is off by 0.375.
    assert sum(distances[-5:]) / 5 < 0.5 * 0.375


def test_without_a_locator_nothing_is_located() -> None:
    crops = torch.zeros(2, 64, 64, 3, dtype=torch.uint8)
    _, located, _ = Estimator(EstimatorConfig("mobile", 64, head_width=16), MEAN_POSE).regress(crops)
    assert located is None


def test_widths_are_checked() -> None:
    with pytest.raises(ValueError, match=r"locator must be two widths of at least 1, it is \(8, 0\)"):
        EstimatorConfig(locator=(8, 0))
