"""Networks on the CPU: how images are split into batches is no business of who calls."""

from __future__ import annotations

import numpy as np
import pytest

from hamuco.engine.bundle import HAMUCO_S
from hamuco.engine.runtime import Network

# Sums of some hundred single precision products, in another order, through some twenty layers: outputs of order 1 differ by
# 1e-6 or so, and maps that are larger by as much of their size.
_ROUNDING = 1e-4


@pytest.mark.parametrize("images", [1, 3, 8, 13])
def test_images_run_together_as_they_run_alone(images: int) -> None:
    estimator = HAMUCO_S / "estimator.onnx"
    size = 128
    crops = np.random.default_rng(images).integers(0, 256, (images, size, size, 3), np.uint8)
    together = Network(estimator, precision="f32", together=(4, 2, 1))(crops)
    alone = Network(estimator, precision="f32")(crops)
    for one, other in zip(together, alone, strict=True):
        assert len(one) == images
        np.testing.assert_allclose(one, other, rtol=_ROUNDING, atol=_ROUNDING * np.abs(other).max())
    # What came out stays as it is when the network runs again.
    network = Network(estimator, precision="f32", together=(4, 2, 1))
    kept = network(crops)
    network(crops[::-1])
    np.testing.assert_array_equal(kept[0], network(crops)[0])
