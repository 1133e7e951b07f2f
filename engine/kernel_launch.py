"""The kernels of engine/kernels as functions: grids, blocks, and arguments in the bytes that the sources declare.

Numbers named as arrays are addresses on the device; streams are handles. Shapes and units are those of the .cuh files.
"""

from __future__ import annotations

from collections.abc import Sequence
from ctypes import c_int, c_void_p
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import DTypeLike

from hamuco.engine.cuda import Device
from hamuco.engine.cuda_driver import REBUILD, CudaError
from hamuco.engine.hand_model import LANDMARKS
from hamuco.engine.kernel_structs import (
    FeatureMap,
    FusedHands,
    HandViews,
    SkinnedHands,
    SkinningInputs,
    SkinningModel,
    c_bytes,
)

FOLDER = Path(__file__).parent / "kernels"
"""Where the fatbins are."""

_TILE = 128  # vertices of a block, and its threads
_CROP_BLOCK = (32, 8)
_SAMPLER_THREADS = 128
_FUSION_THREADS = 256
MAX_VIEWS = 64


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
            arguments = [_pointer(crops), _pointer(cameras), bytes(c_int(size)), _pointer(out)]
            self._crop(grid, _CROP_BLOCK, arguments, stream)

    def skin(self, model: SkinningModel, hands: SkinningInputs, out: SkinnedHands, count: int, stream: int) -> None:
        """Meshes, joints and landmarks of `count` hands."""
        if count:
            grid = (-(-model.vertices // _TILE) + 1, count)
            self._skin(grid, (_TILE,), [c_bytes(model), c_bytes(hands), c_bytes(out)], stream)

    def skin_landmarks(
        self, model: SkinningModel, hands: SkinningInputs, out: SkinnedHands, count: int, stream: int
    ) -> None:
        """The same without vertices, which may be 0 in `out`."""
        self.skin(replace(model, vertices=0), hands, out, count, stream)

    def sample(self, maps: Sequence[FeatureMap], location: int, out: int, count: int, stream: int) -> None:
        """What three maps of n = `count` crops have at location (n, 21, 3): (n, 21, C) T, C the channels of all maps."""
        if count:
            levels = b"".join(c_bytes(one) for one in maps)
            arguments = [levels, _pointer(location), _pointer(out)]
            self._sample((LANDMARKS * count,), (_SAMPLER_THREADS,), arguments, stream)

    def fuse(self, hands: HandViews, fused: FusedHands, count: int, stream: int) -> None:
        """One hand out of V views, `count` times.

        Raises:
            ValueError: V is more than the kernel has room for.
        """
        if not 1 <= hands.views <= MAX_VIEWS:
            raise ValueError(f"fusion of {hands.views} views: it takes 1 to {MAX_VIEWS}, leave some cameras out")
        if count:
            self._fuse((count,), (_FUSION_THREADS,), [c_bytes(hands), c_bytes(fused)], stream)


def _pointer(address: int) -> bytes:
    return bytes(c_void_p(address))


def _fatbin(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise CudaError(
            f"{path} is not there: the package was installed without its CUDA kernels. Install a wheel that has them, or "
            f"build them with the CUDA toolkit: {REBUILD}"
        ) from None
