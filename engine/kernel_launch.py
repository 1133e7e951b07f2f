"""The kernels of engine/kernels as functions: grids, blocks, and arguments in the bytes that the sources declare.

Numbers named as arrays are addresses on the device; streams are handles. Shapes and units are those of the .cuh files.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import astuple, dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import DTypeLike

from hamuco.engine.cuda import Device
from hamuco.engine.cuda_driver import REBUILD, CudaError
from hamuco.engine.hand_arrays import HandArrays
from hamuco.engine.hand_model import LANDMARKS

FOLDER = Path(__file__).parent / "kernels"
"""Where the fatbins are."""

_TILE = 128  # vertices of a block, and its threads
_CROP_BLOCK = (32, 8)
_SAMPLER_THREADS = 128
_FUSION_THREADS = 256
MAX_VIEWS = 64


@dataclass(frozen=True, slots=True)
class HandParameters:
    """What networks say of n hands in crops: pose (n, 16, 6), betas (n, 10), camera (n, 3), half_angle (n,)."""

    pose: int
    betas: int
    camera: int
    half_angle: int


@dataclass(frozen=True, slots=True)
class SkinnedHands:
    """Where n hands go: vertices (n, N, 3) T, joints (n, 16, 3), landmarks (n, 21, 3), rotations (n, 16, 3, 3), location
    (n, 21, 3): u, v, and depth behind the root in units of 0.2 m."""

    vertices: int
    joints: int
    landmarks: int
    rotations: int
    location: int


@dataclass(frozen=True, slots=True)
class FeatureMap:
    """Maps (n, channels, size, size) T; strides count numbers. NCHW has size * size and 1, NHWC 1 and channels."""

    values: int
    channels: int
    size: int
    channel_stride: int
    column_stride: int


@dataclass(frozen=True, slots=True)
class HandViews:
    """H hands in V views each, (H, V, ...), as `HandViews` of fusion.cuh has them."""

    vertices: int
    landmarks: int
    weights: int
    crop_from_world: int
    rotations: int
    betas: int
    location: int
    half_angle: int
    landmark_weights: int
    views: int
    vertex_count: int


@dataclass(frozen=True, slots=True)
class FusedHands:
    """Where H fused hands go, (H, ...), as `FusedHands` of fusion.cuh has them."""

    vertices: int
    landmarks: int
    rotations: int
    betas: int
    root: int


@dataclass(frozen=True, slots=True)
class DeviceHand:
    """A hand model on the device.

    Attributes:
        whole: `SkinningModel` of skinning.cuh.
        landmarks: the same without vertices: it gives joints, landmarks, rotations and location alone.
        vertices: N.
    """

    whole: bytes
    landmarks: bytes
    vertices: int


class Kernels:
    """The kernels of one device, for arrays of one type T: float16, or float32 to compare with."""

    def __init__(self, device: Device, dtype: DTypeLike = np.float16, folder: Path | None = None) -> None:
        """Load them; `folder` has the fatbins, if it is not `FOLDER`.

        Raises:
            CudaError: a fatbin is not there, or the device or its driver cannot run it.
        """
        self.dtype = np.dtype(dtype)
        suffix = {"float16": "half", "float32": "float"}[self.dtype.name]
        names = {"crop": "crop_normalized", "skinning": "skin", "sampler": "sample", "fusion": "fuse"}
        kernels = {
            file: device.module(f"{file}.fatbin", _fatbin((folder or FOLDER) / f"{file}.fatbin")).kernel(
                f"{name}_{suffix}"
            )
            for file, name in names.items()
        }
        self._crop, self._skin, self._sample, self._fuse = kernels.values()

    def crop(self, crops: int, cameras: int, out: int, shape: tuple[int, int], stream: int) -> None:
        """Crops (n, `CROP_VIEW`) out of cameras (C, `CAMERA_FRAME`) to images (n, 3, S, S) T: RGB, normalized; `shape` is
        n, S."""
        count, size = shape
        if count:
            grid = (-(-size // _CROP_BLOCK[0]), -(-size // _CROP_BLOCK[1]), count)
            arguments = [_pointer(crops), _pointer(cameras), struct.pack("@i", size), _pointer(out)]
            self._crop(grid, _CROP_BLOCK, arguments, stream)

    def skin(self, model: DeviceHand, hands: HandParameters, out: SkinnedHands, count: int, stream: int) -> None:
        """Meshes, joints and landmarks of `count` hands."""
        if count:
            self._launch_skin(model.whole, -(-model.vertices // _TILE) + 1, hands, out, count, stream)

    def skin_landmarks(
        self, model: DeviceHand, hands: HandParameters, out: SkinnedHands, count: int, stream: int
    ) -> None:
        """The same without vertices, which may be 0 in `out`."""
        if count:
            self._launch_skin(model.landmarks, 1, hands, out, count, stream)

    def sample(self, maps: Sequence[FeatureMap], location: int, out: int, count: int, stream: int) -> None:
        """What three maps of n = `count` crops have at location (n, 21, 3): (n, 21, C) T, C the channels of all maps."""
        if count:
            packed = b"".join(struct.pack("@P4i", *astuple(one)) for one in maps)
            tokens = struct.pack("@P2i", out, sum(one.channels for one in maps), 0)
            arguments = [packed, _pointer(location), tokens]
            self._sample((LANDMARKS * count,), (_SAMPLER_THREADS,), arguments, stream)

    def fuse(self, hands: HandViews, fused: FusedHands, count: int, stream: int) -> None:
        """One hand out of V views, `count` times.

        Raises:
            ValueError: V is more than the kernel has room for.
        """
        if not 1 <= hands.views <= MAX_VIEWS:
            raise ValueError(f"fusion of {hands.views} views: it takes 1 to {MAX_VIEWS}, leave some cameras out")
        if count:
            arguments = [struct.pack("@9P2i", *astuple(hands)), struct.pack("@5P", *astuple(fused))]
            self._fuse((count,), (_FUSION_THREADS,), arguments, stream)

    def _launch_skin(
        self, model: bytes, blocks: int, hands: HandParameters, out: SkinnedHands, count: int, stream: int
    ) -> None:
        arguments = [model, struct.pack("@4P", *astuple(hands)), struct.pack("@5P", *astuple(out))]
        self._skin((blocks, count), (_TILE,), arguments, stream)


def device_hand(arrays: HandArrays, addresses: Sequence[int]) -> DeviceHand:
    """A hand model whose arrays are at these addresses of the device, in the order of `HandArrays.arrays`."""
    bare = landmark_arrays(arrays).kernel_struct(addresses)
    return DeviceHand(arrays.kernel_struct(addresses), bare, arrays.v_template.shape[1])


def landmark_arrays(arrays: HandArrays) -> HandArrays:
    """The same hand without vertices."""
    names = ("v_template", "shapedirs", "posedirs", "bones", "weights")
    return replace(arrays, **{name: getattr(arrays, name)[..., :0] for name in names})


def _pointer(address: int) -> bytes:
    return struct.pack("@P", address)


def _fatbin(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise CudaError(
            f"{path} is not there: the package was installed without its CUDA kernels. Install a wheel that has them, or "
            f"build them with the CUDA toolkit: {REBUILD}"
        ) from None
