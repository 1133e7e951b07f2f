"""The joint feature sampler's source on the CPU against torch's grid_sample and `project` in float64."""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from host_kernels import load_host_kernels
from numpy.typing import NDArray
from torch.nn import functional as F

from hamuco.training.networks.parameters import project

FloatArray = NDArray[np.float64]
FloatMap = NDArray[np.float32]
Stored = NDArray[np.floating]  # float16 or float32

GUARD = 7.0  # what outputs hold before
OFFSET, BEHIND = 5, 3  # channels of a token that are not the sampler's
LEVELS = ((32, 17), (5, 9), (150, 4))  # channels and size: a warp, few, more than a block has threads; odd and even

# u and v are below 4 in size here and come from half a dozen operations, each rounded by 2^-24 of numbers below 4; a
# distance of 0.5 or more at most doubles that.
PIXEL_ROUNDING = 2 * 6 * 4 * 2.0**-24
# Values below 1 change by at most 2 from a pixel to the next, in each of two directions, and a place on a map of 17
# pixels is off by 17 / 2 of PIXEL_ROUNDING; the sum of four products is rounded by less than 8 * 2^-24.
VALUE_ROUNDING = 2 * 2 * 17 / 2 * PIXEL_ROUNDING + 8 * 2.0**-24
# Half precision rounds what is written by half a step, 2^-11 of it at most. Maps are rounded before, for both sides.
OUTPUT_ROUNDING = {np.float16: 2.0**-11, np.float32: 0.0}


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """n crops. Maps are (n, channels, size, size), whatever their order in memory."""

    maps: tuple[Stored, ...]
    joints: FloatMap  # (n, 21, 3)
    camera: FloatMap  # (n, 3)
    half_angle: FloatMap  # (n,)


def random_crops(dtype: type[np.floating], count: int, seed: int = 0) -> Seen:
    """Joints up to some way outside of the crops."""
    rng = np.random.default_rng(seed)
    return Seen(
        tuple(rng.uniform(-1, 1, (count, channels, size, size)).astype(dtype) for channels, size in LEVELS),
        rng.uniform(-0.2, 0.2, (count, 21, 3)).astype(np.float32),
        (rng.normal(0, 0.2, (count, 3)) + [5.0, 0.0, 0.0]).astype(np.float32),
        rng.uniform(0.0, 0.4, count).astype(np.float32),
    )


def sample(crops: Seen) -> tuple[Stored, FloatMap]:
    """The sampler's part of the tokens (n, 21, channels), and u, v (n, 21, 2)."""
    dtype, count = crops.maps[0].dtype, len(crops.joints)
    channels = sum(level.shape[1] for level in crops.maps)
    width = OFFSET + channels + BEHIND
    tokens = np.full((count, 21, width), GUARD, dtype)
    pixels = np.full((count, 21, 2), GUARD, np.float32)
    maps = b"".join(
        struct.pack("@P4i", level.ctypes.data, *level.shape[1:3], *(level.strides[i] // level.itemsize for i in (1, 3)))
        for level in crops.maps
    )
    known = struct.pack("@3P", *(array.ctypes.data for array in (crops.joints, crops.camera, crops.half_angle)))
    out = struct.pack("@P2iP", tokens.ctypes.data, width, OFFSET, pixels.ctypes.data)
    library = load_host_kernels("sampler")
    function = library.sample_half if dtype == np.float16 else library.sample_float
    function(maps, known, out, count)
    assert (tokens[..., :OFFSET] == GUARD).all()
    assert (tokens[..., OFFSET + channels :] == GUARD).all()
    return tokens[..., OFFSET : OFFSET + channels], pixels


def reference(crops: Seen) -> tuple[FloatArray, FloatArray]:
    joints, camera, half_angle = (
        torch.from_numpy(array.astype(np.float64)) for array in (crops.joints, crops.camera, crops.half_angle)
    )
    pixels = project(joints, camera, half_angle)
    return sampled(crops.maps, pixels.numpy()), pixels.numpy()


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
    expected, at = reference(crops)
    outside = np.abs(at).max(axis=-1) > 1.25
    assert 0 < np.count_nonzero(outside) < outside.size
    tokens, pixels = sample(crops)
    np.testing.assert_allclose(pixels, at, atol=PIXEL_ROUNDING, rtol=0)
    assert_same_values(tokens, expected)
    assert (tokens[outside] == 0).all()


def test_the_order_of_maps_in_memory_does_not_matter() -> None:
    crops = random_crops(np.float16, 2)
    channels_last = tuple(
        np.ascontiguousarray(level.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2) for level in crops.maps
    )
    np.testing.assert_array_equal(sample(replace(crops, maps=channels_last))[0], sample(crops)[0])


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_borders_and_pixel_centres(dtype: type[np.floating]) -> None:
    crops = random_crops(dtype, 1)
    # Outer edges, centres of the last pixels and the first places without any, of 9 pixels: no binary fractions.
    lines = np.array([-1.0, 1.0, -8 / 9, 8 / 9, -10 / 9, 10 / 9, 0.0])
    u, v = np.meshgrid(lines, lines[[0, 3, 5]])
    joints = np.stack([u.ravel(), v.ravel(), np.zeros(21)], axis=-1)[None].astype(np.float32)
    plain = replace(crops, joints=joints, camera=np.array([[1, 0, 0]], np.float32), half_angle=np.zeros(1, np.float32))
    tokens, pixels = sample(plain)
    np.testing.assert_array_equal(pixels, joints[..., :2])
    assert_same_values(tokens, reference(plain)[0])
    # The centre of a map with an odd number of pixels is a pixel.
    middle = replace(plain, joints=np.zeros((1, 21, 3), np.float32))
    np.testing.assert_array_equal(
        sample(middle)[0][0, 3, :37],
        np.concatenate([level[0, :, level.shape[2] // 2, level.shape[3] // 2] for level in crops.maps[:2]]),
    )


def test_a_joint_behind_the_camera_is_projected_as_if_it_were_near() -> None:
    crops = random_crops(np.float32, 2)
    crops.joints[0, :, 2] = -3.0
    crops.half_angle[0] = 0.3
    at = reference(crops)[1]
    # Ten times the numbers, and so ten times their rounding.
    np.testing.assert_allclose(sample(crops)[1], at, atol=10 * PIXEL_ROUNDING, rtol=0)
    np.testing.assert_allclose(at[0], (5.0 * crops.joints[0, :, :2]) / 0.1, atol=20)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_what_is_not_a_number_stays_where_it_is(dtype: type[np.floating]) -> None:
    crops = random_crops(dtype, 3)
    sound_tokens, sound_pixels = sample(crops)
    crops.joints[1, 4] = np.nan
    crops.joints[1, 5, 2] = np.nan
    crops.joints[1, 6, 0] = np.inf
    crops.joints[1, 7] = 1e30
    crops.camera[2] = np.nan
    crops.maps[1][2] = np.nan
    tokens, pixels = sample(crops)
    for before, after in ((sound_tokens, tokens), (sound_pixels, pixels)):
        np.testing.assert_array_equal(after[0], before[0])
        np.testing.assert_array_equal(
            np.delete(after[1], [4, 5, 6, 7], axis=0), np.delete(before[1], [4, 5, 6, 7], axis=0)
        )
    assert (tokens[1, 4:8] == 0).all()
    assert np.isnan(pixels[1, 4:6]).all()
    assert (tokens[2] == 0).all()
    assert np.isnan(pixels[2]).all()


def test_pixels_off_the_map_are_not_read() -> None:
    """A pixel that is not a number spoils what it is a part of, and nothing beside it."""
    crops = random_crops(np.float32, 1)
    crops.joints[0] = 0.0
    crops.joints[0, :, 0] = np.linspace(-1.0, 1.0, 21) / crops.camera[0, 0]
    for level in crops.maps:
        level[0, 0, :, -1] = np.nan
    np.testing.assert_array_equal(np.isnan(sample(crops)[0]), np.isnan(reference(crops)[0]))


def test_no_crops_are_no_work() -> None:
    assert sample(random_crops(np.float16, 0))[0].shape == (0, 21, 187)
