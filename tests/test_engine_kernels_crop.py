"""The crop kernels, on the CPU: against exact distortion and sampling in float64, and against `warp_crops`."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import pytest
from host_kernels import load_host_kernels
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from hamuco.calibration.camera import Camera
from hamuco.engine.crops import CropCamera
from hamuco.engine.hamuco import IMAGE_DEVIATION, IMAGE_MEAN
from hamuco.engine.hamuco_views import right_crops
from hamuco.engine.kernel_structs import camera_frame, crop_view, max_tangent
from hamuco.engine.view_hand import Region

FloatArray = NDArray[np.float64]
Bytes = NDArray[np.uint8]

SIZE = (320, 180)
MATRIX = np.array([[225.0, 0, 154.5], [0, 227.0, 98.2], [0, 0, 1]])
STRONG = (-0.332, 0.0464, -0.0043, 0.0041, 0.0666)  # a real wide-angle webcam
LENSES = {
    "pinhole": ((), False),
    "webcam": (STRONG, False),
    "folding": ((-0.2, 0.0, 0.001, -0.001), False),
    "rational": ((0.4, -0.1, 0.001, -0.002, 0.01, 0.7, -0.05, 0.02), False),
    "tilted": ((*STRONG, 0.0, 0.0, 0.0, 0.004, -0.002, 0.003, 0.001, 0.05, -0.03), False),
    "fisheye": ((0.05, -0.02, 0.01, -0.004), True),
}
# Rounding a coordinate below 512 px costs at most 1.5e-5 px (half of 2^-15); some thirty roundings are between a
# pixel of the crop and its place in the image.
PLACE_ERROR = 30 * 1.6e-5


def camera_with(lens: str, size: tuple[int, int] = SIZE) -> Camera:
    distortion, fisheye = LENSES[lens]
    return Camera(lens, size, MATRIX, np.array(distortion), np.eye(4), fisheye)


def looking_at(
    x: float, y: float, roll: float = 0.4, size: int = 37, focal: float = 60.0, z: float = 1.0
) -> CropCamera:
    """A crop whose axis is the direction x, y, z."""
    axis = np.array([x, y, z]) / np.linalg.norm([x, y, z])
    turn = Rotation.align_vectors([[0.0, 0.0, 1.0]], [axis])[0]
    return CropCamera((Rotation.from_rotvec([0, 0, roll]) * turn).as_matrix(), focal, size)


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """A camera with its frame, BGR (h, w, 3) or NV12 (h * 3 / 2, w)."""

    camera: Camera
    frame: Bytes

    def packed(self) -> NDArray[np.void]:
        return camera_frame(self.camera, self.frame.shape, self.frame.strides[0], self.frame.ctypes.data)


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """One crop to be cut: which source, where, for which hand."""

    source: int
    crop: CropCamera
    left: bool = False

    def packed(self) -> NDArray[np.void]:
        region = Region(camera_with("pinhole"), self.crop, track_id=None, right=not self.left)
        return crop_view(region, self.source, self.crop.size)


def launch(name: str, sources: Sequence[Source], views: Sequence[View], out: NDArray[np.generic]) -> None:
    cameras, crops = np.stack([source.packed() for source in sources]), np.stack([view.packed() for view in views])
    cut(name, cameras, crops, views[0].crop.size, out)


def cut(name: str, cameras: NDArray[np.void], crops: NDArray[np.void], size: int, out: NDArray[np.generic]) -> None:
    arrays = [ctypes.c_void_p(array.ctypes.data) for array in (crops, cameras, out)]
    getattr(load_host_kernels("crop"), name)(*arrays[:2], len(crops), size, arrays[2])


def normalized(sources: Sequence[Source], views: Sequence[View], half: bool = False) -> FloatArray:
    """(n, 3, S, S)."""
    size = views[0].crop.size
    out = np.full((len(views), 3, size, size), np.nan, np.float16 if half else np.float32)
    launch("crop_normalized_half" if half else "crop_normalized_float", sources, views, out)
    return out.astype(np.float64)


def rounded(sources: Sequence[Source], views: Sequence[View]) -> Bytes:
    """(n, S, S, 3)."""
    size = views[0].crop.size
    out = np.full((len(views), size, size, 3), 7, np.uint8)
    launch("crop_bgr", sources, views, out)
    return out


def places(camera: Camera, view: View) -> FloatArray:
    """Pixels (S, S, 2) of the image that the crop's pixels see, beyond the lens model those at its rim."""
    size = view.crop.size
    pixels = np.stack(np.meshgrid(np.arange(float(size)), np.arange(float(size))), axis=-1)
    directions = view.crop.directions(pixels[:, ::-1] if view.left else pixels)
    across, z = np.linalg.norm(directions[..., :2], axis=-1, keepdims=True), directions[..., 2:]
    limit = max_tangent(camera)
    tangent = np.where(across > z * limit, limit, across / np.where(z > 0, z, 1))
    return camera.distort(directions[..., :2] / across * tangent)


def sampled(planes: NDArray[np.generic], at: FloatArray) -> FloatArray:
    """Planes (h, w, c) at places (S, S, 2), the border repeated: (S, S, c)."""
    limit = np.array(planes.shape[1::-1]) - 1
    at = np.clip(at, 0, limit)
    low = np.floor(at).astype(int)
    high, part = np.minimum(low + 1, limit), at - low
    values = planes.astype(np.float64)

    def row(y: NDArray[np.int_]) -> FloatArray:
        left, right = values[y, low[..., 0]], values[y, high[..., 0]]
        return np.asarray(left + part[..., :1] * (right - left))

    upper, lower = row(low[..., 1]), row(high[..., 1])
    return np.asarray(upper + part[..., 1:] * (lower - upper))


def levels(bgr: FloatArray) -> FloatArray:
    """What the estimator's normalization makes of (n, S, S, 3)."""
    mean, deviation = 255 * np.array(IMAGE_MEAN), 255 * np.array(IMAGE_DEVIATION)
    return np.asarray(((bgr[..., ::-1] - mean) / deviation).transpose(0, 3, 1, 2))


def picture(size: tuple[int, int] = SIZE, seed: int = 0, shortest: float = 13.0) -> Bytes:
    """Three channels of waves, no two alike, of `shortest` px and up to four times that."""
    rng = np.random.default_rng(seed)
    x, y = np.meshgrid(np.arange(size[0]), np.arange(size[1]))
    waves = [
        sum(np.cos(2 * np.pi * (x * a + y * b + c)) for a, b, c in rng.uniform(0.25 / shortest, 0.7 / shortest, (4, 3)))
        for _ in "bgr"
    ]
    return (127.5 + 30 * np.stack(waves, axis=-1)).astype(np.uint8)


def slope(image: NDArray[np.generic]) -> float:
    """Largest change of an image (h, w, c) from a pixel to the next, both ways added up."""
    values = image.astype(np.float64)
    return float(np.abs(np.diff(values, axis=0)).max() + np.abs(np.diff(values, axis=1)).max())


# In the middle, at the rim, beyond the image, nearly beside the camera.
VIEWS = [
    View(0, looking_at(0.05, 0.1)),
    View(0, looking_at(0.5, -0.3, roll=-1.0), left=True),
    View(0, looking_at(-0.7, 0.4, roll=2.5)),
    View(0, looking_at(3.0, 1.0), left=True),
]


@pytest.mark.parametrize("lens", LENSES)
def test_crops_are_exact(lens: str) -> None:
    source = Source(camera_with(lens), picture())
    expected = np.stack([sampled(source.frame, places(source.camera, view)) for view in VIEWS])
    # Levels of 255: a place that is off, along the steepest slope; ten roundings of numbers up to 255.
    error = PLACE_ERROR * slope(source.frame) + 10 * 2.0**-17
    assert np.ptp(expected[:2], axis=(1, 2)).min() > 50  # there is something to see in the crops
    np.testing.assert_allclose(rounded([source], VIEWS), expected, rtol=0, atol=0.5 + error)
    # One level is at most 1 / 57.12 after normalization, and what is normalized is below 3 (rounding: 2^-22).
    tolerance = error / 57.12 + 2.0**-22
    np.testing.assert_allclose(normalized([source], VIEWS), levels(expected), rtol=0, atol=tolerance)
    # Half numbers below 4 are 2^-9 apart.
    np.testing.assert_allclose(
        normalized([source], VIEWS, half=True), levels(expected), rtol=0, atol=tolerance + 2.0**-10
    )


@pytest.mark.parametrize("lens", ["pinhole", "webcam", "fisheye"])
def test_crops_are_those_of_the_cpu(lens: str) -> None:
    """At the size for which `warp_crops` says how coarse it is."""
    distortion, fisheye = LENSES[lens]
    matrix = np.array([[903.0, 0, 618], [0, 907, 394], [0, 0, 1]])
    source = Source(
        Camera(lens, (1280, 720), matrix, np.array(distortion), np.eye(4), fisheye), picture((1280, 720), 0, 50)
    )
    views = [View(0, looking_at(x, y, x, 224, 750.0), left) for x, y, left in ((0, 0.1, False), (0.55, -0.3, True))]
    regions = [Region(source.camera, view.crop, None, not view.left) for view in views]
    ours, theirs = rounded([source], views).astype(int), right_crops({lens: source.frame}, regions, 224).astype(int)
    # Its grid's error is below 0.2 px, its places are in steps of 1/32 px, its weights of 1/32768. Both round.
    assert np.abs(ours - theirs).max() <= (0.2 + 1 / 64) * slope(source.frame) + 1 + 0.1


AROUND = [View(0, looking_at(np.sin(a), 0.3, z=float(np.cos(a)))) for a in np.linspace(0, 2 * np.pi, 24)]


@pytest.fixture
def framed() -> Bytes:
    """Memory of three pages between two that cannot be read: a crash says that this was tried."""
    pages = mmap.mmap(-1, 5 * mmap.PAGESIZE)
    memory = np.frombuffer(pages, np.uint8)
    for page in (0, 4):
        address = ctypes.c_void_p(memory.ctypes.data + page * mmap.PAGESIZE)
        assert ctypes.CDLL(None).mprotect(address, ctypes.c_size_t(mmap.PAGESIZE), 0) == 0
    return memory[mmap.PAGESIZE : -mmap.PAGESIZE]


@pytest.mark.parametrize("lens", LENSES)
@pytest.mark.parametrize("first", [True, False])
def test_nothing_outside_the_frame_is_read(lens: str, first: bool, framed: Bytes) -> None:
    """Frames of all shapes at the begin and at the end of the memory."""
    for shape in ((1, 1, 3), (1, 40, 3), (64, 1, 3), (36, 64, 3), (3, 2), (54, 64)):
        count = int(np.prod(shape))
        frame = (framed[:count] if first else framed[-count:]).reshape(shape)
        height = shape[0] if len(shape) == 3 else shape[0] * 2 // 3
        frame[:] = 90
        flat = np.full(shape, 90, np.uint8)
        camera = camera_with(lens, (shape[1], height))
        crops = rounded([Source(camera, frame)], AROUND)
        np.testing.assert_array_equal(crops, rounded([Source(camera, flat)], AROUND))
        if len(shape) == 3:
            assert (crops == 90).all()


def guarded(value: int, guard: int, size: tuple[int, int], channels: int) -> Bytes:
    """A frame of one value in the midst of memory full of another; its rows are longer than the image."""
    width, height = size
    memory = np.full((height + 20, width + 20, channels), guard, np.uint8)
    memory[10:-10, 10:-10] = value
    return memory[10:-10, 10:-10]


@pytest.mark.parametrize("lens", LENSES)
def test_rows_may_be_longer_than_the_image(lens: str) -> None:
    """What is beside it in memory does not show in the crops."""
    bgr = Source(camera_with(lens), guarded(90, 255, SIZE, 3))
    assert (rounded([bgr], AROUND) == 90).all()
    nv12 = guarded(90, 255, (SIZE[0], SIZE[1] * 3 // 2), 1)[..., 0]
    flat = Source(camera_with(lens), np.ascontiguousarray(nv12))
    np.testing.assert_array_equal(rounded([Source(flat.camera, nv12)], AROUND), rounded([flat], AROUND))


@pytest.mark.parametrize("lens", LENSES)
def test_what_the_lens_does_not_see_repeats_the_border(lens: str) -> None:
    """Polynomials that fold over would put the middle of the image there, and so would a division by negative depth."""
    frame = np.full((SIZE[1], SIZE[0], 3), 10, np.uint8)
    frame[3:-3, 3:-3] = 200
    source = Source(camera_with(lens), frame)
    beside = [
        View(0, looking_at(x, y, focal=200.0, z=z)) for x, y in ((1, 0.1), (-1, 0.2), (0.1, 1)) for z in (0.2, -0.2)
    ]
    assert (rounded([source], [*beside, View(0, looking_at(0.0, 0.0, z=-1.0))]) == 10).all()
    assert (rounded([source], [View(0, looking_at(0.01, 0.0, focal=200.0))]) == 200).all()


def test_a_crop_or_camera_that_is_not_a_number_stays_alone() -> None:
    sources = [
        Source(camera_with(lens), picture(seed=seed)) for seed, lens in enumerate(("webcam", "fisheye", "pinhole"))
    ]
    views = [View(index % 3, VIEWS[index % 3].crop, left=index > 2) for index in range(6)]
    cameras, crops = np.stack([one.packed() for one in sources]), np.stack([one.packed() for one in views])
    good, out = normalized(sources, views), np.full((6, 3, 37, 37), np.nan, np.float32)
    cameras["intrinsics"][1], cameras["distortion"][1] = np.nan, np.nan
    crops["crop_from_camera"][3] = np.nan
    crops["focal"][5] = 0
    cut("crop_normalized_float", cameras, crops, 37, out)
    np.testing.assert_array_equal(out[[0, 2]], good[[0, 2]])
    assert np.isfinite(out).all()


def nv12(bgr: Bytes) -> Bytes:
    """As a camera sends it, (h * 3 / 2, w)."""
    height, width = bgr.shape[:2]
    planar = cv2.cvtColor(bgr, cv2.COLOR_BGR2YUV_I420)
    chroma = planar[height:].reshape(2, -1)
    return np.concatenate([planar[:height], np.stack([chroma[0], chroma[1]], axis=-1).reshape(-1, width)])


def converted(y: FloatArray, uv: FloatArray) -> FloatArray:
    """BGR (..., 3) of luma (..., 1) and chroma (..., 2), not rounded: BT.601 with OpenCV's coefficients."""
    y, u, v = 1.164 * np.maximum(y - 16, 0), uv[..., :1] - 128, uv[..., 1:] - 128
    bgr = np.concatenate([y + 2.018 * u, y - 0.391 * u - 0.813 * v, y + 1.596 * v], axis=-1)
    return np.asarray(np.clip(bgr, 0, 255))


@pytest.mark.parametrize("lens", ["pinhole", "webcam", "fisheye"])
def test_nv12_is_interpolated_and_then_converted(lens: str) -> None:
    size = (SIZE[0], SIZE[1])
    source = Source(camera_with(lens), nv12(picture()))
    luma, chroma = source.frame[: size[1], :, None], source.frame[size[1] :].reshape(size[1] // 2, size[0] // 2, 2)
    expected = []
    for view in VIEWS:
        at = places(source.camera, view)
        expected.append(converted(sampled(luma, at), sampled(chroma, (at - 0.5) / 2)))
    # As for BGR, times what conversion makes of errors; the chroma's places are half as wide.
    error = 1.164 * PLACE_ERROR * slope(luma) + 2.018 * PLACE_ERROR / 2 * slope(chroma) + 20 * 2.0**-16
    np.testing.assert_allclose(rounded([source], VIEWS), np.stack(expected), rtol=0, atol=0.5 + error)


@pytest.mark.parametrize("seed", [0, 1])
def test_nv12_is_what_opencv_makes_of_it(seed: int) -> None:
    # Away from black and white, where clipping before or after the interpolation makes a difference.
    source = Source(camera_with("pinhole"), nv12(picture(seed=seed) // 3 + 85))
    bgr = cv2.cvtColor(source.frame, cv2.COLOR_YUV2BGR_NV12)
    expected = np.stack([sampled(bgr, places(source.camera, view)) for view in VIEWS])
    difference = np.abs(rounded([source], VIEWS) - expected).max(axis=(0, 1, 2))
    chroma = source.frame[SIZE[1] :].reshape(SIZE[1] // 2, SIZE[0] // 2, 2)
    # OpenCV's chroma is that of the nearest sample, at most half a luma px away in x and in y (a quarter of the samples'
    # distance), and as much again between two pixels of different samples. Both round.
    u, v = (0.5 * slope(chroma[..., channel : channel + 1]) for channel in (0, 1))
    assert (difference <= np.array([2.018 * u, 0.391 * u + 0.813 * v, 1.596 * v]) + 1.1).all()


def test_flat_nv12_colours_are_opencvs() -> None:
    """Black, white, clipped ones among them: to the rounding of both."""
    rng = np.random.default_rng(3)
    for y, u, v in [(16, 128, 128), (235, 128, 128), (0, 128, 128), (255, 255, 0), *rng.integers(0, 256, (50, 3))]:
        frame = np.full((6, 4), y, np.uint8)
        frame[4:, ::2], frame[4:, 1::2] = u, v
        source = Source(camera_with("pinhole", (4, 4)), frame)
        difference = rounded([source], VIEWS[:1]).astype(int) - cv2.cvtColor(frame, cv2.COLOR_YUV2BGR_NV12)[0, 0]
        assert np.abs(difference).max() <= 1, (y, u, v)


def test_one_launch_takes_cameras_of_all_kinds() -> None:
    sources = [
        Source(camera_with("webcam"), picture(seed=1)),
        Source(camera_with("fisheye", (240, 320)), nv12(picture((240, 320), seed=2))),
        Source(camera_with("pinhole", (100, 50)), picture((100, 50), seed=3)),
    ]
    views = [View(source, VIEWS[crop].crop, left=crop == 1) for crop in range(3) for source in (2, 0, 1)]
    together = rounded(sources, views)
    for view, crop in zip(views, together, strict=True):
        np.testing.assert_array_equal(rounded([sources[view.source]], [View(0, view.crop, view.left)])[0], crop)
