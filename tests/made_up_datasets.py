"""Small folders laid out as the published data sets. Every image has one white spot, at the wrist."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from rigs import look_at

from hamuco.engine.hand_model import load_hand_model
from hamuco.engine.skinning import forward
from hamuco.fusion.hand import HandParameters

FloatArray = NDArray[np.float64]

SIDE = 224
HANCO_SEQUENCES = 1518


@dataclass(frozen=True, slots=True, eq=False)
class MadeUpHand:
    """What was written: of the free hand, whose 21 landmarks and vertices stand for those of MANO."""

    parameters: HandParameters
    joints: FloatArray
    vertices: FloatArray


def draw_hand(rng: np.random.Generator, depth: float = 0.6) -> MadeUpHand:
    """A hand near the optical axis of a camera whose frame is the world."""
    transl = np.array([0, 0, depth]) + rng.uniform(-0.03, 0.03, 3)
    parameters = HandParameters(rng.normal(0, 1, 3), rng.normal(0, 0.2, 45), rng.normal(0, 1, 10), transl)
    mesh = forward(
        load_hand_model(), parameters.global_orient, parameters.hand_pose, parameters.betas, parameters.transl
    )
    assert mesh.vertices is not None
    return MadeUpHand(parameters, mesh.landmarks, mesh.vertices)


def spot(image: NDArray[np.uint8]) -> FloatArray:
    """Centre (2,) px of the white spot; JPEG leaves it within a tenth of a pixel."""
    rows, columns = np.nonzero(image.min(axis=2) > 128)
    return np.array([columns.mean(), rows.mean()])


def write_hanco(
    folder: Path, frames: Mapping[int, int], images: Iterable[str] = ("rgb", "rgb_merged")
) -> dict[tuple[int, int], MadeUpHand]:
    """A HanCo folder with that many frames of some sequences, all with a checked fit.

    Returns:
        (sequence, frame) -> what is written there.
    """
    rng = np.random.default_rng(7)
    hands = {}
    for sequence, count in frames.items():
        for frame in range(count):
            hands[sequence, frame] = hand = draw_hand(rng)
            matrices, camera_from_world = _hanco_cameras()
            name = f"{sequence:04d}/{frame:08d}.json"
            parameters = hand.parameters
            pose = np.concatenate([parameters.global_orient, parameters.hand_pose])
            fit = {
                "poses": [pose.tolist()],
                "shapes": [parameters.betas.tolist()],
                "global_t": [[parameters.transl.tolist()]],
            }
            _write(folder / "xyz" / name, hand.joints.tolist())
            _write(folder / "calib" / name, {"K": matrices.tolist(), "M": camera_from_world.tolist()})
            _write(folder / "shape" / name, fit)
            for camera in range(8):
                homogeneous = camera_from_world[camera] @ [*hand.joints[0], 1.0]
                picture = _picture(matrices[camera] @ homogeneous[:3])
                for kind in images:
                    _write_jpeg(folder / kind / f"{sequence:04d}/cam{camera}/{frame:08d}.jpg", picture)
    flags = [[True] * frames.get(sequence, 0) for sequence in range(HANCO_SEQUENCES)]
    ids = [[3] * frames.get(sequence, 0) for sequence in range(HANCO_SEQUENCES)]
    meta = {"is_train": flags, "subject_id": ids, "is_valid": flags, "object_id": ids, "has_fit": flags}
    _write(folder / "meta.json", meta)
    return hands


def _hanco_cameras() -> tuple[FloatArray, FloatArray]:
    """Matrices and poses of eight cameras on a ring around the hand; the first one's frame is the world."""
    centre = np.array([0.0, 0.0, 0.1])
    angles = np.arange(8) * np.pi / 4
    poses = [look_at(np.array([0.6 * np.cos(angle), 0.6 * np.sin(angle), 0.4]), centre) for angle in angles]
    # The hand is 0.6 m before the first camera, which is sqrt(0.45) = 0.67 m from the centre of the ring.
    camera_from_world = np.array([pose @ np.linalg.inv(poses[0]) for pose in poses])
    matrices = np.array([[[400 + 9 * k, 0, 112 + k], [0, 450 - 7 * k, 110 - k], [0, 0, 1.0]] for k in range(8)])
    return matrices, camera_from_world


def write_freihand(folder: Path, split: str, count: int) -> list[MadeUpHand]:
    """A FreiHAND folder with one split, in training with all four variants; returns what is written."""
    rng = np.random.default_rng(8)
    hands = [draw_hand(rng) for _ in range(count)]
    matrices = np.array([[[480 + 9 * k, 0, 112.0], [0, 470 - 5 * k, 112], [0, 0, 1]] for k in range(count)])
    vertices = [hand.vertices[:778] for hand in hands]  # as many as MANO has
    _write(folder / f"{split}_K.json", matrices.tolist())
    _write(folder / f"{split}_xyz.json", [hand.joints.tolist() for hand in hands])
    _write(folder / f"{split}_verts.json", [points.tolist() for points in vertices])
    _write(folder / f"{split}_mano.json", [[[0.0] * 61]] * count)
    for variant in range(4 if split == "training" else 1):
        for index, (hand, matrix) in enumerate(zip(hands, matrices, strict=True)):
            picture = _picture(matrix @ hand.joints[0])
            picture[:16, :16] = 30 * variant  # so that the variants can be told apart
            _write_jpeg(folder / split / "rgb" / f"{index + variant * count:08d}.jpg", picture)
    return hands


def _picture(homogeneous: FloatArray) -> NDArray[np.uint8]:
    """A black picture with a white spot of 7x7 px around a homogeneous pixel."""
    column, row = np.round(homogeneous[:2] / homogeneous[2]).astype(int)
    assert 3 <= column < SIDE - 3
    assert 3 <= row < SIDE - 3
    picture = np.zeros((SIDE, SIDE, 3), np.uint8)
    picture[row - 3 : row + 4, column - 3 : column + 4] = 255
    return picture


def _write(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def _write_jpeg(path: Path, picture: NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), picture)
