"""Launches of the kernels, through the driver's stand-in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fake_driver import FakeLibrary, fake_device, write_fatbins
from kernel_checks import CHECKS

from hamuco.engine.cuda import Device
from hamuco.engine.cuda_driver import CudaError
from hamuco.engine.kernel_launch import Kernels
from hamuco.engine.kernel_structs import FusedHands, HandViews

NOWHERE = HandViews(0, 0, 0, 0, 0, 0, 0, 0, 0, views=2, vertex_count=1609)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("check", CHECKS)
def test_launches_compute_what_the_references_do(
    check: Callable[[Device, Kernels], None], dtype: type[np.floating], fatbins: Path
) -> None:
    library = FakeLibrary()
    device = fake_device(library)
    check(device, Kernels(device, dtype, fatbins))
    device.close()
    assert ("cuLaunchKernel" in library.names()) == ("nothing" not in check.__name__)


@pytest.mark.parametrize("views", [0, 65])
def test_fusion_has_room_for_64_views(views: int, fatbins: Path) -> None:
    kernels = Kernels(fake_device(), folder=fatbins)
    with pytest.raises(ValueError, match=rf"fusion of {views} views: it takes 1 to 64"):
        kernels.fuse(replace(NOWHERE, views=views), FusedHands(0, 0, 0, 0, 0), 1, 0)


def test_kernels_that_were_not_built(tmp_path: Path) -> None:
    write_fatbins(tmp_path)
    (tmp_path / "sampler.fatbin").unlink()
    with pytest.raises(CudaError, match=r"sampler.fatbin is not there.*wheel.*kernels.build$"):
        Kernels(fake_device(), folder=tmp_path)


def test_kernels_of_another_version_are_not_launched(fatbins: Path) -> None:
    library = FakeLibrary()
    library.parameters["fuse"] = (88, 40)
    kernels = Kernels(fake_device(library), folder=fatbins)
    with pytest.raises(
        CudaError, match=r"fuse_half of fusion.fatbin takes arguments of \(88, 40\) bytes, given are \(80, 40\)"
    ):
        kernels.fuse(NOWHERE, FusedHands(0, 0, 0, 0, 0), 1, 0)
    assert "cuLaunchKernel" not in library.names()
