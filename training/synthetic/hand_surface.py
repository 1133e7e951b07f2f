"""The skin of a hand with its arm, and sleeves. Metres.

The hand model ends at the wrist. Its open end is carried on as rings up to a shoulder, so the wrist bends as the hand
turns. Skin detail is painted on a map of the flat hand (`HandSurface.chart`), to which every vertex keeps its place.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.spatial.transform import Rotation

from hamuco.engine.hand_model import HandModel
from hamuco.engine.skinning import axis_angle_to_matrix, forward
from hamuco.training.synthetic.meshes import Faces, Mesh, area_vectors, band, unit, vertex_normals
from hamuco.training.synthetic.skin_detail import Finger

FloatArray = NDArray[np.float64]

# Rings of the arm: distance from the end of the hand (m), and thickness relative to it. Beyond the elbow, distances stretch
# so that the arm ends at the shoulder.
_RINGS = np.array(
    [0.006, 0.014, 0.025, 0.04, 0.06, 0.085, 0.12, 0.17, 0.21, 0.235, 0.255, 0.275, 0.30, 0.38, 0.47, 0.56]
)
_THICKNESS = np.array([1.0, 0.99, 0.98, 0.98, 1.0, 1.07, 1.2, 1.36, 1.43, 1.42, 1.4, 1.4, 1.42, 1.5, 1.6, 1.7])
# The forearm turns out of the hand's direction over the first rings; this keeps the bend below some 35 degrees.
_SHOULDER_PULL = 0.6
_WRIST_END = 0.06  # m
_ELBOW, _ELBOW_END = 0.215, 0.295  # m, where the elbow's bend begins and ends
_ELBOW_BEND = np.radians(110.0)  # at most
_STRETCH = (0.4, 2.0)  # of the upper arm

_THUMB_BONES = slice(13, 16)
_THUMB_ROOT, _THUMB_MIDDLE, _MIDDLE_ROOT = 13, 14, 4
_FINGER_ROOTS = (13, 1, 4, 10, 7)  # thumb, index, middle, ring, little
_CLUSTERS = 110  # patches that stand for the skin where it shades other skin
_BLOCK = 200


@dataclass(frozen=True, slots=True)
class SleeveCut:
    """How a sleeve is made: distance of its cuff from the wrist, ease, height of folds (m), and where the folds lie."""

    start: float
    width: float
    folds: float
    phase: float


class HandSurface:
    """The skin of one hand with its arm: what does not change when it moves.

    Attributes:
        faces: (f, 3) counter-clockwise from outside.
        hand_count: the first so many vertices are the hand's, those of the model; the rest is arm.
        chart: (n, 3) a vertex's place on the flat right hand in its model frame: x and z in m, and how far it faces
            the back of the hand, from 1 to -1 on the palm.
        fingers: thumb to little, on the chart; `wrist` (2,) m with them.
    """

    def __init__(self, model: HandModel) -> None:
        """
        Raises:
            ValueError: the model has no end at the wrist where a forearm could go on.
        """
        self._model = model
        right = model if model.side == "right" else model.mirrored()
        hand_faces, self._loop = _open_wrist(model)
        self.hand_count, ring = len(model.v_template), len(self._loop)
        rings = np.concatenate([[self._loop], self.hand_count + np.arange(len(_RINGS) * ring).reshape(-1, ring)])
        tip = self.hand_count + len(_RINGS) * ring
        end = np.stack([rings[-1], np.roll(rings[-1], -1), np.full(ring, tip)], axis=1)
        self.faces = np.concatenate([hand_faces, *(band(a, b) for a, b in pairwise(rings)), end]).astype(np.int32)
        self._count = tip + 1
        corners = self.faces.ravel()
        self._gather = csr_array(
            (np.ones(len(corners)), (corners, np.repeat(np.arange(len(self.faces)), 3))),
            shape=(self._count, len(self.faces)),
        )
        self.chart, flat_joints = self._flat_chart(right)
        self.wrist = flat_joints[0]
        self.fingers = tuple(
            self._finger(flat_joints[first : first + 3], int(tip), right)
            for first, tip in zip(_FINGER_ROOTS, right.fingertips, strict=True)
        )
        self._patches = self._choose_patches(right)

    def extend(self, vertices: FloatArray, joints: FloatArray, shoulder: FloatArray) -> FloatArray:
        """Hand vertices (N, 3) m with the arm's (n, 3), up to `shoulder` (3,) m, all in one frame.

        Args:
            vertices: posed.
            joints: (16, 3) m, the skeleton's.
            shoulder: where the arm ends, if wrist and elbow can bend as far and its length is an arm's.
        """
        centres, turns = self._arm_path(vertices, joints, shoulder, _RINGS)
        ring = vertices[self._loop] - vertices[self._loop].mean(axis=0)
        back = unit(joints[0] - joints[_MIDDLE_ROOT])
        # The end of the mesh is not flat; the rings become so.
        keep = np.maximum(1 - _RINGS / 0.03, 0)[:, None, None]
        along = (ring @ back)[:, None] * back
        rings = (ring - along) * _THICKNESS[:, None, None] + keep * along
        rings = rings @ turns.transpose(0, 2, 1) + centres[:, None]
        end = centres[-1] + turns[-1] @ back * 0.02
        return np.concatenate([vertices, rings.reshape(-1, 3), end[None]])

    def normals(self, points: FloatArray) -> FloatArray:
        """Unit normals (n, 3) of posed points (n, 3), averaged over the triangles by area."""
        return unit(np.asarray(self._gather @ area_vectors(points, self.faces)))

    def patches(self, points: FloatArray) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The posed skin as some hundred discs for `openness`: centres (k, 3), and area vectors (k, 3), outward."""
        areas = (area_vectors(points, self.faces) / 2).astype(np.float32)
        return self._patches[0] @ points.astype(np.float32), self._patches[1] @ areas

    def sleeve(self, points: FloatArray, joints: FloatArray, shoulder: FloatArray, cut: SleeveCut) -> Mesh:
        """A sleeve around the arm of a posed hand, from its cuff on.

        Args:
            points: (n, 3) m, of `extend`.
            joints: (16, 3) m.
            shoulder: (3,) m, as given to `extend`.
            cut: how it is made.
        """
        inner = cut.start + 0.006
        s = np.concatenate([[inner, cut.start], np.linspace(cut.start, _RINGS[-1] + 0.02, 24)[1:]])
        centres, turns = self._arm_path(points, joints, shoulder, s)
        ring = points[self._loop] - points[self._loop].mean(axis=0)
        back = unit(joints[0] - joints[_MIDDLE_ROOT])
        ring = ring - (ring @ back)[:, None] * back
        ring = np.concatenate([ring, ring[:1]])  # closed by a seam, so that the texture can go around once
        radius = np.linalg.norm(ring, axis=1)
        angle = np.linspace(0, 2 * np.pi, len(ring))
        thickness = np.interp(s, _RINGS, _THICKNESS)[:, None]
        width = np.concatenate([[0.0], np.full(len(s) - 1, cut.width)])[:, None]
        folds = cut.folds * np.sin(s[:, None] * 130 + 2 * np.sin(angle + cut.phase)) * (np.arange(len(s)) > 1)[:, None]
        scale = thickness + (width + 0.0015 + folds) / radius
        rings = (ring * scale[:, :, None]) @ turns.transpose(0, 2, 1) + centres[:, None]
        ids = np.arange(rings.shape[0] * len(ring)).reshape(-1, len(ring))
        faces = np.concatenate([band(a, b, closed=False) for a, b in pairwise(ids)])
        flat = rings.reshape(-1, 3)
        normals = vertex_normals(flat, faces)
        around = np.broadcast_to(angle * radius.mean(), (len(s), len(ring)))
        uv = np.stack([around, np.broadcast_to(s[:, None], around.shape)], axis=-1).reshape(-1, 2)
        return Mesh(flat, normals, uv, faces.astype(np.int32))

    def _arm_path(
        self, points: FloatArray, joints: FloatArray, shoulder: FloatArray, s: FloatArray
    ) -> tuple[FloatArray, FloatArray]:
        """Centres (k, 3) of the arm at distances s (k,), and rotations (k, 3, 3) of the wrist's ring to there."""
        start = points[self._loop].mean(axis=0)
        back = unit(joints[0] - joints[_MIDDLE_ROOT])
        wrist = _turn_between(back, unit(back + _SHOULDER_PULL * unit(shoulder - start)), np.pi)
        # The path is integrated finely, so that it does not depend on where it is asked for.
        fine = np.linspace(0, _RINGS[-1] + 0.02, 49)
        middle = (fine[1:] + fine[:-1]) / 2

        def wrist_turns(at: FloatArray) -> FloatArray:
            return axis_angle_to_matrix(np.clip(at / _WRIST_END, 0, 1)[:, None] * wrist)

        steps = np.diff(fine)[:, None] * (wrist_turns(middle) @ back)
        elbow = start + steps[middle < (_ELBOW + _ELBOW_END) / 2].sum(axis=0)
        bend = _turn_between(steps[-1], shoulder - elbow, _ELBOW_BEND)

        def turns(at: FloatArray) -> FloatArray:
            share = np.clip((at - _ELBOW) / (_ELBOW_END - _ELBOW), 0, 1)
            return np.asarray(axis_angle_to_matrix(share[:, None] * bend) @ wrist_turns(at))

        length = _RINGS[-1] - (_ELBOW + _ELBOW_END) / 2
        stretch = np.clip(np.linalg.norm(shoulder - elbow) / length, *_STRETCH)
        steps = (np.diff(fine) * np.where(middle > _ELBOW_END, stretch, 1.0))[:, None] * (turns(middle) @ back)
        path = np.concatenate([np.zeros((1, 3)), np.cumsum(steps, axis=0)])
        centres = np.stack([np.interp(s, fine, path[:, k]) for k in range(3)], axis=1) + start
        return centres, turns(s)

    def area_vectors(self, points: FloatArray) -> FloatArray:
        return area_vectors(points, self.faces)

    def _finger(self, joints: FloatArray, tip: int, right: HandModel) -> Finger:
        """A finger with joints (3, 2) m on the chart and this fingertip."""
        points = np.concatenate([joints, self.chart[tip : tip + 1, :2]])
        direction = unit(points[3] - points[2])
        from_tip = self.chart[: self.hand_count, :2] - points[3]
        along, across = from_tip @ direction, from_tip @ np.array([-direction[1], direction[0]])
        bone = int(right.weights[tip].argmax())
        near = (np.abs(along + 0.010) < 0.006) & (right.weights[:, bone] > 0.5)
        points[3] += direction * along[right.weights[:, bone] > 0.5].max()  # the tip is where the finger ends
        return Finger(points, float(np.ptp(across[near])))

    def _flat_chart(self, right: HandModel) -> tuple[FloatArray, FloatArray]:
        """The hand laid flat: finger joints as in the rest pose, the thumb turned so that its nail faces the back.

        Returns the chart (n, 3) and the joints (16, 2) on it.
        """
        pose = -right.pose_mean
        zero = np.zeros(3)
        mesh = forward(right, zero, pose, np.zeros(10), zero)
        along = unit(mesh.joints[_THUMB_BONES][-1] - mesh.joints[_THUMB_ROOT])
        flexion = unit(right.pose_mean.reshape(15, 3)[_THUMB_MIDDLE - 1 : _THUMB_MIDDLE + 1].sum(axis=0))
        dorsal = unit(np.cross(along, flexion))
        flexion = np.cross(dorsal, along)
        flat_along = unit(along * [1, 0, 1])
        flat = np.stack([flat_along, [0, 1, 0], np.cross(flat_along, [0, 1, 0])], axis=1)
        turn = flat @ np.stack([along, dorsal, np.cross(along, dorsal)], axis=1).T
        pose[3 * (_THUMB_ROOT - 1) : 3 * _THUMB_ROOT] += Rotation.from_matrix(turn).as_rotvec()
        mesh = forward(right, zero, pose, np.zeros(10), zero)
        assert mesh.vertices is not None
        points = self.extend(mesh.vertices, mesh.joints, mesh.joints[0] + [0.56, 0, 0])
        normals = self.normals(points) * (1 if self._model.side == "right" else -1)  # its faces are the left hand's
        return np.stack([points[:, 0], points[:, 2], normals[:, 1]], axis=1), mesh.joints[:, [0, 2]]

    def _choose_patches(self, right: HandModel) -> tuple[csr_array, csr_array]:
        """Mean position (k, n) and summed area (k, f) of patches of neighbouring triangles."""
        mesh = forward(right, np.zeros(3), np.zeros(45), np.zeros(10), np.zeros(3))
        assert mesh.vertices is not None
        points = self.extend(mesh.vertices, mesh.joints, mesh.joints[0] + [0.56, 0, 0])
        points = np.concatenate([points, 0.02 * self.normals(points)], axis=1)  # opposite sides are far apart
        middles = points[self.faces].mean(axis=1)
        chosen, distance = [0], np.full(len(middles), np.inf)
        nearest = np.zeros(len(middles), np.int64)
        for index in range(_CLUSTERS):
            own = np.linalg.norm(middles - middles[chosen[-1]], axis=1)
            nearest[own < distance] = index
            distance = np.minimum(distance, own)
            chosen.append(int(distance.argmax()))
        area = csr_array(
            (np.ones(len(middles), np.float32), (nearest, np.arange(len(middles)))), (_CLUSTERS, len(middles))
        )
        corners = csr_array(
            (np.full(3 * len(middles), 1 / 3, np.float32), (np.repeat(nearest, 3), self.faces.ravel())),
            (_CLUSTERS, self._count),
        )
        size = np.bincount(nearest, minlength=_CLUSTERS).astype(np.float32)
        return csr_array(corners / size[:, None]), area


def openness(
    points: NDArray[np.float32], normals: NDArray[np.float32], discs: NDArray[np.float32], vectors: NDArray[np.float32]
) -> NDArray[np.float32]:
    """How open the sky is above points (n, 3) with normals (n, 3) among discs (k, 3) with area vectors (k, 3): (n,) 0 to 1.

    The share of the cosine-weighted sky that each disc covers is its form factor, as in Bunnell, GPU Gems 2 (2005),
    chapter 14. Discs are seen from the side to which their vector points.
    """
    area = np.linalg.norm(vectors, axis=1)
    middle = discs.mean(axis=0)
    points, discs = points - middle, discs - middle  # squares of small numbers are exact enough
    one, ones = np.ones_like(points[:, :1]), np.ones_like(area)
    # Products of matrices give, for each point (row) and disc (column), with r the way from one to the other:
    above = np.hstack([normals, -(normals * points).sum(axis=1, keepdims=True)])
    ahead = np.vstack([discs.T, ones])  # r cos at the point
    place = np.hstack([points, (points**2).sum(axis=1, keepdims=True), one])
    facing = np.vstack([vectors.T, 0 * ones, -(vectors * discs).sum(axis=1)])  # area r cos at the disc
    squared = np.vstack([-2 * discs.T, ones, (discs**2).sum(axis=1)])  # r^2
    widened = np.float32(np.pi) * squared
    widened[-1] += area  # pi r^2 + area
    covered = np.empty(len(points), np.float32)
    # In blocks that stay in the cache, which is several times as fast.
    for start in range(0, len(points), _BLOCK):
        block = slice(start, start + _BLOCK)
        cover, seen, distance = above[block] @ ahead, place[block] @ facing, place[block] @ squared
        cover += np.abs(cover)  # twice what is above zero, in less time than np.maximum takes
        seen += np.abs(seen)
        cover *= seen
        np.maximum(distance, 1e-6, out=distance)
        distance *= place[block] @ widened
        cover /= distance
        covered[block] = cover @ (0.25 * ones)
    return np.asarray(np.exp(-1.2 * covered), np.float32)


def _open_wrist(model: HandModel) -> tuple[Faces, NDArray[np.int64]]:
    """The faces without a lid on the wrist, and the loop of vertices around it in the order in which rings go on."""
    joints = model.J_regressor @ model.v_template
    back = unit(joints[0] - joints[_MIDDLE_ROOT])
    faces = model.faces
    hub = int(np.bincount(faces.ravel()).argmax())
    corners = model.v_template[faces]
    normals = unit(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]))
    # A closed model has the wrist covered by a fan of triangles, which all face away from the hand.
    lid = (faces == hub).any(axis=1) & (normals @ back > 0.6)
    if _boundary(faces):
        lid[:] = False
    kept = faces[~lid]
    following = _boundary(kept)
    if not following:
        raise ValueError(f"hand model {model.name!r} is closed and has no lid at the wrist: no forearm can be put on")
    loop = [min(following)]
    while (step := following[loop[-1]]) != loop[0]:
        loop.append(step)
    if len(loop) != len(following):
        raise ValueError(
            f"hand model {model.name!r} has {len(following)} open edges, {len(loop)} of them around the wrist: "
            f"only the wrist may be open"
        )
    return kept, np.array(loop)


def _boundary(faces: Faces) -> dict[int, int]:
    """Open edges, vertex -> next vertex, against the direction of their faces."""
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]).tolist()
    known = {(a, b) for a, b in edges}
    return {b: a for a, b in known if (b, a) not in known}


def _turn_between(one: FloatArray, other: FloatArray, most: float) -> FloatArray:
    """Axis-angle (3,) of the shortest turn from one direction to another, by at most so many rad."""
    axis = np.cross(unit(one), unit(other))
    sine = float(np.linalg.norm(axis))
    angle = min(float(np.arctan2(sine, unit(one) @ unit(other))), most)
    return np.asarray(axis * (angle / max(sine, 1e-9)))
