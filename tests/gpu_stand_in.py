"""The GPU runtime without a GPU: the kernels' bodies through the driver's stand-in, torch's networks on the CPU."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from fake_driver import FakeLibrary, fake_device, write_fatbins

from hamuco.calibration.camera import Camera
from hamuco.engine.bundle import Bundle
from hamuco.engine.gpu_runtime import GpuRuntime
from hamuco.engine.kernel_launch import Kernels
from hamuco.training.gpu_networks import TorchNetworks
from hamuco.training.weights import bundle_network


class StandIn:
    """Opens runtimes in single precision, as `hamuco.engine.gpu_runtime.open_runtime` does.

    Attributes:
        library: whose `codes` make calls fail.
    """

    def __init__(self, folder: Path) -> None:
        """`folder`: for what stands in for the compiled kernels."""
        self.library = FakeLibrary()
        self._folder = folder
        write_fatbins(folder)

    def open(self, bundle: Bundle, cameras: Sequence[Camera]) -> GpuRuntime:
        device = fake_device(self.library)
        try:
            networks = TorchNetworks(bundle_network(bundle), np.float32, "cpu")
            return GpuRuntime(networks, bundle.hand, cameras, Kernels(device, np.float32, self._folder), device)
        except BaseException:
            device.close()
            raise

    def count(self, name: str) -> int:
        """How often a function was called."""
        return self.library.names().count(name)
