"""Crop sets: what is in them is what was put in, of recordings, of data sets and of the synthetic stream."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from full_disk import room_for
from labelled_footage import SPOTS, spot_near, write_labelled
from made_up_datasets import write_freihand, write_hanco
from numpy.typing import NDArray

from hamuco.capture.recording import Recording
from hamuco.engine.hand_model import load_hand_model
from hamuco.engine.skinning import forward
from hamuco.fusion.hand import HandParameters
from hamuco.training.crop_builders import crop_set_of_dataset, crop_set_of_recording, crop_set_of_stream
from hamuco.training.crop_set import (
    UNKNOWN,
    CropSet,
    CropSetError,
    CropSetWriter,
    CropView,
    HandTruth,
    copy_with_labels,
)
from hamuco.training.datasets.freihand import FreiHAND
from hamuco.training.datasets.hanco import HanCo
from hamuco.training.datasets.recorded import Recorded
from hamuco.training.labels import Labels, LabelsError, labels_path
from hamuco.training.npz_file import ArrayFileError
from hamuco.training.synthetic.crops import CropOptions

FloatArray = NDArray[np.float64]

BOX = [0, 1, 2, 3, 5, 6, 9, 10, 13, 14, 17, 18]
"""Joints that a crop is laid around."""


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    return write_labelled(tmp_path_factory.mktemp("crops") / "rec")


@pytest.fixture(scope="module")
def crops(recording: Recording) -> CropSet:
    return crop_set_of_recording(recording, with_truth=True)


def project(view: CropView, points: FloatArray) -> FloatArray:
    """World points (..., 3) m -> px of the crop."""
    camera = points @ view.crop_from_world[:3, :3].T + view.crop_from_world[:3, 3]
    return np.asarray(view.focal * camera[..., :2] / camera[..., 2:] + (view.image.shape[0] - 1) / 2)


def test_crops_of_a_recording_have_its_labels(crops: CropSet) -> None:
    assert (len(crops), crops.view_count) == (3 * 2, 3 * 2 * 3)
    for sample in range(len(crops)):
        joints = crops.truth(sample).joints
        assert len(crops.views_of(sample)) == 3
        for place, number in enumerate(crops.views_of(sample)):
            view = crops.view(number)
            # Labels are true, but in single precision: 6e-5 px of an image of 1280 px, and a crop shows it smaller.
            np.testing.assert_allclose(view.pixels, project(view, joints), rtol=0, atol=1e-4)
            np.testing.assert_array_equal(view.confidence, 0.5 if place == 2 else 1.0)
            assert view.mask is None


def test_images_of_crops_fit_their_labels_of_both_hands(crops: CropSet) -> None:
    for number in range(crops.view_count):
        view = crops.view(number)
        for joint in SPOTS:
            # The map of the warp is good to 0.2 px of a webcam's image (see hamuco.engine.crops), which is 0.07 px here;
            # bilinear sampling of a disc of 2 px radius and JPEG move its centre by less than as much again.
            assert np.linalg.norm(spot_near(view.image, view.pixels[joint]) - view.pixels[joint]) < 0.15


def test_left_hands_are_mirrored_right_ones(crops: CropSet) -> None:
    model = load_hand_model()
    for sample in range(len(crops)):
        truth = crops.truth(sample)
        own = truth.parameters
        mesh = forward(model, own.global_orient, own.hand_pose, own.betas, own.transl, with_vertices=False)
        np.testing.assert_allclose(mesh.landmarks, truth.joints, rtol=0, atol=1e-9)
        for number in crops.views_of(sample):
            rotation = crops.view(number).crop_from_world[:3, :3]
            assert np.linalg.det(rotation) == pytest.approx(1.0)


def test_crops_lie_as_a_tracker_lays_them(crops: CropSet) -> None:
    middle = (crops.size - 1) / 2
    for number in range(crops.view_count):
        pixels = crops.view(number).pixels[BOX]
        side = np.ptp(pixels, axis=0).max()
        # A network's crop is twice the box, and the stored one 1.5 times that; the view is tilted by a few degrees.
        assert side * 2 * crops.margin == pytest.approx(crops.size, rel=0.05)
        assert np.abs(pixels.mean(axis=0) - middle).max() < side / 2


def test_a_set_that_is_up_to_date_is_read_and_another_is_built_again(tmp_path: Path) -> None:
    recording = write_labelled(tmp_path / "rec", frames=2)
    first = crop_set_of_recording(recording, size=96)
    assert np.isnan(first.truth(0).joints).all()
    before = (first.path / "crops.bin").stat().st_mtime_ns
    assert (crop_set_of_recording(recording, size=96).path / "crops.bin").stat().st_mtime_ns == before
    path = labels_path(recording, "landmarks")
    labels = Labels.load(path)
    replace(labels, confidence=labels.confidence * np.float32(0.5)).save(path)
    changed = crop_set_of_recording(recording, size=96)
    assert changed.path == first.path
    assert changed.view(0).confidence.tolist() == [0.5] * 21
    (changed.path / "index.npz").write_bytes(b"damaged")
    assert len(crop_set_of_recording(recording, size=96)) == 4
    assert crop_set_of_recording(recording, size=64).size == 64


def test_labels_decide_where_crops_are(tmp_path: Path) -> None:
    recording = write_labelled(tmp_path / "rec", frames=1)
    path = labels_path(recording, "landmarks")
    labels = Labels.load(path)
    pixels, confidence = labels.pixels.copy(), labels.confidence.copy()
    pixels[0, 8], confidence[0, 8] = np.nan, 0  # a fingertip that is not known
    pixels[1, 0], confidence[1, 0] = np.nan, 0  # a wrist
    replace(labels, pixels=pixels, confidence=confidence).save(path)
    crops = crop_set_of_recording(recording)
    assert [len(crops.views_of(sample)) for sample in range(2)] == [2, 3]
    view = crops.view(0)
    assert view.confidence[8] == 0
    assert np.isfinite(view.pixels).all()


def test_missing_and_foreign_labels_are_named(recording: Recording, tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError,
        match=r"no labels named openpose, but landmarks: take those with --set sources.0.labels=landmarks, or make them",
    ):
        crop_set_of_recording(recording, "openpose")
    other = write_labelled(tmp_path / "rec", frames=1)
    labels_path(other, "landmarks").write_bytes(labels_path(recording, "landmarks").read_bytes())
    with pytest.raises(LabelsError, match="are not of"):
        crop_set_of_recording(other)


def some_view(size: int, rng: np.random.Generator, mask: bool) -> CropView:
    image = cv2.resize(rng.integers(0, 255, (5, 5, 3)).astype(np.uint8), (size, size))
    seen = np.asarray(cv2.resize(rng.random((5, 5)), (size, size)) > 0.5)
    return CropView(
        np.asarray(image, np.uint8),
        300.0,
        np.eye(4),
        rng.uniform(0, size, (21, 2)),
        rng.random(21),
        seen if mask else None,
    )


def test_what_is_written_is_read(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    samples = [[some_view(48, rng, mask=(view + count) % 2 == 0) for view in range(count)] for count in (2, 1, 3)]
    truth = HandTruth(rng.normal(size=(21, 3)), HandParameters(*(rng.normal(size=n) for n in (3, 45, 10, 3))))
    with CropSetWriter(tmp_path / "set", 48, 1.25, "a test") as writer:
        for views in samples:
            writer.write(views, truth if len(views) == 2 else UNKNOWN)
    crops = CropSet(tmp_path / "set")
    assert (crops.size, crops.margin, crops.made_from) == (48, 1.25, "a test")
    assert [len(crops.views_of(sample)) for sample in range(len(crops))] == [2, 1, 3]
    for sample, views in enumerate(samples):
        for number, expected in zip(crops.views_of(sample), views, strict=True):
            view = crops.view(number)
            # JPEG of a smooth picture at this quality; its chroma has half the resolution.
            assert np.abs(view.image.astype(int) - expected.image).mean() < 4
            np.testing.assert_array_equal(view.pixels, expected.pixels)
            np.testing.assert_array_equal(view.confidence, expected.confidence)
            assert (view.mask is None) == (expected.mask is None)
            if view.mask is not None and expected.mask is not None:
                np.testing.assert_array_equal(view.mask, expected.mask)
    np.testing.assert_array_equal(crops.truth(0).joints, truth.joints)
    np.testing.assert_array_equal(crops.truth(0).parameters.hand_pose, truth.parameters.hand_pose)
    assert np.isnan(crops.truth(1).joints).all()


def test_a_mirrored_view_mirrored_again_is_the_view() -> None:
    rng = np.random.default_rng(2)
    view = replace(some_view(32, rng, mask=True), crop_from_world=rng.normal(size=(4, 4)))
    again = view.mirrored().mirrored()
    np.testing.assert_array_equal(again.image, view.image)
    np.testing.assert_allclose(again.pixels, view.pixels, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(again.crop_from_world, view.crop_from_world)


def test_damaged_sets_are_noticed(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    with CropSetWriter(tmp_path / "set", 48) as writer:
        writer.write([some_view(48, rng, mask=True)])
    binary, index = tmp_path / "set" / "crops.bin", tmp_path / "set" / "index.npz"
    content, entries = binary.read_bytes(), index.read_bytes()
    binary.write_bytes(content[:-7])
    with pytest.raises(CropSetError, match=rf"has {len(content) - 7} bytes, expected {len(content)}: it is cut off"):
        CropSet(tmp_path / "set")
    binary.write_bytes(bytes(len(content)))
    with pytest.raises(CropSetError, match="crop 0 is not an image of 48 px; build the crop set again"):
        CropSet(tmp_path / "set").view(0)
    index.write_bytes(entries[: len(entries) // 2])
    with pytest.raises(ArrayFileError, match=r"index.npz is damaged .*build the crop set again"):
        CropSet(tmp_path / "set")
    index.unlink()
    with pytest.raises(CropSetError, match=r"is not a crop set: it has no index.npz"):
        CropSet(tmp_path / "set")


def test_a_full_disk_leaves_no_set(tmp_path: Path) -> None:
    view = some_view(192, np.random.default_rng(4), mask=False)

    def fill() -> None:
        with CropSetWriter(tmp_path / "set") as writer:
            for _ in range(40):
                writer.write([view])

    for given in (view, replace(view, image=np.full_like(view.image, 90))):  # many bytes at a time, and few
        view = given
        with room_for(20_000), pytest.raises(OSError, match=r"crops.bin is cut off .*: make room on the disk"):
            fill()
        assert not (tmp_path / "set").exists()
    fill()  # what was left is in nobody's way
    assert len(CropSet(tmp_path / "set")) == 40
    (tmp_path / "again.partial").mkdir()
    labels = np.zeros((40, 21, 2)), np.zeros((40, 21))
    copy_with_labels(CropSet(tmp_path / "set"), tmp_path / "again", *labels, "a test")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again", "set"]


def test_wrong_crops_are_refused(tmp_path: Path) -> None:
    with CropSetWriter(tmp_path / "set", 64) as writer:
        with pytest.raises(ValueError, match="the crops of this set are 64 px wide"):
            writer.write([some_view(48, np.random.default_rng(5), mask=False)])
        with pytest.raises(ValueError, match="needs a view at least"):
            writer.write([])
    assert len(CropSet(tmp_path / "set")) == 0


def test_crops_of_hanco_and_freihand(tmp_path: Path) -> None:
    hanco = write_hanco(tmp_path / "hanco", {1200: 2})
    crops = crop_set_of_dataset(HanCo(tmp_path / "hanco"), tmp_path / "hanco-crops")
    assert (len(crops), crops.view_count) == (2, 16)
    truth = crops.truth(1)
    np.testing.assert_array_equal(truth.joints, hanco[1200, 1].joints)
    assert np.isnan(truth.parameters.hand_pose).all()  # of another hand model
    freihand = write_freihand(tmp_path / "freihand", "evaluation", 2)
    single = crop_set_of_dataset(FreiHAND(tmp_path / "freihand"), tmp_path / "freihand-crops")
    assert (len(single), single.view_count) == (2, 2)
    np.testing.assert_array_equal(single.truth(1).joints, freihand[1].joints)
    for source, sample in ((crops, 0), (crops, 1), (single, 1)):
        for number in source.views_of(sample):
            view = source.view(number)
            np.testing.assert_allclose(view.pixels, project(view, source.truth(sample).joints), rtol=0, atol=1e-9)
            assert (view.confidence == 1).all()


def test_crops_of_a_recording_with_truth_by_truth(recording: Recording, tmp_path: Path, crops: CropSet) -> None:
    true = crop_set_of_dataset(Recorded(recording.path), tmp_path / "set")
    assert true.view_count == crops.view_count
    for sample in range(len(true)):
        np.testing.assert_allclose(true.truth(sample).joints, crops.truth(sample).joints, rtol=0, atol=1e-12)


def test_rendered_crops_have_masks_truth_and_labels(tmp_path: Path) -> None:
    options = CropOptions(preset="plain", views=3, seed=11, second_hand=0.0)
    true = crop_set_of_stream(options, tmp_path / "true", 6, "truth", workers=0)
    seen = crop_set_of_stream(options, tmp_path / "seen", 6, "network", workers=0)
    assert (len(true), true.view_count) == (len(seen), seen.view_count) == (6, 18)
    errors = []
    for sample in range(6):
        np.testing.assert_array_equal(true.truth(sample).joints, seen.truth(sample).joints)
        for number in true.views_of(sample):
            view, other = true.view(number), seen.view(number)
            # Cameras and joints in single precision: see the test of the rendered crops' pixels, 1e-3 px.
            np.testing.assert_allclose(view.pixels, project(view, true.truth(sample).joints), rtol=0, atol=1e-3)
            np.testing.assert_array_equal(view.image, other.image)
            assert view.mask is not None
            # As a tracker lays them, but for a factor of 1.1, a turn by 10 degrees, and 0.05 of tilt.
            side = np.ptp(view.pixels[BOX], axis=0).max()
            assert 0.75 < side * 2 * true.margin / true.size < 1.3
            column, row = view.pixels[9].round().astype(int)
            assert view.mask[row, column]
            errors += np.linalg.norm(view.pixels - other.pixels, axis=1)[other.confidence > 0.5].tolist()
    # Twice the network's 1.5 % of its crop, which is 128 px of the stored one.
    assert np.median(errors) < 0.03 * 128
    assert len(errors) > 0.6 * 18 * 21
