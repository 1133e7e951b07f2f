"""FreiHAND (Zimmermann et al., ICCV 2019): single images of one right hand, 224x224 px, with joints and MANO meshes.

Layout, as FreiHAND_pub_v2.zip and, for the truth of the evaluation split, FreiHAND_pub_v2_eval.zip unpack; all lists
are in the order of the images (32,560 in training, 3960 in evaluation):

    training/rgb/IIIIIIII.jpg         four times over: image i of variant v is number i + 32,560 v; the variants are
                                      gs (green screen, as recorded), hom, sample and auto (other backgrounds, colours),
                                      of which gs is read
    training_K.json                   (3, 3) px
    training_xyz.json                 (21, 3) m, camera frame, in our joint order
    training_verts.json               (778, 3) m, camera frame, in MANO's order
    training_mano.json                (1, 61): pose 48, shape 10, pixel of the middle MCP 2, focal length / its depth 1
    evaluation/rgb, evaluation_*.json the same with one variant

The joints are those of the fitted MANO: its 16, carried along with the bones, and a vertex at each fingertip.
HandParameters are not given: the fits' place has to be solved for with MANO's file, whose licence keeps it from us.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from hamuco.calibration.camera import CalibrationError, Camera
from hamuco.training.datasets.files import DatasetError, FloatArray, read_image, read_json, to_array
from hamuco.training.datasets.sample import Sample, TrueHand

Split = Literal["training", "evaluation"]

PAGE = "https://lmb.informatik.uni-freiburg.de/projects/freihand/"
SIZE = (224, 224)
VERTICES = 778
_ARCHIVE, _EVALUATION_ARCHIVE = "FreiHAND_pub_v2.zip", "FreiHAND_pub_v2_eval.zip"


class FreiHAND:
    """One split. Every image is a sequence of its own; its camera frame is the world."""

    has_truth = True
    joint_definition = "MANO joints and tips 744, 320, 443, 555, 672"

    def __init__(self, path: Path, split: Split = "evaluation", *, with_vertices: bool = False) -> None:
        """
        Args:
            path: folder that has the folders `training` and `evaluation`.
            split: "evaluation" needs its truth unpacked into the same folder.
            with_vertices: read the meshes as well. Those of the training split take some 6 GB of memory to read.

        Raises:
            DatasetError: the folder is not FreiHAND, lacks a part, or its lists differ in length.
        """
        if split not in get_args(Split):
            raise DatasetError(f"FreiHAND has no split {split!r}; choose one of {', '.join(get_args(Split))}")
        archive = _ARCHIVE if split == "training" else _EVALUATION_ARCHIVE
        needed = [f"{split}/rgb", f"{split}_K.json", f"{split}_xyz.json"] + [f"{split}_verts.json"] * with_vertices
        absent = [name for name in needed if not (path / name).exists()]
        if absent:
            raise DatasetError(
                f"{path} is not FreiHAND, or a part of it: it has no {', '.join(absent)}. Expected is the folder that "
                f"has {split}/rgb and {split}_K.json: unpack {archive} there, from {PAGE}"
            )
        self.name = f"FreiHAND {split}"
        self._images, self._archive = path / split / "rgb", archive
        self._matrices = _read(path / f"{split}_K.json", (-1, 3, 3), archive)
        count = len(self._matrices)
        self._joints = _read(path / f"{split}_xyz.json", (count, 21, 3), archive)
        self._vertices = (
            _read(path / f"{split}_verts.json", (count, VERTICES, 3), archive).astype(np.float32)
            if with_vertices
            else None
        )

    def __len__(self) -> int:
        return len(self._matrices)

    def __iter__(self) -> Iterator[Sample]:
        for index, matrix in enumerate(self._matrices):
            name = f"{index:08d}"
            try:
                camera = Camera("camera", SIZE, matrix, np.zeros(0), np.eye(4))
            except CalibrationError as error:
                raise DatasetError(f"{self.name}, entry {index} of its K.json: {error}") from error
            image = read_image(self._images / f"{name}.jpg", SIZE, self._archive)
            vertices = None if self._vertices is None else self._vertices[index].astype(np.float64)
            hand = TrueHand("right", self._joints[index], vertices, None, {})
            yield Sample(name, name, None, (camera,), {"camera": image}, (hand,))


def _read(file: Path, shape: tuple[int, ...], archive: str) -> FloatArray:
    return to_array(read_json(file, archive), shape, str(file))
