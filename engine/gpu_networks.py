"""What the GPU runtime asks of the networks between its kernels, whoever runs them: TensorRT or torch.

Both networks are cut as in hamuco.engine.device_graphs. Arrays are addresses on the device, of n = H V crops of H hands in V
views, hand by hand; T is the type of images, maps and what is sampled from them. The rest is float32.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from hamuco.engine.cuda import Stream
from hamuco.engine.kernel_structs import FeatureMap

SAMPLED_MAPS = ("map_4", "map_8", "map_16")
"""Outputs of the estimator that the sampler reads; the interaction network is given the fourth, map_32, itself."""


@dataclass(frozen=True, slots=True)
class NetworkInputs:
    """Where the networks find what they read.

    Attributes:
        images: (n, 3, S, S) T, as the crop kernel writes them.
        half_angle: (n,) tangents of half the crops' fields of view.
        places: (H, V) int64: h V + v, the crop of hand h in view v; -1 where there is none.
        location: (n, 21, 3) of the hands that the estimator saw: u, v, and depth behind the root in units of 0.2 m.
        sampled: (n, 21, C) T, what the first three maps have there.
    """

    images: int
    half_angle: int
    places: int
    location: int
    sampled: int


@dataclass(frozen=True, slots=True)
class EstimatorOutputs:
    """What the estimator says: pose (n, 16, 6), betas (n, 10), camera (n, 3), and three of its maps to be sampled."""

    pose: int
    betas: int
    camera: int
    maps: tuple[FeatureMap, ...]


@dataclass(frozen=True, slots=True)
class InteractionOutputs:
    """What the interaction network says: pose (H, V, 16, 6) and camera (H, V, 3)."""

    pose: int
    camera: int


class PreparedNetworks(Protocol):
    """The networks for so many hands and views. What they give stays where it is until they run again."""

    def look(self, stream: Stream) -> EstimatorOutputs:
        """Queue the estimator."""

    def refine(self, stream: Stream) -> InteractionOutputs:
        """Queue the interaction network, on what `look` has left and what was written to the inputs since."""


class LaunchedGraph(Protocol):
    """Captured work."""

    def launch(self, stream: Stream) -> None: ...


class GpuNetworks(Protocol):
    """A bundle's networks.

    Attributes:
        name: for reports.
        dtype: T, float16 or float32.
        image_size: S, px.
        sampled: C, channels of the first three maps together.
    """

    name: str
    dtype: np.dtype[Any]
    image_size: int
    sampled: int

    def prepare(self, hands: int, views: int, inputs: NetworkInputs) -> PreparedNetworks:
        """Set up for so many, with memory and state that no other preparation uses.

        Raises:
            ValueError, OSError: so many cannot be taken, or do not fit into memory.
        """

    def capture(self, stream: Stream, work: Callable[[], None]) -> LaunchedGraph:
        """What `work` queues on the stream, these networks among it, as a graph. It ran before, so all is allocated."""

    def close(self) -> None:
        """Let go of all on the device, before that is closed. The device is idle."""
