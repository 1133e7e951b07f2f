"""Labels of a recording: what is in them, that runs go on where they were interrupted, and damaged files."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from full_disk import room_for
from labelled_footage import write_labelled
from true_footage import write_recording
from typer.testing import CliRunner

from hamuco.app.cli import app
from hamuco.capture.recording import Recording
from hamuco.engine.hand_model import load_hand_model
from hamuco.training.datasets.footage import planned_sets
from hamuco.training.labelling import label_recording
from hamuco.training.labels import SIDES, Labels, LabelsError, labels_path
from hamuco.training.npz_file import ArrayFileError, load_arrays, save_arrays
from hamuco.training.synthetic.clip import ClipOptions, write_clip
from hamuco.training.synthetic.truth import TRUTH_FILE, Truth

CHUNK = 9  # pieces overlap: each is warmed up from 15 sets before


@pytest.fixture(scope="module")
def filmed(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    """24 sets of two rendered hands, not yet labelled."""
    options = ClipOptions(rig="ring4", seconds=0.8, hands=2, seed=3, preset="plain", size=(320, 240))
    return write_clip(tmp_path_factory.mktemp("labels") / "filmed", options, lambda done, total: None)


def copy(recording: Recording, path: Path) -> Recording:
    shutil.copytree(recording.path, path)
    return Recording.open(path)


@pytest.fixture(scope="module")
def labelled(filmed: Recording, tmp_path_factory: pytest.TempPathFactory) -> tuple[Recording, Labels]:
    """The same, labelled without interruption."""
    recording = copy(filmed, tmp_path_factory.mktemp("labels") / "whole")
    return recording, label_recording(recording, chunk=CHUNK)


def test_labels_are_near_the_truth(labelled: tuple[Recording, Labels]) -> None:
    recording, labels = labelled
    labels.check(recording)
    truth = Truth.load(recording.path / TRUTH_FILE)
    sets = planned_sets(recording)
    assert labels.sets == len(sets) == 24
    errors = []
    for row in np.flatnonzero(labels.seen):
        camera = recording.rig.cameras[labels.camera[row]]
        meshes = truth.meshes_at(sets[labels.set_id[row]].t_capture_ns, load_hand_model(), with_vertices=False)
        true = {hand.side: mesh.landmarks for hand, mesh in zip(truth.trajectories, meshes, strict=True)}
        joints = camera.project(true[SIDES[labels.side[row]]])
        sure = labels.confidence[row] > 0.5
        # In crops, whose width is twice the side of the box around the palm and finger bases: the side is some 10 cm.
        width = 0.2 * camera.matrix[0, 0] / camera.to_camera(true[SIDES[labels.side[row]]])[:, 2].mean()
        errors += (np.linalg.norm(joints - labels.pixels[row], axis=1)[sure] / width).tolist()
    # The network's deviation is 1.5 % of the crop on real hands; two of these as a median allows for small images.
    assert np.median(errors) < 0.03
    # Both hands in most views of most sets.
    assert labels.seen.sum() > 0.6 * 24 * 2 * 4
    assert set(labels.side.tolist()) == {0, 1}


def test_every_view_of_a_hand_is_there_once(labelled: tuple[Recording, Labels]) -> None:
    recording, labels = labelled
    for hand in labels.hands():
        assert len(set(labels.camera[hand].tolist())) == hand.stop - hand.start <= len(recording.rig)
        assert len(set(labels.side[hand].tolist())) == 1
    keys = list(zip(labels.set_id.tolist(), labels.track.tolist(), labels.camera.tolist(), strict=True))
    assert keys == sorted(set(keys))


def interrupted(recording: Recording, stop: int) -> None:
    """A run that somebody ends after so many sets."""

    def interrupt(done: int, total: int) -> None:
        if done == stop:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        label_recording(recording, progress=interrupt, chunk=CHUNK)
    assert not labels_path(recording, "landmarks").exists()


def check_going_on(recording: Recording, stop: int, whole: Path) -> None:
    """The run after one that was interrupted."""
    seen: list[int] = []
    label_recording(recording, progress=lambda done, total: seen.append(done), chunk=CHUNK)
    # The last set of a piece counts before the piece is saved.
    assert seen == list(range((stop - 1) // CHUNK * CHUNK, 25))
    path = labels_path(recording, "landmarks")
    assert path.read_bytes() == whole.read_bytes()
    assert sorted(file.name for file in path.parent.iterdir()) == ["landmarks.npz"]


def test_a_run_that_was_interrupted_goes_on_with_the_same_labels(
    filmed: Recording, labelled: tuple[Recording, Labels], tmp_path: Path
) -> None:
    recording = copy(filmed, tmp_path / "rec")
    for stop in (4, 14):
        interrupted(recording, stop)
    check_going_on(recording, 14, labels_path(labelled[0], "landmarks"))


@pytest.mark.slow
@pytest.mark.parametrize("stop", [1, 9, 10, 18, 19, 24])
def test_it_does_not_matter_where_it_was_interrupted(
    filmed: Recording, labelled: tuple[Recording, Labels], stop: int, tmp_path: Path
) -> None:
    recording = copy(filmed, tmp_path / "rec")
    interrupted(recording, stop)
    check_going_on(recording, stop, labels_path(labelled[0], "landmarks"))


def test_pieces_of_another_run_are_not_taken(
    filmed: Recording, labelled: tuple[Recording, Labels], tmp_path: Path
) -> None:
    recording = copy(filmed, tmp_path / "rec")
    partial = labels_path(recording, "landmarks").with_suffix(".partial")
    partial.mkdir(parents=True)
    (partial / "00000000-00000009.npz").write_bytes(b"damaged")
    replace(labelled[1], source="another").save(partial / "00000009-00000018.npz")
    label_recording(recording, chunk=CHUNK)
    assert labels_path(recording, "landmarks").read_bytes() == labels_path(labelled[0], "landmarks").read_bytes()


def test_one_camera_is_not_enough(tmp_path: Path) -> None:
    recording = Recording.open(write_recording(tmp_path / "rec", 2, cameras=1, truth=False))
    with pytest.raises(ValueError, match=r"rec has one camera: these labels need hands that two see .* from OpenPose"):
        label_recording(recording)
    assert not labels_path(recording, "landmarks").parent.exists()


def test_labels_that_are_there_are_read(labelled: tuple[Recording, Labels]) -> None:
    recording, labels = labelled
    calls: list[tuple[int, int]] = []
    again = label_recording(recording, progress=lambda *done: calls.append(done))
    assert calls == [(24, 24)]
    np.testing.assert_array_equal(again.pixels, labels.pixels)


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    recording = write_labelled(tmp_path / "rec", frames=2)
    labels = Labels.load(labels_path(recording, "landmarks"))
    labels.check(recording)
    labels.save(tmp_path / "again.npz")
    again = Labels.load(tmp_path / "again.npz")
    for name in Labels.__slots__:
        np.testing.assert_array_equal(getattr(again, name), getattr(labels, name))
    assert [hand.stop - hand.start for hand in labels.hands()] == [3] * 4
    assert (tmp_path / "again.npz").read_bytes() == labels_path(recording, "landmarks").read_bytes()


def test_labels_of_another_recording_are_noticed(tmp_path: Path) -> None:
    labels = Labels.load(labels_path(write_labelled(tmp_path / "rec", frames=2), "landmarks"))
    other = Recording.open(write_recording(tmp_path / "other", 3))
    with pytest.raises(LabelsError, match=r"are not of .*other: they are of cameras cam_0, cam_1, cam_2 and 2 sets"):
        labels.check(other)


def test_damaged_files_are_noticed(tmp_path: Path) -> None:
    path = labels_path(write_labelled(tmp_path / "rec", frames=2), "landmarks")
    whole = path.read_bytes()
    arrays = load_arrays(path, {}, "")
    for content in (b"", b"junk", whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(ArrayFileError, match=r"landmarks.npz is damaged .* again with `hamuco label`"):
            Labels.load(path)
    for name, value, words in (
        ("camera", None, "has no array 'camera'"),
        ("set_id", arrays["set_id"].astype(float), "'set_id' is of float64, not of integer"),
        ("pixels", arrays["pixels"][1:], r"pixels has shape \(11, 21, 2\), set_id 12 rows"),
        ("camera", arrays["camera"] + 1, "camera is 1 to 3, expected 0 to 2"),
        ("set_id", arrays["set_id"] - 1, "set_id is -1 to 0, expected 0 to 1"),
        ("side", arrays["side"] + 1, "side is 1 to 2"),
        ("confidence", arrays["confidence"] * 2, "outside of 0 to 1"),
        ("confidence", arrays["confidence"] * np.nan, "outside of 0 to 1"),
    ):
        save_arrays(path, {key: array for key, array in (arrays | {name: value}).items() if array is not None})
        with pytest.raises((ArrayFileError, LabelsError), match=words):
            Labels.load(path)


def test_a_full_disk_keeps_the_old_labels(tmp_path: Path) -> None:
    path = labels_path(write_labelled(tmp_path / "rec", frames=2), "landmarks")
    labels, before = Labels.load(path), path.read_bytes()
    with (
        room_for(500),
        pytest.raises(OSError, match=r"landmarks.npz cannot be written .*: what was there before is whole; make room"),
    ):
        labels.save(path)
    assert path.read_bytes() == before
    assert sorted(file.name for file in path.parent.iterdir()) == ["landmarks.npz"]


def test_the_command_says_what_it_made(labelled: tuple[Recording, Labels]) -> None:
    recording, labels = labelled
    result = CliRunner().invoke(app, ["label", str(recording.path)])
    assert result.exit_code == 0, result.output
    assert f"{labels.seen.sum()} labels, " in result.output
    assert all(f"  {name}: " in result.output for name in recording.rig.names)
    assert result.output.splitlines()[-1] == f"Next: hamuco train my-rig --set sources.0.recording={recording.path}"


def test_the_command_says_when_there_is_no_hand(tmp_path: Path) -> None:
    path = write_recording(tmp_path / "grey", 3, cameras=2)
    result = CliRunner().invoke(app, ["label", str(path)])
    assert isinstance(result.exception, ValueError)
    assert f"no hand was found in {path}" in str(result.exception)


def test_the_command_needs_a_recording(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["label", str(tmp_path)])
    assert "is not a recording: it has no rig.toml" in str(result.exception)
