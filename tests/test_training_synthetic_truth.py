from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from synthetic_hand import synthetic_hand

from hamuco.engine.skinning import forward
from hamuco.fusion.hand import Side
from hamuco.training.synthetic.truth import PARAMETERS, TRUTH_FILE, Trajectory, Truth, TruthError, ViewTruth

START_NS = 7 * 10**15  # eighty days after boot: float seconds of the clock would not resolve a microsecond
STEP_NS = 10_000_000


def make_truth(samples: int = 30, frames: int = 4) -> Truth:
    rng = np.random.default_rng(0)
    t_ns = START_NS + STEP_NS * np.arange(samples, dtype=np.int64)
    sides: tuple[Side, Side] = ("right", "left")
    trajectories = tuple(
        Trajectory(side, rng.normal(size=10).astype(np.float32), t_ns, smooth_parameters(samples, hand))
        for hand, side in enumerate(sides)
    )
    views = {
        name: ViewTruth(
            START_NS + 33_333_333 * np.arange(count, dtype=np.int64) + 7,
            rng.normal(size=(count, 2, 21, 3)).astype(np.float32),
            rng.uniform(size=(count, 2, 21)) > 0.5,
        )
        for name, count in (("cam_0", frames), ("cam_1", frames - 1))
    }
    return Truth("synthetic", trajectories, views)


def smooth_parameters(samples: int, hand: int) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    rng = np.random.default_rng(hand)
    angles = np.arange(samples)[:, None] * rng.uniform(0.05, 0.2, PARAMETERS) + rng.uniform(0, 6, PARAMETERS)
    return (0.4 * np.sin(angles)).astype(np.float32)


def test_what_is_saved_is_what_is_loaded(tmp_path: Path) -> None:
    truth = make_truth()
    truth.save(tmp_path / TRUTH_FILE)
    loaded = Truth.load(tmp_path / TRUTH_FILE)
    assert loaded.model == "synthetic"
    for one, other in zip(truth.trajectories, loaded.trajectories, strict=True):
        assert one.side == other.side
        for field in ("betas", "t_ns", "parameters"):
            saved, read = getattr(one, field), getattr(other, field)
            assert saved.dtype == read.dtype
            np.testing.assert_array_equal(saved, read)
    assert list(loaded.views) == ["cam_0", "cam_1"]
    for name, view in truth.views.items():
        for field in ("t_ns", "joints", "visible"):
            saved, read = getattr(view, field), getattr(loaded.views[name], field)
            assert saved.dtype == read.dtype
            np.testing.assert_array_equal(saved, read)


def test_the_same_truth_is_the_same_file(tmp_path: Path) -> None:
    make_truth().save(tmp_path / "one.npz")
    make_truth().save(tmp_path / "two.npz")
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()


def test_at_the_samples_the_motion_is_the_stored_numbers() -> None:
    trajectory = make_truth().trajectories[0]
    for index in (0, 1, 17, 29):
        hand = trajectory.at(int(trajectory.t_ns[index]))
        found = np.concatenate([hand.global_orient, hand.hand_pose, hand.transl])
        # Values below 1, float64 arithmetic: a few units in the last place.
        np.testing.assert_allclose(found, trajectory.parameters[index], rtol=0, atol=1e-14)
        np.testing.assert_array_equal(hand.betas, trajectory.betas)


def test_many_times_at_once_are_the_single_ones() -> None:
    trajectory = make_truth().trajectories[1]
    times = trajectory.t_ns[3] + np.array([[0, 1, 4_999_999], [5_000_001, 123, STEP_NS]])
    hands = trajectory.at(times)
    assert hands.global_orient.shape == (2, 3, 3)
    assert hands.hand_pose.shape == (2, 3, 45)
    assert hands.transl.shape == (2, 3, 3)
    np.testing.assert_array_equal(hands.hand_pose[1, 0], trajectory.at(int(times[1, 0])).hand_pose)


def test_between_the_samples_the_motion_is_a_cubic() -> None:
    # A cubic polynomial through its samples is a cubic spline with not-a-knot ends, so the spline must give it back.
    seconds = STEP_NS * 1e-9 * np.arange(12)
    cubic = np.polynomial.Polynomial([0.3, -2.0, 5.0, 40.0])
    parameters = np.repeat(cubic(seconds)[:, None], PARAMETERS, axis=1).astype(np.float32)
    t_ns = START_NS + STEP_NS * np.arange(12, dtype=np.int64)
    trajectory = Trajectory("right", np.zeros(10, np.float32), t_ns, parameters)
    times = START_NS + np.array([1, 3_333_333, 55_000_001, 109_999_999])
    # float32 rounds the samples by up to 3e-8; between samples a cubic spline makes up to some twice that of it.
    np.testing.assert_allclose(trajectory.at(times).transl[:, 2], cubic((times - START_NS) * 1e-9), rtol=0, atol=1e-7)


@pytest.mark.parametrize("beyond_ns", [-1, 29 * STEP_NS + 1])
def test_outside_of_its_time_nothing_is_known(beyond_ns: int) -> None:
    truth = make_truth()
    assert truth.covers(START_NS)
    assert truth.covers(START_NS + 29 * STEP_NS)
    assert not truth.covers(START_NS + beyond_ns)
    with pytest.raises(TruthError, match=rf"asked for {START_NS + beyond_ns} .*known from {START_NS} to "):
        truth.trajectories[0].at(START_NS + beyond_ns)


def test_meshes_are_those_of_the_parameters_on_each_side() -> None:
    truth, model = make_truth(), synthetic_hand()
    time_ns = START_NS + 123_456_789
    meshes = truth.meshes_at(time_ns, model)
    for trajectory, mesh, own in zip(truth.trajectories, meshes, (model, model.mirrored()), strict=True):
        hand = trajectory.at(time_ns)
        expected = forward(own, hand.global_orient, hand.hand_pose, hand.betas, hand.transl)
        assert mesh.vertices is not None
        assert expected.vertices is not None
        np.testing.assert_array_equal(mesh.vertices, expected.vertices)
        np.testing.assert_array_equal(mesh.landmarks, expected.landmarks)
    # A left model says the same: its mirror image is the right hand.
    for mesh, other in zip(meshes, truth.meshes_at(time_ns, model.mirrored(), with_vertices=False), strict=True):
        assert other.vertices is None
        np.testing.assert_allclose(other.landmarks, mesh.landmarks, rtol=0, atol=1e-12)


def test_another_hand_model_is_refused() -> None:
    truth = Truth("somebody else's hand", make_truth().trajectories, {})
    with pytest.raises(TruthError, match="made with the hand \"somebody else's hand\", not with 'synthetic'"):
        truth.meshes_at(START_NS, synthetic_hand())


def damage(path: Path, kind: str) -> None:
    data = path.read_bytes()
    stored = dict(np.load(path))
    if kind == "cut":
        path.write_bytes(data[: len(data) // 2])
    elif kind == "flipped":
        middle = data.index(b"parameters.npy") + 400
        path.write_bytes(data[:middle] + bytes([data[middle] ^ 0xFF]) + data[middle + 1 :])
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("not an archive")
    elif kind == "bare array":
        with path.open("wb") as stream:
            np.save(stream, np.zeros(3))
    elif kind == "pickled":
        np.savez(path, model=np.array([{"a": 1}], dtype=object))
    elif kind == "no betas":
        del stored["betas"]
        np.savez(path, **stored)
    elif kind == "strange side":
        np.savez(path, **stored | {"side": np.array(["right", "middle"])})
    elif kind == "short view":
        np.savez(path, **stored | {"cam_1/joints": stored["cam_1/joints"][:2]})
    elif kind == "short pose":
        np.savez(path, **stored | {"parameters": stored["parameters"][..., :50]})
    elif kind == "times missing":
        np.savez(path, **stored | {"t_ns": stored["t_ns"][1:]})
    elif kind == "one hand less":
        np.savez(path, **stored | {"parameters": stored["parameters"][:, :1]})


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("cut", "is damaged .*make the recording again"),
        ("flipped", "is damaged .*make the recording again"),
        ("empty", "is damaged .*make the recording again"),
        ("text", "is damaged .*make the recording again"),
        ("bare array", "has no array 'model'"),
        ("pickled", "is damaged .*make the recording again"),
        ("no betas", "has no array 'betas': make the recording again"),
        ("strange side", "is not the truth of a recording: .*side 'middle'"),
        ("short view", "camera 'cam_1' has .* joints and .* visibilities, expected"),
        ("one hand less", "is not the truth of a recording"),
        ("short pose", r"parameters \(30, 2, 50\) .* expected \(30, 2, 51\)"),
        ("times missing", r"parameters \(30, 2, 51\) .* expected \(29, 2, 51\)"),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, kind: str, message: str) -> None:
    path = tmp_path / TRUTH_FILE
    make_truth().save(path)
    damage(path, kind)
    with pytest.raises(TruthError, match=message) as raised:
        Truth.load(path)
    assert str(path) in str(raised.value)


def test_a_missing_file_is_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Truth.load(tmp_path / TRUTH_FILE)
