"""What perfect networks would say of hands that are known exactly."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from rigs import ring_rig
from scipy.spatial.transform import Rotation

from hamuco.calibration.camera import Rig
from hamuco.engine.hamuco import ROOT
from hamuco.engine.hand_model import HandModel, load_hand_model, mirror_axis_angle
from hamuco.engine.landmarks import regions_from_joints
from hamuco.engine.skinning import forward, pose_rotations
from hamuco.engine.view_hand import Region
from hamuco.fusion.hand import HandParameters, Side

FloatArray = NDArray[np.float64]

MODELS: dict[Side, HandModel] = {"right": load_hand_model(), "left": load_hand_model().mirrored()}
_MIRROR = np.array([-1.0, 1.0, 1.0, 1.0])


def random_hand(seed: int = 0) -> HandParameters:
    """Of any side, near the origin."""
    rng = np.random.default_rng(seed)
    return HandParameters(
        global_orient=Rotation.random(rng=rng).as_rotvec(),
        hand_pose=rng.normal(0, 0.2, 45),
        betas=rng.normal(0, 0.5, 10),
        transl=rng.uniform(-0.05, 0.05, 3),
    )


def joints_of(hand: HandParameters, side: Side) -> FloatArray:
    """(21, 3) m."""
    own = hand.global_orient, hand.hand_pose, hand.betas, hand.transl
    return forward(MODELS[side], *own, with_vertices=False).landmarks


def regions_of(hand: HandParameters, side: Side, rig: Rig | None = None) -> list[Region]:
    """Where the cameras of a rig, or four around the origin, see a hand."""
    regions = regions_from_joints(rig or ring_rig(4), [(0, joints_of(hand, side))])
    return [Region(region.camera, region.crop, region.track_id, side == "right") for region in regions]


def network_outputs(hand: HandParameters, regions: Sequence[Region]) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Pose (V, 16, 6), betas (V, 10) and camera (V, 3) of a hand in regions; a left hand is mirrored."""
    orient, fingers, transl = hand.global_orient, hand.hand_pose, hand.transl
    crop_from_world = np.stack([region.crop_from_world for region in regions])
    if not regions[0].right:
        orient, fingers, transl = mirror_axis_angle(orient), mirror_axis_angle(fingers), transl * _MIRROR[:3]
        crop_from_world = _MIRROR[:, None] * crop_from_world * _MIRROR
    rotations = np.repeat(pose_rotations(MODELS["right"], orient, fingers)[None], len(regions), axis=0)
    rotations[:, 0] = crop_from_world[:, :3, :3] @ rotations[:, 0]
    landmarks = forward(MODELS["right"], orient, fingers, hand.betas, transl, with_vertices=False).landmarks
    root = crop_from_world[:, :3, :3] @ landmarks[ROOT] + crop_from_world[:, :3, 3]
    scale = 1 / (np.array([region.crop.half_angle for region in regions]) * root[:, 2])
    camera = np.stack([scale, scale * root[:, 0], scale * root[:, 1]], axis=1)
    betas = np.repeat(np.asarray(hand.betas, np.float64)[None], len(regions), axis=0)
    return rotations[..., :2].reshape(-1, 16, 6), betas, camera
