"""HanCo (Zimmermann, Argus, Brox: Contrastive Representation Learning for Hand Shape Estimation, GCPR 2021).

One right hand before eight synchronized cameras: 1518 short sequences, 107,538 moments, crops of 224x224 px around the
hand without lens distortion. Layout, as its archives unpack (S sequence, C camera, F frame, from 0):

    meta.json                         lists per sequence of values per frame: is_train (green screen), subject_id,
                                      is_valid (a checked MANO fit), object_id, has_fit (a MANO fit, checked or not)
    calib/SSSS/FFFFFFFF.json          K: 8 matrices (3, 3) px; M: 8 matrices (4, 4), camera from world, m
    xyz/SSSS/FFFFFFFF.json            (21, 3) m, world, in our joint order
    shape/SSSS/FFFFFFFF.json          MANO in the world: poses (1, 48), shapes (1, 10), global_t (1, 1, 3) m
    rgb/SSSS/camC/FFFFFFFF.jpg        as recorded; only the green screen frames also have other backgrounds, in
                                      rgb_merged, rgb_homo, rgb_color_auto and rgb_color_sample

The joints are what FreiHAND's multi-view network saw, of all moments, and MANO was fitted to them: so they are near
MANO's joints but not the same points. Fits leave MANO's mean pose to the model (flat_hand_mean false), turn about the
wrist joint and add global_t last, as `hamuco.engine.hand_model` does; they are used as they are.

Which moments are train and test follows HaMuCo (Zheng et al., ICCV 2023): sequences from 1200 on are the test, on
rgb_merged. Unlike there, a missing image leaves its view out and moves no other image to another moment.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from hamuco.calibration.camera import CalibrationError, Camera
from hamuco.fusion.hand import HandParameters
from hamuco.training.datasets.files import DatasetError, FloatArray, entry, read_image, read_json, to_array
from hamuco.training.datasets.sample import Sample, TrueHand

Split = Literal["train", "test", "all"]

PAGE = "https://lmb.informatik.uni-freiburg.de/resources/datasets/HanCo.en.html"
SIZE = (224, 224)
CAMERAS = 8
SEQUENCES = 1518
_SPLITS: Mapping[Split, range] = {"train": range(1200), "test": range(1200, SEQUENCES), "all": range(SEQUENCES)}
_CALIBRATION = "HanCo_calib_meta.zip"


class HanCo:
    """One split. A download may be partial: moments without joints or without any image of the kind are left out."""

    has_truth = True
    joint_definition = "keypoints of FreiHAND's multi-view network, near MANO's joints"

    def __init__(self, path: Path, split: Split = "test", images: str = "rgb_merged") -> None:
        """
        Args:
            path: folder with meta.json, calib, xyz, optionally shape, and the images.
            split: "all" is for parts, such as the small HanCo_tester.zip with sequence 110.
            images: folder of images. HaMuCo tests on "rgb_merged" and trains on "rgb".

        Raises:
            DatasetError: the folder is not HanCo, lacks a part or has no moment of this split.
        """
        if split not in _SPLITS:
            raise DatasetError(f"HanCo has no split {split!r}; choose one of {', '.join(_SPLITS)}")
        absent = [name for name in ("meta.json", "calib", "xyz", images) if not (path / name).exists()]
        if absent:
            archives = dict.fromkeys(_CALIBRATION if name in ("meta.json", "calib") else _zip(name) for name in absent)
            raise DatasetError(
                f"{path} is not HanCo, or a part of it: it has no {', '.join(absent)}. Expected is the folder that has "
                f"meta.json, calib, xyz and {images}: unpack {', '.join(archives)} there, from {PAGE}"
            )
        self.name = f"HanCo {split}" if images == "rgb_merged" else f"HanCo {split} ({images})"
        self._path, self._images = path, images
        self._valid = _per_sequence(path / "meta.json", "is_valid")
        self._moments = [
            (sequence, frame) for sequence in _SPLITS[split] for frame in _frames_with_images(path, images, sequence)
        ]
        if not self._moments:
            there = sorted(name for name in os.listdir(path / images) if name.isdecimal())
            found = f"sequences from {there[0]} to {there[-1]}" if there else "none"
            raise DatasetError(
                f"{path / images} has no moment with joints of HanCo's {split} split, sequences "
                f"{_SPLITS[split][0]:04d} to {_SPLITS[split][-1]:04d}; it has {found}. "
                f'Take another split ("all" for every sequence) or unpack all of {_zip(images)} and {_zip("xyz")}'
            )

    def __len__(self) -> int:
        return len(self._moments)

    def __iter__(self) -> Iterator[Sample]:
        for sequence, frame in self._moments:
            yield self._read(sequence, frame)

    def _read(self, sequence: int, frame: int) -> Sample:
        cameras = _cameras(self._path / "calib" / _json(sequence, frame))
        images: dict[str, NDArray[np.uint8]] = {}
        for camera in cameras:
            image = self._path / self._images / f"{sequence:04d}" / camera.name / f"{frame:08d}.jpg"
            if image.is_file():
                images[camera.name] = read_image(image, SIZE, _zip(self._images))
        file = self._path / "xyz" / _json(sequence, frame)
        joints = to_array(read_json(file, _zip("xyz")), (21, 3), str(file))
        hand = TrueHand("right", joints, None, self._fit(sequence, frame), {})
        return Sample(f"{sequence:04d}/{frame:08d}", f"{sequence:04d}", None, cameras, images, (hand,))

    def _fit(self, sequence: int, frame: int) -> HandParameters | None:
        """The MANO fit, if it was checked and the user has the fits; for a MANO right hand with its mean pose."""
        file = self._path / "shape" / _json(sequence, frame)
        valid = self._valid[sequence]
        if not (frame < len(valid) and valid[frame] and file.is_file()):
            return None
        fit = read_json(file, _zip("shape"))

        def numbers(key: str, count: int) -> FloatArray:
            values = entry(fit, key, file)
            while isinstance(values, list) and len(values) == 1:  # batches of one
                values = values[0]
            return to_array(values, (count,), f"{key!r} in {file}")

        poses = numbers("poses", 48)
        return HandParameters(poses[:3], poses[3:], numbers("shapes", 10), numbers("global_t", 3))


def _zip(folder: str) -> str:
    return f"HanCo_{folder}.zip"


def _json(sequence: int, frame: int) -> str:
    return f"{sequence:04d}/{frame:08d}.json"


def _per_sequence(file: Path, key: str) -> list[list[Any]]:
    values = entry(read_json(file, _CALIBRATION), key, file)
    if not (
        isinstance(values, list) and len(values) == SEQUENCES and all(isinstance(frames, list) for frames in values)
    ):
        raise DatasetError(f"{key!r} in {file} is not a list of {SEQUENCES} lists: unpack {_CALIBRATION} again")
    return values


def _frames_with_images(path: Path, images: str, sequence: int) -> list[int]:
    """Frames that have joints and an image of any camera, in order."""
    # Listing folders is quick; asking for 860,000 files one by one is not.
    folder = f"{sequence:04d}"
    joints = _frames(path / "xyz" / folder, ".json")
    seen: set[int] = set()
    for camera in range(CAMERAS if joints else 0):
        seen |= _frames(path / images / folder / f"cam{camera}", ".jpg")
    return sorted(joints & seen)


def _frames(folder: Path, suffix: str) -> set[int]:
    names = os.listdir(folder) if folder.is_dir() else []
    return {int(stem) for name in names if name.endswith(suffix) and (stem := name.removesuffix(suffix)).isdecimal()}


def _cameras(file: Path) -> tuple[Camera, ...]:
    calibration = read_json(file, _CALIBRATION)
    matrices = to_array(entry(calibration, "K", file), (CAMERAS, 3, 3), f"'K' in {file}")
    camera_from_world = to_array(entry(calibration, "M", file), (CAMERAS, 4, 4), f"'M' in {file}")
    try:
        return tuple(
            Camera(f"cam{index}", SIZE, matrices[index], np.zeros(0), camera_from_world[index])
            for index in range(CAMERAS)
        )
    except CalibrationError as error:
        raise DatasetError(f"{file}: {error}") from error
