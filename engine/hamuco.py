"""HaMuCo at work: the two networks of a bundle on crops of right hands.

Image coordinates u, v run from -1 to 1 between the outer edges of a crop. With h, the tangent of half its field of view,
a point (X, Y, Z) m relative to the root (the middle finger's knuckle), in the crop's axes, is seen at
u = (s X + tx) / (1 + h s Z), v = (s Y + ty) / (1 + h s Z). The networks, N crops of B hands in V views:

    estimator.onnx      images (N, S, S, 3) uint8 BGR -> pose (N, 16, 6), betas (N, 10), camera (N, 3), four maps (N, ...)
    interaction.onnx    four maps (N, ...), location (N, 21, 3), single_pose (N, 16, 6), half_angle (N,),
                        places (B, V) int64 -> pose (B, V, 16, 6), camera (B, V, 3)

A left hand is the mirrored crop of a mirrored camera; that is the caller's business.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from hamuco.engine.bundle import Bundle, BundleError
from hamuco.engine.hand_model import HandModel
from hamuco.engine.landmarks import HAND_RULE
from hamuco.engine.openvino_networks import Network, SetNetwork, inference_precision, runtime_name
from hamuco.engine.skinning import forward_rotations

FloatArray = NDArray[np.float64]
FloatMap = NDArray[np.float32]

ROOT = 9
"""The joint at the origin of root-relative points: the middle finger's knuckle."""

IMAGE_MEAN, IMAGE_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet, RGB from 0 to 1, by which the estimator normalizes crops: public backbones were trained so."""

DEPTH_UNIT = 0.2
"""m: of depths that the interaction network is told; they are then about as large as image coordinates."""

_MAPS = ("map_4", "map_8", "map_16", "map_32")  # of the estimator, for the interaction network
_TOGETHER = (4, 2, 1)  # crops in a batch of the estimator
_NEAREST = 0.1  # a joint nearer to the camera than this part of the root's distance is projected as if it were there


@dataclass(frozen=True, slots=True, eq=False)
class CropHands:
    """Right hands in crops, leading dimensions (...).

    Attributes:
        rotations: (..., 16, 3, 3) of the bones in their parents' frames, the first in the crop's; with the mean pose.
        betas: (..., 10) shape.
        camera: (..., 3) s in half crops per metre, tx, ty.
        joints: (..., 21, 3) m, relative to the root, axes of the crop.
        pixels: (..., 21, 2) where they are seen, u and v.
    """

    rotations: FloatArray
    betas: FloatArray
    camera: FloatArray
    joints: FloatArray
    pixels: FloatArray

    def part(self, index: int | slice) -> CropHands:
        """Of the first of the leading dimensions."""
        return CropHands(*(getattr(self, field.name)[index] for field in fields(self)))

    @classmethod
    def stack(cls, parts: Sequence[CropHands]) -> CropHands:
        """Along a new first dimension."""
        return cls(*(np.stack([getattr(part, field.name) for part in parts]) for field in fields(cls)))

    @classmethod
    def together(cls, parts: Sequence[CropHands]) -> CropHands:
        """Along the first of the leading dimensions."""
        return cls(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(cls)))


@dataclass(frozen=True, slots=True, eq=False)
class Looks:
    """What the estimator saw in n crops, each by itself.

    Attributes:
        hands: (n, ...).
        pose: (n, 16, 6) as it came out of the network.
        half_angle: (n,) tangents of half the crops' fields of view.
        maps: (n, channels, size, size) at four scales, for the interaction network of the same precision. Those of bf16 are
            its bits in float16, which may be copied, and mean nothing to numpy.
    """

    hands: CropHands
    pose: FloatMap
    half_angle: FloatArray
    maps: tuple[NDArray[Any], ...]

    def part(self, index: int) -> Looks:
        """One crop's, n = 1."""
        own = slice(index, index + 1)
        return Looks(self.hands.part(own), self.pose[own], self.half_angle[own], tuple(one[own] for one in self.maps))

    @classmethod
    def together(cls, parts: Sequence[Looks]) -> Looks:
        """One after the other."""
        return cls(
            CropHands.together([part.hands for part in parts]),
            np.concatenate([part.pose for part in parts]),
            np.concatenate([part.half_angle for part in parts]),
            tuple(np.concatenate(level) for level in zip(*(part.maps for part in parts), strict=True)),
        )


class HaMuCoNetworks:
    """The networks of one bundle."""

    def __init__(self, bundle: Bundle, precision: str | None = None) -> None:
        """
        Args:
            bundle: what to run.
            precision: bf16 or f32; None for what is best here.

        Raises:
            BundleError: its networks were trained on crops that are laid in another way than ours.
        """
        if bundle.card.box_rule != HAND_RULE:
            raise BundleError(
                f"{bundle.path} was trained on crops laid by {bundle.card.box_rule}, ours are by {HAND_RULE}: take a "
                "version of hamuco of its age, or train it again"
            )
        self.name = bundle.card.name
        self.image_size = bundle.card.image_size
        self.hand = bundle.hand
        self.runtime = runtime_name(precision or inference_precision())
        self._estimator = Network(bundle.estimator, precision=precision, together=_TOGETHER, handed_over=_MAPS)
        self._interaction = SetNetwork(bundle.interaction, precision, handed_over=_MAPS)

    def compile(self, views: int) -> None:
        """Ready to `refine` hands in so many views, V; another number takes a fifth of a second when it first comes."""
        self._interaction.compile(views)

    def look(self, crops: NDArray[np.uint8], half_angle: FloatArray) -> Looks:
        """Hands in crops (n, S, S, 3) uint8 BGR, n >= 1, by each alone; `half_angle` (n,)."""
        pose, betas, camera, *maps = self._estimator(crops)
        hands = decoded(self.hand, pose, betas, camera, half_angle)
        return Looks(hands, pose, half_angle, tuple(maps))

    def refine(self, looks: Looks, places: NDArray[np.int64]) -> CropHands:
        """Hands (B, V) by all their views together.

        Args:
            looks: n.
            places: (B, V), B >= 1, which of them shows hand b in view v; -1 where the hand has no such view. There the result is
                finite and means nothing.
        """
        hands = looks.hands
        location = np.concatenate([hands.pixels, hands.joints[..., 2:] / DEPTH_UNIT], axis=-1).astype(np.float32)
        half_angle = looks.half_angle.astype(np.float32)
        pose, camera = self._interaction([*looks.maps, location, looks.pose, half_angle], places)
        # The shape stays as each view sees it: the network is not trained to better it.
        return decoded(self.hand, pose, hands.betas[places], camera, looks.half_angle[places])


def decoded(
    model: HandModel,
    pose: NDArray[np.floating],
    betas: NDArray[np.floating],
    camera: NDArray[np.floating],
    half_angle: FloatArray,
) -> CropHands:
    """What networks say, (..., 16, 6), (..., 10) and (..., 3), of crops with `half_angle` (...)."""
    rotations = rotations_from_6d(pose.astype(np.float64))
    shape, placed = betas.astype(np.float64), camera.astype(np.float64)
    landmarks = forward_rotations(model, rotations, shape, np.zeros(3), with_vertices=False).landmarks
    joints = landmarks - landmarks[..., ROOT : ROOT + 1, :]
    scale, shift = placed[..., None, :1], placed[..., None, 1:]
    distance = 1 + half_angle[..., None, None] * scale * joints[..., 2:]  # in units of the root's
    pixels = (scale * joints[..., :2] + shift) / np.maximum(distance, _NEAREST)
    return CropHands(rotations, shape, placed, joints, pixels)


def rotations_from_6d(six: FloatArray) -> FloatArray:
    """Matrices (..., 3, 3) of 6D rotations (..., 6), the first two columns as (3, 2) rows (Zhou et al., CVPR 2019)."""
    first, second = np.moveaxis(six.reshape(*six.shape[:-1], 3, 2), -1, 0)
    x = _unit(first)
    z = _unit(np.cross(x, second))
    return np.stack([x, np.cross(z, x), z], axis=-1)


def axis_angle(model: HandModel, rotations: FloatArray) -> tuple[FloatArray, FloatArray]:
    """The hand model's `global_orient` (..., 3) and `hand_pose` (..., 45) of rotations (..., 16, 3, 3)."""
    turns = (
        Rotation.from_matrix(rotations.reshape(-1, 3, 3), assume_valid=True)
        .as_rotvec()
        .reshape(*rotations.shape[:-3], 48)
    )
    return turns[..., :3], turns[..., 3:] - model.pose_mean


def _unit(vector: FloatArray) -> FloatArray:
    return np.asarray(vector / np.maximum(np.linalg.norm(vector, axis=-1, keepdims=True), 1e-12))
