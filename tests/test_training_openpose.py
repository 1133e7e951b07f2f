"""OpenPose's JSON files as labels."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from labelled_footage import write_labelled
from numpy.typing import NDArray
from typer.testing import CliRunner

from hamuco.app.cli import app
from hamuco.capture.recording import Recording
from hamuco.training.config import load_config
from hamuco.training.labels import SIDES, Labels, labels_path
from hamuco.training.openpose import OpenPoseError, import_openpose
from hamuco.training.sources import check

FRAMES = 2


@pytest.fixture
def recording(tmp_path: Path) -> Recording:
    return write_labelled(tmp_path / "rec", FRAMES, cameras=2)


def person(**hands: NDArray[np.float64]) -> dict[str, list[float]]:
    """As OpenPose writes one: hands as (21, 3); those that are not given are as it writes them for no hand."""
    sides = {side: hands.get(side, np.zeros((21, 3))) for side in SIDES}
    return {"pose_keypoints_2d": [0.0] * 75} | {
        f"hand_{side}_keypoints_2d": values.ravel().tolist() for side, values in sides.items()
    }


def write(folder: Path, camera: str, frame: int, *people: dict[str, list[float]]) -> Path:
    (folder / camera).mkdir(parents=True, exist_ok=True)
    file = folder / camera / f"{camera}_{frame:012d}_keypoints.json"
    file.write_text(json.dumps({"version": 1.3, "people": people}))
    return file


def seen(labels: Labels, frame: int, camera: int, side: int) -> NDArray[np.float64]:
    """(21, 3) x, y and confidence 0.9 of what is labelled already."""
    (row,) = np.flatnonzero((labels.set_id == frame) & (labels.camera == camera) & (labels.side == side))
    return np.concatenate([labels.pixels[row], np.full((21, 1), 0.9)], axis=1).astype(np.float64)


def write_all(folder: Path, recording: Recording) -> Labels:
    """Files with what the labels of the recording say; returns these."""
    labels = Labels.load(labels_path(recording, "landmarks"))
    for number, camera in enumerate(recording.rig):
        for frame in range(FRAMES):
            hands = {side: seen(labels, frame, number, index) for index, side in enumerate(SIDES)}
            write(folder, camera.name, frame, person(**hands))
    return labels


def test_what_openpose_wrote_is_what_is_loaded(recording: Recording, tmp_path: Path) -> None:
    expected = write_all(tmp_path / "json", recording)
    assert len(import_openpose(recording, tmp_path / "json")) == len(expected)
    labels = Labels.load(labels_path(recording, "openpose"))
    labels.check(recording)
    for name in ("set_id", "camera", "side"):
        np.testing.assert_array_equal(getattr(labels, name), getattr(expected, name))
    np.testing.assert_array_equal(labels.pixels, expected.pixels)
    np.testing.assert_array_equal(labels.confidence, np.full((len(labels), 21), 0.9, np.float32))


def test_joints_without_confidence_are_not_known(recording: Recording, tmp_path: Path) -> None:
    labels = write_all(tmp_path / "json", recording)
    half = seen(labels, 0, 0, 0)
    half[8:] = 0
    write(tmp_path / "json", "cam_0", 0, person(right=half))
    rows = import_openpose(recording, tmp_path / "json")
    assert len(rows) == len(labels) - 1  # no left hand there
    assert np.isfinite(rows.pixels[0, :8]).all()
    assert np.isnan(rows.pixels[0, 8:]).all()
    assert (rows.confidence[0, 8:] == 0).all()


def test_of_several_people_the_one_with_the_best_hands_is_taken(recording: Recording, tmp_path: Path) -> None:
    labels = write_all(tmp_path / "json", recording)
    good, doubtful = seen(labels, 0, 0, 0), seen(labels, 0, 0, 1)
    doubtful[:, 2] = 0.2
    write(tmp_path / "json", "cam_0", 0, person(left=doubtful), person(right=good), person())
    rows = import_openpose(recording, tmp_path / "json")
    (row,) = np.flatnonzero((rows.set_id == 0) & (rows.camera == 0))
    assert rows.side[row] == 0
    np.testing.assert_array_equal(rows.pixels[row], good[:, :2].astype(np.float32))


def test_frames_without_a_time_and_images_without_people_give_nothing(recording: Recording, tmp_path: Path) -> None:
    labels = write_all(tmp_path / "json", recording)
    write(tmp_path / "json", "cam_0", 99, person(right=seen(labels, 0, 0, 0)))
    write(tmp_path / "json", "cam_1", 0)
    assert len(import_openpose(recording, tmp_path / "json")) == len(labels) - 2


def test_what_is_wrong_is_said(recording: Recording, tmp_path: Path) -> None:
    folder = tmp_path / "json"
    with pytest.raises(
        OpenPoseError, match=r"has no folder of camera cam_0, cam_1; it has none. .*--video cam_0.mkv --hand"
    ):
        import_openpose(recording, folder)
    labels = write_all(folder, recording)
    hand = seen(labels, 0, 0, 0)
    (folder / "cam_1").rename(folder / "camera1")
    with pytest.raises(OpenPoseError, match="has no folder of camera cam_1; it has cam_0, camera1"):
        import_openpose(recording, folder)
    (folder / "cam_1").mkdir()
    with pytest.raises(OpenPoseError, match="cam_1 has no file"):
        import_openpose(recording, folder)
    (folder / "cam_1").rmdir()
    (folder / "camera1").rename(folder / "cam_1")
    for content, words in (
        ("{", "is damaged, or not of OpenPose"),
        ("[]", "is damaged, or not of OpenPose"),
        ('{"people": [{"hand_right_keypoints_2d": [1, 2]}]}', "a right hand of 2 numbers, expected 63"),
        (json.dumps({"people": [person(right=hand * [1e-4, 1e-4, 1])]}), "run OpenPose with --keypoint_scale 0"),
    ):
        file = write(folder, "cam_0", 0)
        file.write_text(content)
        with pytest.raises(OpenPoseError, match=words):
            import_openpose(recording, folder)


def test_without_hands_the_option_is_named(recording: Recording, tmp_path: Path) -> None:
    for camera in recording.rig.names:
        write(tmp_path / "json", camera, 0, {"pose_keypoints_2d": [0.0] * 75})
    with pytest.raises(OpenPoseError, match="run OpenPose with --hand"):
        import_openpose(recording, tmp_path / "json")


def test_the_command_imports(recording: Recording, tmp_path: Path) -> None:
    write_all(tmp_path / "json", recording)
    result = CliRunner().invoke(app, ["label", str(recording.path), "--openpose", str(tmp_path / "json")])
    assert result.exit_code == 0, result.output
    assert "openpose.npz: 8 labels, 2 of 2 sets with hands, by OpenPose" in result.output
    # As it is said, it is found.
    overrides = result.output.splitlines()[-1].removeprefix("Next: hamuco train my-rig --set ").split(" --set ")
    config = load_config("my-rig", overrides)
    check(config.sources[0], 64, 4, tmp_path, False)
    assert config.sources[0].labels == "openpose"
