"""Forearm, sleeves and solids: closed, facing outward, and where they should be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from hamuco.engine.hand_model import HandModel, load_hand_model, mirror_axis_angle
from hamuco.engine.skinning import HandMesh, axis_angle_to_matrix, forward
from hamuco.training.synthetic import meshes
from hamuco.training.synthetic.hand_surface import HandSurface, SleeveCut, openness
from hamuco.training.synthetic.meshes import Mesh

FloatArray = NDArray[np.float64]

MODEL = load_hand_model()
SHOULDER = np.array([0.3, 0.25, 0.1])
ARM_RINGS, FOREARM_START, FOREARM_END = 16, 5, 7


@pytest.fixture(scope="module", params=["right", "left"])
def model(request: pytest.FixtureRequest) -> HandModel:
    return MODEL if request.param == "right" else MODEL.mirrored()


@pytest.fixture(scope="module")
def surface(model: HandModel) -> HandSurface:
    return HandSurface(model)


def posed(model: HandModel, seed: int = 0) -> HandMesh:
    rng = np.random.default_rng(seed)
    return forward(model, rng.normal(0, 1, 3), rng.normal(0, 0.1, 45), rng.normal(0, 1, 10), rng.normal(0, 0.1, 3))


def skin(surface: HandSurface, mesh: HandMesh, shoulder: FloatArray = SHOULDER) -> FloatArray:
    assert mesh.vertices is not None
    return surface.extend(mesh.vertices, mesh.joints, shoulder)


def volume(points: FloatArray, faces: NDArray[np.int32]) -> float:
    """Of a closed mesh; positive when its triangles are counter-clockwise from outside."""
    corners = points[faces]
    return float(np.einsum("fi,fi->", corners[:, 0], np.cross(corners[:, 1], corners[:, 2]))) / 6


def test_skin_is_closed_and_faces_outward(model: HandModel, surface: HandSurface) -> None:
    points = skin(surface, posed(model))
    edges = np.concatenate([surface.faces[:, [0, 1]], surface.faces[:, [1, 2]], surface.faces[:, [2, 0]]])
    directed = {(a, b) for a, b in edges.tolist()}
    assert all((b, a) in directed for a, b in directed)
    # A hand is 0.3 to 0.5 litres, a forearm 0.6 to 1.2, an upper arm of 20 to 60 cm 0.6 to 3.
    assert 1.5e-3 < volume(points, surface.faces) < 4.7e-3
    normals = surface.normals(points)
    np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1, atol=1e-9)
    assert volume(points + 0.001 * normals, surface.faces) > volume(points, surface.faces)


def test_hand_vertices_stay_where_the_model_has_them(model: HandModel, surface: HandSurface) -> None:
    mesh = posed(model)
    assert mesh.vertices is not None
    assert surface.hand_count == len(mesh.vertices)
    np.testing.assert_array_equal(skin(surface, mesh)[: surface.hand_count], mesh.vertices)


def test_wrist_bends_towards_the_shoulder_within_its_range(model: HandModel, surface: HandSurface) -> None:
    mesh = posed(model)
    back = mesh.joints[0] - mesh.joints[4]
    back /= np.linalg.norm(back)
    across = np.cross(back, [0.3, 0.5, 0.8])
    across /= np.linalg.norm(across)
    ring = (len(skin(surface, mesh)) - surface.hand_count - 1) // ARM_RINGS
    bends = []
    for angle in np.linspace(0, np.pi, 19):
        shoulder = mesh.joints[0] + 0.5 * (np.cos(angle) * back + np.sin(angle) * across)
        arm = skin(surface, mesh, shoulder)[surface.hand_count : -1].reshape(ARM_RINGS, ring, 3).mean(axis=1)
        forearm = arm[FOREARM_END] - arm[FOREARM_START]
        bends.append(np.arctan2(forearm @ across, forearm @ back))
    # The pull of 0.6 turns by at most arcsin 0.6 = 37 degrees.
    assert 0.5 < max(bends) < 0.65
    assert np.abs(np.diff(bends)).max() < 0.3  # and nowhere jumps: in steps of 0.17 it can turn back by 0.26


@pytest.mark.parametrize("shoulder", [(0.2, 0.3, 0.2), (0.45, 0.0, 0.15), (0.4, -0.25, -0.1)])
def test_arm_ends_at_the_shoulder(model: HandModel, surface: HandSurface, shoulder: tuple[float, float, float]) -> None:
    mesh = forward(model, np.zeros(3), np.zeros(45), np.zeros(10), np.zeros(3))
    place = mesh.joints[0] + np.array(shoulder) * (1 if model.side == "right" else [-1, 1, 1])  # away from the fingers
    end = skin(surface, mesh, place)[-1]
    # The elbow bends over 8 cm: the arm passes the shoulder by less than that, and by the 2 cm of its rounded end.
    assert np.linalg.norm(end - place) < 0.09


def test_moving_everything_moves_the_forearm(model: HandModel, surface: HandSurface) -> None:
    mesh = posed(model)
    turn = axis_angle_to_matrix([0.4, -1.0, 0.3])
    assert mesh.vertices is not None
    moved = surface.extend(mesh.vertices @ turn.T + 1, mesh.joints @ turn.T + 1, SHOULDER @ turn.T + 1)
    np.testing.assert_allclose(moved, skin(surface, mesh) @ turn.T + 1, atol=1e-9)


def test_left_is_the_mirror_image_of_right() -> None:
    right, left = HandSurface(MODEL), HandSurface(MODEL.mirrored())
    mirror = np.array([-1.0, 1, 1])
    pose = np.random.default_rng(3).normal(0, 0.2, 45)
    zero = np.zeros(3)
    one = forward(MODEL, zero, pose, np.zeros(10), zero)
    other = forward(MODEL.mirrored(), zero, mirror_axis_angle(pose), np.zeros(10), zero)
    points, mirrored = skin(right, one), skin(left, other, SHOULDER * mirror)
    # Rings go the other way round from the same vertex, so the forearms' vertices come in another order.
    # Their quads are cut along the other diagonal, which changes the volume and the normals there a little.
    np.testing.assert_allclose(volume(points, right.faces), volume(mirrored, left.faces), rtol=1e-5)
    np.testing.assert_allclose(np.sort(points[:, 0]), np.sort(-mirrored[:, 0]), atol=1e-12)
    one_chart, other_chart = right.chart[: right.hand_count], left.chart[: left.hand_count]
    np.testing.assert_allclose(one_chart[:, :2], other_chart[:, :2], atol=1e-12)
    np.testing.assert_allclose(one_chart[:, 2], other_chart[:, 2], atol=0.1)


def test_chart_tells_palm_from_back_and_knows_the_fingers() -> None:
    surface = HandSurface(MODEL)
    assert len(surface.fingers) == 5
    # Above the middle of the palm the skin faces the palm, and the other way round on the back.
    joints = MODEL.J_regressor @ MODEL.v_template
    middle = joints[[0, 1, 4, 7, 10]].mean(axis=0)
    near = np.linalg.norm((MODEL.v_template - middle)[:, [0, 2]], axis=1) < 0.015
    palm = near & (MODEL.v_template[:, 1] < middle[1])
    dorsal = surface.chart[: surface.hand_count, 2]
    assert (dorsal[palm] < -0.5).all()
    assert (dorsal[near & ~palm] > 0.5).all()
    for finger in surface.fingers:
        assert 0.010 < finger.width < 0.025
        assert 0.05 < np.linalg.norm(finger.joints[3] - finger.joints[0]) < 0.12


def test_a_model_that_is_open_at_the_wrist_gets_the_same_forearm() -> None:
    surface = HandSurface(MODEL)
    hand_only = (surface.faces < surface.hand_count).all(axis=1)
    opened = HandSurface(replace(MODEL, faces=surface.faces[hand_only]))
    np.testing.assert_array_equal(opened.faces, surface.faces)


def test_a_model_with_two_holes_is_refused() -> None:
    surface = HandSurface(MODEL)
    hand_only = surface.faces[(surface.faces < surface.hand_count).all(axis=1)]
    away = ~np.isin(hand_only, hand_only[100]).any(axis=1)
    with pytest.raises(ValueError, match="open edges"):
        HandSurface(replace(MODEL, faces=hand_only[away]))


def test_openness_under_a_disc_is_one_minus_its_form_factor() -> None:
    # A disc of radius a at height h over a point covers a^2 / (a^2 + h^2) of the cosine-weighted sky. The formula takes
    # area / (pi h^2 + area), which is the same.
    radius, height = 0.03, 0.05
    point, up = np.zeros((1, 3), np.float32), np.array([[0, 0, 1]], np.float32)
    disc, facing = np.array([[0, 0, height]], np.float32), np.array([[0, 0, -np.pi * radius**2]], np.float32)
    covered = radius**2 / (radius**2 + height**2)
    assert openness(point, up, disc, facing)[0] == pytest.approx(np.exp(-1.2 * covered), rel=1e-5)
    assert openness(point, -up, disc, facing)[0] == 1  # below the horizon
    assert openness(point, up, disc, -facing)[0] == 1  # seen from its back, which belongs to another side


def test_touching_fingers_shade_each_other() -> None:
    surface = HandSurface(MODEL)
    flat = forward(MODEL, np.zeros(3), -MODEL.pose_mean, np.zeros(10), np.zeros(3))
    fist = -MODEL.pose_mean.reshape(15, 3)
    fist[:12, 2] += 1.4
    bent = forward(MODEL, np.zeros(3), fist.ravel(), np.zeros(10), np.zeros(3))
    palm = surface.chart[:, 2] < -0.9

    def mean_openness(mesh: HandMesh) -> float:
        points = skin(surface, mesh)
        values = openness(
            points.astype(np.float32), surface.normals(points).astype(np.float32), *surface.patches(points)
        )
        return float(values[palm].mean())

    assert mean_openness(bent) < mean_openness(flat) - 0.1


def test_sleeve_lies_outside_the_forearm_and_faces_outward(model: HandModel, surface: HandSurface) -> None:
    mesh = posed(model)
    points = skin(surface, mesh)
    sleeve = surface.sleeve(points, mesh.joints, SHOULDER, SleeveCut(0.03, 0.006, 0.002, 1.0))
    ring = (len(points) - surface.hand_count - 1) // ARM_RINGS
    centres = points[surface.hand_count : -1].reshape(ARM_RINGS, ring, 3).mean(axis=1)
    along = np.linspace(0, ARM_RINGS - 1, 400)
    axis = np.stack([np.interp(along, np.arange(ARM_RINGS), column) for column in centres.T], axis=1)
    nearest = axis[np.linalg.norm(sleeve.points[:, None] - axis, axis=2).argmin(axis=1)]
    outward = sleeve.points - nearest
    # All but one of 25 rings, the turned edge of the cuff, and what folds together inside of the elbow.
    assert ((outward * sleeve.normals).sum(axis=1) > 0).mean() > 0.9
    corners = sleeve.points[sleeve.faces]
    faces_out = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    assert ((faces_out * outward[sleeve.faces[:, 0]]).sum(axis=1) > 0).mean() > 0.9
    assert np.isfinite(sleeve.uv).all()


@pytest.mark.parametrize(
    ("solid", "share"), [(meshes.box, 1.0), (meshes.sphere, np.pi / 6), (meshes.cylinder, np.pi / 4)]
)
def test_solids_are_as_large_as_asked_and_face_outward(solid: Callable[[FloatArray], Mesh], share: float) -> None:
    size = np.array([0.1, 0.16, 0.3])
    mesh = solid(size)
    np.testing.assert_allclose(np.ptp(mesh.points, axis=0), size, rtol=0.03)  # the round ones have corners
    assert 0.85 * share * size.prod() < volume(mesh.points, mesh.faces) <= share * size.prod() * (1 + 1e-9)
    assert ((mesh.points * mesh.normals).sum(axis=1) > 0).all()


def test_room_faces_inward() -> None:
    size = np.array([4.0, 3.0, 2.5])
    mesh = meshes.room(size)
    assert volume(mesh.points, mesh.faces) == pytest.approx(-size.prod())
    assert ((mesh.points * mesh.normals).sum(axis=1) < 0).all()
