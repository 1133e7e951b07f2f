"""Structures of the kernels against those of the sources. The crops themselves: tests/test_engine_kernels_crop.py."""

from __future__ import annotations

import sys
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
from host_kernels import host_numbers
from numpy.typing import NDArray

from hamuco.calibration.camera import Camera
from hamuco.engine.crops import CropCamera
from hamuco.engine.kernel_structs import (
    CAMERA_FRAME,
    CROP_VIEW,
    FeatureMap,
    FusedHands,
    HandViews,
    SkinnedHands,
    SkinningInputs,
    SkinningModel,
    c_bytes,
    camera_frame,
    crop_view,
    max_tangent,
)
from hamuco.engine.view_hand import Region

MATRIX = np.array([[500.0, 0, 319.5], [0, 501.0, 239.5], [0, 0, 1]])


def _camera(distortion: tuple[float, ...] = (), fisheye: bool = False, size: tuple[int, int] = (640, 480)) -> Camera:
    return Camera("left", size, MATRIX, np.array(distortion), np.eye(4), fisheye)


def _values(packed: NDArray[np.void], *names: str) -> list[float]:
    return [packed[name].item() for name in names]


@pytest.mark.parametrize(
    ("source", "name", "kind"),
    [
        ("skinning.cuh", "SkinningModel<Half>", SkinningModel),
        ("skinning.cuh", "SkinningInputs", SkinningInputs),
        ("skinning.cuh", "SkinnedHands<Half>", SkinnedHands),
        ("sampler.cuh", "FeatureMap<Half>", FeatureMap),
        ("fusion.cuh", "HandViews<Half>", HandViews),
        ("fusion.cuh", "FusedHands<Half>", FusedHands),
    ],
)
def test_structures_are_laid_out_as_in_the_sources(source: str, name: str, kind: type[Any]) -> None:
    """The fields are -1, -2, ..., all of whose bytes show; between them there are zeros."""
    names = [field.name for field in fields(kind)]
    offsets = [f"offsetof({name}, {field})" for field in names]
    sizes = [f"sizeof({name}::{field})" for field in names]
    size, *numbers = host_numbers(source, [f"sizeof({name})", *offsets, *sizes])
    expected, count = bytearray(size), len(names)
    for number, offset, width in zip(range(1, count + 1), numbers[:count], numbers[count:], strict=True):
        expected[offset : offset + width] = (-number).to_bytes(width, sys.byteorder, signed=True)
    assert c_bytes(kind(*range(-1, -count - 1, -1))) == expected


@pytest.mark.parametrize(("kind", "name"), [(CAMERA_FRAME, "CameraFrame"), (CROP_VIEW, "CropView")])
def test_cameras_and_crops_are_laid_out_as_in_the_source(kind: np.dtype[np.void], name: str) -> None:
    assert kind.fields is not None
    theirs = {"intrinsics": "fx"}
    names = list(kind.fields)
    offsets = [f"offsetof({name}, {theirs.get(field, field)})" for field in names]
    expected = [kind.itemsize, *(kind.fields[field][1] for field in names)]
    assert host_numbers("crop.cuh", [f"sizeof({name})", *offsets]) == expected


def test_a_frame_is_bgr_or_nv12() -> None:
    bgr = camera_frame(_camera((-0.3, 0.1, 0.01, 0.02)), (480, 640, 3), 2000, 0x7000)
    assert _values(bgr, "pixels", "chroma", "stride", "fisheye") == [0x7000, 0, 2000, 0]
    np.testing.assert_allclose(bgr["intrinsics"], [500, 501, 319.5, 239.5])
    np.testing.assert_array_equal(bgr["distortion"], np.array([-0.3, 0.1, 0.01, 0.02, *10 * [0]], np.float32))
    nv12 = camera_frame(_camera((0.1, 0, 0, 0), fisheye=True), (720, 640), 1024, 0x7000)
    assert _values(nv12, "chroma", "fisheye", "height") == [0x7000 + 480 * 1024, 1, 480]


@pytest.mark.parametrize("shape", [(640, 480, 3), (480, 640), (480, 640, 4), (720, 640, 1)])
def test_a_frame_of_another_size_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(
        ValueError, match=r"camera 'left' has shape \(.*calibrated is 640 x 480, so \(480, 640, 3\) for BGR"
    ):
        camera_frame(_camera(), shape, 1920, 0)


def test_nv12_of_odd_size_is_refused() -> None:
    with pytest.raises(ValueError, match="even size"):
        camera_frame(_camera(size=(639, 480)), (720, 639), 640, 0)


@pytest.mark.parametrize("right", [True, False, None])
def test_a_left_hands_crop_is_mirrored(right: bool | None) -> None:
    turn: NDArray[np.float64] = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    packed = crop_view(Region(_camera(), CropCamera(turn, 200.0, 100), None, right), 3, 256)
    assert _values(packed, "camera", "mirrored", "focal") == [3, right is False, 512.0]
    np.testing.assert_array_equal(packed["crop_from_camera"], turn)


def test_a_lens_model_ends_where_it_folds_over() -> None:
    """x (1 - 0.2 x^2) grows until 3 * 0.2 x^2 = 1."""
    assert max_tangent(_camera()) == pytest.approx(100)
    # Angles are tried in steps of 1.6e-4; tangents grow by 1 + x^2 times that.
    assert max_tangent(_camera((-0.2, 0, 0, 0))) == pytest.approx(np.sqrt(1 / 0.6), abs=1.6e-4 * (1 + 1 / 0.6))
    assert max_tangent(_camera((0.1, 0, 0, 0), fisheye=True)) == pytest.approx(100)
