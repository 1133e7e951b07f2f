"""What the kernels are told, in the bytes that the sources of engine/kernels have it in.

Arguments are dataclasses, which `c_bytes` makes bytes of; cameras and crops lie in arrays on the device, and are numpy's. T is
float16 or float32.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from functools import lru_cache
from typing import Annotated, Any, get_type_hints

import numpy as np
from numpy.typing import NDArray

from hamuco.calibration.camera import Camera
from hamuco.engine.view_hand import Region

Address = Annotated[int, "a pointer in C"]
"""Of the first number of an array on the device; 0 for none."""

_CODES: dict[Any, str] = {Address: "P", int: "i"}


@dataclass(frozen=True, slots=True)
class SkinningModel:
    """Constants of a hand model: the arrays of `HandArrays`, of N vertices with K bones each and of A anchors."""

    v_template: Address
    shapedirs: Address
    posedirs: Address
    bones: Address
    weights: Address
    joints: Address
    joint_shapedirs: Address
    anchors: Address
    anchor_shapedirs: Address
    anchor_posedirs: Address
    anchor_masses: Address
    anchor_bones: Address
    anchor_starts: Address
    vertices: int
    bones_per_vertex: int
    anchor_count: int


@dataclass(frozen=True, slots=True)
class SkinningInputs:
    """What networks say of n hands in crops: pose (n, 16, 6), betas (n, 10), camera (n, 3), half_angle (n,)."""

    pose: Address
    betas: Address
    camera: Address
    half_angle: Address


@dataclass(frozen=True, slots=True)
class SkinnedHands:
    """Where n hands go: vertices (n, N, 3) T, joints (n, 16, 3), landmarks (n, 21, 3), rotations (n, 16, 3, 3), location
    (n, 21, 3): u, v, and depth behind the root in units of 0.2 m."""

    vertices: Address
    joints: Address
    landmarks: Address
    rotations: Address
    location: Address


@dataclass(frozen=True, slots=True)
class FeatureMap:
    """Maps (n, channels, size, size) T; strides count numbers. NCHW has size * size and 1, NHWC 1 and channels."""

    values: Address
    channels: int
    size: int
    channel_stride: int
    column_stride: int


@dataclass(frozen=True, slots=True)
class HandViews:
    """H hands in V views each, (H, V, ...), as fusion.cuh says."""

    vertices: Address
    landmarks: Address
    weights: Address
    crop_from_world: Address
    rotations: Address
    betas: Address
    location: Address
    half_angle: Address
    landmark_weights: Address
    views: int
    vertex_count: int


@dataclass(frozen=True, slots=True)
class FusedHands:
    """Where H fused hands go, (H, ...), as fusion.cuh says."""

    vertices: Address
    landmarks: Address
    rotations: Address
    betas: Address
    root: Address


def c_bytes(structure: SkinningModel | SkinningInputs | SkinnedHands | FeatureMap | HandViews | FusedHands) -> bytes:
    """What C has in memory of one of the structures above."""
    kinds = get_type_hints(type(structure), include_extras=True).values()
    # "0P" pads the end to a multiple of a pointer's size, as C does where there are pointers.
    return struct.pack(f"@{''.join(_CODES[kind] for kind in kinds)}0P", *astuple(structure))


CAMERA_FRAME = np.dtype(
    [
        ("pixels", "u8"), ("chroma", "u8"), ("width", "i4"), ("height", "i4"), ("stride", "i4"), ("fisheye", "i4"),
        ("intrinsics", "f4", 4), ("max_tangent", "f4"), ("distortion", "f4", 14),
    ],
    align=True,
)  # fmt: skip
"""`CameraFrame`; intrinsics are fx, fy, cx, cy."""

CROP_VIEW = np.dtype([("camera", "i4"), ("mirrored", "i4"), ("focal", "f4"), ("crop_from_camera", "f4", (3, 3))])
"""`CropView`."""

_WIDEST = 100.0
_ANGLES = 10_000


def camera_frame(camera: Camera, shape: Sequence[int], stride: int, address: int) -> NDArray[np.void]:
    """A camera and where its frame lies.

    Args:
        camera: its lens, and the size of its frames.
        shape: of the frame: BGR (height, width, 3), or NV12 (height * 3 / 2, width).
        stride: bytes from a row to the next.
        address: of its first byte.

    Raises:
        ValueError: the frame is of another size than the camera's, or of another kind; or of NV12 and odd size.
    """
    width, height = camera.size
    bgr = tuple(shape) == (height, width, 3)
    nv12 = tuple(shape) == (height * 3 // 2, width) and width % 2 == height % 2 == 0
    if not bgr and not nv12:
        raise ValueError(
            f"a frame of camera {camera.name!r} has shape {tuple(shape)}; calibrated is {width} x {height}, so "
            f"{(height, width, 3)} for BGR or {(height * 3 // 2, width)} for NV12 of even size is expected"
        )
    packed = np.zeros((), CAMERA_FRAME)
    packed["pixels"], packed["chroma"] = address, 0 if bgr else address + height * stride
    packed["width"], packed["height"], packed["stride"], packed["fisheye"] = width, height, stride, camera.fisheye
    packed["intrinsics"] = camera.matrix[[0, 1, 0, 1], [0, 1, 2, 2]]
    packed["max_tangent"] = max_tangent(camera)
    packed["distortion"][: len(camera.distortion)] = camera.distortion
    return packed


def crop_view(region: Region, camera: int, size: int) -> NDArray[np.void]:
    """A region as a crop of `size` px of the camera of that number; a left hand's is mirrored."""
    packed = np.zeros((), CROP_VIEW)
    packed["camera"], packed["mirrored"] = camera, region.right is False
    packed["focal"], packed["crop_from_camera"] = region.crop.resized(size).focal, region.crop.crop_from_camera
    return packed


@lru_cache(maxsize=256)
def max_tangent(camera: Camera) -> float:
    """Of the angle up to which the radial part of the lens model grows, at most 100: beyond, it folds over."""
    tangent = np.tan(np.linspace(0, np.arctan(_WIDEST), _ANGLES))
    if camera.fisheye:
        theta = np.arctan(tangent)
        image = theta * np.polyval([*camera.distortion[::-1], 1], theta**2)
    else:
        k = np.zeros(14)
        k[: len(camera.distortion)] = camera.distortion
        image = tangent * np.polyval([k[4], k[1], k[0], 1], tangent**2) / np.polyval([k[7], k[6], k[5], 1], tangent**2)
    folds = np.flatnonzero(np.diff(image) <= 0)
    return float(tangent[folds[0]] if len(folds) else tangent[-1])
