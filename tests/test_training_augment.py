"""Augmented crops: what is known of a hand stays true of them, and pictures change as they are told to."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from labelled_footage import SPOTS, spot_near, write_labelled
from numpy.typing import NDArray

from hamuco.training.augment import PLAIN, Augmentation, move, spoil
from hamuco.training.crop_builders import crop_set_of_recording
from hamuco.training.crop_set import CropSet, CropView

FloatArray = NDArray[np.float64]

SIZE = 128
STRONG = Augmentation(rotation=np.pi, shift=0.2, scale=1.5)


@pytest.fixture(scope="module")
def crops(tmp_path_factory: pytest.TempPathFactory) -> CropSet:
    """Of a right and a left hand, with true labels."""
    return crop_set_of_recording(write_labelled(tmp_path_factory.mktemp("augment") / "rec"), with_truth=True)


def project(view: CropView, points: FloatArray) -> FloatArray:
    camera = points @ view.crop_from_world[:3, :3].T + view.crop_from_world[:3, 3]
    return np.asarray(view.focal * camera[..., :2] / camera[..., 2:] + (view.image.shape[0] - 1) / 2)


def grey(rng: np.random.Generator, masked: bool = False) -> CropView:
    """A uniform crop; with a mask, its left half."""
    mask = np.arange(SIZE) < SIZE // 2
    return CropView(
        np.full((SIZE, SIZE, 3), 100, np.uint8),
        200.0,
        np.eye(4),
        rng.uniform(0, SIZE, (21, 2)),
        np.ones(21),
        np.tile(mask, (SIZE, 1)) if masked else None,
    )


def spot_error(view: CropView, joint: int, scale: float) -> float:
    """px between a joint's spot and its label, where a stored pixel is `scale` px. Spots of stored crops are 2 px in
    radius; the next one is more than 5 px away."""
    found = spot_near(view.image, view.pixels[joint], reach=round(4 * scale) + 1)
    return float(np.linalg.norm(found - view.pixels[joint]))


def test_moved_labels_are_the_truth_seen_by_the_moved_camera(crops: CropSet) -> None:
    rng = np.random.default_rng(1)
    turned = []
    for _ in range(20):
        for sample in range(len(crops)):
            for number in crops.views_of(sample):
                stored = crops.view(number)
                view = move(stored, crops.margin, SIZE, STRONG, rng)
                assert view.image.shape == (SIZE, SIZE, 3)
                rotation = view.crop_from_world[:3, :3]
                np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), rtol=0, atol=1e-12)
                # Labels are stored as a pixel in single precision (6e-5 px of the image, a third of that in a crop),
                # which 1.5 times more focal length can enlarge: below 1e-4 px.
                np.testing.assert_allclose(view.pixels, project(view, crops.truth(sample).joints), rtol=0, atol=1e-4)
                # The camera is still where it was: the crop's centre in the world does not change.
                np.testing.assert_allclose(centre(view), centre(stored), rtol=0, atol=1e-12)
                turned.append(np.arctan2(*(view.pixels[9] - view.pixels[0])))
    assert np.ptp(turned) > 0.9 * 2 * np.pi


def centre(view: CropView) -> FloatArray:
    return np.asarray(-view.crop_from_world[:3, :3].T @ view.crop_from_world[:3, 3])


def test_moved_images_fit_moved_labels(crops: CropSet) -> None:
    rng = np.random.default_rng(2)
    found = 0
    for number in range(crops.view_count):
        stored = crops.view(number)
        for _ in range(5):
            view = move(stored, crops.margin, SIZE, STRONG, rng)
            for joint in SPOTS:
                if ((view.pixels[joint] > 8) & (view.pixels[joint] < SIZE - 9)).all():
                    # 0.15 px of the stored crop when it was made (see its test), at most 1.5 times as large here, and as
                    # much again for sampling it another time.
                    assert spot_error(view, joint, view.focal / stored.focal) < 0.45
                    found += 1
    assert found > 100


def test_the_ranges_are_kept(crops: CropSet) -> None:
    rng = np.random.default_rng(3)
    stored = crops.view(0)
    plain = move(stored, crops.margin, SIZE, PLAIN, rng)
    # A network's crop as it was laid: the stored one without its margin.
    np.testing.assert_allclose(plain.crop_from_world, stored.crop_from_world, rtol=0, atol=1e-15)
    assert plain.focal == pytest.approx(stored.focal * crops.margin * SIZE / crops.size)
    options = replace(PLAIN, rotation=0.3, shift=0.1, scale=1.2)
    moved = [move(stored, crops.margin, SIZE, options, rng) for _ in range(300)]
    factors = np.array([view.focal / plain.focal for view in moved])
    relative = np.array([(view.crop_from_world @ np.linalg.inv(stored.crop_from_world))[:3, :3] for view in moved])
    rolls = np.arctan2(relative[:, 1, 0], relative[:, 1, 1])
    # Where the axis of the plain crop is seen, in crop sizes before scaling and turning.
    offsets = np.linalg.norm(relative[:, :2, 2] / relative[:, 2:, 2] * plain.focal / SIZE, axis=1)
    for values, low, high in ((np.log(factors) / np.log(1.2), -1, 1), (rolls / 0.3, -1, 1), (offsets / 0.1, 0, 2**0.5)):
        # A turn of 0.05 rad about two axes differs from the sum of its parts by some 2 per cent of itself.
        assert low - 0.03 < values.min() < low + 0.15
        assert high - 0.25 < values.max() < high + 0.03


def test_masks_go_with_the_image(crops: CropSet) -> None:
    rng = np.random.default_rng(4)
    stored = crops.view(0)
    bright = stored.image.min(axis=2) > 128
    view = move(replace(stored, mask=bright), crops.margin, SIZE, STRONG, rng)
    assert view.mask is not None
    # They differ where pixels are half covered: along the rims of two spots of some 3 px radius.
    assert (view.mask != (view.image.min(axis=2) > 128)).sum() < 0.5 * view.mask.sum()


def test_an_unknown_camera_stays_unknown(crops: CropSet) -> None:
    stored = crops.view(0)
    unknown = replace(stored, focal=np.nan, crop_from_world=np.full((4, 4), np.nan))
    view = move(unknown, crops.margin, SIZE, STRONG, np.random.default_rng(5))
    assert np.isnan(view.focal)
    assert np.isnan(view.crop_from_world[:3]).all()
    for joint in SPOTS:
        if ((view.pixels[joint] > 8) & (view.pixels[joint] < SIZE - 9)).all():
            assert spot_error(view, joint, 1.0) < 0.45


def test_plain_changes_no_pixel() -> None:
    view = replace(grey(rng := np.random.default_rng(6)), image=rng.integers(0, 255, (SIZE, SIZE, 3), np.uint8))
    np.testing.assert_array_equal(spoil(view, PLAIN, rng).image, view.image)


def test_spoiling_leaves_the_stored_crop_and_the_labels_alone() -> None:
    rng = np.random.default_rng(7)
    view = grey(rng, masked=True)
    spoilt = spoil(view, replace(Augmentation(), background=1, occluder=1, blur=1), rng)
    assert (view.image == 100).all()
    assert spoilt.pixels is view.pixels
    assert spoilt.confidence is view.confidence


def test_colours() -> None:
    rng = np.random.default_rng(8)
    view = grey(rng)
    brightness = [float(spoil(view, replace(PLAIN, brightness=0.2), rng).image.mean()) for _ in range(100)]
    assert 100 - 51.5 < min(brightness) < 60
    assert 140 < max(brightness) < 100 + 51.5
    gains = np.array([spoil(view, replace(PLAIN, colour=1.2), rng).image[0, 0] for _ in range(100)]) / 100
    assert 1 / 1.2 - 0.01 < gains.min() < 0.87
    assert 1.15 < gains.max() < 1.2 + 0.01
    assert np.abs(gains[:, 0] - gains[:, 1]).max() > 0.1
    contrast = [float(spoil(view, replace(PLAIN, contrast=2), rng).image.mean()) for _ in range(100)]
    assert 127.5 - 2 * 27.5 - 1 < min(contrast) < 80
    assert 110 < max(contrast) < 127.5 - 27.5 / 2 + 1


def test_noise() -> None:
    rng = np.random.default_rng(9)
    deviations = [float(spoil(grey(rng), replace(PLAIN, noise=0.05), rng).image.std()) for _ in range(50)]
    # The estimate from 49,152 numbers is good to 0.4 per cent, and rounding adds a variance of 1/12.
    assert max(deviations) < 0.05 * 255 * 1.02
    assert max(deviations) > 0.04 * 255
    assert min(deviations) < 0.01 * 255


def test_blur() -> None:
    rng = np.random.default_rng(10)
    view = replace(grey(rng), image=rng.integers(0, 255, (SIZE, SIZE, 3), np.uint8))
    assert spoil(view, replace(PLAIN, blur=1, blur_px=3), rng).image.std() < 0.9 * view.image.std()


def test_something_in_front() -> None:
    rng = np.random.default_rng(11)
    view = grey(rng)
    changed = [
        np.any(spoil(view, replace(PLAIN, occluder=1, occluder_size=0.5), rng).image != 100, axis=2) for _ in range(50)
    ]
    areas = np.array([one.mean() for one in changed])
    # At most half a crop wide and high, the rim's pixels included.
    assert areas.max() < 0.5**2 + 0.02
    assert np.median(areas) > 0.02
    assert (np.mean(changed, axis=0) > 0).mean() > 0.8  # it is anywhere
    untouched = [(spoil(view, replace(PLAIN, occluder=0.3), rng).image == 100).all() for _ in range(200)]
    assert 0.7 - 4 * 0.0325 < np.mean(untouched) < 0.7 + 4 * 0.0325  # four deviations of a share of 200


def test_another_background() -> None:
    rng = np.random.default_rng(12)
    image = spoil(grey(rng, masked=True), replace(PLAIN, background=1), rng).image
    # The seam is softened by 0.8 px: four pixels on, nothing of it is left.
    assert np.abs(image[:, : SIZE // 2 - 4].astype(int) - 100).max() <= 1
    assert (image[:, SIZE // 2 + 4 :] != 100).any(axis=2).mean() > 0.9
    assert (spoil(grey(rng), replace(PLAIN, background=1), rng).image == 100).all()  # there is no mask


def test_the_same_generator_makes_the_same_crop(crops: CropSet) -> None:
    first, second = (
        spoil(move(crops.view(0), crops.margin, SIZE, STRONG, rng), Augmentation(), rng)
        for rng in (np.random.default_rng(13), np.random.default_rng(13))
    )
    np.testing.assert_array_equal(first.image, second.image)
    np.testing.assert_array_equal(first.pixels, second.pixels)


@pytest.mark.parametrize(
    ("name", "value"), [("rotation", 4), ("shift", -0.1), ("scale", 0.9), ("blur_px", 99), ("noise", float("nan"))]
)
def test_values_that_make_no_sense_are_named(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"{name} is {value:g}, expected"):
        replace(Augmentation(), **{name: value})
