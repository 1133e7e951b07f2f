"""Crop sets of labelled recordings, of data sets with truth, and of the synthetic stream."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from hamuco.calibration.camera import Camera
from hamuco.capture.frame import FrameSet
from hamuco.capture.recording import Recording
from hamuco.engine.crops import CropCamera
from hamuco.engine.hand_model import load_hand_model
from hamuco.engine.landmarks import CROP_SIZE, LandmarkEstimator, regions_from_joints
from hamuco.engine.view_hand import Region
from hamuco.fusion.hand import HandParameters, Side
from hamuco.training.crop_cutting import Seen, cut, observed, projected
from hamuco.training.crop_set import (
    MARGIN,
    SIZE,
    UNKNOWN,
    CropSet,
    CropSetError,
    CropSetWriter,
    CropView,
    HandTruth,
)
from hamuco.training.datasets.footage import decode, planned_sets
from hamuco.training.datasets.recorded import Recorded
from hamuco.training.datasets.sample import Dataset, TrueHand
from hamuco.training.labels import SIDES, Labels, labels_of, labels_path
from hamuco.training.npz_file import ArrayFileError
from hamuco.training.synthetic.crop_stream import CropStream
from hamuco.training.synthetic.crops import CropBatch, CropOptions

FloatArray = NDArray[np.float64]
Progress = Callable[[int, int], None]
LabelKind = Literal["network", "truth"]

FORMAT = 1
"""Of what builders make: another number, and sets that lie beside labels are built again."""

# Crops cannot be laid without wrist and knuckles of index, middle and ring finger.
_NEEDED = [0, 5, 9, 13]
# Rendered crops lie as unevenly around the hand as those that a tracker lays; training moves them further.
_RENDERED = {"margin": MARGIN, "shift": 0.05, "scale": 1.1, "rotation": float(np.radians(10.0))}
_RENDER_BATCH = 8


def crop_set_of_recording(
    recording: Recording,
    labels: str = "landmarks",
    size: int = SIZE,
    with_truth: bool = False,
    progress: Progress = lambda done, total: None,
) -> CropSet:
    """The crops of a labelled recording. They lie beside the labels, and are built where they are not up to date.

    Args:
        recording: the recording.
        labels: name of the labels in its folder.
        size: of the stored crops, px.
        with_truth: take the truth of a synthetic recording along; it is not used for the labels.
        progress: is called with the number of sets that are done and the number of all.

    Raises:
        LabelsError: the labels are damaged, or not of this recording; FileNotFoundError: there are none.
        DatasetError: there is no truth.
        OSError: the set cannot be written.
    """
    rows = labels_of(recording, labels)
    file = labels_path(recording, labels)
    digest = hashlib.sha256(file.read_bytes() + (recording.path / "rig.toml").read_bytes()).hexdigest()[:16]
    made_from = (
        f"{recording.path.resolve().name}, {rows.source}, {digest}, truth {with_truth}, {size} px, format {FORMAT}"
    )
    path = file.with_name(f"{labels}-{size}{'-truth' if with_truth else ''}.crops")
    with suppress(CropSetError, ArrayFileError):
        if (found := CropSet(path)).made_from == made_from:
            return found
    shutil.rmtree(path, ignore_errors=True)  # what is there can be built again, as now
    truth = Recorded(recording.path) if with_truth else None
    sets = planned_sets(recording)
    hands: dict[int, list[slice]] = {}
    for hand in rows.hands():
        hands.setdefault(int(rows.set_id[hand.start]), []).append(hand)
    with CropSetWriter(path, size, MARGIN, made_from) as writer:
        for done, frame_set in enumerate(decode(recording, sets), 1):
            for hand in hands.get(frame_set.set_id, []):
                side = SIDES[rows.side[hand.start]]
                views = [
                    cut(frame_set.frames[seen.camera.name].image, seen, size, side)
                    for row in range(hand.start, hand.stop)
                    if (seen := _labelled(recording, frame_set, rows, row)) is not None
                ]
                if views:
                    writer.write(views, _truth_of(truth, frame_set, side))
            progress(done, len(sets))
    return CropSet(path)


def crop_set_of_dataset(
    dataset: Dataset,
    path: Path,
    labels: LabelKind = "truth",
    size: int = SIZE,
    progress: Progress = lambda done, total: None,
) -> CropSet:
    """The crops of a data set with truth, laid around the true hands.

    Args:
        dataset: HanCo, FreiHAND, or a synthetic recording.
        path: folder to make; must not exist or be empty.
        labels: the true joints seen by each camera, or what the landmark network says.
        size: of the stored crops, px.
        progress: is called with the number of samples that are done and the number of all.

    Raises:
        CropSetError: the data set has no truth. What is wrong in its files raises as its reader says.
        OSError: the set cannot be written.
    """
    if not dataset.has_truth:
        raise CropSetError(f"{dataset.name} has no truth to lay crops by: label it instead, with `hamuco label`")
    estimator = LandmarkEstimator() if labels == "network" else None
    own_model = dataset.joint_definition == f"{load_hand_model().name} landmarks"
    with CropSetWriter(path, size, MARGIN, f"{dataset.name}, labels: {labels}, format {FORMAT}") as writer:
        for done, sample in enumerate(dataset, 1):
            for hand in sample.hands:
                cameras = [camera for camera in sample.cameras if camera.name in sample.images]
                regions = regions_from_joints(cameras, [(None, hand.joints)])
                if estimator is None:
                    seen = [projected(region, hand.joints) for region in regions]
                else:
                    seen = observed(estimator, sample.images, regions)
                if seen:
                    views = [cut(sample.images[one.camera.name], one, size, hand.side) for one in seen]
                    writer.write(views, _as_truth(hand, own_model))
            progress(done, len(dataset))
    return CropSet(path)


def crop_set_of_stream(
    options: CropOptions,
    path: Path,
    samples: int,
    labels: LabelKind = "network",
    size: int = SIZE,
    workers: int = 2,
    progress: Progress = lambda done, total: None,
) -> CropSet:
    """Rendered crops with masks and truth.

    Args:
        options: preset, views, seed and second hands; how crops lie is the builder's.
        path: folder to make; must not exist or be empty.
        samples: how many.
        labels: the true joints, or what the landmark network says.
        size: of the stored crops, px.
        workers: processes that render.
        progress: is called with the number of samples that are done and the number of all.

    Raises:
        GraphicsError: there is nothing to render with.
        OSError: the set cannot be written, or a worker died.
    """
    rendered = replace(options, **_RENDERED, size=max(CROP_SIZE, size))  # type: ignore[arg-type]
    estimator = LandmarkEstimator() if labels == "network" else None
    made_from = (
        f"synthetic {options.preset}, seed {options.seed}, second hands {options.second_hand:g}, labels: {labels}, "
        f"format {FORMAT}"
    )
    with CropSetWriter(path, size, MARGIN, made_from) as writer, CropStream(rendered, _RENDER_BATCH, workers) as stream:
        for batch in stream:
            for row in range(min(_RENDER_BATCH, samples - len(writer))):
                writer.write(_rendered_views(batch, row, size, estimator), _rendered_truth(batch, row))
            progress(len(writer), samples)
            if len(writer) >= samples:
                break
    return CropSet(path)


def _labelled(recording: Recording, frame_set: FrameSet, rows: Labels, row: int) -> Seen | None:
    """A label as its view sees it, in a crop around it; None where no crop can be laid, or no frame was decoded."""
    camera = recording.rig.cameras[rows.camera[row]]
    if camera.name not in frame_set.frames:
        return None
    pixels = rows.pixels[row].astype(np.float64)
    known = np.isfinite(pixels).all(axis=1)
    directions = np.full((21, 3), np.nan)
    directions[known] = np.append(camera.undistort(pixels[known]), np.ones((known.sum(), 1)), axis=1)
    known = np.isfinite(directions).all(axis=1)
    if not known[_NEEDED].all():
        return None
    # Directions stand for points: as a box, all that are not known lie in the middle of the others.
    filled = np.where(known[:, None], directions, directions[known].mean(axis=0))
    regions = regions_from_joints([camera], [(None, camera.centre + camera.world_rays(filled))])
    return Seen(camera, regions[0].crop, directions, rows.confidence[row] * known) if regions else None


def _truth_of(truth: Recorded | None, frame_set: FrameSet, side: Side) -> HandTruth:
    """The truth about the hand of a side, where it is known and there is only one."""
    if truth is None or not truth.truth.covers(frame_set.t_capture_ns):
        return UNKNOWN
    hands = [hand for hand in truth.hands_at(frame_set.t_capture_ns, frame_set) if hand.side == side]
    return _as_truth(hands[0], own_model=True) if len(hands) == 1 else UNKNOWN


def _as_truth(hand: TrueHand, own_model: bool) -> HandTruth:
    parameters = hand.parameters if own_model and hand.parameters is not None else UNKNOWN.parameters
    truth = HandTruth(hand.joints, parameters)
    return truth if hand.side == "right" else truth.mirrored()


def _rendered_views(batch: CropBatch, row: int, size: int, estimator: LandmarkEstimator | None) -> list[CropView]:
    """The crops of a rendered sample, which are wide already, at another size."""
    regions, images = [], {}
    for view, image in enumerate(batch.images[row]):
        name, matrix, rendered = str(view), batch.matrix[row, view].astype(np.float64), image.shape[0]
        pose = batch.camera_from_world[row, view].astype(np.float64)
        camera = Camera(name, (rendered, rendered), matrix, np.zeros(0), pose)
        nominal = CropCamera(np.eye(3), float(matrix[0, 0]) * MARGIN * CROP_SIZE / rendered, CROP_SIZE)
        regions.append(Region(camera, nominal, None))
        images[name] = image
    if estimator is None:
        seen = [projected(region, batch.joints[row].astype(np.float64)) for region in regions]
    else:
        seen = observed(estimator, images, regions)
    masks = [
        cv2.resize(mask.astype(np.uint8), (size, size), interpolation=cv2.INTER_NEAREST) for mask in batch.masks[row]
    ]
    return [
        replace(cut(images[one.camera.name], one, size, "right"), mask=mask > 0)
        for one, mask in zip(seen, masks, strict=True)
    ]


def _rendered_truth(batch: CropBatch, row: int) -> HandTruth:
    own = batch.parameters
    parameters = HandParameters(own.global_orient[row], own.hand_pose[row], own.betas[row], own.transl[row])
    return HandTruth(batch.joints[row].astype(np.float64), parameters)
