"""The fusion kernels, on the CPU, against `hamuco.fusion.alignment` in float64."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np
import pytest
from host_kernels import load_host_kernels
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation
from views_of_a_hand import views_of_a_hand

from hamuco.engine.kernel_structs import FusedHands, HandViews, c_bytes
from hamuco.fusion.alignment import (
    align_views,
    fused_parameters,
    fused_points,
    nearest_rotation,
    procrustes_rotations,
    relative_rotations,
    solve_centre,
)

FloatArray = NDArray[np.float64]

LANDMARKS = 21
# A float keeps 2^-24 of a number. Rotations come from sums of some ten roundings, through as many Jacobi rotations, the
# eigenvalues well apart; points within 0.3 m of the root go through one, and through some ten more roundings.
ROTATION_ERROR = 20 * 2.0**-24
POINT_ERROR = 30 * 0.3 * 2.0**-24  # m
# Rounding of half numbers below 0.5, which are 2^-12 apart.
HALF_ERROR = 2.0**-13


@dataclass(frozen=True, slots=True, eq=False)
class Hands:
    """Fields of `HandViews`, (H, V, ...), in its order."""

    vertices: FloatArray
    landmarks: FloatArray
    weights: FloatArray
    crop_from_world: FloatArray
    rotations: FloatArray
    betas: FloatArray
    pixels: FloatArray
    half_angle: FloatArray
    landmark_weights: FloatArray

    def rounded(self, half: bool) -> Hands:
        """To what the kernel is given."""
        stored = {field.name: self.stored(field.name, half).astype(np.float64) for field in fields(self)}
        return Hands(**stored | {"pixels": stored["pixels"][..., :2]})

    def stored(self, name: str, half: bool) -> NDArray[np.floating]:
        """In the type that the kernel reads."""
        values: FloatArray = getattr(self, name)
        if name == "pixels":  # the kernel's have a depth beside them
            values = np.concatenate([values, np.full((*values.shape[:-1], 1), 1e9)], axis=-1)
        return values.astype(np.float16 if half and name == "vertices" else np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class Fused:
    """Fields of `FusedHands`, (H, ...), in its order."""

    vertices: FloatArray
    landmarks: FloatArray
    rotations: FloatArray
    betas: FloatArray
    root: FloatArray


def fuse(hands: Hands, half: bool = False, threads: int = 96) -> Fused:
    inputs = [hands.stored(field.name, half) for field in fields(hands)]
    count, _, vertices, _ = hands.vertices.shape
    outputs: list[NDArray[np.floating]] = [np.full((count, vertices, 3), 7, inputs[0].dtype)]
    outputs += [np.full((count, *shape), 7, np.float32) for shape in ((LANDMARKS, 3), (16, 3, 3), (10,), (3,))]
    given = HandViews(*(one.ctypes.data for one in inputs), *hands.vertices.shape[1:3])
    fused = FusedHands(*(one.ctypes.data for one in outputs))
    kernel = getattr(load_host_kernels("fusion"), "fuse_half" if half else "fuse_float")
    kernel(c_bytes(given), c_bytes(fused), count, threads)
    return Fused(*(one.astype(np.float64) for one in outputs))


def reference(hands: Hands) -> Fused:
    """Of one hand, H = 1, with a view that counts; all of them are calibrated, or none."""
    counts = hands.weights[0] > 0
    points = np.concatenate([hands.vertices, hands.landmarks], axis=2)[0, counts]
    weights, frames = hands.weights[0, counts], hands.crop_from_world[0, counts]
    canonical, calibrated = int(weights.argmax()), bool(np.isfinite(frames).all())
    rotations = relative_rotations(frames) if calibrated else procrustes_rotations(points)
    similarity = align_views(points, rotations, weights > 0)
    world_from_canonical = frames[canonical, :3, :3].T if calibrated else np.eye(3)
    fused = fused_points(similarity.apply(points[None]), weights)[canonical] @ world_from_canonical.T
    turn = world_from_canonical @ similarity.rotation[canonical]
    bones, betas = fused_parameters(hands.rotations[0, counts], hands.betas[0, counts], turn, weights)
    normalized = hands.pixels[0, counts] * hands.half_angle[0, counts, None, None]
    seen = weights[:, None] * hands.landmark_weights[0, counts]
    root = solve_centre(fused[-LANDMARKS:], normalized, frames, seen).centre
    return Fused(fused[None, :-LANDMARKS], fused[None, -LANDMARKS:], bones[None], betas[None], root[None])


def contradicting(count: int, vertices: int, seed: int) -> Hands:
    """One hand in views that do not quite agree: in size and place, in every point, bone and landmark."""
    rng = np.random.default_rng(seed)
    views = views_of_a_hand(count, vertices + LANDMARKS, seed)
    sizes, places = rng.uniform(0.8, 1.2, (count, 1, 1)), rng.normal(0, 0.01, (count, 1, 3))
    points = views.in_crops * sizes + places + rng.normal(0, 0.005, views.in_crops.shape)
    bones = Rotation.random(16, rng=rng)
    rotations = np.stack(
        [(bones * Rotation.from_rotvec(rng.normal(0, 0.2, (16, 3)))).as_matrix() for _ in range(count)]
    )
    rotations[:, 0] = views.crop_from_world[:, :3, :3] @ rotations[:, 0]
    half_angle = rng.uniform(0.1, 0.3, count)
    hands = Hands(
        vertices=points[:, :vertices],
        landmarks=points[:, vertices:],
        weights=rng.uniform(0.2, 1, count),
        crop_from_world=views.crop_from_world,
        rotations=rotations,
        betas=rng.normal(size=(count, 10)),
        pixels=views.normalized[:, vertices:] / half_angle[:, None, None] + rng.normal(0, 0.03, (count, LANDMARKS, 2)),
        half_angle=half_angle,
        landmark_weights=rng.uniform(0.2, 1, (count, LANDMARKS)),
    )
    return together([hands])


def together(hands: list[Hands]) -> Hands:
    return Hands(**{field.name: np.stack([getattr(one, field.name) for one in hands]) for field in fields(Hands)})


def uncalibrated(hands: Hands) -> Hands:
    return replace(hands, crop_from_world=np.full_like(hands.crop_from_world, np.nan))


def root_error(hands: Hands) -> float:
    """m: rounding of the normal equations, amplified by their condition, for a hand about a metre away."""
    counts = hands.weights[0] > 0
    frames = hands.crop_from_world[0, counts, None]
    seen = (hands.pixels * hands.half_angle[..., None, None])[0, counts]
    rows = frames[..., :2, :3] - seen[..., None] * frames[..., 2:3, :3]
    return 20 * 2.0**-24 * float(np.linalg.cond(rows.reshape(-1, 3))) ** 2


def assert_as_reference(hands: Hands, half: bool = False) -> None:
    given = hands.rounded(half)
    fused, expected = fuse(given, half), reference(given)
    np.testing.assert_allclose(fused.vertices, expected.vertices, rtol=0, atol=POINT_ERROR + half * HALF_ERROR)
    np.testing.assert_allclose(fused.landmarks, expected.landmarks, rtol=0, atol=POINT_ERROR)
    np.testing.assert_allclose(fused.rotations, expected.rotations, rtol=0, atol=ROTATION_ERROR)
    # Sums of numbers below 4.
    np.testing.assert_allclose(fused.betas, expected.betas, rtol=0, atol=10 * 4 * 2.0**-24)
    if np.isfinite(expected.root).all():
        np.testing.assert_allclose(fused.root, expected.root, rtol=0, atol=root_error(given))
    else:
        assert np.isnan(fused.root).all()


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("calibrated", [True, False])
@pytest.mark.parametrize(("views", "vertices"), [(1, 80), (2, 80), (5, 11), (8, 200), (64, 0)])
def test_fusion_is_that_of_the_reference(views: int, vertices: int, calibrated: bool, half: bool) -> None:
    hands = contradicting(views, vertices, seed=views)
    assert_as_reference(hands if calibrated else uncalibrated(hands), half)


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("calibrated", [True, False])
@pytest.mark.parametrize("garbage", [np.nan, np.inf, 6e4])
def test_views_without_weight_do_not_count(garbage: float, calibrated: bool, half: bool) -> None:
    hands = contradicting(5, 80, seed=1)
    hands = (hands if calibrated else uncalibrated(hands)).rounded(half)
    seen = [0, 2, 3]
    for field in fields(hands):
        getattr(hands, field.name)[:, [1, 4]] = garbage
    hands.weights[:, [1, 4]] = 0, np.nan
    alone = fuse(Hands(**{field.name: getattr(hands, field.name)[:, seen] for field in fields(hands)}), half)
    fused = fuse(hands, half)
    for name in ("vertices", "landmarks", "rotations", "betas"):
        np.testing.assert_array_equal(getattr(fused, name), getattr(alone, name))
    # The observations are shared out differently among the lanes.
    tolerance = root_error(hands) if calibrated else 0
    np.testing.assert_allclose(fused.root, alone.root, rtol=0, atol=tolerance, equal_nan=True)


@pytest.mark.parametrize("collinear", [False, True])
def test_one_view_without_calibration_is_its_own_fused_hand_bit_by_bit(collinear: bool) -> None:
    """Points on a line do not say how the view is to be turned; it is not to be turned."""
    hands = uncalibrated(contradicting(1, 80, seed=2)).rounded(True)
    if collinear:
        for points in (hands.vertices, hands.landmarks):
            points[:] = points[..., :1] * [1.0, -0.5, 2.0]
    fused = fuse(hands, half=True)
    np.testing.assert_array_equal(fused.vertices, hands.vertices[:, 0])
    np.testing.assert_array_equal(fused.landmarks, hands.landmarks[:, 0])
    np.testing.assert_allclose(fused.rotations, hands.rotations[:, 0], rtol=0, atol=ROTATION_ERROR)


@pytest.mark.parametrize("threads", [32, 256])
def test_every_hand_of_a_launch_is_fused_by_itself(threads: int) -> None:
    """A hand that is NaN among them."""
    hands = [contradicting(4, 80, seed).rounded(False) for seed in range(3)]
    hands[1].landmarks[:, 2, 5] = np.nan
    batch = Hands(
        **{field.name: np.concatenate([getattr(one, field.name) for one in hands]) for field in fields(Hands)}
    )
    fused = fuse(batch, threads=threads)
    for index, one in enumerate(hands):
        alone = fuse(one)
        for field in fields(fused):
            np.testing.assert_array_equal(getattr(fused, field.name)[index], getattr(alone, field.name)[0])
    assert np.isnan(fused.vertices[1]).all()
    assert np.isfinite(fused.vertices[[0, 2]]).all()


def test_a_hand_that_nobody_sees_is_at_rest_and_nowhere() -> None:
    hands = contradicting(3, 80, seed=3)
    fused = fuse(replace(hands, weights=np.array([[0.0, np.nan, -1.0]])))
    assert not fused.vertices.any()
    assert not fused.landmarks.any()
    assert not fused.betas.any()
    np.testing.assert_array_equal(fused.rotations[0], np.broadcast_to(np.eye(3), (16, 3, 3)))
    assert np.isnan(fused.root).all()


def test_a_view_without_calibration_is_turned_by_its_points() -> None:
    """Also where it has the largest weight: the canonical view is one that knows where the world is."""
    views = views_of_a_hand(3, 80 + LANDMARKS, seed=4)
    hands = contradicting(3, 80, seed=4)
    hands = replace(hands, vertices=views.in_crops[None, :, :80], landmarks=views.in_crops[None, :, 80:])
    hands.weights[:] = 0.2, 1.0, 0.5
    hands.crop_from_world[:, 1] = np.nan
    fused = fuse(hands)
    np.testing.assert_allclose(fused.vertices[0], views.points[:80], rtol=0, atol=POINT_ERROR)
    np.testing.assert_allclose(fused.landmarks[0], views.points[80:], rtol=0, atol=POINT_ERROR)
    assert np.isfinite(fused.root).all()


@pytest.mark.parametrize("mirror", [(1, 1, -1), (1, 1, 0), (-1, -1, -1)])
def test_procrustes_never_mirrors(mirror: tuple[int, int, int]) -> None:
    """Mirror images and flat hands."""
    hands = uncalibrated(contradicting(3, 80, seed=5))
    for points in (hands.vertices, hands.landmarks):
        points[:, 1] = points[:, 0] * mirror
    assert_as_reference(hands)


def test_contradicting_views_do_not_turn_the_hand_inside_out() -> None:
    """The best scale would be negative; the reference has 0.1."""
    hands = contradicting(2, 80, seed=6)
    for points in (hands.vertices, hands.landmarks):
        points[:, 1] = -points[:, 0]
    hands.crop_from_world[:, 1] = hands.crop_from_world[:, 0]
    assert_as_reference(hands)


def test_the_nearest_rotation_of_any_matrix() -> None:
    """The mean of a single view's bones, which need not be rotations here."""
    hands = uncalibrated(contradicting(1, 0, seed=10))
    hands = Hands(**{field.name: np.repeat(getattr(hands, field.name), 500, axis=0) for field in fields(Hands)})
    matrices = np.random.default_rng(10).normal(size=hands.rotations.shape)
    hands = replace(hands, rotations=matrices).rounded(False)
    singular = np.linalg.svd(hands.rotations[:, 0], compute_uv=False)
    # Horn's matrix is at most three times the largest singular value; the gap between its two largest eigenvalues is
    # twice this, and small where the nearest rotation is almost not unique.
    gap = singular[..., 1] + np.sign(np.linalg.det(hands.rotations[:, 0])) * singular[..., 2]
    error = np.abs(fuse(hands).rotations - nearest_rotation(hands.rotations[:, 0])).max(axis=(-2, -1))
    assert (error < 1.5 * ROTATION_ERROR * singular[..., 0] / gap).all()


def test_the_mean_of_almost_opposite_rotations() -> None:
    """5 degrees from where it is not unique; the two largest of Horn's eigenvalues are cos(87.5 degrees) apart."""
    hands = contradicting(2, 80, seed=7)
    hands.weights[:] = 1
    turns = Rotation.random(16, rng=np.random.default_rng(7))
    axes = np.random.default_rng(8).normal(size=(16, 3))
    axes *= np.radians(175) / np.linalg.norm(axes, axis=1, keepdims=True)
    hands.rotations[0, 0], hands.rotations[0, 1] = turns.as_matrix(), (turns * Rotation.from_rotvec(axes)).as_matrix()
    hands = hands.rounded(False)
    expected = (turns * Rotation.from_rotvec(axes / 2)).as_matrix()
    tolerance = (ROTATION_ERROR + 2 * 2.0**-24) / np.cos(np.radians(87.5))
    np.testing.assert_allclose(fuse(hands).rotations[0, 1:], expected[1:], rtol=0, atol=tolerance)


@pytest.mark.parametrize("observations", [0, 1, 2])
def test_two_observations_place_a_hand_and_one_does_not(observations: int) -> None:
    """Of a single view: a landmark and the one that is seen farthest from it."""
    for seed in range(20):
        hands = contradicting(1, 80, seed)
        distance = np.linalg.norm(hands.pixels[0, 0] - hands.pixels[0, 0, 0], axis=1)
        hands.landmark_weights[:] = 0
        hands.landmark_weights[0, 0, [0, distance.argmax()][:observations]] = 0.5
        assert np.isfinite(fuse(hands).root).all() == (observations == 2)


def test_what_is_not_seen_is_left_out_of_the_place() -> None:
    hands = contradicting(4, 80, seed=8)
    hands.pixels[0, 1, 3], hands.pixels[0, 2, 5], hands.landmark_weights[0, 2, 5] = np.nan, 99.0, 0
    hands.pixels[0, 3, 7, 1], hands.landmark_weights[0, 0, 9] = np.inf, np.nan
    given = hands.rounded(False)
    with np.errstate(invalid="ignore"):
        expected = reference(replace(given, landmark_weights=np.nan_to_num(given.landmark_weights)))
    finite = replace(given, pixels=np.nan_to_num(given.pixels, nan=0, posinf=0))
    np.testing.assert_allclose(fuse(given).root, expected.root, rtol=0, atol=root_error(finite))


def test_a_far_hand_is_placed_by_one_view() -> None:
    hands = contradicting(1, 0, seed=11)
    hands.crop_from_world[:], hands.half_angle[:] = np.eye(4), 0.03
    hands.landmarks[:] = np.random.default_rng(11).uniform(-0.05, 0.05, (LANDMARKS, 3))
    seen = hands.landmarks[..., :2] / (hands.landmarks[..., 2:] + 3)
    hands = replace(hands, pixels=seen / hands.half_angle[..., None, None])
    np.testing.assert_allclose(fuse(hands).root[0], (0, 0, 3), rtol=0, atol=3 * root_error(hands))


def test_exact_views_place_the_hand_where_it_is() -> None:
    views = views_of_a_hand(3, 80 + LANDMARKS, seed=9)
    hands = contradicting(3, 80, seed=9)
    hands = replace(
        hands,
        vertices=views.in_crops[None, :, :80],
        landmarks=views.in_crops[None, :, 80:],
        pixels=views.normalized[None, :, 80:] / hands.half_angle[..., None, None],
    )
    np.testing.assert_allclose(fuse(hands).root[0], views.root, rtol=0, atol=root_error(hands))
