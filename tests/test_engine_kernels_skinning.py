"""The skinning kernel's source on the CPU against the reference in float64, and the arrays that it reads."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, fields, replace

import numpy as np
import pytest
from host_kernels import load_host_kernels
from numpy.typing import NDArray
from synthetic_hand import synthetic_hand

from hamuco.engine.hamuco import DEPTH_UNIT, ROOT, axis_angle, decoded, rotations_from_6d
from hamuco.engine.hand_arrays import hand_arrays
from hamuco.engine.hand_model import HandModel, load_hand_model
from hamuco.engine.kernel_structs import SkinnedHands, SkinningInputs, c_bytes
from hamuco.engine.skinning import bone_transforms, forward, landmark_anchors, pose_rotations, rest_joints

FloatArray = NDArray[np.float64]
Single = NDArray[np.float32]

TILE = 128  # vertices of a block
LANDMARK_SHAPES = (16, 3), (21, 3), (16, 3, 3), (21, 3)  # of what a hand has beside its vertices
GUARD = 64  # numbers before and after each output that must stay as they are

# A dozen operations from six numbers to a matrix, each rounded by 2^-24 of a number that is at most one.
ROTATION_ROUNDING = 12 * 2.0**-24
# Four bones in a chain, each turned wrongly by that much, on arms of some 0.15 m.
POINT_ROUNDING = 4 * ROTATION_ROUNDING * 0.15
# u and v of landmarks that some five half crops show a metre of: these errors, and a dozen roundings of numbers below 4.
LOCATION_ROUNDING = 10 * POINT_ROUNDING + 12 * 4 * 2.0**-24
# A weight is off by half a unit of 1 / 65535, or a little more where more than two bones share a vertex. The places
# that a vertex's bones carry it to are less than 0.06 m apart in these poses.
FIXED_POINT = 0.5 / 65535 * 0.06
VERTEX_ROUNDING = POINT_ROUNDING + FIXED_POINT
ASKED = {np.float16: 0.05e-3, np.float32: 1e-6}  # m, of vertices
assert ASKED[np.float32] >= VERTEX_ROUNDING


@dataclass(frozen=True, slots=True, eq=False)
class Skinned:
    vertices: NDArray[np.floating]  # (H, N, 3)
    joints: Single  # (H, 16, 3)
    landmarks: Single  # (H, 21, 3)
    rotations: Single  # (H, 16, 3, 3)
    location: Single  # (H, 21, 3)


@dataclass(frozen=True, slots=True, eq=False)
class Hands:
    """`SkinningInputs` of the kernel, in its order."""

    pose: Single  # (H, 16, 6)
    betas: Single  # (H, 10)
    camera: Single  # (H, 3)
    half_angle: Single  # (H,)

    def inputs(self) -> SkinningInputs:
        return SkinningInputs(*(getattr(self, field.name).ctypes.data for field in fields(self)))


def skin(model: HandModel, hands: Hands, dtype: type[np.floating], backwards: bool = False) -> Skinned:
    """All threads of all blocks, the last ones first if `backwards`; vertices of type `dtype`."""
    arrays = hand_arrays(model, dtype)
    constants = arrays.skinning_model([array.ctypes.data for array in arrays.arrays()])
    count, vertices = len(hands.pose), len(model.v_template)
    shapes = (count, vertices, 3), (count, 16, 3), (count, 21, 3), (count, 16, 3, 3), (count, 21, 3)
    buffers = [
        np.full(GUARD + int(np.prod(shape)) + GUARD, 7.0, dtype if i == 0 else np.float32)
        for i, shape in enumerate(shapes)
    ]
    library = load_host_kernels("skinning")
    function = library.skin_half if dtype == np.float16 else library.skin_float
    out = SkinnedHands(*(buffer[GUARD:].ctypes.data for buffer in buffers))
    function(c_bytes(constants), c_bytes(hands.inputs()), c_bytes(out), count, int(backwards))
    for buffer in buffers:
        assert (buffer[:GUARD] == 7.0).all()
        assert (buffer[-GUARD:] == 7.0).all()
    return Skinned(*(buffer[GUARD:-GUARD].reshape(shape) for buffer, shape in zip(buffers, shapes, strict=True)))


def random_hands(hands: int, seed: int = 0) -> Hands:
    """6D poses of any length and orientation about a bent hand, and shapes, in crops of usual size."""
    rng = np.random.default_rng(seed)
    model = load_hand_model()
    bent = pose_rotations(model, rng.normal(0, 1.0, (hands, 3)), rng.normal(0, 0.3, (hands, 45)))
    six = bent[..., :2].reshape(hands, 16, 6) + rng.normal(0, 0.05, (hands, 16, 6))
    six *= rng.uniform(0.5, 2.0, (hands, 16, 1))
    camera = rng.normal(0, 0.2, (hands, 3)) + [5.0, 0.0, 0.0]
    values = six, rng.normal(0, 1.0, (hands, 10)), camera, rng.uniform(0.0, 0.4, hands)
    return Hands(*(one.astype(np.float32) for one in values))


@pytest.fixture(scope="module")
def whole_tiles(with_posedirs: HandModel) -> HandModel:
    """Vertices once more, which nothing depends on, until the last tile is full."""
    count = len(with_posedirs.v_template)
    index = np.arange(-(-count // TILE) * TILE) % count
    padding = ((0, 0), (0, len(index) - count))
    assert with_posedirs.posedirs is not None
    return replace(
        with_posedirs,
        v_template=with_posedirs.v_template[index],
        shapedirs=with_posedirs.shapedirs[index],
        posedirs=with_posedirs.posedirs[index],
        weights=with_posedirs.weights[index],
        J_regressor=np.pad(with_posedirs.J_regressor, padding),
        landmark_regressor=np.pad(with_posedirs.landmark_regressor, padding),
        uv=None,
    )


@pytest.fixture(scope="module", params=["free_hand", "with_posedirs", "whole_tiles", "synthetic_hand"])
def model(request: pytest.FixtureRequest) -> HandModel:
    if request.param == "synthetic_hand":  # 84 vertices, less than a tile
        return synthetic_hand()
    chosen: HandModel = request.getfixturevalue(request.param)
    return chosen


def vertices_of_stored(model: HandModel, hands: Hands, dtype: type[np.floating]) -> FloatArray:
    """In float64, but with the vertices' blend shapes rounded to `dtype`; joints are those of the model."""

    def rounded(values: FloatArray) -> FloatArray:
        return values.astype(dtype).astype(np.float64)

    rotations, shape = rotations_from_6d(hands.pose.astype(np.float64)), hands.betas.astype(np.float64)
    transforms = bone_transforms(rotations, rest_joints(model, shape))
    features = (rotations[:, 1:] - np.eye(3)).reshape(-1, 135)
    rest = model.v_template + np.einsum("vcs,hs->hvc", rounded(model.shapedirs), shape)
    if model.posedirs is not None:
        rest += np.einsum("vcp,hp->hvc", rounded(model.posedirs), features)
    points = np.concatenate([rest, np.ones((*rest.shape[:2], 1))], axis=-1)
    return np.asarray(np.einsum("vb,hbck,hvk->hvc", model.weights, transforms, points, optimize=True))


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_hands_are_those_of_the_reference(model: HandModel, dtype: type[np.floating], count: int) -> None:
    hands = random_hands(count)
    rotations = rotations_from_6d(hands.pose.astype(np.float64))
    mesh = forward(model, *axis_angle(model, rotations), hands.betas.astype(np.float64), np.zeros(3))
    root = mesh.landmarks[:, ROOT, None]
    got = skin(model, hands, dtype)
    np.testing.assert_allclose(got.rotations, rotations, atol=ROTATION_ROUNDING, rtol=0)
    np.testing.assert_allclose(got.joints, mesh.joints - root, atol=POINT_ROUNDING, rtol=0)
    np.testing.assert_allclose(got.landmarks, mesh.landmarks - root, atol=POINT_ROUNDING, rtol=0)

    assert mesh.vertices is not None
    expected = mesh.vertices - root
    # Half precision steps by 0.061 mm from 62.5 mm on, and by twice that from 125 mm on, where large hands reach.
    beyond = 0.0305e-3 * (np.abs(expected) > 0.125) if dtype == np.float16 else 0.0
    assert (np.abs(got.vertices - expected) <= ASKED[dtype] + beyond).all()

    # With blend shapes as they are stored, nothing but the rounding of the output is left.
    output_rounding = np.spacing(np.abs(got.vertices)).astype(np.float64) / 2
    error = np.abs(got.vertices - (vertices_of_stored(model, hands, dtype) - root))
    assert (error <= output_rounding + VERTEX_ROUNDING).all()


def test_landmarks_are_where_the_crop_shows_them(model: HandModel) -> None:
    hands = random_hands(3)
    expected = decoded(model, hands.pose, hands.betas, hands.camera, hands.half_angle.astype(np.float64))
    location = skin(model, hands, np.float16).location
    np.testing.assert_allclose(location[..., :2], expected.pixels, atol=LOCATION_ROUNDING, rtol=0)
    np.testing.assert_allclose(
        location[..., 2], expected.joints[..., 2] / DEPTH_UNIT, atol=POINT_ROUNDING / DEPTH_UNIT, rtol=0
    )


def test_a_landmark_behind_the_camera_is_projected_as_if_it_were_near(free_hand: HandModel) -> None:
    hands = random_hands(3)
    hands.half_angle[1] = 5.0  # the root is 4 cm from the camera
    hands.half_angle[2] = np.nan
    expected = decoded(free_hand, hands.pose, hands.betas, hands.camera, hands.half_angle.astype(np.float64))
    depth = 1 + hands.half_angle[1] * hands.camera[1, 0] * expected.joints[1, :, 2]
    assert (depth < 0.1).any()
    location = skin(free_hand, hands, np.float16).location
    # A tenth of the distance: ten times the numbers and their rounding.
    np.testing.assert_allclose(location[1, :, :2], expected.pixels[1], atol=10 * LOCATION_ROUNDING, rtol=1e-4)
    assert np.isnan(location[2, :, :2]).all()


def test_a_model_without_vertices_gives_landmarks_alone(with_posedirs: HandModel) -> None:
    hands = random_hands(2)
    arrays = hand_arrays(with_posedirs, np.float16)
    whole = arrays.skinning_model([array.ctypes.data for array in arrays.arrays()])
    outputs = [np.zeros((2, *shape), np.float32) for shape in LANDMARK_SHAPES]
    out = SkinnedHands(0, *(one.ctypes.data for one in outputs))
    bare = replace(whole, v_template=0, shapedirs=0, posedirs=0, bones=0, weights=0, vertices=0)
    load_host_kernels("skinning").skin_half(c_bytes(bare), c_bytes(hands.inputs()), c_bytes(out), 2, 0)
    expected = skin(with_posedirs, hands, np.float16)
    for field, output in zip(fields(Skinned)[1:], outputs, strict=True):
        np.testing.assert_array_equal(output, getattr(expected, field.name))


def test_no_hands_are_no_work(free_hand: HandModel) -> None:
    assert skin(free_hand, random_hands(0), np.float16).vertices.shape == (0, 1609, 3)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_threads_of_a_phase_may_run_in_any_order(with_posedirs: HandModel, dtype: type[np.floating]) -> None:
    hands = random_hands(2)
    forwards, backwards = skin(with_posedirs, hands, dtype), skin(with_posedirs, hands, dtype, backwards=True)
    for field in fields(Skinned):
        np.testing.assert_array_equal(getattr(backwards, field.name), getattr(forwards, field.name))


def test_degenerate_columns_make_the_matrices_of_the_reference(free_hand: HandModel) -> None:
    hands = random_hands(3)
    hands.pose[0, 4] = 0.0
    hands.pose[1, 0, ::2] = 0.0  # the first column
    hands.pose[2, 7, 1::2] = 0.0  # the second
    rotations = rotations_from_6d(hands.pose.astype(np.float64))
    got = skin(free_hand, hands, np.float16)
    np.testing.assert_allclose(got.rotations, rotations, atol=ROTATION_ROUNDING, rtol=0)
    assert np.isfinite(got.vertices).all()
    for hand in range(3):
        anchors, rest = landmark_anchors(free_hand, hands.betas[hand].astype(np.float64))
        transforms = bone_transforms(rotations[hand], rest)
        joints = np.einsum("bcr,br->bc", transforms[..., :3], rest) + transforms[..., 3]
        landmarks = np.einsum("bck,jbk->jc", transforms, anchors)
        np.testing.assert_allclose(got.joints[hand], joints - landmarks[ROOT], atol=POINT_ROUNDING, rtol=0)
        np.testing.assert_allclose(got.landmarks[hand], landmarks - landmarks[ROOT], atol=POINT_ROUNDING, rtol=0)


def test_columns_along_the_same_line_stay_finite(free_hand: HandModel) -> None:
    hands = random_hands(1)
    hands.pose[..., 1::2] = 2 * hands.pose[..., ::2]
    got = skin(free_hand, hands, np.float16)
    assert all(np.isfinite(getattr(got, field.name)).all() for field in fields(Skinned))


def test_a_hand_that_is_not_finite_reaches_no_other(with_posedirs: HandModel) -> None:
    hands = random_hands(3)
    sound = skin(with_posedirs, hands, np.float16)
    hands.pose[1], hands.betas[1, 3] = np.nan, np.inf
    got = skin(with_posedirs, hands, np.float16)
    for field in fields(Skinned):
        before, after = getattr(sound, field.name), getattr(got, field.name)
        np.testing.assert_array_equal(after[[0, 2]], before[[0, 2]])
        assert np.isnan(after[1]).all()


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_arrays_hold_the_model(with_posedirs: HandModel, dtype: type[np.floating]) -> None:
    arrays = hand_arrays(with_posedirs, dtype)
    assert all(array.flags.c_contiguous for array in arrays.arrays())
    weights = np.zeros_like(with_posedirs.weights)
    rows = np.arange(len(weights))
    assert (arrays.weights.astype(int).sum(axis=0) == 65535).all()
    for bone, units in zip(arrays.bones, arrays.weights, strict=True):
        weights[rows, bone] += units / 65535
    assert np.abs(weights - with_posedirs.weights).max() < 1 / 65535
    assert len(arrays.bones) == np.count_nonzero(with_posedirs.weights, axis=1).max()
    assert arrays.anchor_starts.tolist()[::21] == [0, len(arrays.anchor_bones)]
    sums = np.add.reduceat(arrays.anchor_masses, arrays.anchor_starts[:-1])
    np.testing.assert_allclose(sums, 1, atol=8 * 2.0**-24)  # eight anchors at most
    directions = with_posedirs.posedirs
    assert directions is not None
    assert arrays.posedirs.dtype == arrays.shapedirs.dtype == dtype
    assert arrays.posedirs[17, 2, 400] == dtype(directions[400, 2, 17])


def test_arrays_without_numbers_are_null_pointers(free_hand: HandModel) -> None:
    hand = hand_arrays(free_hand, np.float16).skinning_model(range(0x1000, 0x100D))
    assert (hand.posedirs, hand.anchor_posedirs) == (0, 0)
    assert (hand.v_template, hand.anchors, hand.anchor_starts) == (0x1000, 0x1007, 0x100C)
    assert (hand.vertices, hand.bones_per_vertex, hand.anchor_count) == (1609, 4, 79)


def test_what_the_kernel_cannot_hold_is_refused(free_hand: HandModel) -> None:
    with pytest.raises(ValueError, match=r"float64.*float16 and float32"):
        hand_arrays(free_hand, np.float64)
    weights = free_hand.weights.copy()
    weights[5] = 0.0
    weights[5, 2:4] = -0.25, 1.25
    with pytest.raises(ValueError, match=r"vertex 5 for bone 2 is -0\.25"):
        hand_arrays(replace(free_hand, weights=weights), np.float16)


def test_half_precision_is_that_of_numpy() -> None:
    library = load_host_kernels("skinning")
    halves = np.arange(2**16, dtype=np.uint16).view(np.float16)
    widened = np.empty(len(halves), np.float32)
    library.halves_to_floats(
        len(halves), halves.ctypes.data_as(ctypes.c_void_p), widened.ctypes.data_as(ctypes.c_void_p)
    )
    np.testing.assert_array_equal(widened, halves.astype(np.float32))

    # Every half, its neighbours in single precision, the points half-way between halves, and bits at random.
    near = widened.view(np.uint32)[:, None].astype(np.int64) + [-1, 0, 1, 0xFFF, 0x1000, 0x1001]
    random = np.random.default_rng(0).integers(0, 2**32, 10**5)
    values = np.concatenate([near.ravel() % 2**32, random]).astype(np.uint32).view(np.float32)
    rounded = np.empty(len(values), np.float16)
    library.floats_to_halves(
        len(values), values.ctypes.data_as(ctypes.c_void_p), rounded.ctypes.data_as(ctypes.c_void_p)
    )
    with np.errstate(over="ignore", invalid="ignore"):
        expected = values.astype(np.float16)
    np.testing.assert_array_equal(rounded, expected)
    known = ~np.isnan(expected)
    np.testing.assert_array_equal(np.signbit(rounded[known]), np.signbit(expected[known]))
