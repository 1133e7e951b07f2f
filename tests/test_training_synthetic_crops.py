from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from hamuco.engine.hand_model import load_hand_model
from hamuco.engine.skinning import forward
from hamuco.training.synthetic.crops import (
    SCENE_SAMPLES,
    CropBatch,
    CropOptions,
    CropPainter,
    batch_of,
    sample_dtype,
)

# Alone: touching skin of another hand counts as the hand's own for `visible`, and is not in its mask.
OPTIONS = CropOptions(preset="plain", views=2, size=48, seed=7, second_hand=0.0)
SAMPLES = 10 * SCENE_SAMPLES
BOX_JOINTS = [0, 1, 2, 3, 5, 6, 9, 10, 13, 14, 17, 18]  # that a crop is laid around
MODEL = load_hand_model()


def draw(options: CropOptions, count: int) -> CropBatch:
    painter = CropPainter(options, MODEL)
    samples = np.zeros(count, sample_dtype(options))
    for index in range(count):
        painter.draw(index, samples[index])
    return batch_of(samples)


@pytest.fixture(scope="module")
def batch() -> CropBatch:
    return draw(OPTIONS, SAMPLES)


def test_samples_and_views_differ(batch: CropBatch) -> None:
    images = batch.images.reshape(SAMPLES * 2, -1)
    assert len(np.unique(images, axis=0)) == len(images)
    assert batch.index.tolist() == list(range(SAMPLES))


def test_another_seed_gives_other_samples(batch: CropBatch) -> None:
    other = draw(replace(OPTIONS, seed=8), 2)
    assert (other.joints != batch.joints[:2]).all()
    assert (other.images != batch.images[:2]).any()


def test_pixels_are_the_joints_seen_by_the_crops_cameras(batch: CropBatch) -> None:
    matrix, transform = batch.matrix.astype(float), batch.camera_from_world.astype(float)
    joints = batch.joints.astype(float)
    points = np.einsum("bvij,bkj->bvki", transform[..., :3, :3], joints) + transform[..., None, :3, 3]
    projected = np.einsum("bvij,bvkj->bvki", matrix, points)
    projected = projected[..., :2] / projected[..., 2:]
    # Single precision rounds a length of 1 m by 3e-8 m. A pixel hangs on some ten such roundings (joint, rotation,
    # translation), times focal length over distance, below 600 px/m here: 1.8e-4 px. Its own is 2e-6 px.
    assert (matrix[..., 0, 0] / points[..., 2].min(axis=-1)).max() < 600
    np.testing.assert_allclose(batch.pixels, projected, rtol=0, atol=1e-3)


def test_cameras_are_rigid_and_look_at_the_hand(batch: CropBatch) -> None:
    rotation = batch.camera_from_world[..., :3, :3].astype(float)
    # Nine entries, rounded by 3e-8 each; the product adds up six of them.
    np.testing.assert_allclose(
        rotation @ rotation.swapaxes(-1, -2), np.broadcast_to(np.eye(3), rotation.shape), atol=4e-7
    )
    assert (np.linalg.det(rotation) > 0).all()
    np.testing.assert_array_equal(batch.camera_from_world[..., 3, :], np.broadcast_to([0, 0, 0, 1], (SAMPLES, 2, 4)))
    half = (OPTIONS.size - 1) / 2
    np.testing.assert_array_equal(batch.matrix[..., :2, 2], half)
    # In half crops: the box around palm and knuckles is 0.5 to each side and 0.1 off the centre, 1.25 times as large
    # at most, and shifted by 0.2 of that: x <= 0.875, y <= 1.0. Turned by 20 degrees that is 1.24 at a corner, and
    # the tilted view adds a few per cent.
    box = batch.pixels[:, :, BOX_JOINTS]
    assert np.abs(box - half).max() / half < 1.3
    assert np.mean(np.abs(box - half) < half) > 0.95


def test_parameters_pose_the_model_to_the_joints(batch: CropBatch) -> None:
    hand = batch.parameters
    joints = forward(MODEL, hand.global_orient, hand.hand_pose, hand.betas, hand.transl, with_vertices=False).landmarks
    # Angles in single precision are rounded by 1.2e-7 rad up to 4 rad; over 0.2 m and three joints 1e-7 m, and the
    # mean shape's ten coefficients move a joint by less.
    np.testing.assert_allclose(joints, batch.joints, rtol=0, atol=1e-6)


def test_visible_joints_lie_on_the_mask(batch: CropBatch) -> None:
    visible = batch.visible.copy()
    visible[:, :, 0] = False  # the wrist lies where the mask ends and the forearm begins
    sample, view, _ = np.nonzero(visible)
    x, y = np.rint(batch.pixels[visible]).astype(int).T
    masks = np.pad(batch.masks, ((0, 0), (0, 0), (1, 1), (1, 1)))
    around = [masks[sample, view, y + dy, x + dx] for dy in range(3) for dx in range(3)]  # or the pixel beside it
    assert np.any(around, axis=0).all()
    assert len(sample) > SAMPLES * 2 * 5


def test_without_jitter_all_hands_are_upright_and_of_one_size() -> None:
    batch = draw(replace(OPTIONS, shift=0, scale=1, rotation=0), 2 * SCENE_SAMPLES)
    box = batch.pixels[:, :, BOX_JOINTS]
    side = (box.max(axis=2) - box.min(axis=2)).max(axis=-1)
    # Laid around the hand twice as large as its box; the box is measured in a camera that is turned by the shift of a
    # tenth of a side, a tangent below 0.03, by whose square times two a side may change.
    np.testing.assert_allclose(side, OPTIONS.size / 2, rtol=0.05)
    knuckles = ((batch.pixels[:, :, 5] + batch.pixels[:, :, 13]) / 2 + batch.pixels[:, :, 9]) / 2
    up = knuckles - batch.pixels[:, :, 0]
    assert (up[..., 1] < 0).all()


def silhouettes(batch: CropBatch) -> NDArray[np.bool_]:
    """Where the meshes project to, (B, V, S, S), with a pixel of margin."""
    hand = batch.parameters
    vertices = forward(MODEL, hand.global_orient, hand.hand_pose, hand.betas, hand.transl).vertices
    assert vertices is not None
    drawn = np.zeros(batch.masks.shape, np.uint8)
    for sample, view in np.ndindex(*drawn.shape[:2]):
        transform = batch.camera_from_world[sample, view].astype(float)
        points = (vertices[sample] @ transform[:3, :3].T + transform[:3, 3]) @ batch.matrix[sample, view].T
        corners = (points[:, :2] / points[:, 2:])[MODEL.faces]
        for triangle in np.rint(16 * corners).astype(np.int32):
            cv2.fillConvexPoly(drawn[sample, view], triangle, 1, shift=4)
        drawn[sample, view] = cv2.dilate(drawn[sample, view], np.ones((3, 3), np.uint8))
    return drawn.astype(bool)


@pytest.mark.parametrize("second_hand", [0.0, 1.0])
def test_masks_are_the_hand_and_nothing_else(second_hand: float) -> None:
    batch = draw(replace(OPTIONS, second_hand=second_hand), 2 * SCENE_SAMPLES)
    inside = silhouettes(batch)
    assert not (batch.masks & ~inside).any()
    shown = batch.masks.sum(axis=(2, 3)) / inside.sum(axis=(2, 3))
    # The margin is a pixel around an area of some 15 x 20 with fingers, and the forearm or the other hand covers some.
    assert np.median(shown) > 0.4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"preset": "dark"}, "preset 'dark' is none of plain, room, hard"),
        ({"views": 0}, "views is 0, expected 1 to"),
        ({"size": 8}, "size is 8, expected 16 to"),
        ({"seed": -1}, "seed is -1"),
        ({"second_hand": 1.5}, "second_hand is 1.5, expected 0 to 1"),
        ({"scale": 0.8}, "scale is 0.8, expected 1 to"),
        ({"shift": float("nan")}, "shift is nan"),
    ],
)
def test_wrong_options_are_named(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CropOptions(**change)  # type: ignore[arg-type]
