from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from capture_footage import corrupt_frames, make_recording, number_of

from hamuco.training.datasets.files import DatasetError
from hamuco.training.datasets.footage import FOUR_CAMERAS, TWO_CAMERAS, Footage, planned_sets
from hamuco.training.datasets.sample import Dataset


def test_a_recording_is_a_data_set_without_hands(tmp_path: Path) -> None:
    recording = make_recording(tmp_path, ("left", "right"), count=5, fps=25.0)
    dataset: Dataset = Footage(recording.path)
    assert dataset.name == "footage recording"
    assert not Footage.has_truth
    samples = list(dataset)
    assert len(dataset) == len(samples) == 5
    assert [sample.t_ns for sample in samples] == [40_000_000 * k for k in range(5)]
    assert [sample.name for sample in samples] == [f"recording/{k}" for k in range(5)]
    for k, sample in enumerate(samples):
        assert {name: number_of(image) for name, image in sample.images.items()} == {"left": k, "right": k}
        assert sample.hands == ()
        assert [camera.name for camera in sample.cameras] == ["left", "right"]
    assert [sample.t_ns for sample in dataset] == [sample.t_ns for sample in samples]  # and once more


def test_a_frame_that_does_not_decode_leaves_its_view_out(tmp_path: Path) -> None:
    recording = make_recording(tmp_path, ("left", "right"), count=5)
    corrupt_frames(recording.videos["right"], 0, 2)
    samples = list(Footage(recording.path))
    assert [sorted(sample.images) for sample in samples] == [
        ["left"] if k in (0, 2) else ["left", "right"] for k in range(5)
    ]
    for k, sample in enumerate(samples):
        assert {number_of(image) for image in sample.images.values()} == {k}


def test_other_folders_are_told_what_is_known(tmp_path: Path) -> None:
    with pytest.raises(
        DatasetError, match=r"neither a recording nor .*`hamuco import`; .*caliscope-4cam-hands and hand"
    ):
        Footage(tmp_path)
    (tmp_path / "handpose3d-2cam").mkdir()
    with pytest.raises(DatasetError, match=r"did you mean .*/handpose3d-2cam\?$"):
        Footage(tmp_path)


def test_the_clip_of_four_cameras(data_dir: Path) -> None:
    dataset = Footage(data_dir / FOUR_CAMERAS.folder)
    samples = list(dataset)
    assert len(dataset) == len(samples) == 36
    times = [sample.t_ns for sample in samples]
    intervals = np.diff(np.array(times, np.int64)) / 1e9
    assert 0.14 < np.median(intervals) < 0.19  # 6 frames/s
    for sample in samples:
        assert [camera.name for camera in sample.cameras] == list(sample.images) == [f"cam_{k}" for k in range(4)]
        assert {image.shape for image in sample.images.values()} == {(720, 1280, 3)}


def test_the_clip_of_two_cameras(data_dir: Path) -> None:
    dataset = Footage(data_dir / TWO_CAMERAS.folder)
    assert len(dataset) == 252
    first = next(iter(dataset))
    assert sorted(first.images) == ["cam_0", "cam_1"]
    baseline = np.linalg.norm(first.cameras[0].centre - first.cameras[1].centre)
    assert 0.5 < baseline < 0.6  # some 0.55 m, with the unit that is assumed


def test_sets_are_planned_by_times_alone(tmp_path: Path) -> None:
    recording = make_recording(tmp_path, ("left", "right"), count=4)
    recording.videos["left"].write_bytes(b"")  # not looked at
    sets = planned_sets(recording)
    assert [sorted(frame_set.frames) for frame_set in sets] == [["left", "right"]] * 4
