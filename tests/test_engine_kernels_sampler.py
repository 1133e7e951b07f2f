"""The joint feature sampler's source on the CPU against torch's grid_sample in float64."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from host_kernels import load_host_kernels
from numpy.typing import NDArray
from torch.nn import functional as F

from hamuco.engine.kernel_structs import FeatureMap, c_bytes

FloatArray = NDArray[np.float64]
FloatMap = NDArray[np.float32]
Stored = NDArray[np.floating]  # float16 or float32

GUARD = 64  # numbers before and after the output that must stay as they are
LEVELS = ((32, 17), (5, 9), (150, 4))  # channels and size: a warp, few, more than a block has threads; odd and even

# A place on a map comes from three operations on numbers below 3 * 17, each rounded by 2^-24 of them. Values below 1
# change by at most 2 from a pixel to the next, in each of two directions; the sum of four products is rounded by less than
# 8 * 2^-24.
VALUE_ROUNDING = 2 * 2 * 3 * 3 * 17 * 2.0**-24 + 8 * 2.0**-24
# Half precision rounds what is written by half a step, 2^-11 of it at most. Maps are rounded before, for both sides.
OUTPUT_ROUNDING = {np.float16: 2.0**-11, np.float32: 0.0}


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """n crops. Maps are (n, channels, size, size), whatever their order in memory."""

    maps: tuple[Stored, ...]
    location: FloatMap  # (n, 21, 3) u and v, and what plays no part


def random_crops(dtype: type[np.floating], count: int, seed: int = 0) -> Seen:
    """Joints up to some way outside of the crops."""
    rng = np.random.default_rng(seed)
    maps = tuple(rng.uniform(-1, 1, (count, channels, size, size)).astype(dtype) for channels, size in LEVELS)
    return Seen(maps, rng.uniform(-1.5, 1.5, (count, 21, 3)).astype(np.float32))


def sample(crops: Seen) -> Stored:
    """Tokens (n, 21, channels)."""
    dtype, count = crops.maps[0].dtype, len(crops.location)
    shape = count, 21, sum(level.shape[1] for level in crops.maps)
    buffer = np.full(GUARD + int(np.prod(shape)) + GUARD, 7.0, dtype)
    maps = b"".join(
        c_bytes(FeatureMap(level.ctypes.data, *level.shape[1:3], *(level.strides[i] // level.itemsize for i in (1, 3))))
        for level in crops.maps
    )
    location, tokens = (ctypes.c_void_p(one.ctypes.data) for one in (crops.location, buffer[GUARD:]))
    library = load_host_kernels("sampler")
    function = library.sample_half if dtype == np.float16 else library.sample_float
    function(maps, location, tokens, count)
    assert (buffer[:GUARD] == 7.0).all()
    assert (buffer[-GUARD:] == 7.0).all()
    return buffer[GUARD:-GUARD].reshape(shape)


def reference(crops: Seen) -> FloatArray:
    return sampled(crops.maps, crops.location[..., :2].astype(np.float64))


def sampled(maps: tuple[Stored, ...], pixels: FloatArray) -> FloatArray:
    at = torch.from_numpy(pixels)[:, :, None]
    levels = [F.grid_sample(torch.from_numpy(level.astype(np.float64)), at, align_corners=False) for level in maps]
    return np.asarray(torch.cat(levels, dim=1)[..., 0].transpose(1, 2))


def assert_same_values(tokens: Stored, expected: FloatArray) -> None:
    tolerance = VALUE_ROUNDING + OUTPUT_ROUNDING[tokens.dtype.type] * np.abs(expected)
    assert (np.abs(tokens - expected) <= tolerance).all()


@pytest.mark.parametrize("count", [1, 4])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_tokens_are_those_of_grid_sample(dtype: type[np.floating], count: int) -> None:
    crops = random_crops(dtype, count)
    outside = np.abs(crops.location[..., :2]).max(axis=-1) > 1.25
    assert 0 < np.count_nonzero(outside) < outside.size
    tokens = sample(crops)
    assert_same_values(tokens, reference(crops))
    assert (tokens[outside] == 0).all()


def test_the_order_of_maps_in_memory_does_not_matter() -> None:
    crops = random_crops(np.float16, 2)
    channels_last = tuple(
        np.ascontiguousarray(level.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2) for level in crops.maps
    )
    np.testing.assert_array_equal(sample(replace(crops, maps=channels_last)), sample(crops))


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_borders_and_pixel_centres(dtype: type[np.floating]) -> None:
    crops = random_crops(dtype, 1)
    # Outer edges, centres of the last pixels and the first places without any, of 9 pixels: no binary fractions.
    lines = np.array([-1.0, 1.0, -8 / 9, 8 / 9, -10 / 9, 10 / 9, 0.0])
    u, v = np.meshgrid(lines, lines[[0, 3, 5]])
    plain = replace(crops, location=np.stack([u.ravel(), v.ravel(), np.zeros(21)], axis=-1)[None].astype(np.float32))
    assert_same_values(sample(plain), reference(plain))
    # The centre of a map with an odd number of pixels is a pixel.
    middle = replace(plain, location=np.zeros((1, 21, 3), np.float32))
    np.testing.assert_array_equal(
        sample(middle)[0, 3, :37],
        np.concatenate([level[0, :, level.shape[2] // 2, level.shape[3] // 2] for level in crops.maps[:2]]),
    )


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_what_is_not_a_number_stays_where_it_is(dtype: type[np.floating]) -> None:
    crops = random_crops(dtype, 3)
    before = sample(crops)
    crops.location[1, 4] = np.nan
    crops.location[1, 5, 1] = np.nan
    crops.location[1, 6, 0] = np.inf
    crops.location[1, 7] = 1e30
    crops.location[1, 8, 2] = np.nan
    crops.location[2] = np.nan
    crops.maps[1][2] = np.nan
    after = sample(crops)
    np.testing.assert_array_equal(after[0], before[0])
    np.testing.assert_array_equal(np.delete(after[1], [4, 5, 6, 7], axis=0), np.delete(before[1], [4, 5, 6, 7], axis=0))
    assert (after[1, 4:8] == 0).all()
    assert (after[2] == 0).all()


def test_pixels_off_the_map_are_not_read() -> None:
    """A pixel that is not a number spoils what it is a part of, and nothing beside it."""
    crops = random_crops(np.float32, 1)
    crops.location[0] = 0.0
    crops.location[0, :, 0] = np.linspace(-1.0, 1.0, 21)
    for level in crops.maps:
        level[0, 0, :, -1] = np.nan
    np.testing.assert_array_equal(np.isnan(sample(crops)), np.isnan(reference(crops)))


def test_no_crops_are_no_work() -> None:
    assert sample(random_crops(np.float16, 0)).shape == (0, 21, 187)
