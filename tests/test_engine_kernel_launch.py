"""Launches of the kernels, through the driver's stand-in; and their structures against those of the sources."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from fake_driver import FATBIN, FakeLibrary, fake_device
from host_kernels import host_numbers
from kernel_checks import CHECKS

from hamuco.engine.cuda import Device
from hamuco.engine.cuda_driver import CudaError
from hamuco.engine.hand_arrays import hand_arrays
from hamuco.engine.hand_model import HandModel
from hamuco.engine.kernel_launch import (
    FeatureMap,
    FusedHands,
    HandParameters,
    HandViews,
    Kernels,
    SkinnedHands,
    device_hand,
)

NOWHERE = HandViews(0, 0, 0, 0, 0, 0, 0, 0, 0, views=2, vertex_count=1609)


@pytest.fixture
def fatbins(tmp_path: Path) -> Path:
    """A folder with the names of ours."""
    for name in ("crop", "skinning", "sampler", "fusion"):
        (tmp_path / f"{name}.fatbin").write_bytes(FATBIN)
    return tmp_path


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


@pytest.mark.parametrize(
    ("source", "name", "kind", "layout"),
    [
        ("skinning.cuh", "HandParameters", HandParameters, "4P"),
        ("skinning.cuh", "SkinnedHands<float>", SkinnedHands, "5P"),
        ("sampler.cuh", "FeatureMap<float>", FeatureMap, "P4i"),
        ("fusion.cuh", "HandViews<float>", HandViews, "9P2i"),
        ("fusion.cuh", "FusedHands<float>", FusedHands, "5P"),
    ],
)
def test_structures_are_laid_out_as_in_the_sources(source: str, name: str, kind: type, layout: str) -> None:
    """The fields by their names."""
    names = [field.name for field in fields(kind)]
    codes = "".join(code * int(number or 1) for number, code in _pairs(layout))
    ours = [
        struct.calcsize(f"@{codes[: index + 1]}") - struct.calcsize(f"@{codes[index]}") for index in range(len(names))
    ]
    theirs = host_numbers(source, [f"sizeof({name})", *(f"offsetof({name}, {field})" for field in names)])
    assert theirs == [struct.calcsize(f"@{layout}"), *ours]


def _pairs(layout: str) -> list[tuple[str, str]]:
    pairs, number = [], ""
    for character in layout:
        if character.isdigit():
            number += character
        else:
            pairs.append((number, character))
            number = ""
    return pairs


def test_a_hand_model_is_as_large_as_the_sources(with_posedirs: HandModel) -> None:
    arrays = hand_arrays(with_posedirs, np.float16)
    hand = device_hand(arrays, range(0x1000, 0x100D))
    size, vertices, anchors = host_numbers(
        "skinning.cuh",
        [
            "sizeof(SkinningModel<Half>)",
            *(f"offsetof(SkinningModel<Half>, {name})" for name in ("vertices", "anchors")),
        ],
    )
    assert len(hand.whole) == len(hand.landmarks) == size
    assert [struct.unpack_from("@i", one, vertices)[0] for one in (hand.whole, hand.landmarks)] == [hand.vertices, 0]
    assert (
        struct.unpack_from("@P", hand.whole, anchors) == struct.unpack_from("@P", hand.landmarks, anchors) == (0x1007,)
    )
    assert struct.unpack_from("@3P", hand.landmarks) == (0, 0, 0)


@pytest.mark.parametrize("views", [0, 65])
def test_fusion_has_room_for_64_views(views: int, fatbins: Path) -> None:
    kernels = Kernels(fake_device(), folder=fatbins)
    with pytest.raises(ValueError, match=rf"fusion of {views} views: it takes 1 to 64"):
        kernels.fuse(replace(NOWHERE, views=views), FusedHands(0, 0, 0, 0, 0), 1, 0)


def test_kernels_that_were_not_built(fatbins: Path) -> None:
    (fatbins / "sampler.fatbin").unlink()
    with pytest.raises(CudaError, match=r"sampler.fatbin is not there.*wheel.*kernels.build$"):
        Kernels(fake_device(), folder=fatbins)


def test_kernels_of_another_version_are_not_launched(fatbins: Path) -> None:
    library = FakeLibrary()
    library.parameters["fuse"] = (88, 40)
    kernels = Kernels(fake_device(library), folder=fatbins)
    with pytest.raises(
        CudaError, match=r"fuse_half of fusion.fatbin takes arguments of \(88, 40\) bytes, given are \(80, 40\)"
    ):
        kernels.fuse(NOWHERE, FusedHands(0, 0, 0, 0, 0), 1, 0)
    assert "cuLaunchKernel" not in library.names()
