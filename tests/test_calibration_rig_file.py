from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from hamuco.calibration.camera import CalibrationError, Camera, Rig
from hamuco.calibration.rig_file import load_rig, save_rig


def random_rig(seed: int, names: tuple[str, ...]) -> Rig:
    """Cameras whose numbers use all their digits."""
    rng = np.random.default_rng(seed)
    cameras = []
    for index, name in enumerate(names):
        transform = np.eye(4)
        transform[:3, :3] = cv2.Rodrigues(rng.normal(size=3))[0]
        transform[:3, 3] = rng.normal(size=3) * 10.0 ** rng.integers(-12, 2, 3)
        matrix = np.array([[rng.uniform(300, 2000), 0, rng.uniform(1, 700)], [0, 1e3 / 3, -0.0], [0, 0, 1]])
        fisheye = index % 2 == 1
        cameras.append(
            Camera(
                name,
                (640 + index, 480),
                matrix,
                rng.normal(size=4 if fisheye else (0, 4, 5, 8, 12, 14)[index % 6]) * 1e-3,
                transform,
                fisheye,
                source="0" if index % 3 == 1 else None,
            )
        )
    return Rig(tuple(cameras))


def assert_same(left: Rig, right: Rig) -> None:
    assert left.names == right.names
    for a, b in zip(left, right, strict=True):
        assert (a.size, a.fisheye, a.source) == (b.size, b.fisheye, b.source)
        for first, second in (
            (a.matrix, b.matrix),
            (a.distortion, b.distortion),
            (a.camera_from_world, b.camera_from_world),
        ):
            assert first.tobytes() == second.tobytes()  # bit for bit, the sign of zero included


@pytest.mark.parametrize("seed", range(20))
def test_what_was_saved_is_loaded_bit_for_bit(tmp_path: Path, seed: int) -> None:
    names = ("cam_0", "left hand", "a.b", "Kamera \u00fc", '"quoted"', "7", "back\\slash")
    rig = random_rig(seed, names)
    path = tmp_path / "rig.toml"
    save_rig(rig, path)
    loaded = load_rig(path)
    assert_same(loaded, rig)
    save_rig(loaded, tmp_path / "again.toml")
    assert (tmp_path / "again.toml").read_text() == path.read_text()


def test_the_file_tells_its_units_and_direction(tmp_path: Path) -> None:
    save_rig(random_rig(0, ("front",)), tmp_path / "rig.toml")
    head = (tmp_path / "rig.toml").read_text().partition("[cameras.front]")[0]
    assert all(line.startswith("#") for line in head.strip().splitlines())
    assert "metres, world -> camera" in head


def test_saving_replaces_the_file_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "rig.toml"
    save_rig(random_rig(0, ("a", "b")), path)
    save_rig(random_rig(1, ("c",)), path)
    assert load_rig(path).names == ("c",)
    assert list(tmp_path.iterdir()) == [path]


GOOD = """\
[cameras.front]
size = [1280, 720]
matrix = [[900, 0, 640], [0, 900, 360], [0, 0, 1]]
distortion = [0.1, 0, 0, 0]
rotation = [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
translation = [0, 0, 1]
"""


def test_whole_numbers_are_numbers(tmp_path: Path) -> None:
    path = tmp_path / "rig.toml"
    path.write_text(GOOD)
    (camera,) = load_rig(path)
    assert camera.matrix.dtype == np.float64
    assert camera.centre.tolist() == [0, 0, -1]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[1280, 720]", "[1280]", "camera 'front': 'size' should be 2 finite numbers"),
        ("[1280, 720]", "[1280.5, 720]", "'size' should be width and height in whole px"),
        ("[1280, 720]", "[0, 720]", "'size' should be width and height in whole px"),
        ("[1280, 720]", '"1280x720"', "'size' should be 2 finite numbers, got '1280x720'"),
        ("[900, 0, 640]", "[900, 0]", "'matrix' should be 3 x 3 finite numbers"),
        ("[900, 0, 640]", "[nan, 0, 640]", "'matrix' should be 3 x 3 finite numbers"),
        ("[900, 0, 640]", "[-900, 0, 640]", "camera 'front': matrix is not a pinhole matrix"),
        ("[0.1, 0, 0, 0]", "[0.1, 0, 0]", "camera 'front': 3 distortion coefficients"),
        ("[0.1, 0, 0, 0]", '["0.1", 0, 0, 0]', "'distortion' should be any number of finite numbers"),
        ("[0.1, 0, 0, 0]", "0.1", "'distortion' should be any number of finite numbers, got 0.1"),
        ("[0.1, 0, 0, 0]", "[true, false, true, true]", "'distortion' should be any number of finite numbers"),
        ("[[1, 0, 0],", "[[-1, 0, 0],", "camera 'front': camera_from_world is not a rigid transform"),
        ("[0, 0, 1]\n", "[0, 0, inf]\n", "should be .* finite numbers"),
        ("translation =", "translatoin =", "unknown key 'translatoin'; known are size, matrix, .*, fisheye, source"),
        ("translation = [0, 0, 1]", "", "camera 'front': 'translation' is missing"),
        ("size =", "fisheye = 1\nsize =", "'fisheye' should be true or false, got 1"),
        ("size =", "source = 0\nsize =", "'source' should be text in quotes, got 0"),
        ("[cameras.front]", "[camera.front]", "unknown key 'camera'; known are cameras"),
        ("[cameras.front]", "", "unknown key 'size', 'matrix'"),
        ("size =", "[cameras.front]\nsize =", "not a TOML file"),
        (GOOD, "", "has no cameras"),
        (GOOD, "[cameras]\n", "has no cameras"),
        (GOOD, "[cameras]\nfront = 3\n", r"camera 'front': expected a table \[cameras.front\], got 3"),
        (GOOD, "size = [", "not a TOML file"),
    ],
)
def test_bad_files_give_one_error_that_names_file_and_key(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = tmp_path / "rig.toml"
    text = GOOD.replace(old, new, 1)
    assert text != GOOD
    path.write_text(text)
    with pytest.raises(CalibrationError, match=rf"rig\.toml.*{message}"):
        load_rig(path)


def test_a_binary_file_is_not_toml(tmp_path: Path) -> None:
    (tmp_path / "rig.toml").write_bytes(b"\xff\xfe\x00binary")
    with pytest.raises(CalibrationError, match="not a TOML file"):
        load_rig(tmp_path / "rig.toml")


def test_a_missing_file_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"rig\.toml"):
        load_rig(tmp_path / "rig.toml")
