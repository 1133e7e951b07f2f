"""What lies between the networks, in numpy; that both together give the bundle's hands is in test_engine_device_graphs."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from graph_runs import single_run

from hamuco.engine.builders import Array, Run
from hamuco.engine.bundle import Bundle
from hamuco.engine.device_graphs import estimator_graph, interaction_graph
from hamuco.engine.parity import HandCrops, measure_parity, normalized, sampled


def test_maps_are_sampled_as_torch_does() -> None:
    rng = np.random.default_rng(0)
    maps = [
        rng.normal(size=(3, channels, size, size)).astype(np.float32) for channels, size in ((2, 8), (3, 4), (1, 1))
    ]
    pixels = rng.uniform(-1.5, 1.5, (3, 21, 2))
    pixels[0, 0], pixels[0, 1], pixels[0, 2] = (-1, 1), (0, 0), (1e6, -1e6)
    at = torch.tensor(pixels, dtype=torch.float32)[:, :, None]
    expected = [
        torch.nn.functional.grid_sample(torch.tensor(level), at, align_corners=False)[..., 0].transpose(1, 2)
        for level in maps
    ]
    # Weights are computed from single-precision coordinates of up to 8: 1e-6.
    np.testing.assert_allclose(sampled(maps, pixels), torch.cat(expected, dim=2).numpy(), rtol=0, atol=1e-5)


def test_white_and_black_are_normalized_as_in_training() -> None:
    crops = np.zeros((1, 2, 2, 3), np.uint8)
    crops[0, 0, 1] = 255, 128, 0  # blue, green, red
    red, green, blue = normalized(crops)[0, :, 0, 1]
    np.testing.assert_allclose(
        [red, green, blue], [-0.485 / 0.229, (128 / 255 - 0.456) / 0.224, 0.594 / 0.225], rtol=1e-6
    )
    np.testing.assert_allclose(
        normalized(crops)[0, :, 1, 0], [-0.485 / 0.229, -0.456 / 0.224, -0.406 / 0.225], rtol=1e-6
    )


def test_a_network_that_differs_is_measured(bundle: Bundle) -> None:
    rng = np.random.default_rng(1)
    given = HandCrops(rng.integers(0, 256, (2, 64, 64, 3), dtype=np.uint8), np.full(2, 0.2), np.array([[0, 1]]))
    estimator = single_run(estimator_graph(bundle.estimator, "f32"))
    interaction = single_run(interaction_graph(bundle.interaction, "f32"))

    def turned(run: Run) -> Run:
        """By a quarter about the depth axis: x becomes y, y becomes -x, in the first two columns of the first rotation."""

        def other(inputs: Mapping[str, Array]) -> dict[str, Array]:
            outputs = run(inputs)
            pose = outputs["pose"].copy()
            pose[..., 0, :2], pose[..., 0, 2:4] = -outputs["pose"][..., 0, 2:4], outputs["pose"][..., 0, :2]
            return outputs | {"pose": pose}

        return other

    same = measure_parity(bundle, estimator, interaction, [given, given])
    assert same.crops == 4
    assert same.max_mm < 0.1
    # The joint farthest from the root is some 90 mm away, in the image plane or not.
    assert 30 < measure_parity(bundle, estimator, turned(interaction), [given]).max_mm < 200
