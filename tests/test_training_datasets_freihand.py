from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from made_up_datasets import spot, write_freihand

from hamuco.training.datasets.files import DatasetError
from hamuco.training.datasets.freihand import FreiHAND
from hamuco.training.datasets.sample import Dataset


def test_joints_project_to_where_the_images_have_them(tmp_path: Path) -> None:
    hands = write_freihand(tmp_path, "evaluation", 3)
    dataset: Dataset = FreiHAND(tmp_path)
    assert dataset.name == "FreiHAND evaluation"
    assert len(dataset) == 3
    for index, (sample, truth) in enumerate(zip(dataset, hands, strict=True)):
        assert sample.name == sample.sequence == f"{index:08d}"
        (camera,), (hand,) = sample.cameras, sample.hands
        np.testing.assert_array_equal(camera.camera_from_world, np.eye(4))
        np.testing.assert_array_equal(hand.joints, truth.joints)
        # 0.5 px of rounding when it was drawn, and JPEG
        assert np.abs(camera.project(hand.joints[0]) - spot(sample.images["camera"])).max() < 0.7
        assert (hand.side, hand.vertices, hand.parameters, dict(hand.visible)) == ("right", None, None, {})
        assert sample.t_ns is None


def test_meshes_on_request(tmp_path: Path) -> None:
    hands = write_freihand(tmp_path, "evaluation", 2)
    for sample, truth in zip(FreiHAND(tmp_path, with_vertices=True), hands, strict=True):
        vertices = sample.hands[0].vertices
        assert vertices is not None
        # Kept in single precision: at most 2^-24 of a metre off.
        np.testing.assert_allclose(vertices, truth.vertices[:778], atol=6e-8)


def test_of_the_training_images_those_as_recorded_are_read(tmp_path: Path) -> None:
    hands = write_freihand(tmp_path, "training", 2)
    dataset = FreiHAND(tmp_path, "training")
    assert len(dataset) == 2
    assert dataset.name == "FreiHAND training"
    for index, (sample, truth) in enumerate(zip(dataset, hands, strict=True)):
        assert sample.name == f"{index:08d}"
        np.testing.assert_array_equal(sample.hands[0].joints, truth.joints)
        assert sample.images["camera"][:8, :8].mean() < 4  # JPEG; the other variants are brighter there


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"has no training/rgb, training_K.json, .*unpack FreiHAND_pub_v2.zip there"):
        FreiHAND(tmp_path, "training")
    write_freihand(tmp_path, "evaluation", 2)
    for wrong in ("val", "test"):
        with pytest.raises(DatasetError, match=f"no split '{wrong}'; choose one of training, evaluation"):
            FreiHAND(tmp_path, wrong)  # type: ignore[arg-type]
    (tmp_path / "evaluation_verts.json").unlink()
    assert len(FreiHAND(tmp_path)) == 2
    with pytest.raises(DatasetError, match=r"has no evaluation_verts.json\. .*FreiHAND_pub_v2_eval.zip"):
        FreiHAND(tmp_path, with_vertices=True)
    (tmp_path / "evaluation_xyz.json").unlink()
    with pytest.raises(
        DatasetError, match=r"has no evaluation_xyz.json\. .*FreiHAND_pub_v2_eval.zip there, from https"
    ):
        FreiHAND(tmp_path)


def test_damaged_files_are_named(tmp_path: Path) -> None:
    write_freihand(tmp_path, "evaluation", 2)
    matrices = json.loads((tmp_path / "evaluation_K.json").read_text())
    (tmp_path / "evaluation_K.json").write_text(json.dumps([*matrices, matrices[0]]))
    with pytest.raises(DatasetError, match=r"evaluation_xyz.json has shape \(2, 21, 3\), expected \(3, 21, 3\)"):
        FreiHAND(tmp_path)
    (tmp_path / "evaluation_K.json").write_text(json.dumps(matrices)[:-9])
    with pytest.raises(DatasetError, match=r"evaluation_K.json is damaged .*: unpack FreiHAND_pub_v2_eval.zip again"):
        FreiHAND(tmp_path)
    (tmp_path / "evaluation_K.json").write_text(json.dumps(matrices))
    cv2.imwrite(str(tmp_path / "evaluation/rgb/00000001.jpg"), np.zeros((128, 120, 3), np.uint8))
    with pytest.raises(DatasetError, match=r"00000001.jpg is 120x128 px, but its calibration is for 224x224"):
        list(FreiHAND(tmp_path))
    (tmp_path / "evaluation/rgb/00000000.jpg").unlink()
    with pytest.raises(DatasetError, match=r"00000000.jpg is missing: unpack FreiHAND_pub_v2_eval.zip again"):
        list(FreiHAND(tmp_path))
    matrices[0][0][0] = 0.0
    (tmp_path / "evaluation_K.json").write_text(json.dumps(matrices))
    with pytest.raises(
        DatasetError, match=r"FreiHAND evaluation, entry 0 .*: camera 'camera': matrix is not a pinhole"
    ):
        list(FreiHAND(tmp_path))
