"""Hand models laid out as MANO (Romero et al., SIGGRAPH Asia 2017): blend shapes, 16 joints, linear blend skinning.

Their files and what is checked of them; `hamuco.engine.skinning` poses them. Bone frames are parallel to the model frame
in the rest pose. The free hand's model frame is that of MANO's right hand, with the origin at the wrist joint of the mean
shape: fingers along -x, palm towards -y, thumb on the side of +z; a finger flexes by a positive rotation about z. Its
finger joints are where the landmark network sees them, so that landmarks keep their distances when fingers bend; its wrist
joint lies 17 mm deeper than the network's wrist.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]

JOINTS = 16
LANDMARKS = 21
SHAPES = 10

MANO_PARENTS = (-1, 0, 1, 2, 0, 4, 5, 0, 7, 8, 0, 10, 11, 0, 13, 14)
"""Parent of each of the 16 joints, -1 for the wrist."""

_POSE_FEATURES = 9 * (JOINTS - 1)

_FREE_HAND = Path(__file__).parent / "free_hand.npz"
_MIRROR = np.array([-1.0, 1.0, 1.0])


class HandModelError(ValueError):
    """A hand model or its file is not what the format asks for."""


@dataclass(frozen=True, slots=True, eq=False)
class HandModel:
    """A right or left hand in its rest pose (all rotations zero, mean shape), metres, its own model frame.

    N vertices, F triangles, 16 joints in MANO order: wrist, index 1-3, middle 1-3, little 1-3, ring 1-3, thumb 1-3.

    Raises:
        HandModelError: on construction, naming the field that has a wrong shape, a value that is not finite, rows that
            do not sum to 1, or indices out of range.
    """

    name: str
    licence: str
    side: str  # "right" or "left"
    v_template: FloatArray  # (N, 3)
    shapedirs: FloatArray  # (N, 3, 10)
    posedirs: FloatArray | None  # (N, 3, 135), on the 15 finger rotations minus identity, row-major
    weights: FloatArray  # (N, 16) skinning weights, rows sum to 1
    J_regressor: FloatArray  # (16, N) on the shaped template
    parents: NDArray[np.int64]  # (16,) -1 for the wrist
    faces: NDArray[np.int32]  # (F, 3) counter-clockwise from outside
    pose_mean: FloatArray  # (45,) axis-angle, added to hand_pose
    landmark_regressor: FloatArray  # (21, N) sparse, rows sum to 1: the landmark network's joints, on the posed mesh
    fingertips: NDArray[np.int64]  # (5,) vertex ids: thumb, index, middle, ring, little
    uv: FloatArray | None  # (N, 2)

    def __post_init__(self) -> None:
        _check(self)

    def mirrored(self) -> HandModel:
        """The same hand of the other side, mirrored at the plane x = 0.

        Posing it with the mirrored parameters (see `mirror_parameters`) mirrors the posed mesh exactly.
        """
        posedirs = None
        if self.posedirs is not None:
            # Under x -> -x a rotation's entries change sign where exactly one of row and column is x.
            signs = np.tile(np.outer(_MIRROR, _MIRROR).ravel(), JOINTS - 1)
            posedirs = self.posedirs * _MIRROR[:, None] * signs
        return replace(
            self,
            side="left" if self.side == "right" else "right",
            v_template=self.v_template * _MIRROR,
            shapedirs=self.shapedirs * _MIRROR[:, None],
            posedirs=posedirs,
            faces=self.faces[:, ::-1].copy(),  # mirroring turns triangles inside out
            pose_mean=mirror_axis_angle(self.pose_mean),
        )


def mirror_axis_angle(axis_angle: ArrayLike) -> FloatArray:
    """Axis-angle vectors, flat or not (..., 3 k), of the rotations seen in a mirror at x = 0: (x, -y, -z)."""
    vector = np.asarray(axis_angle, np.float64)
    return vector * -np.resize(_MIRROR, vector.shape[-1])


def load_hand_model(path: Path | None = None) -> HandModel:
    """Read a hand model; without a path the free hand that comes with the package, a right hand.

    Rows of the regressors and skinning weights are divided by their sums, which takes out the rounding of the file.

    Raises:
        HandModelError: the file is damaged, lacks a key, or a key has a wrong shape or bad values.
        FileNotFoundError: there is no such file.
    """
    source = _FREE_HAND if path is None else path
    # Opened here: np.load leaves a file that it opened itself open when the archive is damaged.
    with source.open("rb") as stream:
        try:
            archive = np.load(stream, allow_pickle=False)
            stored = dict(archive) if isinstance(archive, np.lib.npyio.NpzFile) else {}
        except (zipfile.BadZipFile, zlib.error, ValueError, EOFError, OSError) as error:
            raise HandModelError(
                f"{source}: not a readable .npz archive ({error}). "
                f"The file is damaged or of another kind: copy or build it again."
            ) from error
    missing = [key for key in _REQUIRED if key not in stored]
    if missing:
        raise HandModelError(f"{source}: key {missing[0]!r} is missing. A hand model has {', '.join(_REQUIRED)}.")
    try:
        return _from_arrays(stored)
    except HandModelError as error:
        raise HandModelError(f"{source}: {error}") from error


def save_hand_model(model: HandModel, path: Path) -> None:
    """Write a model as one compressed .npz, numbers in single precision."""
    arrays: dict[str, NDArray[np.generic]] = {}
    for key in (*_REQUIRED, *_OPTIONAL):
        value = getattr(model, key)
        if value is None:
            continue
        array = np.asarray(value)
        arrays[key] = array.astype(np.float32) if array.dtype.kind == "f" else array
    # np.savez would add a suffix to a path without one.
    with path.open("wb") as stream:
        np.savez_compressed(stream, allow_pickle=False, **arrays)


def _from_arrays(stored: Mapping[str, NDArray[np.generic]]) -> HandModel:
    def numbers(key: str) -> FloatArray:
        if stored[key].dtype.kind not in "fiu":
            raise HandModelError(f"{key} holds {stored[key].dtype}, expected numbers")
        return stored[key].astype(np.float64)

    def rows(key: str) -> FloatArray:
        array = numbers(key)
        _check_rows(key, array)
        return np.asarray(array / array.sum(axis=1, keepdims=True))

    def integers(key: str) -> NDArray[np.int64]:
        if stored[key].dtype.kind not in "iu":
            raise HandModelError(f"{key} holds {stored[key].dtype}, expected integers")
        return stored[key].astype(np.int64)

    return HandModel(
        name=str(stored["name"]),
        licence=str(stored["licence"]),
        side=str(stored["side"]),
        v_template=numbers("v_template"),
        shapedirs=numbers("shapedirs"),
        posedirs=numbers("posedirs") if "posedirs" in stored else None,
        weights=rows("weights"),
        J_regressor=rows("J_regressor"),
        parents=integers("parents"),
        faces=integers("faces").astype(np.int32),
        pose_mean=numbers("pose_mean"),
        landmark_regressor=rows("landmark_regressor"),
        fingertips=integers("fingertips"),
        uv=numbers("uv") if "uv" in stored else None,
    )


_OPTIONAL = ("posedirs", "uv")
_REQUIRED = tuple(field.name for field in fields(HandModel) if field.name not in _OPTIONAL)
_ROW_SUM_TOLERANCE = 1e-3  # what half precision in a file can do to a row of a dozen entries


def _check(model: HandModel) -> None:
    if model.side not in ("right", "left"):
        raise HandModelError(f"side is {model.side!r}, expected 'right' or 'left'")
    if model.v_template.ndim != 2:
        raise HandModelError(f"v_template has shape {model.v_template.shape}, expected (N, 3)")
    count = len(model.v_template)
    expected: dict[str, tuple[int, ...]] = {
        "v_template": (count, 3),
        "shapedirs": (count, 3, SHAPES),
        "posedirs": (count, 3, _POSE_FEATURES),
        "weights": (count, JOINTS),
        "J_regressor": (JOINTS, count),
        "parents": (JOINTS,),
        "faces": (len(model.faces), 3),
        "pose_mean": (3 * (JOINTS - 1),),
        "landmark_regressor": (LANDMARKS, count),
        "fingertips": (5,),
        "uv": (count, 2),
    }
    for key, shape in expected.items():
        array = getattr(model, key)
        if array is None and key in _OPTIONAL:
            continue
        if array.shape != shape:
            raise HandModelError(f"{key} has shape {array.shape}, expected {shape} with {count} vertices in v_template")
        if not np.isfinite(array).all():
            bad = np.argwhere(~np.isfinite(array))
            raise HandModelError(
                f"{key} has {len(bad)} values that are not finite, the first at {tuple(bad[0].tolist())}"
            )
    for key in ("weights", "J_regressor", "landmark_regressor"):
        _check_rows(key, getattr(model, key))
    for key in ("faces", "fingertips"):
        ids = getattr(model, key)
        if ids.size and not (ids.min() >= 0 and ids.max() < count):
            raise HandModelError(f"{key} has vertex ids from {ids.min()} to {ids.max()}, expected 0 to {count - 1}")
    if tuple(model.parents.tolist()) != MANO_PARENTS:
        raise HandModelError(
            f"parents is {model.parents.tolist()}, expected the tree of MANO's order {list(MANO_PARENTS)}"
        )


def _check_rows(key: str, array: FloatArray) -> None:
    if array.ndim != 2:
        raise HandModelError(f"{key} has shape {array.shape}, expected a matrix")
    error = np.abs(array.sum(axis=1) - 1)
    if error.size and not error.max() <= _ROW_SUM_TOLERANCE:
        worst = int(error.argmax())
        raise HandModelError(f"row {worst} of {key} sums to {array[worst].sum():.6g}, expected 1")
