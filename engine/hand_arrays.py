"""A hand model's constants as the skinning kernel reads them: structures of arrays, blend shapes in half or single.

A landmark is linear in the motions T_b x = R_b x + t_b of the bones: with regressor r, weights w, rest positions x,

    landmark_j = sum over v and b of r[j, v] w[v, b] T_b x_v = sum over b of R_b a[j, b] + m[j, b] t_b

where the anchor a[j, b] = sum over v of r[j, v] w[v, b] x_v moves with shape and pose as the vertices x_v do, and the
mass m[j, b] = sum over v of r[j, v] w[v, b]. Only pairs (j, b) that touch are kept, 79 of 336 for the free hand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import DTypeLike, NDArray

from hamuco.engine.hand_model import HandModel
from hamuco.engine.kernel_structs import SkinningModel

FloatArray = NDArray[np.float64]

_WEIGHT_SUM = 65535


@dataclass(frozen=True, slots=True, eq=False)
class HandArrays:
    """Constants of N vertices with at most K bones each and of A anchors.

    `SkinningModel` has their addresses, by the same names. T is float16 or float32. Without posedirs in the
    model, both arrays of that name have 0 rows.
    """

    v_template: NDArray[np.float32]  # (3, N) m
    shapedirs: NDArray[np.floating]  # (10, 3, N) T
    posedirs: NDArray[np.floating]  # (135, 3, N) T
    bones: NDArray[np.uint8]  # (K, N) 0 where the weight is 0
    weights: NDArray[np.uint16]  # (K, N) largest first, columns sum to 65535
    joints: NDArray[np.float32]  # (16, 3) m, of the rest pose
    joint_shapedirs: NDArray[np.float32]  # (10, 16, 3)
    anchors: NDArray[np.float32]  # (3, A) m
    anchor_shapedirs: NDArray[np.float32]  # (10, 3, A)
    anchor_posedirs: NDArray[np.float32]  # (135, 3, A)
    anchor_masses: NDArray[np.float32]  # (A,)
    anchor_bones: NDArray[np.uint8]  # (A,)
    anchor_starts: NDArray[np.int32]  # (22,) landmark j has the anchors anchor_starts[j] : anchor_starts[j + 1]

    def arrays(self) -> tuple[NDArray[np.generic], ...]:
        """All of them, contiguous, in order."""
        return tuple(getattr(self, field.name) for field in fields(self))

    def skinning_model(self, addresses: Sequence[int]) -> SkinningModel:
        """As the kernel is given it, the arrays at these addresses (of a device or here), in their order.

        An array without numbers gets a null pointer, whatever its address.
        """
        used = {
            field.name: address if array.size else 0
            for field, array, address in zip(fields(self), self.arrays(), addresses, strict=True)
        }
        return SkinningModel(
            **used,
            vertices=self.v_template.shape[1],
            bones_per_vertex=len(self.bones),
            anchor_count=len(self.anchor_bones),
        )


def hand_arrays(model: HandModel, dtype: DTypeLike) -> HandArrays:
    """Pack a model; `dtype` is float16 or float32.

    Raises:
        ValueError: another dtype, or a negative skinning weight, which fixed point cannot hold.
    """
    storage = np.dtype(dtype)
    if storage not in (np.dtype(np.float16), np.dtype(np.float32)):
        raise ValueError(f"hand arrays in {storage}: the kernels have float16 and float32, ask for one of these")
    if model.weights.min() < 0:
        vertex, bone = np.argwhere(model.weights < 0)[0]
        raise ValueError(
            f"skinning weight of vertex {vertex} for bone {bone} is {model.weights[vertex, bone]:.3g}: the kernel "
            "keeps weights as fractions from 0 to 1, so set negative ones to zero in the hand model"
        )
    bones, weights = _fixed_point(model.weights)
    posedirs = np.empty((len(model.v_template), 3, 0)) if model.posedirs is None else model.posedirs

    pairs = np.argwhere(np.abs(model.landmark_regressor) @ model.weights > 0)  # (A, 2), landmarks in order
    share = model.landmark_regressor[pairs[:, 0]] * model.weights[:, pairs[:, 1]].T  # (A, N)
    return HandArrays(
        v_template=_packed(model.v_template, np.float32),
        shapedirs=_packed(model.shapedirs, storage),
        posedirs=_packed(posedirs, storage),
        bones=bones,
        weights=weights,
        joints=(model.J_regressor @ model.v_template).astype(np.float32),
        joint_shapedirs=np.ascontiguousarray(
            np.moveaxis(np.tensordot(model.J_regressor, model.shapedirs, axes=1), -1, 0), np.float32
        ),
        anchors=_packed(share @ model.v_template, np.float32),
        anchor_shapedirs=_packed(np.tensordot(share, model.shapedirs, axes=1), np.float32),
        anchor_posedirs=_packed(np.tensordot(share, posedirs, axes=1), np.float32),
        anchor_masses=share.sum(axis=1).astype(np.float32),
        anchor_bones=pairs[:, 1].astype(np.uint8),
        anchor_starts=np.searchsorted(pairs[:, 0], np.arange(len(model.landmark_regressor) + 1)).astype(np.int32),
    )


def _packed(values: FloatArray, dtype: DTypeLike) -> NDArray[np.floating]:
    """(points, 3) or (points, 3, directions) with the axes in reverse, so that neighbouring threads read neighbours."""
    return np.ascontiguousarray(values.T, dtype)


def _fixed_point(weights: FloatArray) -> tuple[NDArray[np.uint8], NDArray[np.uint16]]:
    """Bones and weights (K, N) of weights (N, 16), in units that each vertex has 65535 of."""
    exact = weights / weights.sum(axis=1, keepdims=True) * _WEIGHT_SUM
    units = np.floor(exact)
    # The units left over go one each to the largest remainders, so that no weight is off by a whole unit.
    left = _WEIGHT_SUM - units.sum(axis=1, keepdims=True)
    rank = np.argsort(np.argsort(units - exact, axis=1, kind="stable"), axis=1)
    units += rank < left
    used = int(np.count_nonzero(units, axis=1).max())
    bones = np.argsort(-units, axis=1, kind="stable")[:, :used]
    kept = np.take_along_axis(units, bones, axis=1)
    bones[kept == 0] = 0
    return np.ascontiguousarray(bones.T, np.uint8), np.ascontiguousarray(kept.T, np.uint16)
