from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from hamuco.calibration.camera import Rig
from hamuco.capture.recording import Recording
from hamuco.capture.replay import replay_configs
from hamuco.capture.source import read
from hamuco.training.synthetic.board_truth import BOARD_TRUTH_FILE, Board, BoardTruth, project_corners
from hamuco.training.synthetic.charuco import BoardClipOptions, BoardPainter, draw_motion, write_board_clip
from hamuco.training.synthetic.filming import START_NS
from hamuco.training.synthetic.rigs import make_rig
from hamuco.training.synthetic.sensor import draw_sensor
from hamuco.training.synthetic.truth import TruthError

BOARD = Board()
OPTIONS = BoardClipOptions(rig="table3", seconds=1.0, size=(320, 240), timing="webcam")


def ignore(done: int, total: int) -> None: ...


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    return write_board_clip(tmp_path_factory.mktemp("board") / "clip", OPTIONS, ignore, workers=1)


def ring(seed: int = 3) -> Rig:
    return make_rig("ring", 4, (640, 480), np.random.default_rng(seed))


def test_opencv_finds_the_corners_where_they_are() -> None:
    """Without noise, so that what is left is the detector's own error and ours."""
    rng = np.random.default_rng(0)
    rig = ring()
    motion = draw_motion(BOARD, rig, 6.0, rng)
    detector = cv2.aruco.CharucoDetector(BOARD.opencv())
    errors = []
    for camera in rig:
        assert camera.distortion.any()
        painter = BoardPainter(BOARD, camera, rng)
        sensor = replace(
            draw_sensor("plain", rng), blur_px=0.5, read_noise=0, shot_noise=0, sharpening=0, jpeg_quality=0
        )
        for t_ns in motion.t_ns[0] + np.arange(0, 6_000_000_000, 400_000_000):
            pose = motion.world_from_board(t_ns)
            towards = (camera.centre - pose[:3, 3]) / np.linalg.norm(camera.centre - pose[:3, 3])
            if towards @ -pose[:3, 2] < np.cos(np.radians(60)):
                continue  # the detector reads few markers at a grazing angle
            colour = painter.paint(pose, np.full((480, 640, 3), 0.2, np.float32))
            found, ids, _, _ = detector.detectBoard(sensor.expose(colour, rng))
            if ids is not None:
                errors.append(found.reshape(-1, 2) - project_corners(BOARD, pose, camera)[ids.ravel()])
    error = np.concatenate(errors)
    assert len(error) > 300
    # The detector refines corners to about a tenth of a pixel. A mistake of half a pixel, of one sample (a quarter) or
    # of one texel (an eighth or so) in some convention would move all corners one way.
    assert np.abs(error.mean(axis=0)).max() < 0.02
    assert np.median(np.linalg.norm(error, axis=1)) < 0.1
    assert np.quantile(np.linalg.norm(error, axis=1), 0.95) < 0.3


def test_the_corners_of_the_board_are_those_of_opencv() -> None:
    np.testing.assert_allclose(BOARD.corners, BOARD.opencv().getChessboardCorners(), rtol=0, atol=1e-7)  # float32


def test_a_recording_is_ordinary_and_has_truth_for_every_frame(clip: Recording) -> None:
    truth = BoardTruth.load(clip.path / BOARD_TRUTH_FILE)
    assert truth.board == BOARD
    assert set(truth.views) == set(clip.rig.names)
    for config in replay_configs(clip, "fast"):
        view = truth.views[config.camera]
        assert len(view.t_ns) == len(clip.frames[config.camera]) == len(view.visible)
        # Noted times are off by the jitter of webcams, 2 ms, cut at 0.45 of 33 ms.
        noted = np.array([row.t_capture_ns for row in clip.frames[config.camera]])
        assert 0 < np.abs(noted - view.t_ns).max() <= 15_000_000
        poses = truth.motion.world_from_board(view.t_ns)
        np.testing.assert_allclose(view.corners, project_corners(BOARD, poses, clip.rig[config.camera]), atol=1e-9)
        source = config.create()
        source.open()
        source.begin(epoch_ns=0)
        for row in clip.frames[config.camera]:
            frame = read(source, config)
            assert frame is not None
            assert frame.sequence == row.frame
        source.close()


def test_the_corners_in_the_recorded_pixels_are_the_true_ones(clip: Recording) -> None:
    truth = BoardTruth.load(clip.path / BOARD_TRUTH_FILE)
    detector = cv2.aruco.CharucoDetector(BOARD.opencv())
    errors = []
    for config in replay_configs(clip, "fast"):
        source = config.create()
        source.open()
        source.begin(epoch_ns=0)
        view = truth.views[config.camera]
        while (frame := read(source, config)) is not None:
            found, ids, _, _ = detector.detectBoard(frame.image)
            if ids is not None:
                assert view.visible[frame.sequence, ids.ravel()].all()
                errors.append(found.reshape(-1, 2) - view.corners[frame.sequence, ids.ravel()])
        source.close()
    error = np.concatenate(errors)
    assert len(error) > 100
    # Markers of 10 px in small, noisy, compressed images; a frame taken for its neighbour would be off by 2 px and more.
    assert np.median(np.linalg.norm(error, axis=1)) < 0.3


def test_a_calibration_from_the_true_corners_is_the_truth() -> None:
    rig = ring()
    camera = rig.cameras[1]
    motion = draw_motion(BOARD, rig, 40.0, np.random.default_rng(2))
    poses = motion.world_from_board(motion.t_ns)
    facing = np.einsum("ki,ki->k", poses[:, :3, 2], poses[:, :3, 3] - camera.centre) > 0.3
    corners = project_corners(BOARD, poses[facing], camera)
    assert len(corners) > 10
    objects = [BOARD.corners.astype(np.float32)] * len(corners)
    criteria = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 200, 1e-15)
    rms, matrix, distortion, _, _ = cv2.calibrateCamera(
        objects, list(corners.astype(np.float32)), camera.size, np.eye(3), np.zeros(5), criteria=criteria
    )
    # calibrateCamera takes float32, which rounds pixels by up to 3e-5; many corners average some of it out.
    assert rms < 3e-5
    np.testing.assert_allclose(matrix, camera.matrix, rtol=1e-5, atol=1e-3)
    np.testing.assert_allclose(distortion.ravel()[:2], camera.distortion[:2], atol=1e-4)
    for pose, pixels in zip(poses[facing], corners, strict=True):
        solved, rotation, translation = cv2.solvePnP(
            BOARD.corners, pixels, camera.matrix, camera.distortion, flags=cv2.SOLVEPNP_ITERATIVE
        )
        assert solved
        rotation, translation = cv2.solvePnPRefineLM(
            BOARD.corners, pixels, camera.matrix, camera.distortion, rotation, translation,
            (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 100, 1e-15),
        )  # fmt: skip
        expected = camera.camera_from_world @ pose
        np.testing.assert_allclose(cv2.Rodrigues(rotation)[0], expected[:3, :3], rtol=0, atol=1e-6)
        np.testing.assert_allclose(translation.ravel(), expected[:3, 3], rtol=0, atol=1e-6)


@pytest.mark.parametrize(("layout", "views"), [("ring", 4), ("dome", 8), ("table", 3), ("stereo", 2), ("random", 6)])
def test_every_camera_sees_the_board_and_shares_it_with_others(layout: str, views: int) -> None:
    rig = make_rig(layout, views, (640, 480), np.random.default_rng(5))  # type: ignore[arg-type]
    motion = draw_motion(BOARD, rig, 20.0, np.random.default_rng(6))
    times = START_NS + np.arange(0, 20_000_000_000, 33_333_333)
    poses = motion.world_from_board(times)
    middles = (poses @ np.append(BOARD.middle, 1))[:, :3]
    assert np.abs(middles).max() < 0.35  # m: the keys are within 0.15 m, and a spline overshoots
    shown = []
    for camera in rig:
        away = middles - camera.centre
        cosine = np.einsum("ki,ki->k", away, poses[:, :3, 2]) / np.linalg.norm(away, axis=1)
        pixels = project_corners(BOARD, poses, camera)
        inside = ((pixels > 0) & (pixels < np.array(camera.size))).all(axis=2).sum(axis=1) > 12
        shown.append((cosine > 0.6) & inside)
    counts = np.array(shown).sum(axis=1)
    assert counts.min() >= 30, counts  # of 600 frames
    # The views form one connected rig by frames in which two see the board.
    together = {pair for pair in combinations(range(views), 2) if (shown[pair[0]] & shown[pair[1]]).sum() >= 5}
    reached = {0}
    for _ in range(views):
        reached |= {b for a, b in together if a in reached} | {a for a, b in together if b in reached}
    assert reached == set(range(views)), together
    # Smooth, at a person's pace: below the speeds at which a webcam blurs a board away.
    speeds = np.linalg.norm(np.diff(middles, axis=0), axis=1) * 30
    assert speeds.max() < 1.0


def test_outside_of_its_time_the_motion_is_not_known() -> None:
    motion = draw_motion(BOARD, ring(), 5.0, np.random.default_rng(0))
    motion.world_from_board(START_NS + 5_000_000_000)
    with pytest.raises(TruthError, match=r"asked for 999999999 .*known from 1000000000 to 8100000000 ns"):
        motion.world_from_board(START_NS - 1)


def test_at_the_stored_times_the_motion_is_the_stored_poses() -> None:
    motion = draw_motion(BOARD, ring(), 5.0, np.random.default_rng(0))
    poses = motion.world_from_board(motion.t_ns)
    # The spline and the unit length of the quaternions round a few times.
    np.testing.assert_allclose(poses[:, :3, 3], motion.pose[:, 4:], rtol=0, atol=1e-14)
    turned = Rotation.from_quat(motion.pose[:, :4]).as_matrix()
    np.testing.assert_allclose(poses[:, :3, :3], turned, rtol=0, atol=1e-14)


def test_a_damaged_truth_is_named(clip: Recording, tmp_path: Path) -> None:
    stored = dict(np.load(clip.path / BOARD_TRUTH_FILE))
    path = tmp_path / BOARD_TRUTH_FILE
    data = (clip.path / BOARD_TRUTH_FILE).read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(TruthError, match="is damaged"):
        BoardTruth.load(path)
    for changes, message in (
        ({"pose": None}, "has no array 'pose'"),
        ({"squares": np.array([7])}, "is not the truth of a board: .*unpack"),
        ({"dictionary": np.array("DICT_NONE")}, "is not the truth of a board: .*DICT_NONE"),
    ):
        changed = {key: value for key, value in (stored | changes).items() if value is not None}
        np.savez(path, allow_pickle=False, **changed)
        with pytest.raises(TruthError, match=message):
            BoardTruth.load(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dictionary": "4X4"}, "dictionary '4X4' is not one of OpenCV's"),
        ({"marker_m": 0.05}, "markers that are smaller than squares"),
        ({"squares": (2, 5)}, "at least 3x3"),
        ({"squares": (20, 20)}, "200 markers: DICT_4X4_50 has only 50"),
    ],
)
def test_a_board_that_cannot_be_printed_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Board(**changes)  # type: ignore[arg-type]


def test_the_recording_does_not_depend_on_the_number_of_workers(clip: Recording, tmp_path: Path) -> None:
    again = write_board_clip(tmp_path / "again", OPTIONS, ignore, workers=2)
    for path in sorted(clip.path.iterdir()):
        if path.suffix == ".mkv":  # the container has a random identity
            assert decoded(path) == decoded(again.path / path.name)
        else:
            assert path.read_bytes() == (again.path / path.name).read_bytes(), path.name


def decoded(path: Path) -> list[bytes]:
    capture = cv2.VideoCapture(str(path))
    images = []
    while (frame := capture.read())[0]:
        images.append(frame[1].tobytes())
    return images
