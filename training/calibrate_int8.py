"""Measures the ranges that 8-bit convolutions of the landmark network need, on hands in photographs and clips.

    python -m hamuco.training.calibrate_int8 PHOTO_OR_CLIP ... --out engine/hand_landmark_int8.json

Some hundred varied hands are enough. Never give it what accuracy is measured on.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import openvino as ov
from numpy.typing import NDArray
from openvino import opset13 as ops

from hamuco.calibration.camera import Camera
from hamuco.capture.frame import Frame, FrameSet
from hamuco.engine.landmarks import LandmarkEstimator, region_from_palm, regions_from_joints
from hamuco.engine.model_files import HAND_LANDMARK, PALM_DETECTOR, model_path
from hamuco.engine.openvino_core import core
from hamuco.engine.palm_detector import PalmDetector
from hamuco.engine.quantize import Range, full_convolutions

_EVERY = 12  # frames of a clip between two that are looked at
_MIN_PRESENCE = 0.5
_DISTANCE = 0.6  # m; where along their rays landmarks are put to lay the second crop: any distance will do
# Per crop this share of the values, in per cent, may lie outside on either side: rare extremes cost more resolution
# than they are worth. On 443 crops of two real clips the landmarks then moved by 0.228 px (median), with the extremes
# by 0.255.
_OUTSIDE = 0.01


def images_of(path: Path) -> Iterator[NDArray[np.uint8]]:
    """The photograph, or every so-many-th frame of the clip; (height, width, 3) BGR.

    Raises:
        ValueError: it is neither.
    """
    photo = cv2.imread(str(path)) if not _is_clip(path) else None
    if photo is not None:
        yield photo.astype(np.uint8, copy=False)
        return
    clip, index = cv2.VideoCapture(str(path)), 0
    while clip.grab():
        if index % _EVERY == 0:
            ok, frame = clip.retrieve()
            if ok:
                yield frame.astype(np.uint8, copy=False)
        index += 1
    if index == 0:
        raise ValueError(f"{path} holds no picture that OpenCV can read. Give photographs and video clips.")


def crops_of(
    image: NDArray[np.uint8], detector: PalmDetector, estimator: LandmarkEstimator
) -> Iterator[NDArray[np.uint8]]:
    """Crops (224, 224, 3) BGR of the hands, twice as in tracking: around the palm, and around what was seen there."""
    height, width = image.shape[:2]
    focal = float(max(height, width))  # unknown, and of no matter for the range of activations
    matrix = np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1]])
    camera = Camera("photo", (width, height), matrix, np.zeros(0), np.eye(4))
    frame_set = FrameSet(0, {"photo": Frame("photo", 0, 0, 0, 0, None, image)})
    palms = detector([image])[0]
    regions = [region for palm in palms if (region := region_from_palm(camera, palm)) is not None]
    crops = estimator.crop(frame_set, regions)
    yield from crops
    hands = [hand for hand in estimator(frame_set, regions, crops) if hand.presence > _MIN_PRESENCE]
    around = regions_from_joints([camera], [(None, _DISTANCE * hand.rays) for hand in hands])
    yield from estimator.crop(frame_set, around)


def measure(model: ov.Model, crops: Sequence[NDArray[np.uint8]]) -> dict[str, Range]:
    """Lowest and highest input of each full convolution over the crops, some outliers left aside."""
    convolutions = full_convolutions(model)
    inputs = [ops.result(node.input_value(0)) for node in convolutions.values()]
    config = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = core().compile_model(ov.Model(inputs, model.get_parameters()), "CPU", config)
    extremes = np.empty((len(crops), len(inputs), 2))
    for index, crop in enumerate(crops):
        values = compiled([crop[None, :, :, ::-1].astype(np.float32) / 255])
        for layer in range(len(inputs)):
            extremes[index, layer] = np.percentile(values[layer], [_OUTSIDE, 100 - _OUTSIDE], method="nearest")
    # Zero is among the inputs of every convolution: its padding, or what the activation before it cut off.
    low, high = np.minimum(extremes[..., 0].min(axis=0), 0), extremes[..., 1].max(axis=0)
    return {name: (round(float(low[i]), 2), round(float(high[i]), 2)) for i, name in enumerate(convolutions)}


def _is_clip(path: Path) -> bool:
    return path.suffix.lower() in {".mp4", ".avi", ".mkv", ".mov", ".webm"}


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the ranges for 8-bit convolutions of the landmark network.")
    parser.add_argument("pictures", nargs="+", type=Path, metavar="PHOTO_OR_CLIP")
    parser.add_argument("--out", type=Path, default=Path("engine/hand_landmark_int8.json"))
    arguments = parser.parse_args()
    detector, estimator = PalmDetector(model_path(PALM_DETECTOR)), LandmarkEstimator()
    crops = [
        crop
        for path in arguments.pictures
        for image in images_of(path)
        for crop in crops_of(image, detector, estimator)
    ]
    if not crops:
        parser.error(f"no hand was found in {len(arguments.pictures)} files. Give pictures that show hands.")
    print(f"{len(crops)} crops")
    ranges = measure(core().read_model(model_path(HAND_LANDMARK)), crops)
    rows = ",\n".join(f"  {json.dumps(name)}: {json.dumps(bounds)}" for name, bounds in ranges.items())
    arguments.out.write_text(f"{{\n{rows}\n}}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
