"""Hand models: the free hand, mirroring, saving and loading, and bad files."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from hamuco.engine import hand_model
from hamuco.engine.hand_model import HandModel, HandModelError, load_hand_model, save_hand_model
from hamuco.engine.skinning import (
    HandMesh,
    forward,
    rest_joints,
)

FloatArray = NDArray[np.float64]

# Sums of some thousand products of numbers below 1 m in double precision.
ROUNDING = 1e-12


@pytest.fixture(scope="module")
def model() -> HandModel:
    return load_hand_model()


def vertices_of(mesh: HandMesh) -> FloatArray:
    assert mesh.vertices is not None
    return mesh.vertices


def signed_volume(model: HandModel, vertices: FloatArray) -> float:
    a, b, c = (vertices[model.faces[:, corner]] for corner in range(3))
    return float(np.einsum("fi,fi->", a, np.cross(b, c)) / 6)


def test_mirroring_turns_the_hand_into_the_other_one_and_back(model: HandModel) -> None:
    left = model.mirrored()
    assert left.side == "left"
    assert signed_volume(left, left.v_template) == pytest.approx(signed_volume(model, model.v_template))
    again = left.mirrored()
    assert again.side == "right"
    np.testing.assert_array_equal(again.v_template, model.v_template)
    np.testing.assert_array_equal(again.faces, model.faces)


def test_the_free_hand_is_a_closed_surface_seen_from_outside(model: HandModel) -> None:
    edges = np.concatenate([model.faces[:, [0, 1]], model.faces[:, [1, 2]], model.faces[:, [2, 0]]])
    directed = set(map(tuple, edges.tolist()))
    assert len(directed) == len(edges)  # no edge is run through twice in one direction
    assert directed == {(b, a) for a, b in directed}
    assert len(model.v_template) - len(edges) // 2 + len(model.faces) == 2  # one piece without handles
    # A hand displaces 0.3 to 0.5 litres.
    relaxed = forward(model, np.zeros(3), np.zeros(45), np.zeros(10), np.zeros(3))
    assert 0.25e-3 < signed_volume(model, vertices_of(relaxed)) < 0.6e-3


def test_the_free_hands_numbers_are_in_order(model: HandModel) -> None:
    assert model.side == "right"
    assert "CC0" in model.licence
    for rows in (model.weights, model.J_regressor, model.landmark_regressor):
        assert rows.min() >= 0
        np.testing.assert_allclose(rows.sum(axis=1), 1, atol=ROUNDING)
    # Sparse: a ring of vertices for each landmark, a handful of bones for each vertex.
    assert (model.landmark_regressor > 0).sum(axis=1).max() <= 60
    assert (model.weights > 0).sum(axis=1).max() <= 8
    np.testing.assert_allclose(rest_joints(model, np.zeros(10))[0], 0, atol=1e-6)  # the file's single precision
    assert model.uv is not None
    assert model.uv.min() >= 0
    assert model.uv.max() <= 1


def test_the_free_hand_lies_in_its_frame_as_documented(model: HandModel) -> None:
    flat = forward(model, np.zeros(3), -model.pose_mean, np.zeros(10), np.zeros(3))
    thumb_tip, index, middle, little = (flat.landmarks[joint] for joint in (4, 5, 9, 17))
    assert middle[0] < -0.08  # fingers along -x
    assert index[2] > middle[2] > little[2]  # the thumb's side is +z
    assert thumb_tip[2] > index[2]
    bent = -model.pose_mean.copy()
    bent[[2, 11, 20, 29]] += 0.8  # first joints of the fingers about z
    flexed = forward(model, np.zeros(3), bent, np.zeros(10), np.zeros(3)).landmarks
    for tip in (8, 12, 16, 20):
        assert flexed[tip, 1] < flat.landmarks[tip, 1] - 0.03  # towards the palm, -y


def test_the_mean_pose_bends_every_finger_towards_the_palm(model: HandModel) -> None:
    flat = forward(model, np.zeros(3), -model.pose_mean, np.zeros(10), np.zeros(3)).landmarks
    relaxed = forward(model, np.zeros(3), np.zeros(45), np.zeros(10), np.zeros(3)).landmarks
    for first in (5, 9, 13, 17):
        assert relaxed[first + 3, 1] < flat[first + 3, 1] - 0.005
    assert np.linalg.norm(relaxed[4] - relaxed[17]) < np.linalg.norm(flat[4] - flat[17])  # the thumb, across the palm


# The landmark network's bones on real adult hands, triangulated, mm: wrist to middle knuckle 92 to 96, index and middle
# proximal 44 and 51. The mean hand need not be those people's: 12 %.
@pytest.mark.parametrize(("a", "b", "length"), [(0, 9, 94), (5, 6, 44), (9, 10, 49), (10, 11, 29), (2, 3, 31)])
def test_the_free_hands_landmarks_have_plausible_bones(model: HandModel, a: int, b: int, length: float) -> None:
    points = forward(model, np.zeros(3), np.zeros(45), np.zeros(10), np.zeros(3)).landmarks
    assert 1e3 * np.linalg.norm(points[a] - points[b]) == pytest.approx(length, rel=0.12)


def test_bones_keep_their_length_when_the_hand_closes(model: HandModel) -> None:
    """The joints that are seen must be the joints that bend, or a locked shape could not follow a moving hand."""
    axis = model.pose_mean.reshape(15, 3)[:12] / np.linalg.norm(model.pose_mean.reshape(15, 3)[:12], axis=1)[:, None]
    closing = np.linspace(-0.2, 1.0, 7)[:, None, None] * axis
    pose = np.concatenate([closing.reshape(7, 36), np.zeros((7, 9))], axis=1)
    points = forward(model, np.zeros(3), pose, np.zeros(10), np.zeros(3)).landmarks
    for first in (5, 9, 13, 17):
        for part in range(2):
            lengths = 1e3 * np.linalg.norm(points[:, first + part] - points[:, first + part + 1], axis=-1)
            assert np.ptp(lengths) < 7  # mm; with MakeHuman's own joints it is up to 20


def test_shapes_are_of_unit_variance_and_stay_hands(model: HandModel) -> None:
    betas = np.random.default_rng(10).normal(0, 1, (200, 10))
    mesh = forward(model, np.zeros(3), np.zeros(45), betas, np.zeros(3))
    palm = 1e3 * np.linalg.norm(mesh.landmarks[:, 9] - mesh.landmarks[:, 0], axis=-1)
    assert 4 < palm.std() < 11  # adults' hands vary by 5 to 8 %
    assert palm.min() > 60
    assert min(signed_volume(model, vertices) for vertices in vertices_of(mesh)) > 0.1e-3


def test_save_and_load(model: HandModel, with_posedirs: HandModel, tmp_path: Path) -> None:
    path = tmp_path / "hand"
    left = replace(with_posedirs.mirrored(), uv=None)
    save_hand_model(left, path)
    loaded = load_hand_model(path)
    assert (loaded.name, loaded.licence, loaded.side) == (left.name, left.licence, "left")
    assert loaded.uv is None
    assert loaded.posedirs is not None
    numbers = [field.name for field in fields(HandModel) if isinstance(getattr(left, field.name), np.ndarray)]
    assert len(numbers) == 10  # all but the names and uv
    for name in numbers:
        # Single precision is within 6e-8 of a number; weights are divided by a sum that is as near to 1.
        np.testing.assert_allclose(getattr(loaded, name), getattr(left, name), rtol=2e-7, err_msg=name)


def test_the_free_hands_file_is_small() -> None:
    assert (Path(hand_model.__file__).parent / "free_hand.npz").stat().st_size < 400_000


def bad_fields(model: HandModel) -> dict[str, dict[str, object]]:
    holed = model.v_template.copy()
    holed[5, 1] = np.nan
    heavy = model.weights.copy()
    heavy[7, 0] += 0.5
    stray = model.faces.copy()
    stray[0, 0] = len(model.v_template)
    tree = model.parents.copy()
    tree[2] = 5
    return {
        r"side is 'upper'": {"side": "upper"},
        r"v_template has 1 values that are not finite, the first at \(5, 1\)": {"v_template": holed},
        r"shapedirs has shape \(1609, 3, 9\), expected \(1609, 3, 10\)": {"shapedirs": model.shapedirs[..., :9]},
        r"posedirs has shape \(2,\), expected": {"posedirs": np.zeros(2)},
        r"row 7 of weights sums to 1.5, expected 1": {"weights": heavy},
        r"J_regressor has shape \(15, 1609\), expected \(16, 1609\)": {"J_regressor": model.J_regressor[:15]},
        r"faces has vertex ids from 0 to 1609, expected 0 to 1608": {"faces": stray},
        r"parents is .* expected the tree": {"parents": tree},
        r"pose_mean has shape \(48,\), expected \(45,\)": {"pose_mean": np.zeros(48)},
        r"fingertips has shape \(4,\), expected \(5,\)": {"fingertips": model.fingertips[:4]},
        r"uv has shape \(1609, 3\), expected \(1609, 2\)": {"uv": model.v_template},
    }


def test_a_model_that_cannot_be_right_is_refused(model: HandModel) -> None:
    for message, changes in bad_fields(model).items():
        with pytest.raises(HandModelError, match=message):
            replace(model, **changes)  # type: ignore[arg-type]


def rewrite(path: Path, **changes: NDArray[np.generic] | None) -> Path:
    """A copy of the free hand's file with keys changed or, with None, left out."""
    model = load_hand_model()
    save_hand_model(model, path)
    with np.load(path) as archive:
        arrays = {key: archive[key] for key in archive.files} | changes
    with path.open("wb") as stream:
        np.savez(stream, **{key: value for key, value in arrays.items() if value is not None})
    return path


def test_a_bad_file_gives_one_error_with_its_name_and_the_key(tmp_path: Path) -> None:
    path = tmp_path / "hand.npz"
    with pytest.raises(FileNotFoundError):
        load_hand_model(path)
    for key in ("weights", "landmark_regressor", "side"):
        with pytest.raises(HandModelError, match=rf"hand.npz: key '{key}' is missing"):
            load_hand_model(rewrite(path, **{key: None}))
    with pytest.raises(HandModelError, match=r"hand.npz: pose_mean has 45 values that are not finite"):
        load_hand_model(rewrite(path, pose_mean=np.full(45, np.nan)))
    with pytest.raises(HandModelError, match=r"hand.npz: weights has shape \(16,\)"):
        load_hand_model(rewrite(path, weights=np.ones(16)))
    with pytest.raises(HandModelError, match=r"hand.npz: row 0 of weights sums to nan"):
        load_hand_model(rewrite(path, weights=np.full((1609, 16), np.nan)))
    with pytest.raises(HandModelError, match=r"hand.npz: faces holds float64, expected integers"):
        load_hand_model(rewrite(path, faces=np.zeros((4, 3))))
    with pytest.raises(HandModelError, match=r"hand.npz: v_template holds <U3, expected numbers"):
        load_hand_model(rewrite(path, v_template=np.array("abc")))


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    path = rewrite(tmp_path / "hand.npz")
    whole = path.read_bytes()
    middle = len(whole) // 2
    flipped = whole[:middle] + bytes([whole[middle] ^ 0xFF]) + whole[middle + 1 :]
    for content in (whole[:middle], b"", b"a hand", flipped):
        path.write_bytes(content)
        with pytest.raises(HandModelError, match=r"hand.npz: not a readable .npz archive"):
            load_hand_model(path)
    np.save(tmp_path / "array.npy", np.zeros(3))
    with pytest.raises(HandModelError, match="key 'name' is missing"):
        load_hand_model(tmp_path / "array.npy")
