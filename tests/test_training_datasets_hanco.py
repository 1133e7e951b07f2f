from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from made_up_datasets import MadeUpHand, spot, write_hanco

from hamuco.engine.hand_model import load_hand_model
from hamuco.engine.skinning import forward
from hamuco.training.datasets.files import DatasetError
from hamuco.training.datasets.hanco import HanCo
from hamuco.training.datasets.sample import Dataset, Sample

Hands = dict[tuple[int, int], MadeUpHand]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Hands]:
    """Shared by the tests that only read."""
    folder = tmp_path_factory.mktemp("HanCo")
    return folder, write_hanco(folder, {110: 1, 1200: 2, 1517: 1})


def spots_are_at_wrists(sample: Sample) -> bool:
    wrist = sample.hands[0].joints[0]
    distances = [
        np.abs(camera.project(wrist) - spot(sample.images[camera.name])).max()
        for camera in sample.cameras
        if camera.name in sample.images
    ]
    return bool(max(distances) < 0.7)  # 0.5 px of rounding when it was drawn, and JPEG


def test_the_test_split_is_the_sequences_from_1200_on(written: tuple[Path, Hands]) -> None:
    folder, _ = written
    dataset: Dataset = HanCo(folder)
    assert dataset.name == "HanCo test"
    assert len(dataset) == 3
    assert [sample.name for sample in dataset] == ["1200/00000000", "1200/00000001", "1517/00000000"]
    assert [sample.sequence for sample in dataset] == ["1200", "1200", "1517"]
    assert [sample.sequence for sample in HanCo(folder, "train", "rgb")] == ["0110"]
    assert len(HanCo(folder, "all")) == 4
    assert HanCo(folder, "train", "rgb").name == "HanCo train (rgb)"


def test_joints_project_to_where_the_images_have_them(written: tuple[Path, Hands]) -> None:
    folder, hands = written
    for sample in HanCo(folder):
        assert len(sample.images) == len(sample.cameras) == 8
        assert spots_are_at_wrists(sample)
        (hand,) = sample.hands
        truth = hands[int(sample.sequence), int(sample.name[-8:])]
        np.testing.assert_array_equal(hand.joints, truth.joints)  # JSON keeps every digit of a float
        assert (hand.side, hand.vertices, dict(hand.visible)) == ("right", None, {})
        assert sample.t_ns is None


def test_fits_pose_a_hand_model_to_the_joints(written: tuple[Path, Hands]) -> None:
    folder, _ = written
    for sample in HanCo(folder):
        (hand,) = sample.hands
        fit = hand.parameters
        assert fit is not None
        posed = forward(load_hand_model(), fit.global_orient, fit.hand_pose, fit.betas, fit.transl)
        np.testing.assert_allclose(posed.landmarks, hand.joints, atol=1e-12)


def test_missing_images_leave_their_views_out(tmp_path: Path) -> None:
    write_hanco(tmp_path, {1200: 3}, images=("rgb_merged",))
    images = tmp_path / "rgb_merged" / "1200"
    (images / "cam2" / "00000001.jpg").unlink()
    (images / "cam7" / "00000001.jpg").unlink()
    for camera in range(8):  # a moment without any image
        (images / f"cam{camera}" / "00000000.jpg").unlink()
    (tmp_path / "xyz" / "1200" / "00000002.json").unlink()  # one without joints
    dataset = HanCo(tmp_path)
    (sample,) = dataset
    assert len(dataset) == 1
    assert sample.name == "1200/00000001"
    assert sorted(sample.images) == ["cam0", "cam1", "cam3", "cam4", "cam5", "cam6"]
    assert len(sample.cameras) == 8
    assert spots_are_at_wrists(sample)


def test_only_checked_fits_are_given(tmp_path: Path) -> None:
    write_hanco(tmp_path, {1200: 3}, images=("rgb_merged",))
    meta = json.loads((tmp_path / "meta.json").read_text())
    meta["is_valid"][1200] = [False, True]  # and of the third frame nothing is said
    (tmp_path / "meta.json").write_text(json.dumps(meta))
    assert [sample.hands[0].parameters is not None for sample in HanCo(tmp_path)] == [False, True, False]
    (tmp_path / "shape" / "1200" / "00000001.json").unlink()  # an archive of its own, which not everybody has
    assert [sample.hands[0].parameters for sample in HanCo(tmp_path)] == [None] * 3


def test_another_folder_is_told_from_hanco(tmp_path: Path) -> None:
    with pytest.raises(
        DatasetError, match=r"has no meta.json, calib, xyz, rgb_merged.*unpack HanCo_calib_meta.zip, Han"
    ):
        HanCo(tmp_path)
    write_hanco(tmp_path, {110: 1}, images=("rgb",))
    with pytest.raises(DatasetError, match=r"has no rgb_merged\. .*unpack HanCo_rgb_merged.zip there, from https"):
        HanCo(tmp_path)
    with pytest.raises(DatasetError, match=r"no moment .* 1200 to 1517; it has sequences from 0110 to 0110.*\"all\""):
        HanCo(tmp_path, images="rgb")
    with pytest.raises(DatasetError, match=r"no split 'val'; choose one of train, test, all"):
        HanCo(tmp_path, "val")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("xyz/1200/00000000.json", "[[0.1, 0.2", r"xyz/1200/00000000.json is damaged .*unpack HanCo_xyz.zip again"),
        ("xyz/1200/00000000.json", "[[0, 1, 2]]", r"00000000.json has shape \(1, 3\), expected \(21, 3\)"),
        (
            "calib/1200/00000000.json",
            '{"K": []}',
            r"'K' in .*calib/1200/00000000.json has shape \(0,\), expected \(8, 3",
        ),
        ("calib/1200/00000000.json", "[]", r"should have an entry 'K', but holds list"),
        (
            "shape/1200/00000000.json",
            '{"poses": [["a"]]}',
            r"'poses' in .*shape/1200/00000000.json is not an array of n",
        ),
        ("meta.json", '{"is_valid": [[true]]}', r"meta.json is not a list of 1518 lists: unpack HanCo_calib_meta.zip"),
        (
            "rgb_merged/1200/cam4/00000000.jpg",
            "JFIF",
            r"cam4/00000000.jpg is not an image that OpenCV can read: unpack",
        ),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, file: str, content: str, message: str) -> None:
    write_hanco(tmp_path, {1200: 1}, images=("rgb_merged",))
    (tmp_path / file).write_text(content)
    with pytest.raises(DatasetError, match=message):
        list(HanCo(tmp_path))


def test_a_camera_that_cannot_be_is_named(tmp_path: Path) -> None:
    write_hanco(tmp_path, {1200: 1}, images=("rgb_merged",))
    file = tmp_path / "calib" / "1200" / "00000000.json"
    calibration = json.loads(file.read_text())
    calibration["M"][5][0][0] = 3.0
    file.write_text(json.dumps(calibration))
    with pytest.raises(
        DatasetError, match=r"calib/1200/00000000.json: camera 'cam5': camera_from_world is not a rigid"
    ):
        list(HanCo(tmp_path))
    file.unlink()
    with pytest.raises(DatasetError, match=r"00000000.json is missing: unpack HanCo_calib_meta.zip again"):
        list(HanCo(tmp_path))
