"""Hand models laid out as MANO (Romero et al., SIGGRAPH Asia 2017): blend shapes, 16 joints, linear blend skinning.

The reference implementation, in numpy and float64. With v = v_template + shapedirs · betas and J = J_regressor v:

    bone b:    rotates by R_b about its joint J_b, in the frame of its parent; R_0 = global_orient
    posed v:   sum over b of weights[b] (T_b v) + transl, T_b the bone's motion out of the rest pose

so the hand turns about its own wrist joint, and zero parameters leave it where the file has it, in its mean pose.
Bone frames are parallel to the model frame in the rest pose. The free hand's model frame is that of MANO's right hand,
with the origin at the wrist joint of the mean shape: fingers along -x, palm towards -y, thumb on the side of +z; a
finger flexes by a positive rotation about z. Its finger joints are where the landmark network sees them, so that
landmarks keep their distances when fingers bend; its wrist joint lies 17 mm deeper than the network's wrist.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]
_Planes = tuple[NDArray[np.floating], NDArray[np.floating], NDArray[np.floating], NDArray[np.floating]]

JOINTS = 16
LANDMARKS = 21
SHAPES = 10

MANO_PARENTS = (-1, 0, 1, 2, 0, 4, 5, 0, 7, 8, 0, 10, 11, 0, 13, 14)
"""Parent of each of the 16 joints, -1 for the wrist."""

# All fingers advance together: of each level its bones and their parents.
_LEVELS = ((slice(1, 16, 3), slice(0, 1)), (slice(2, 16, 3), slice(1, 16, 3)), (slice(3, 16, 3), slice(2, 16, 3)))
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


@dataclass(frozen=True, slots=True, eq=False)
class HandMesh:
    """A posed hand, or hands with leading dimensions (...), metres, in the frame that `transl` is in.

    Attributes:
        vertices: (..., N, 3), or None where they were not asked for.
        joints: (..., 16, 3) the skeleton's, in MANO order.
        landmarks: (..., 21, 3) the landmark network's, in its order.
    """

    vertices: FloatArray | None
    joints: FloatArray
    landmarks: FloatArray


def forward(
    model: HandModel,
    global_orient: ArrayLike,
    hand_pose: ArrayLike,
    betas: ArrayLike,
    transl: ArrayLike,
    *,
    with_vertices: bool = True,
) -> HandMesh:
    """Pose the hand. Leading dimensions (...) of the parameters broadcast against each other.

    Args:
        model: the hand.
        global_orient: (..., 3) axis-angle about the wrist joint, rad.
        hand_pose: (..., 45) axis-angle of the 15 finger joints, rad; the model's mean pose is added to it.
        betas: (..., 10) shape.
        transl: (..., 3) m, added last.
        with_vertices: False skins no vertex: landmarks are mixtures of points that are fixed to bones.
    """
    rotations = pose_rotations(model, global_orient, hand_pose)
    return forward_rotations(model, rotations, betas, transl, with_vertices=with_vertices)


def forward_rotations(
    model: HandModel,
    rotations: FloatArray,
    betas: ArrayLike,
    transl: ArrayLike,
    *,
    with_vertices: bool = True,
) -> HandMesh:
    """`forward` from rotations (..., 16, 3, 3) of all bones in their parents' frames, with the mean pose in them."""
    betas, transl = np.asarray(betas, np.float64), np.asarray(transl, np.float64)[..., None, :]
    transforms, joints = bone_transforms(rotations, rest_joints(model, betas))
    feature = _pose_feature(model, rotations)
    anchors = _anchors(model, betas, feature)
    flat_anchors = anchors.reshape(*anchors.shape[:-2], 4 * JOINTS)
    flat = transforms.swapaxes(-2, -3).reshape(*transforms.shape[:-3], 3, 4 * JOINTS)
    landmarks = flat_anchors @ flat.mT
    vertices = None
    if with_vertices:
        vertices = np.asarray(_skinned(_planes(model), transforms, betas, feature).mT + transl, np.float64)
    return HandMesh(vertices, joints + transl, landmarks + transl)


def skin(
    model: HandModel, global_orient: ArrayLike, hand_pose: ArrayLike, betas: ArrayLike, transl: ArrayLike
) -> NDArray[np.float32]:
    """The vertices (..., N, 3) of `forward` alone, in single precision, which is faster: for streams and pictures."""
    shapes, moved = np.asarray(betas, np.float64), np.asarray(transl, np.float32)[..., None, :]
    rotations = pose_rotations(model, global_orient, hand_pose)
    transforms, _ = bone_transforms(rotations, rest_joints(model, shapes))
    vertices = _skinned(_single_planes(model), transforms, shapes, _pose_feature(model, rotations))
    return np.asarray(vertices.mT + moved, np.float32)


def _pose_feature(model: HandModel, rotations: FloatArray) -> FloatArray | None:
    """What posedirs are multiplied with, (..., 135), if there are some."""
    if model.posedirs is None:
        return None
    return (rotations[..., 1:, :, :] - np.eye(3)).reshape(*rotations.shape[:-3], _POSE_FEATURES)


def _skinned(
    planes: _Planes, transforms: FloatArray, betas: FloatArray, feature: FloatArray | None
) -> NDArray[np.floating]:
    """Vertices (..., 3, N): with each coordinate in a row of its own, numpy is over twice as fast."""
    template, shapedirs, posedirs, weights = planes
    dtype, count = template.dtype, weights.shape[1]
    rest = template + betas.astype(dtype) @ shapedirs
    if feature is not None:
        rest = rest + feature.astype(dtype) @ posedirs
    x, y, z = np.moveaxis(rest.reshape(*rest.shape[:-1], 3, 1, count), -3, 0)
    columns = np.moveaxis(transforms, -3, -1).reshape(*transforms.shape[:-3], 3 * 4, JOINTS).astype(dtype)
    blended = (columns @ weights).reshape(*transforms.shape[:-3], 3, 4, count)
    moved = blended[..., 0, :] * x
    moved += blended[..., 1, :] * y
    moved += blended[..., 2, :] * z
    moved += blended[..., 3, :]
    return np.asarray(moved)


@lru_cache(maxsize=8)
def _planes(model: HandModel) -> _Planes:
    """v_template (3 N,), shapedirs (10, 3 N), posedirs (135 or 0, 3 N) and weights (16, N), the vertices last."""
    count = len(model.v_template)
    posedirs = np.zeros((count, 3, 0)) if model.posedirs is None else model.posedirs
    return (
        np.ascontiguousarray(model.v_template.T).ravel(),
        np.ascontiguousarray(model.shapedirs.T).reshape(-1, 3 * count),
        np.ascontiguousarray(posedirs.T).reshape(-1, 3 * count),
        np.ascontiguousarray(model.weights.T),
    )


@lru_cache(maxsize=8)
def _single_planes(model: HandModel) -> _Planes:
    template, shapedirs, posedirs, weights = (plane.astype(np.float32) for plane in _planes(model))
    return template, shapedirs, posedirs, weights


def landmark_anchors(model: HandModel, betas: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Landmarks as points fixed to bones, for fitting: with the shape known, no vertex has to be skinned.

    landmark_j = sum over b of T_b @ anchors[j, b] + transl, with T_b from `bone_transforms`. Exact for a model without
    posedirs; with them, the pose-dependent correction is left out.

    Args:
        model: the hand.
        betas: (10,) shape.

    Returns:
        anchors (21, 16, 4), whose last column sums to 1 over the bones, and the joints of the rest pose (16, 3) m.
    """
    shape = np.asarray(betas, np.float64)
    return _anchors(model, shape, None), rest_joints(model, shape)


def _anchors(model: HandModel, betas: FloatArray, feature: FloatArray | None) -> FloatArray:
    """Anchors (..., 21, 16, 4) of shapes (..., 10) and pose features (..., 135), as `landmark_anchors` says."""
    constant, shapes, poses = _anchor_basis(model)
    flat = constant + betas @ shapes
    if feature is not None:
        flat = flat + feature @ poses
    return np.asarray(flat.reshape(*flat.shape[:-1], LANDMARKS, JOINTS, 4))


@lru_cache(maxsize=8)
def _anchor_basis(model: HandModel) -> tuple[FloatArray, FloatArray, FloatArray]:
    """What all anchors, flat, are a linear combination of: a constant part, of each shape and of each pose feature."""

    def anchors(points: FloatArray) -> FloatArray:
        """(..., 1344) of offsets of the vertices that landmarks are made of, homogeneous (used, ..., 4)."""
        weighted = np.einsum("ju,ub,u...k->...jbk", regressor, model.weights[used], points, optimize=True)
        return np.asarray(weighted.reshape(*weighted.shape[:-3], -1))

    used = np.flatnonzero(model.landmark_regressor.any(axis=0))
    regressor = model.landmark_regressor[:, used]
    directions = [model.shapedirs[used], *([] if model.posedirs is None else [model.posedirs[used]])]
    moved = [np.pad(one.mT, ((0, 0), (0, 0), (0, 1))) for one in directions]  # directions end in a 0
    parts = [anchors(one) for one in (np.pad(model.v_template[used], ((0, 0), (0, 1)), constant_values=1), *moved)]
    return parts[0], parts[1], parts[-1]


@lru_cache(maxsize=8)
def _rest_joint_basis(model: HandModel) -> tuple[FloatArray, FloatArray]:
    """Rest joints, flat (48,), of the mean shape, and what each shape adds to them (10, 48)."""
    shapes = np.einsum("jv,vcs->sjc", model.J_regressor, model.shapedirs, optimize=True)
    return (model.J_regressor @ model.v_template).ravel(), shapes.reshape(SHAPES, -1)


def rest_joints(model: HandModel, betas: ArrayLike) -> FloatArray:
    """Skeleton joints (..., 16, 3) m of the rest pose for shapes (..., 10)."""
    shape = np.asarray(betas, np.float64)
    constant, shapes = _rest_joint_basis(model)
    return (constant + shape @ shapes).reshape(*shape.shape[:-1], JOINTS, 3)


def pose_rotations(model: HandModel, global_orient: ArrayLike, hand_pose: ArrayLike) -> FloatArray:
    """Rotations (..., 16, 3, 3) of all bones in their parents' frames, the mean pose added."""
    orient = np.asarray(global_orient, np.float64)
    fingers = np.asarray(hand_pose, np.float64) + model.pose_mean
    leading = np.broadcast_shapes(orient.shape[:-1], fingers.shape[:-1])
    theta = np.concatenate([np.broadcast_to(orient, (*leading, 3)), np.broadcast_to(fingers, (*leading, 45))], axis=-1)
    return axis_angle_to_matrix(theta.reshape(*leading, JOINTS, 3))


def bone_transforms(rotations: FloatArray, joints_rest: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Forward kinematics along MANO's tree.

    Args:
        rotations: (..., 16, 3, 3) in the parents' frames.
        joints_rest: (..., 16, 3) m.

    Returns:
        transforms (..., 16, 3, 4) that carry points of the rest pose along with each bone (the rest pose is already
        removed from them), and the posed joints (..., 16, 3) m, both before any translation of the hand.
    """
    leading = np.broadcast_shapes(rotations.shape[:-3], joints_rest.shape[:-2])
    transforms = np.empty((*leading, JOINTS, 3, 4))
    joints = np.empty((*leading, JOINTS, 3))
    turns, rest = transforms[..., :3], joints_rest[..., None]
    turns[..., 0, :, :] = rotations[..., 0, :, :]
    joints[..., 0, :] = joints_rest[..., 0, :]
    transforms[..., 0, :, 3:] = rest[..., 0, :, :] - turns[..., 0, :, :] @ rest[..., 0, :, :]
    for level, parents in _LEVELS:
        turn = turns[..., parents, :, :] @ rotations[..., level, :, :]
        position = turns[..., parents, :, :] @ rest[..., level, :, :] + transforms[..., parents, :, 3:]
        turns[..., level, :, :] = turn
        transforms[..., level, :, 3:] = position - turn @ rest[..., level, :, :]
        joints[..., level, :] = position[..., 0]
    return transforms, joints


def axis_angle_to_matrix(axis_angle: ArrayLike) -> FloatArray:
    """Rotation matrices (..., 3, 3) of axis-angle vectors (..., 3), rad (Rodrigues); exact to rounding at any angle."""
    vector = np.asarray(axis_angle, np.float64)
    angle = np.linalg.norm(vector, axis=-1)[..., None, None]
    x, y, z = np.moveaxis(vector, -1, 0)
    zero = np.zeros_like(x)
    cross = np.stack([zero, -z, y, z, zero, -x, -y, x, zero], axis=-1).reshape(*vector.shape, 3)
    # np.sinc(t) is sin(pi t) / (pi t), and 1 - cos(a) = 2 sin(a/2)^2: neither needs a special case at zero.
    linear, quadratic = np.sinc(angle / np.pi), 0.5 * np.sinc(angle / (2 * np.pi)) ** 2
    return np.asarray(np.eye(3) + linear * cross + quadratic * (cross @ cross))


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
