"""Recordings with truth as a data set."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from capture_footage import number_of
from rigs import SIZE, ring_rig
from synthetic_hand import synthetic_hand
from true_footage import FIRST_NS, PERIOD_NS, SPEED, make_truth, write_recording

from hamuco.training.datasets.files import DatasetError
from hamuco.training.datasets.recorded import Recorded
from hamuco.training.datasets.sample import Dataset
from hamuco.training.synthetic.truth import TRUTH_FILE, TruthError


def test_samples_have_images_hands_and_visibility_of_the_same_moment(tmp_path: Path) -> None:
    dataset: Dataset = Recorded(write_recording(tmp_path / "clip", 5))
    assert (dataset.name, dataset.joint_definition, len(dataset)) == ("clip", "free hand landmarks", 5)
    samples = list(dataset)
    assert [sample.t_ns for sample in samples] == [FIRST_NS + k * PERIOD_NS for k in range(5)]
    for number, sample in enumerate(samples):
        assert [camera.name for camera in sample.cameras] == ["cam_0", "cam_1", "cam_2"]
        assert [number_of(image) for image in sample.images.values()] == [number] * 3
        right, left = sample.hands
        assert (right.side, left.side) == ("right", "left")
        moved = right.joints - samples[0].hands[0].joints
        # Parameters are stored in single precision, 1e-8 m at 0.2 m.
        np.testing.assert_allclose(moved, np.tile([SPEED * number * PERIOD_NS * 1e-9, 0, 0], (21, 1)), atol=1e-7)
        np.testing.assert_array_equal(left.joints, samples[0].hands[1].joints)
        assert right.vertices is not None
        assert right.vertices.shape == (1609, 3)
        assert right.visible["cam_0"].sum() == 17
        assert right.visible["cam_1"].all()
        assert left.visible["cam_0"].all()


def test_moments_beyond_the_truth_are_left_out(tmp_path: Path) -> None:
    path = write_recording(tmp_path / "clip", 6)
    # The motion is known from 0.1 s before its start on, so the first three of six frames, 33 ms apart, are not covered.
    late = make_truth(ring_rig(3), 6, FIRST_NS + 3 * PERIOD_NS + 100_000_000)
    late.save(path / TRUTH_FILE)
    assert [sample.t_ns for sample in Recorded(path)] == [FIRST_NS + k * PERIOD_NS for k in (3, 4, 5)]
    make_truth(ring_rig(3), 6, FIRST_NS + 10**10).save(path / TRUTH_FILE)
    with pytest.raises(DatasetError, match="belongs to another recording"):
        Recorded(path)


def test_what_is_missing_or_wrong_is_named(tmp_path: Path) -> None:
    path = write_recording(tmp_path / "clip", 4, truth=False)
    with pytest.raises(DatasetError, match=r"has no truth\.npz.*hamuco synth.*hamuco live --replay"):
        Recorded(path)
    truth = make_truth(ring_rig(3), 3)
    truth.save(path / TRUTH_FILE)
    with pytest.raises(DatasetError, match=r"knows 3 frames of camera 'cam_0', but timestamps\.csv has frame 3"):
        Recorded(path)
    replace(truth, views={}).save(path / TRUTH_FILE)
    with pytest.raises(DatasetError, match="knows 0 frames of camera 'cam_0'"):
        Recorded(path)
    with pytest.raises(TruthError, match="made with the hand 'free hand', not with 'synthetic'"):
        Recorded(path, synthetic_hand())


def test_images_are_not_collected(tmp_path: Path) -> None:
    dataset = Recorded(write_recording(tmp_path / "clip", 12))
    image = SIZE[0] * SIZE[1] * 3
    tracemalloc.start()
    for _ in dataset:
        pass
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # Three cameras, each with the image of this set and of the next; 12 sets would be 36 images.
    assert peak < 10 * image
