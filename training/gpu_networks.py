"""HaMuCo's networks in torch for the GPU runtime: cut where our kernels take over, folded, in half precision where it is safe.

The graphs that TensorRT gets, `hamuco.engine.device_graphs`, are cut at the same places. This is the reference for them, and
for GPUs without TensorRT.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import DTypeLike
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from hamuco.engine.cuda import Stream
from hamuco.engine.gpu_networks import EstimatorOutputs, InteractionOutputs, LaunchedGraph, NetworkInputs
from hamuco.engine.hand_model import LANDMARKS
from hamuco.engine.kernel_structs import FeatureMap
from hamuco.training.networks.backbones import Maps, resized
from hamuco.training.networks.hamuco import HaMuCo
from hamuco.training.networks.parameters import HandParameters


class DeviceNetworks(nn.Module):
    """A trained HaMuCo between the kernels.

    Attributes:
        dtype: of images, maps and what is sampled from them; what says where a hand is, is float32.
        sampled: channels of all maps that are sampled.
    """

    def __init__(self, network: HaMuCo, device: torch.device, dtype: torch.dtype, channels_last: bool = False) -> None:
        """
        Args:
            network: trained; it is not changed.
            device: to run on.
            dtype: float16, or float32 to compare with.
            channels_last: order of maps in memory; which is faster depends on the GPU and the backbone.
        """
        super().__init__()
        self.dtype = dtype
        self.estimator, self.interaction = deepcopy(network.estimator), deepcopy(network.interaction)
        self.sampled = sum(self.estimator.backbone.channels[:3])
        graph = self.interaction.graph
        convolution = graph.joint_maps[0]
        assert isinstance(convolution, nn.Conv2d)
        self._map_size = math.isqrt(graph.parts[1] * LANDMARKS // convolution.out_channels)
        self.eval().requires_grad_(False)
        _fold_normalization(self.estimator.backbone)
        self._memory = torch.channels_last if channels_last else torch.contiguous_format
        self.to(device)
        if channels_last:
            self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # which torch's annotations lack
        locator, interaction = self.estimator.locator, self.interaction
        halved = [self.estimator.backbone, graph, interaction.project, interaction.layers]
        halved += [interaction.head_graph]
        if locator is not None:  # what follows its softmax stays
            halved += [locator.lateral, locator.mix, locator.heat]
        for module in halved:
            module.to(dtype)
        # Heads stay too: small, and worth half a millimetre of a hand's distance (see device_graphs).
        interaction.head = nn.Sequential(_Single(), *interaction.head)

    def look(self, images: Tensor) -> tuple[HandParameters, Maps]:
        """`Estimator.forward` of images (n, 3, S, S) that the crop kernel has normalized."""
        maps: Maps = self.estimator.backbone(images.contiguous(memory_format=self._memory))
        return self.estimator.readout(self.estimator.read(maps)[0]), maps

    def refine(self, last_map: Tensor, sampled: Tensor, hands: Tensor, valid: Tensor) -> HandParameters:
        """`Interaction.forward` with features that the sampler has found.

        Args:
            last_map: of the estimator, (n, ...).
            sampled: (n, 21, C) of the other maps.
            hands: (n, 63 + 90 + 1) float32: location (21, 3), fingers' rotations (15, 6) and half_angle of each.
            valid: (B, V) bool, n = B V.

        Returns:
            Parameters (B, V).
        """
        tokens = self.tokens(last_map, sampled, hands).unflatten(0, valid.shape)
        parameters: HandParameters = self.interaction.refine(tokens, valid)
        return parameters

    def tokens(self, last_map: Tensor, sampled: Tensor, hands: Tensor) -> Tensor:
        """What the views of a hand exchange, (n, 21, D), of each crop on its own; see `refine`."""
        graph = self.interaction.graph
        embedded = graph.location(hands.to(self.dtype)).unflatten(1, (LANDMARKS, -1))
        maps = resized(graph.joint_maps(last_map), self._map_size)
        own = maps.flatten(2).unflatten(1, (LANDMARKS, -1)).flatten(2)
        tokens: Tensor = self.interaction.project(torch.cat([own, sampled, embedded], dim=2))
        return tokens


class TorchNetworks:
    """See `hamuco.engine.gpu_networks.GpuNetworks`. Torch shares the device's context, and allocates beside it."""

    def __init__(
        self, network: HaMuCo, dtype: DTypeLike = np.float16, device: str = "cuda", channels_last: bool = False
    ) -> None:
        """
        Args:
            network: trained; it is not changed.
            dtype: float16, or float32 to compare with.
            device: torch's name of the one that runs the kernels; "cpu" in tests, with a stand-in for the driver.
            channels_last: see `DeviceNetworks`.
        """
        self.dtype, self.image_size = np.dtype(dtype), network.config.estimator.image_size
        self.name = f"torch {torch.__version__} {self.dtype}"
        self._device = torch.device(device)
        kind = torch.float16 if self.dtype == np.float16 else torch.float32
        self._modules = DeviceNetworks(network, self._device, kind, channels_last)
        self.sampled = self._modules.sampled
        self._graphs: list[torch.cuda.CUDAGraph] = []
        if self._device.type == "cuda":
            self._pool = torch.cuda.graph_pool_handle()
            torch.cuda.synchronize(self._device)  # weights came on torch's own stream

    def prepare(self, hands: int, views: int, inputs: NetworkInputs) -> _Prepared:
        """See `GpuNetworks`."""
        count, size = hands * views, self.image_size
        return _Prepared(
            self._modules,
            self._device,
            _Inputs(
                images=self._tensor(inputs.images, (count, 3, size, size), self.dtype),
                half_angle=self._tensor(inputs.half_angle, (count,), np.float32),
                places=self._tensor(inputs.places, (hands, views), np.int64),
                location=self._tensor(inputs.location, (count, LANDMARKS, 3), np.float32),
                sampled=self._tensor(inputs.sampled, (count, LANDMARKS, self.sampled), self.dtype),
            ),
        )

    def capture(self, stream: Stream, work: Callable[[], None]) -> LaunchedGraph:
        """By torch, whose allocator has to know. Graphs share memory, since only one of them runs at a time."""
        if self._device.type != "cuda":
            return _Repeated(work)
        graph, own = torch.cuda.CUDAGraph(), _torch_stream(stream, self._device)
        self._graphs.append(graph)
        # Other threads may go on allocating.
        with torch.cuda.graph(graph, self._pool, own, capture_error_mode="thread_local"):
            work()
        return _Captured(graph, self._device)

    def _tensor(self, address: int, shape: tuple[int, ...], dtype: DTypeLike) -> Tensor:
        """That shares memory of the device."""
        kind = np.dtype(dtype)
        if self._device.type != "cuda":
            memory = (ctypes.c_uint8 * (math.prod(shape) * kind.itemsize)).from_address(address)
            return torch.from_numpy(np.ctypeslib.as_array(memory).view(kind).reshape(shape))
        there = _OnDevice({"data": (address, False), "shape": shape, "typestr": kind.str, "version": 3})
        tensor = torch.as_tensor(there, device=self._device)
        assert tensor.data_ptr() == address, "torch made a copy"
        return tensor

    def close(self) -> None:
        """See `GpuNetworks`."""
        for graph in self._graphs:
            graph.reset()
        self._graphs.clear()


@dataclass(frozen=True, slots=True, eq=False)
class _Inputs:
    """`NetworkInputs` as tensors."""

    images: Tensor
    half_angle: Tensor
    places: Tensor
    location: Tensor
    sampled: Tensor


class _Prepared:
    """See `PreparedNetworks`. What was computed last is kept: a graph that was captured goes on writing there."""

    def __init__(self, modules: DeviceNetworks, device: torch.device, inputs: _Inputs) -> None:
        self._modules, self._device, self._inputs = modules, device, inputs

    @torch.inference_mode()
    def look(self, stream: Stream) -> EstimatorOutputs:
        with _current(stream, self._device):
            hands, self._maps = self._modules.look(self._inputs.images)
            self._looked = _contiguous(hands)
        pose, betas, camera = (one.data_ptr() for one in self._looked)
        return EstimatorOutputs(pose, betas, camera, tuple(_feature_map(level) for level in self._maps[:3]))

    @torch.inference_mode()
    def refine(self, stream: Stream) -> InteractionOutputs:
        with _current(stream, self._device):
            given, pose = self._inputs, self._looked[0]
            known = torch.cat([given.location.flatten(1), pose[:, 1:].flatten(1), given.half_angle[:, None]], dim=1)
            better = self._modules.refine(self._maps[3], given.sampled, known, given.places >= 0)
            self._refined = _contiguous(better)
        return InteractionOutputs(self._refined[0].data_ptr(), self._refined[2].data_ptr())


class _Single(nn.Module):
    """What follows computes in single precision."""

    def forward(self, x: Tensor) -> Tensor:
        return x.float()


def _fold_normalization(module: nn.Module) -> None:
    """Batch normalization into the convolution that is registered just before it, as in all our backbones.

    In single precision, before anything is rounded; what normalizes something else stays as it is.
    """
    for (name, child), (after, normalization) in pairwise(list(module.named_children())):
        if isinstance(child, nn.Conv2d) and type(normalization) is nn.BatchNorm2d:
            folded = fuse_conv_bn_eval(child, normalization)
            folded.__class__ = nn.Conv2d  # what backbones add for training on CPUs cannot take half precision
            setattr(module, name, folded)
            setattr(module, after, nn.Identity())
    for child in module.children():
        _fold_normalization(child)


class _Captured:
    """A graph of torch's."""

    def __init__(self, graph: torch.cuda.CUDAGraph, device: torch.device) -> None:
        self._graph, self._device = graph, device

    def launch(self, stream: Stream) -> None:
        with _current(stream, self._device):
            self._graph.replay()


class _Repeated:
    """On the CPU, where torch has no graphs: the work itself."""

    def __init__(self, work: Callable[[], None]) -> None:
        self._work = work

    def launch(self, stream: Stream) -> None:
        self._work()


@dataclass(frozen=True, slots=True)
class _OnDevice:
    """Memory as torch takes it from other libraries."""

    __cuda_array_interface__: Mapping[str, Any]


def _current(stream: Stream, device: torch.device) -> AbstractContextManager[Any]:
    """Torch's work goes to the stream."""
    return torch.cuda.stream(_torch_stream(stream, device)) if device.type == "cuda" else nullcontext()


def _torch_stream(stream: Stream, device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.ExternalStream(stream.handle, device)


def _contiguous(hands: HandParameters) -> tuple[Tensor, Tensor, Tensor]:
    return hands.pose.contiguous(), hands.betas.contiguous(), hands.camera.contiguous()


def _feature_map(maps: Tensor) -> FeatureMap:
    """Maps (n, C, S, S) for the sampler, which knows crops and rows without gaps."""
    _, channels, _, size = maps.shape
    crop, channel, row, column = maps.stride()
    if (crop, row) != (channels * size * size, size * column):
        raise ValueError(
            f"a feature map of shape {tuple(maps.shape)} has strides {maps.stride()}: there are gaps in it"
        )
    return FeatureMap(maps.data_ptr(), channels, size, channel, column)
