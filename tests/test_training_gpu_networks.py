"""Torch's networks on memory that is not torch's. That they make the right hands is in test_engine_gpu_runtime."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from fake_driver import fake_device
from numpy.typing import NDArray
from small_bundle import small_network

from hamuco.engine.gpu_networks import NetworkInputs
from hamuco.training.gpu_networks import TorchNetworks, _feature_map
from hamuco.training.networks.hamuco import HaMuCo


@pytest.fixture(scope="module")
def network() -> HaMuCo:
    return small_network()


@dataclass(eq=False)
class _Given:
    """Inputs for one hand in three views, the last of which shows none."""

    networks: TorchNetworks
    arrays: dict[str, NDArray[Any]] = field(init=False)

    def __post_init__(self) -> None:
        rng, size = np.random.default_rng(0), self.networks.image_size
        shapes = {"images": (3, 3, size, size), "location": (3, 21, 3), "sampled": (3, 21, self.networks.sampled)}
        self.arrays = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
        self.arrays |= {"half_angle": np.full(3, 0.2, np.float32), "places": np.array([[0, 1, -1]])}

    def inputs(self) -> NetworkInputs:
        return NetworkInputs(**{name: array.ctypes.data for name, array in self.arrays.items()})


def _at(address: int, *shape: int) -> NDArray[np.float32]:
    memory = (ctypes.c_float * int(np.prod(shape))).from_address(address)
    return np.ctypeslib.as_array(memory).reshape(shape).copy()


def test_they_read_what_is_in_memory_when_they_run(network: HaMuCo) -> None:
    networks, stream = TorchNetworks(network, np.float32, "cpu"), fake_device().stream()
    given = _Given(networks)
    prepared = networks.prepare(1, 3, given.inputs())
    first = _at(prepared.look(stream).pose, 3, 16, 6)
    with torch.inference_mode():
        expected, maps = networks._modules.look(torch.from_numpy(given.arrays["images"]))
    np.testing.assert_array_equal(first, expected.pose.numpy())
    given.arrays["images"][:] = given.arrays["images"][::-1].copy()
    # Batches of other contents are summed in another order: single precision of numbers of about 1.
    np.testing.assert_allclose(_at(prepared.look(stream).pose, 3, 16, 6), first[::-1], rtol=0, atol=1e-5)
    assert [one.channels for one in prepared.look(stream).maps] == [level.shape[1] for level in maps[:3]]
    assert networks.sampled == sum(level.shape[1] for level in maps[:3])


def test_a_view_without_a_place_changes_no_other(network: HaMuCo) -> None:
    networks, stream = TorchNetworks(network, np.float32, "cpu"), fake_device().stream()
    given = _Given(networks)
    prepared = networks.prepare(1, 3, given.inputs())

    def poses() -> NDArray[np.float32]:
        prepared.look(stream)
        return _at(prepared.refine(stream).pose, 1, 3, 16, 6)

    before = poses()
    for name in ("images", "location", "sampled"):
        given.arrays[name][2] += 1
    np.testing.assert_array_equal(poses()[:, :2], before[:, :2])
    given.arrays["places"][0, 2] = 2
    assert np.abs(poses()[:, :2] - before[:, :2]).max() > 1e-3


def test_maps_with_gaps_are_refused() -> None:
    maps = torch.zeros(2, 4, 8, 8)
    assert _feature_map(maps).channel_stride == 64
    assert _feature_map(maps.contiguous(memory_format=torch.channels_last)).column_stride == 4
    with pytest.raises(ValueError, match=r"shape \(2, 4, 8, 4\) has strides \(256, 64, 8, 1\): there are gaps"):
        _feature_map(maps[..., :4])
