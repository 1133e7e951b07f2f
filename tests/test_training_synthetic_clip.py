from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from hamuco.capture.frame import Frame
from hamuco.capture.recording import Recording
from hamuco.capture.replay import ReplayConfig, replay_configs
from hamuco.capture.source import read
from hamuco.capture.synchronizer import Synchronizer
from hamuco.engine.hand_model import load_hand_model
from hamuco.fusion.triangulate import triangulate
from hamuco.training.synthetic import clip
from hamuco.training.synthetic.clip import ClipOptions, write_clip
from hamuco.training.synthetic.look import Look, draw_look
from hamuco.training.synthetic.motion import draw_trajectories
from hamuco.training.synthetic.renderer import Renderer
from hamuco.training.synthetic.truth import TRUTH_FILE, Trajectory, Truth

OPTIONS = ClipOptions(rig="table3", seconds=0.5, size=(320, 240), timing="webcam", preset="plain", seed=5)
CAMERAS = ("cam_0", "cam_1", "cam_2")


def ignore(done: int, total: int) -> None: ...


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    return write_clip(tmp_path_factory.mktemp("clip") / "clip", OPTIONS, ignore, workers=1)


@pytest.fixture(scope="module")
def truth(recording: Recording) -> Truth:
    return Truth.load(recording.path / TRUTH_FILE)


def play(config: ReplayConfig) -> Iterator[Frame]:
    source = config.create()
    source.open()
    source.begin(epoch_ns=config.first_ns)
    while (frame := read(source, config)) is not None:
        yield frame
    source.close()


def test_a_clip_replays_as_sets_of_all_cameras(recording: Recording) -> None:
    assert recording.rig.names == CAMERAS
    assert not (recording.path.parent / "clip.partial").exists()
    frames = sorted((f for c in replay_configs(recording, "fast") for f in play(c)), key=lambda f: f.t_capture_ns)
    synchronizer = Synchronizer(CAMERAS)
    sets = [frame_set for frame in frames for frame_set in synchronizer.push(frame)] + synchronizer.flush()
    assert sum(set(frame_set.frames) == set(CAMERAS) for frame_set in sets) >= 13  # of 15, one frame in 170 is lost
    # They are the sets in which the frames were written.
    for frame_set in sets:
        for name, frame in frame_set.frames.items():
            assert recording.frames[name][frame.sequence].set_id == frame_set.set_id


def test_the_truth_has_a_row_for_every_frame_at_its_true_time(recording: Recording, truth: Truth) -> None:
    model = load_hand_model()
    assert truth.model == model.name
    assert [trajectory.side for trajectory in truth.trajectories] == ["right", "left"]
    for name, view in truth.views.items():
        rows = recording.frames[name]
        assert len(view.t_ns) == len(rows)
        noted = np.array([row.t_capture_ns for row in rows])
        # Noted times are off by the jitter of webcams, 2 ms, cut at 0.45 of 33 ms.
        assert 0 < np.abs(noted - view.t_ns).max() <= 15_000_000
        assert all(truth.covers(row.t_capture_ns) for row in rows)
        for frame, t_ns in enumerate(view.t_ns.tolist()):
            for hand, mesh in enumerate(truth.meshes_at(t_ns, model, with_vertices=False)):
                # float32 of half a metre
                np.testing.assert_allclose(view.joints[frame, hand], mesh.landmarks, rtol=0, atol=6e-8)


def test_rays_through_the_true_pixels_meet_at_the_true_joints(recording: Recording, truth: Truth) -> None:
    model = load_hand_model()
    times = truth.views["cam_0"].t_ns
    for trajectory in truth.trajectories:
        for joints in trajectory.landmarks_at(times, model):
            rays = np.array([camera.pixel_rays(camera.project(joints)) for camera in recording.rig])
            origins = np.array([np.broadcast_to(camera.centre, (21, 3)) for camera in recording.rig])
            found = triangulate(origins, rays, np.full(len(rays), 1e-3))
            # Pixels come back to 1e-12, a ridge of 1e-2 against an information of 1e6 per square metre pulls by 1e-8.
            np.testing.assert_allclose(found.points, joints, rtol=0, atol=1e-6)


def test_visible_joints_lie_on_their_own_hand(recording: Recording, truth: Truth) -> None:
    model, renderer = load_hand_model(), Renderer(load_hand_model())
    look = draw_look("plain", 2, OPTIONS.generator("look"))
    checked = on_hand = hidden = 0
    for camera in recording.rig:
        view = truth.views[camera.name]
        for frame in range(0, len(view.t_ns), 5):
            t_ns = int(view.t_ns[frame])
            hands = [(hand.side, hand.at(t_ns)) for hand in truth.trajectories]
            picture = renderer.draw(look, hands, camera)
            np.testing.assert_array_equal(
                view.visible[frame],
                [picture.visible(camera, hand.landmarks_at(t_ns, model)) for hand in truth.trajectories],
            )
            for hand, joints in enumerate(view.joints[frame]):
                # The skin over a joint lies within a pixel of its projection: joints are inside of the flesh, but
                # fingertips are on its rim. Wrists lie at the seam of hand and forearm.
                own = np.isin(picture.labels, (1 + hand, 16 + hand)).astype(np.uint8)
                own = np.asarray(cv2.dilate(own, np.ones((3, 3), np.uint8)), np.uint8)
                visible = view.visible[frame, hand]
                column, row = np.rint(camera.project(joints[visible])).astype(int).T
                checked += len(row)
                on_hand += int(own[row, column].sum())
                hidden += int((~visible).sum())
    renderer.close()
    assert checked > 100
    assert hidden > 10
    assert on_hand >= 0.99 * checked


def test_the_hands_in_the_recorded_images_are_where_the_truth_says(recording: Recording, truth: Truth) -> None:
    renderer = Renderer(load_hand_model())
    look = draw_look("plain", 2, OPTIONS.generator("look"))
    for config in replay_configs(recording, "fast"):
        camera, view = recording.rig[config.camera], truth.views[config.camera]
        frames = list(play(config))
        for number in (1, 7, len(frames) - 2):
            image = frames[number].image.astype(np.float64).mean(axis=2)
            errors = []
            for offset in (-1, 0, 1):
                t_ns = int(view.t_ns[number + offset])
                hands = [(hand.side, hand.at(t_ns)) for hand in truth.trajectories]
                drawn = renderer.draw(look, hands, camera).colour.mean(axis=2) ** (1 / 2.2)
                errors.append(1 - np.corrcoef(drawn.ravel(), image.ravel())[0, 1])
            assert errors[1] < min(errors[0], errors[2]), (config.camera, number, errors)
    renderer.close()


def test_the_same_options_make_the_same_clip_with_any_number_of_workers(recording: Recording, tmp_path: Path) -> None:
    again = write_clip(tmp_path / "again", OPTIONS, ignore, workers=2)
    for name in (TRUTH_FILE, "rig.toml", "timestamps.csv"):
        assert (again.path / name).read_bytes() == (recording.path / name).read_bytes(), name
    for one, other in zip(replay_configs(recording, "fast"), replay_configs(again, "fast"), strict=True):
        for first, second in zip(play(one), play(other), strict=True):
            np.testing.assert_array_equal(first.image, second.image)


def test_another_seed_makes_another_clip(recording: Recording, truth: Truth, tmp_path: Path) -> None:
    options = ClipOptions(rig="stereo", seconds=0.1, size=(160, 120), preset="plain", hands=1, seed=6)
    other = write_clip(tmp_path / "other", options, ignore, workers=1)
    other_truth = Truth.load(other.path / TRUTH_FILE)
    assert [trajectory.side for trajectory in other_truth.trajectories] == ["right"]
    assert np.abs(other_truth.trajectories[0].betas - truth.trajectories[0].betas).max() > 0.1
    assert len(other_truth.views["cam_0"].t_ns) == 3


def test_a_single_hand_is_of_either_side_and_its_arm_comes_from_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    scenes: list[tuple[tuple[Trajectory, ...], Look]] = []
    monkeypatch.setattr(clip, "film", lambda out, shoot, scene, *rest: scenes.append(scene.args[2:]))
    for seed in range(8):
        write_clip(tmp_path, ClipOptions(rig="stereo", seconds=0.1, hands=1, seed=seed), ignore)
    sides = {hand.side for ((hand,), _) in scenes}
    assert sides == {"right", "left"}
    for (hand,), look in scenes:
        assert (look.shoulders[0][0] > 0) == (hand.side == "right")


def test_fast_hands_are_blurred_in_hard_clips_only() -> None:
    camera_time = 1_000_000_000
    shoot = OPTIONS.shoot()
    model = load_hand_model()
    trajectories = draw_trajectories(model, 1, 2.0, camera_time, np.random.default_rng(1))
    camera = shoot.rig["cam_0"]
    times = camera_time + np.arange(50, 1950, 25) * 1_000_000
    counts, paths = [], []
    for t_ns in times.tolist():
        counts.append(clip._pictures(model, trajectories, camera, t_ns, 15_000_000))
        ends = trajectories[0].landmarks_at([t_ns - 7_500_000, t_ns + 7_500_000], model)
        paths.append(np.linalg.norm(np.diff(camera.project(ends), axis=0), axis=-1).max())
        assert clip._pictures(model, trajectories, camera, t_ns, 0) == 1
    counts_array, path = np.array(counts), np.array(paths)
    assert set(counts) <= {1, 3, 5, 7, 9}
    assert (counts_array[path < 3.9] == 1).all()
    steps = path / counts_array
    assert steps[counts_array < 9].max() < 4.0  # px between the pictures of one exposure
    assert counts_array.max() > 1


@pytest.mark.parametrize(
    ("changes", "message"), [({"hands": 3}, "hands is 3"), ({"hands": 0}, "hands is 0"), ({"seed": -1}, "seed is -1")]
)
def test_options_that_cannot_be_are_named(changes: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ClipOptions(**changes)  # type: ignore[arg-type]
