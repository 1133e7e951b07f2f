"""A small hand in MANO layout with the proportions of a real one: rings of four vertices around the 21 joints."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from hamuco.engine.hand_model import HandModel
from hamuco.fusion.anatomy import Anatomy
from hamuco.fusion.fit import HandPoses
from hamuco.fusion.kinematics import Posed, Skeleton, pose

FloatArray = NDArray[np.float64]

# Right palm facing the viewer: x towards the thumb, y towards the fingertips, z out of the palm; metres.
_BASES = ((25, 90, 0), (3, 95, -3), (-37, 78, -4), (-18, 88, -2), (25, 25, 12))  # index, middle, little, ring, thumb
_LENGTHS = ((40, 23, 20), (44, 27, 22), (32, 19, 18), (41, 26, 22), (45, 32, 27))
_SPREAD = (0.12, 0.02, -0.2, -0.1)  # rad, of the four fingers in the plane of the palm
_LANDMARK_STARTS = (5, 9, 17, 13, 1)  # landmark of each finger's first joint
_RADIUS = 0.008


def synthetic_hand(side: str = "right") -> HandModel:
    """Slightly bent fingers at rest, a mean pose that bends them more, and ten shape directions of a few per cent each."""
    centres, weights, fingers = [np.zeros(3)], [np.eye(16)[[0] * 4]], [-1]
    for finger, (base, lengths) in enumerate(zip(_BASES, _LENGTHS, strict=True)):
        point, bone = np.array(base) / 1000.0, 0
        for level in range(4):
            centres.append(point)
            fingers.append(finger)
            child = 1 + 3 * finger + min(level, 2)
            # The palm's side of a joint moves more with the far bone, as on a real hand.
            share = np.array([0.3, 0.5, 0.7, 0.5]) if level < 3 else np.ones(4)
            blend = np.zeros((4, 16))
            blend[:, bone] += 1.0 - share
            blend[:, child] += share
            weights.append(blend)
            bone = child
            if level < 3:
                point = point + lengths[level] / 1000.0 * _direction(finger, level)
    centre = np.array(centres)  # (21, 3), wrist and then the fingers in MANO order
    ring = _RADIUS * np.array([(0, 0, -1), (1, 0, 0), (0, 0, 1), (-1, 0, 0)])
    vertices = (centre[:, None] + ring).reshape(-1, 3)
    shapedirs = _shape_directions(centre, np.array(fingers))
    average = np.kron(np.eye(21), np.full((1, 4), 0.25))  # (21, 84) centre of every ring
    joint_rows = [0, *(1 + 4 * finger + level for finger in range(5) for level in range(3))]
    landmark_regressor = np.zeros((21, 84))
    landmark_regressor[0] = average[0]
    for finger, start in enumerate(_LANDMARK_STARTS):
        landmark_regressor[start : start + 4] = average[1 + 4 * finger : 5 + 4 * finger]
    pose_mean = np.zeros((15, 3))
    pose_mean[:12, 0] = 0.15
    mirror = np.array([1.0, 1.0, 1.0]) if side == "right" else np.array([-1.0, 1.0, 1.0])
    return HandModel(
        name="synthetic",
        licence="Apache-2.0",
        side=side,
        v_template=vertices * mirror,
        shapedirs=np.repeat(shapedirs, 4, axis=0) * mirror[:, None],
        posedirs=None,
        weights=np.concatenate(weights),
        J_regressor=average[joint_rows],
        parents=np.array([-1, *(0 if joint % 3 == 1 else joint - 1 for joint in range(1, 16))]),
        faces=np.array([[4 * k, 4 * k + 1, 4 * k + 2] for k in range(21)], np.int32),
        pose_mean=(pose_mean * mirror * mirror.prod()).ravel(),
        landmark_regressor=landmark_regressor,
        fingertips=np.array([80, 16, 32, 64, 48]) + 2,
        uv=None,
    )


def _direction(finger: int, level: int) -> FloatArray:
    bend = 0.08 * (level + 1)
    if finger == 4:
        along, inwards = np.array([0.62, 0.71, 0.33]), np.array([-0.7, 0.3, 0.65])
        direction = along + bend * inwards
    else:
        direction = np.array([np.sin(_SPREAD[finger]), np.cos(_SPREAD[finger]), np.tan(bend)])
    unit: FloatArray = direction / np.linalg.norm(direction)
    return unit


def _shape_directions(centre: FloatArray, fingers: NDArray[np.int64]) -> FloatArray:
    """(21, 3, 10): size, finger length, palm width, then single fingers, palm length and depth."""
    directions = np.zeros((21, 3, 10))
    directions[:, :, 0] = 0.06 * centre
    first = np.array([centre[1 + 4 * finger] if finger >= 0 else centre[0] for finger in fingers])
    along_finger = np.where(fingers[:, None] >= 0, centre - first, 0.0)
    directions[:, :, 1] = 0.05 * along_finger
    directions[:, 0, 2] = 0.06 * first[:, 0]
    for finger in range(5):
        directions[:, :, 3 + finger] = 0.03 * np.where(fingers[:, None] == finger, along_finger, 0.0)
    directions[:, 1, 8] = 0.04 * first[:, 1]
    directions[:, 2, 9] = 0.1 * centre[:, 2]
    return directions


def random_hands(skeleton: Skeleton, seed: int, span: float = 0.95) -> Posed:
    """Hands anywhere, in any orientation, with angles over `span` of their ranges; fingertips follow within 17 degrees."""
    rng = np.random.default_rng(seed)
    anatomy = Anatomy.of(skeleton)
    hands = len(skeleton)
    middle, half = (anatomy.upper + anatomy.lower) / 2, (anatomy.upper - anatomy.lower) / 2
    angles = middle + span * half * rng.uniform(-1, 1, (hands, 45))
    for joint in (1, 4, 7, 10):  # the middle joints of the four fingers, among the 15
        bent = angles[:, 3 * joint] - skeleton.straight[:, joint]
        follow = skeleton.straight[:, joint + 1] + 2 / 3 * bent + rng.normal(0, 0.3, hands)
        tip = 3 * (joint + 1)
        angles[:, tip] = np.clip(follow, anatomy.lower[:, tip], anatomy.upper[:, tip])
    orient = Rotation.random(hands, rng=rng).as_rotvec()
    return pose(skeleton, orient, rng.normal(0, 0.5, (hands, 3)), angles)


def poses_of(skeleton: Skeleton, posed: Posed) -> HandPoses:
    """The parameters of posed hands."""
    angles = (posed.angles - skeleton.mean_angles).reshape(-1, 15, 3, 1)
    return HandPoses(
        global_orient=Rotation.from_matrix(posed.wrist_rotation).as_rotvec(),
        hand_pose=(skeleton.basis[:, 1:] @ angles).reshape(-1, 45),
        transl=posed.wrist_position - skeleton.wrist,
    )


def mixed_skeleton(hands: int, seed: int = 0) -> Skeleton:
    """Hands of random shape, right and left by turns."""
    rng = np.random.default_rng(seed)
    models = synthetic_hand("right"), synthetic_hand("left")
    return Skeleton.stack([Skeleton.of(models[hand % 2], rng.normal(size=10)) for hand in range(hands)])
