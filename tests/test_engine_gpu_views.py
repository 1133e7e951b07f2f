"""Followed hands on a GPU, here by stand-ins on the CPU: the same rays as by OpenVINO, and what happens at faults."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from gpu_scene import SINGLE
from gpu_stand_in import StandIn
from numpy.typing import NDArray

from hamuco.calibration.camera import Camera, Rig
from hamuco.capture.frame import Frame, FrameSet
from hamuco.engine.bundle import Bundle
from hamuco.engine.crops import CropCamera, warp_crops
from hamuco.engine.cuda_driver import CudaError
from hamuco.engine.gpu_views import GpuHaMuCoEstimator
from hamuco.engine.hamuco import HaMuCoNetworks
from hamuco.engine.hamuco_views import HaMuCoEstimator
from hamuco.engine.landmarks import LandmarkEstimator, regions_from_joints
from hamuco.engine.view_hand import Region, ViewHand
from hamuco.training.datasets.recorded import Recorded

pytestmark = pytest.mark.usefixtures("one_thread")

DEMO_CLIP = Path(__file__).parents[1] / "app/demo_clip"
SIZE = 128  # px of hamuco-s's crops
MARGIN = 16  # px of an image around one
GPU = f"torch {torch.__version__} float32"

Estimator = HaMuCoEstimator | GpuHaMuCoEstimator


@dataclass(frozen=True, slots=True, eq=False)
class Filmed:
    """A right hand in three views and a left one in two, each before cameras of its own."""

    rig: Rig
    images: dict[str, NDArray[np.uint8]]
    right: list[Region]
    left: list[Region]

    def at(self, second: int, empty: Sequence[str] = ()) -> FrameSet:
        """The set of that time; some cameras see an empty room."""
        t_ns = second * 1_000_000_000
        images = {name: np.full_like(image, 90) if name in empty else image for name, image in self.images.items()}
        return FrameSet(second, {name: Frame(name, 0, t_ns, 0, t_ns, None, image) for name, image in images.items()})


@pytest.fixture(scope="module")
def networks(hamuco_s: Bundle) -> HaMuCoNetworks:
    return HaMuCoNetworks(hamuco_s, "f32")


@pytest.fixture(scope="module")
def filmed() -> Filmed:
    """Of the demo clip. The images' pixels are those of the crops, so that what OpenCV cuts, in whole grey levels, is to the
    last digit what the kernel cuts."""
    sample = next(iter(Recorded(DEMO_CLIP)))
    sides = [hand.side for hand in sample.hands]
    cameras: list[Camera] = []
    images, regions = {}, []
    for real in regions_from_joints(sample.cameras, [(row, hand.joints) for row, hand in enumerate(sample.hands)]):
        crop = real.crop.resized(SIZE)
        wide = replace(crop, size=SIZE + 2 * MARGIN)
        image = np.empty((1, wide.size, wide.size, 3), np.uint8)
        warp_crops(sample.images[real.camera.name], real.camera, [wide], image)
        centre = (wide.size - 1) / 2
        matrix = np.array([[crop.focal, 0, centre], [0, crop.focal, centre], [0, 0, 1]])
        name = f"{real.camera.name} of hand {real.track_id}"
        camera = Camera(name, (wide.size, wide.size), matrix, np.zeros(0), real.crop_from_world)
        region = Region(
            camera, CropCamera(np.eye(3), crop.focal, SIZE), real.track_id, sides[real.track_id or 0] == "right"
        )
        regions.append(region)
        images[name] = image[0]
    right = [one for one in regions if one.right][:3]
    left = [one for one in regions if not one.right][:2]
    cameras = [one.camera for one in (*left, *right)]
    return Filmed(Rig(tuple(cameras)), {one.name: images[one.name] for one in cameras}, right, left)


@pytest.fixture(scope="module")
def landmarks() -> LandmarkEstimator:
    return LandmarkEstimator()


@pytest.fixture
def on_cpu(filmed: Filmed, networks: HaMuCoNetworks, landmarks: LandmarkEstimator) -> HaMuCoEstimator:
    return HaMuCoEstimator(filmed.rig, networks, landmarks)


@pytest.fixture
def stand_in(tmp_path: Path) -> StandIn:
    return StandIn(tmp_path)


@pytest.fixture
def on_gpu(
    filmed: Filmed, hamuco_s: Bundle, networks: HaMuCoNetworks, landmarks: LandmarkEstimator, stand_in: StandIn
) -> Iterator[GpuHaMuCoEstimator]:
    spare = HaMuCoEstimator(filmed.rig, networks, landmarks)
    estimator = GpuHaMuCoEstimator(filmed.rig, 2, lambda: stand_in.open(hamuco_s, filmed.rig.cameras), spare)
    yield estimator
    estimator.close()
    assert stand_in.count("cuDevicePrimaryCtxRelease_v2") == stand_in.count("cuDevicePrimaryCtxRetain")


def _run(estimator: Estimator, frame_set: FrameSet, regions: Sequence[Region]) -> list[ViewHand]:
    return estimator(frame_set, regions, estimator.crop(frame_set, regions))


def _shown(views: Sequence[ViewHand]) -> list[bool]:
    return [view.presence >= 0.5 for view in views]


def _assert_same(got: Sequence[ViewHand], expected: Sequence[ViewHand]) -> None:
    for one, other in zip(got, expected, strict=True):
        assert one.region is other.region
        assert (one.t_capture_ns, one.ray_sigma, one.right) == (other.t_capture_ns, other.ray_sigma, other.right)
        assert np.isfinite(one.rays).all()
        if other.presence >= 0.5:
            # As far as u and v may differ, times half a field of view; a ray turns by at most that.
            allowed = np.sqrt(2) * SINGLE["pixels"] * one.region.crop.half_angle
            assert np.linalg.norm(one.rays - other.rays, axis=1).max() < allowed
    assert _shown(got) == _shown(expected)


def test_rays_are_those_of_the_cpu_while_hands_come_and_go(
    filmed: Filmed, on_gpu: GpuHaMuCoEstimator, on_cpu: HaMuCoEstimator
) -> None:
    right, left = filmed.right, filmed.left
    moments = [right, [*right, *left], [left[1], *right[::-1], left[0]], [], left, [right[2], *left], right[:1]]
    for second, regions in enumerate(moments):
        frame_set = filmed.at(second)
        expected = _run(on_cpu, frame_set, regions)
        assert _shown(expected).count(True) >= 0.6 * len(regions)  # rendered hands are seen
        _assert_same(_run(on_gpu, frame_set, regions), expected)
    assert (on_gpu.name, on_gpu.runtime) == ("hamuco-s", GPU)
    assert on_gpu.counters == {"gpu_faults": 0, "cpu_fallback": 0}
    assert on_gpu.events == []


def test_a_view_whose_hand_is_gone_is_shown_to_no_other_from_the_next_set_on(
    filmed: Filmed, on_gpu: GpuHaMuCoEstimator, on_cpu: HaMuCoEstimator
) -> None:
    hand, found = filmed.right, False
    for second in range(4):
        frame_set = filmed.at(second, empty=[hand[1].camera.name])
        got, expected = _run(on_gpu, frame_set, hand), _run(on_cpu, frame_set, hand)
        if not found and expected[1].presence < 0.5:  # now it is found out; the others were told of it once more
            found = True
            assert _shown(got) == _shown(expected)
            assert np.abs(got[0].rays - expected[0].rays).max() > 1e-3
        else:
            _assert_same(got, expected)
    assert found
    # When it is back, the check that finds it again does not make what was not asked for.
    seen, seen_by_cpu = [], []
    for second in range(4, 9):
        views = _run(on_gpu, filmed.at(second), hand)
        seen.append(_shown(views)[1])
        seen_by_cpu.append(_shown(_run(on_cpu, filmed.at(second), hand))[1])
    assert seen == [False, *seen_by_cpu[:-1]]
    assert seen[-1]


def test_where_no_view_sees_its_hand_the_gpu_has_nothing_to_do(
    filmed: Filmed, on_gpu: GpuHaMuCoEstimator, stand_in: StandIn
) -> None:
    empty = [filmed.at(second, empty=list(filmed.images)) for second in range(4)]
    for frame_set in empty[:3]:  # the three views by turns
        _run(on_gpu, frame_set, filmed.right)
    before = stand_in.count("cuLaunchKernel")
    views = _run(on_gpu, empty[3], filmed.right)
    assert stand_in.count("cuLaunchKernel") == before
    assert not any(_shown(views))
    assert all(np.isfinite(view.rays).all() for view in views)


@pytest.mark.parametrize(
    ("function", "code", "words"),
    [("cuEventSynchronize", 700, "ILLEGAL_ADDRESS"), ("cuLaunchKernel", 2, "OUT_OF_MEMORY")],
)
def test_two_faults_are_recovered_from_and_the_third_is_the_last(
    filmed: Filmed,
    on_gpu: GpuHaMuCoEstimator,
    on_cpu: HaMuCoEstimator,
    stand_in: StandIn,
    function: str,
    code: int,
    words: str,
) -> None:
    # Second, whether it fails, and whether the GPU answers: 5 s after a fault it is opened again, but not after the third.
    moments = [
        (0, False, True), (1, True, False), (5, False, False), (6, False, True), (7, True, False), (11, False, False),
        (12, False, True), (13, True, False), (18, False, False), (600, False, False),
    ]  # fmt: skip
    for second, fails, answers in moments:
        stand_in.library.codes = {function: code} if fails else {}
        frame_set = filmed.at(second)
        views = _run(on_gpu, frame_set, filmed.left)
        assert on_gpu.runtime == (GPU if answers else on_cpu.runtime)
        for view, same in zip(views, _run(on_cpu, frame_set, filmed.left), strict=True):
            np.testing.assert_allclose(view.rays, same.rays, rtol=0, atol=SINGLE["pixels"])
    assert on_gpu.counters == {"gpu_faults": 3, "cpu_fallback": 7}
    assert stand_in.count("cuDevicePrimaryCtxRetain") == 3
    assert on_gpu.events[1::2] == 2 * [f"the GPU is back: {GPU}"]
    faults, again = on_gpu.events[::2], "the CPU takes over, in 5 s the GPU is tried again"
    for number, (text, then) in enumerate(
        zip(faults, (again, again, "the CPU tracks for the rest of the run"), strict=True)
    ):
        assert text.startswith(f"GPU fault {number + 1} of 3, {then}: ")
        assert words in text
        assert "\n" not in text


def test_a_gpu_that_cannot_be_opened_again_is_given_up_too(
    filmed: Filmed, on_gpu: GpuHaMuCoEstimator, on_cpu: HaMuCoEstimator, stand_in: StandIn
) -> None:
    stand_in.library.codes = {"cuLaunchKernel": 719, "cuStreamCreate": 2}
    for second in (0, 4, 5, 9, 10, 15, 20):
        assert len(_run(on_gpu, filmed.at(second), filmed.left)) == 2
    assert on_gpu.counters == {"gpu_faults": 3, "cpu_fallback": 7}
    assert stand_in.count("cuDevicePrimaryCtxRetain") == 3
    assert on_gpu.runtime == on_cpu.runtime
    assert "cuStreamCreate: out of memory" in on_gpu.events[1]


@pytest.mark.parametrize("function", ["cuInit", "cuLaunchKernel"])
def test_what_is_asked_for_and_cannot_be_had_is_an_error(
    filmed: Filmed, hamuco_s: Bundle, on_cpu: HaMuCoEstimator, stand_in: StandIn, function: str
) -> None:
    """Also where it opens, and only the first set shows that nothing runs."""
    stand_in.library.codes = {function: 100}
    with pytest.raises(CudaError, match="The driver sees no GPU"):
        GpuHaMuCoEstimator(filmed.rig, 2, lambda: stand_in.open(hamuco_s, filmed.rig.cameras), on_cpu)
    assert stand_in.count("cuDevicePrimaryCtxRelease_v2") == stand_in.count("cuDevicePrimaryCtxRetain")
