from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from hamuco.calibration.camera import CalibrationError
from hamuco.calibration.formats import import_rig
from hamuco.calibration.rig_file import save_rig

CALISCOPE_FOLDERS = ("caliscope-4cam-hands", "caliscope-4cam-mirror-board", "caliscope-30fps-timing-and-tracks")

CALISCOPE = """\
[cameras.0]
cam_id = 0
rotation_count = 0
ignore = false
size = [1280, 720]
matrix = [[900, 0, 640], [0, 900, 360], [0, 0, 1]]
distortions = [0.1, 0, 0, 0, 0]
rotation = [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
translation = [0, 0, 1]

[cameras.5]
cam_id = 5
ignore = true
size = [1280, 720]

[cameras.2]
cam_id = 2
fisheye = true
size = [640, 480]
matrix = [[300, 0, 320], [0, 300, 240], [0, 0, 1]]
distortions = [0.1, 0, 0, 0]
rotation = [0, 1.5707963267948966, 0]
translation = [0, 0, 2]
"""


@pytest.mark.parametrize("folder", CALISCOPE_FOLDERS)
def test_real_caliscope_calibrations_load_and_survive_our_own_file(data_dir: Path, tmp_path: Path, folder: str) -> None:
    rig = import_rig(data_dir / folder / "camera_array.toml")
    assert rig.names == ("cam_0", "cam_1", "cam_2", "cam_3")
    save_rig(rig, tmp_path / "rig.toml")
    ours = import_rig(tmp_path / "rig.toml")
    for camera, copy in zip(rig, ours, strict=True):
        assert camera.camera_from_world.tobytes() == copy.camera_from_world.tobytes()
        assert camera.matrix.tobytes() == copy.matrix.tobytes()
        assert camera.size == (1280, 720)


def test_real_caliscope_cameras_agree_where_the_corners_of_the_board_are(data_dir: Path) -> None:
    folder = data_dir / "caliscope-4cam-mirror-board"
    rig = import_rig(folder / "camera_array.toml")
    corners: dict[tuple[str, str], dict[str, tuple[float, float]]] = {}
    with (folder / "xy.csv").open() as file:
        for row in csv.DictReader(file):
            views = corners.setdefault((row["sync_index"], row["keypoint_id"]), {})
            views[f"cam_{row['cam_id']}"] = (float(row["img_loc_x"]), float(row["img_loc_y"]))
    errors: dict[str, list[float]] = {name: [] for name in rig.names}
    for views in corners.values():
        if len(views) < 3:
            continue
        rays = np.array([rig[name].pixel_rays(pixel) for name, pixel in views.items()])
        centres = np.array([rig[name].centre for name in views])
        across = np.eye(3) - rays[:, :, None] * rays[:, None, :]
        point = np.linalg.solve(across.sum(axis=0), (across @ centres[:, :, None]).sum(axis=0))[:, 0]
        for name, pixel in views.items():
            errors[name].append(float(np.linalg.norm(rig[name].project(point) - pixel)))
    for name, distances in errors.items():
        assert len(distances) > 50
        # Medians of 0.4 to 1.0 px are known for this calibration; a wrong lens or direction costs tens of px.
        assert np.median(distances) < 2, name


def test_caliscope_names_ignored_cameras_fisheye_and_rotation_vectors(tmp_path: Path) -> None:
    path = tmp_path / "camera_array.toml"
    path.write_text(CALISCOPE)
    rig = import_rig(path, unit_m=0.5)
    assert rig.names == ("cam_0", "cam_2")
    assert [camera.fisheye for camera in rig] == [False, True]
    assert rig["cam_2"].size == (640, 480)
    np.testing.assert_allclose(rig["cam_0"].centre, (0, 0, -0.5))
    np.testing.assert_allclose(rig["cam_2"].camera_from_world[:3, :3] @ (0, 0, 1), (1, 0, 0), atol=1e-15)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "translation = [0, 0, 1]",
            "",
            "camera '0': 'translation' is missing; calibrate .* or mark it `ignore = true`",
        ),
        ("matrix = [[900", "matrix = [[nan", "camera '0': 'matrix' should be 3 x 3 finite numbers"),
        ("distortions = [0.1, 0, 0, 0, 0]", "", "camera '0': 'distortions' is missing"),
        ("rotation = [[1,", "rotation = [[2,", "camera 'cam_0': camera_from_world is not a rigid transform"),
        ("rotation = [[1, 0, 0],", "rotation = [[1, 0],", "'rotation' should be 3 x 3 finite numbers"),
        ("rotation = [0, 1.5", "rotation = [nan, 1.5", "'rotation' should be 3 finite numbers"),
        ("ignore = false", "ignore = 0", "'ignore' should be true or false, got 0"),
        ("fisheye = true", "fisheye = false\nignore = true", None),
    ],
)
def test_bad_caliscope_files_give_one_error(tmp_path: Path, old: str, new: str, message: str | None) -> None:
    path = tmp_path / "camera_array.toml"
    path.write_text(CALISCOPE.replace(old, new, 1))
    if message is None:
        assert import_rig(path).names == ("cam_0",)
        return
    with pytest.raises(CalibrationError, match=rf"camera_array\.toml.*{message}"):
        import_rig(path)


LENS = """\
intrinsic:
900.0 0.0 360.0
0.0 900.0 350.0
0.0 0.0 1.0
distortion:
-0.01 0.2 0.0 0.001 -0.3
"""
POSE = """\
R:
1.0 0.0 0.0
0.0 1.0 0.0
0.0 0.0 1.0
T:
1.0
2.0
3.0
"""
SECOND_POSE = "\n#from cam0 to cam1\n" + POSE.replace("3.0", "99.0")


def write_handpose3d(folder: Path, **replaced: str) -> Path:
    """Two cameras; `replaced` maps a file's stem to another content."""
    for stem, text in {"c0": LENS, "c1": LENS, "rot_trans_c0": POSE, "rot_trans_c1": POSE + SECOND_POSE}.items():
        (folder / f"{stem}.dat").write_text(replaced.get(stem, text))
    return folder


def test_handpose3d_lengths_are_scaled_and_the_relative_pose_is_not_read(tmp_path: Path) -> None:
    rig = import_rig(write_handpose3d(tmp_path), unit_m=0.04, size=(720, 640))
    assert rig.names == ("cam_0", "cam_1")
    assert rig["cam_1"].size == (720, 640)
    assert rig["cam_1"].distortion.tolist() == [-0.01, 0.2, 0.0, 0.001, -0.3]
    np.testing.assert_allclose(rig["cam_1"].camera_from_world[:3, 3], (0.04, 0.08, 0.12))


def test_handpose3d_cameras_are_ordered_by_number(tmp_path: Path) -> None:
    write_handpose3d(tmp_path)
    for number in (2, 10):
        (tmp_path / f"c{number}.dat").write_text(LENS)
        (tmp_path / f"rot_trans_c{number}.dat").write_text(POSE)
    assert import_rig(tmp_path, unit_m=0.04, size=(720, 720)).names == ("cam_0", "cam_1", "cam_2", "cam_10")


def test_the_real_handpose3d_cameras_see_the_same_relative_pose_as_their_author(data_dir: Path) -> None:
    rig = import_rig(data_dir / "handpose3d-2cam" / "camera_parameters", unit_m=0.044, size=(720, 720))
    first, second = rig["cam_0"].camera_from_world, rig["cam_1"].camera_from_world
    relative = second @ np.linalg.inv(first)
    # The second block of rot_trans_c1.dat; the pose above it is written with eight digits.
    np.testing.assert_allclose(relative[:3, 3] / 0.044, (9.096032259, -5.883682166, 6.275524099), atol=1e-5)
    baseline = float(np.linalg.norm(rig["cam_0"].centre - rig["cam_1"].centre))
    assert baseline == pytest.approx(np.linalg.norm(relative[:3, 3]))
    for camera in rig:  # their lens polynomial folds over some 490 px from the centre, just inside the corners
        assert np.isfinite(camera.undistort([(30, 30), (690, 30), (30, 690), (690, 690)])).all()
        assert np.isnan(camera.undistort((-0.5, -0.5))).all()


@pytest.mark.parametrize(
    ("stem", "text", "message"),
    [
        ("c1", LENS.replace("intrinsic", "intrinsics"), "camera 1: 'intrinsic' is missing"),
        ("c1", LENS.replace("350.0", "inf"), "camera 1: 'intrinsic' should be 3 x 3 finite numbers"),
        ("c1", LENS.replace("350.0", ""), "camera 1: 'intrinsic' should be 3 x 3 finite numbers"),
        ("c1", LENS.replace(" 0.0 0.001 -0.3", ""), "camera 'cam_1': 2 distortion coefficients"),
        ("c1", LENS.replace("350.0", "half"), r"c1\.dat, line 3: expected numbers or a name with a colon"),
        ("rot_trans_c0", POSE.replace("3.0\n", ""), "camera 0: 'T' should be 3 x 1 finite numbers"),
        ("rot_trans_c0", POSE.replace("\n1.0 0", "\n-1.0 0"), "camera 'cam_0': camera_from_world is not a rigid"),
        ("rot_trans_c0", "", "camera 0: 'T' is missing"),
    ],
)
def test_bad_handpose3d_files_give_one_error(tmp_path: Path, stem: str, text: str, message: str) -> None:
    with pytest.raises(CalibrationError, match=message):
        import_rig(write_handpose3d(tmp_path, **{stem: text}), unit_m=0.04, size=(720, 720))


def test_a_handpose3d_camera_without_a_pose_names_the_file_that_is_missing(tmp_path: Path) -> None:
    write_handpose3d(tmp_path)
    (tmp_path / "rot_trans_c1.dat").unlink()
    with pytest.raises(FileNotFoundError, match=r"rot_trans_c1\.dat"):
        import_rig(tmp_path, unit_m=0.04, size=(720, 720))


def test_arguments_that_do_not_belong_to_the_format_are_errors(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match="do not tell the image size; give it"):
        import_rig(write_handpose3d(tmp_path))
    (tmp_path / "camera_array.toml").write_text(CALISCOPE)
    rig = import_rig(tmp_path / "camera_array.toml")
    with pytest.raises(CalibrationError, match="has its own image sizes"):
        import_rig(tmp_path / "camera_array.toml", size=(720, 720))
    save_rig(rig, tmp_path / "rig.toml")
    with pytest.raises(CalibrationError, match="is in metres"):
        import_rig(tmp_path / "rig.toml", unit_m=0.001)
    for unit in (0, -1, float("nan")):
        with pytest.raises(CalibrationError, match="a positive number is expected"):
            import_rig(tmp_path / "rig.toml", unit_m=unit)


def test_handpose3d_needs_its_unit(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match=r"do not tell the unit of length; give it in metres \(--unit-m"):
        import_rig(write_handpose3d(tmp_path), size=(720, 640))


def test_anything_else_is_one_error_that_lists_what_is_understood(tmp_path: Path) -> None:
    (tmp_path / "anipose.toml").write_text('[cam_0]\nname = "a"\nsize = [1, 2]\n')
    (tmp_path / "video.mp4").write_bytes(b"\x00\x00\x00\x20ftypisom\xff\xfe")
    (tmp_path / "empty").mkdir()
    for name in ("anipose.toml", "video.mp4", "empty"):
        with pytest.raises(CalibrationError, match=rf"{name}.*understood are: rig\.toml.*Caliscope.*handpose3d"):
            import_rig(tmp_path / name)
    with pytest.raises(CalibrationError, match=r"there is no calibration .*absent"):
        import_rig(tmp_path / "absent")


def test_all_cameras_ignored_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "camera_array.toml"
    path.write_text(CALISCOPE.replace("ignore = false", "ignore = true").replace("fisheye = true", "ignore = true"))
    with pytest.raises(CalibrationError, match="all cameras are marked"):
        import_rig(path)
