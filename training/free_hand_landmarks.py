"""Finds out where the landmark network sees the 21 joints of the free hand.

The network's joints are not the skeleton's: on real hands its wrist is some 96 mm from the middle knuckle. So the hand
is rendered in many poses, shapes and views, the network is run on the renders, its landmarks are triangulated with the
exact cameras, and each landmark is expressed by a few vertices of the mesh.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import moderngl
import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from hamuco.calibration.camera import Camera
from hamuco.engine.crops import CropCamera
from hamuco.engine.hand_model import JOINTS, LANDMARKS, HandModel
from hamuco.engine.landmarks import CROP_SIZE, regions_from_joints
from hamuco.engine.model_files import HAND_LANDMARK, model_path
from hamuco.engine.openvino_networks import Network
from hamuco.engine.skinning import axis_angle_to_matrix, bone_transforms, forward, pose_rotations, rest_joints

FloatArray = NDArray[np.float64]

_MIN_PRESENCE = 0.8
_MIN_VIEWS = 5
_ROBUST_SCALE = 0.004  # m; landmarks of a single view are some millimetres off, wrong ones centimetres
_CAMERA_DISTANCE = 0.6  # m
_FIT_STEPS = 6
_LEAST_WEIGHT = 0.015

# Landmark -> skeleton joint, for all but the wrist and the fingertips.
LANDMARK_JOINTS = {
    1 + 4 * finger + part: first + part
    for finger, first in enumerate((13, 1, 4, 10, 7))  # thumb, index, middle, ring, little
    for part in range(3)
}

_VERTEX_SHADER = """
#version 330
uniform float focal_over_half_size;
in vec3 position;
in vec3 normal;
in vec3 colour;
out vec3 surface_normal;
out vec3 surface_colour;
out vec3 view;
void main() {
    surface_normal = normal;
    surface_colour = colour;
    view = -position;
    float near = 0.05, far = 5.0;
    gl_Position = vec4(
        focal_over_half_size * position.x,
        -focal_over_half_size * position.y,
        (position.z * (far + near) - 2.0 * far * near) / (far - near),
        position.z);
}
"""

# Half Lambert with a warm tint in the shade, as light scattered under the skin gives it, and a weak broad highlight.
_FRAGMENT_SHADER = """
#version 330
uniform vec3 light;
uniform float ambient;
in vec3 surface_normal;
in vec3 surface_colour;
in vec3 view;
out vec4 pixel;
void main() {
    vec3 n = normalize(surface_normal);
    float wrapped = clamp(dot(n, light) * 0.6 + 0.4, 0.0, 1.0);
    vec3 shade = mix(vec3(0.55, 0.32, 0.26), vec3(1.0), wrapped);
    float highlight = pow(max(dot(n, normalize(light + normalize(view))), 0.0), 20.0) * 0.12;
    float rim = 0.75 + 0.25 * max(dot(n, normalize(view)), 0.0);
    pixel = vec4(surface_colour * (ambient + (1.0 - ambient) * shade * wrapped) * rim + highlight, 1.0);
}
"""


class Renderer:
    """Draws one closed mesh into square images with a software or hardware OpenGL, without a window."""

    def __init__(self, faces: NDArray[np.int32], vertex_count: int, size: int) -> None:
        settings: dict[str, Any] = {"backend": "egl"}  # needs no display
        self._context = moderngl.create_context(standalone=True, **settings)
        self._program = self._context.program(vertex_shader=_VERTEX_SHADER, fragment_shader=_FRAGMENT_SHADER)
        self._faces = faces
        self._size = size
        self._buffer = self._context.buffer(reserve=vertex_count * 9 * 4)
        self._mesh = self._context.vertex_array(
            self._program,
            [(self._buffer, "3f 3f 3f", "position", "normal", "colour")],
            self._context.buffer(faces.astype(np.int32).tobytes()),
        )
        self._samples = self._context.framebuffer(
            self._context.renderbuffer((size, size), samples=4),
            self._context.depth_renderbuffer((size, size), samples=4),
        )
        self._target = self._context.simple_framebuffer((size, size), components=3)
        self._context.enable(moderngl.DEPTH_TEST)

    def draw(
        self, points: FloatArray, colours: FloatArray, focal: float, background: FloatArray, light: FloatArray
    ) -> NDArray[np.uint8]:
        """An image (size, size, 3) BGR of vertices (n, 3) m in the frame of a pinhole camera, its axis in the middle.

        Args:
            points: in front of the camera.
            colours: (n, 3) BGR, 0 to 1.
            focal: px.
            background: (3,) BGR, 0 to 1.
            light: (3,) unit direction towards the light, camera frame.
        """
        corners = points[self._faces]
        face_normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        normals = np.zeros_like(points)
        for corner in range(3):
            np.add.at(normals, self._faces[:, corner], face_normals)
        self._buffer.write(np.concatenate([points, normals, colours], axis=1).astype(np.float32).tobytes())
        self._program["focal_over_half_size"] = 2 * focal / self._size
        self._program["light"] = tuple(light)
        self._program["ambient"] = 0.35
        self._samples.use()
        self._samples.clear(*background)
        self._mesh.render()
        self._context.copy_framebuffer(self._target, self._samples)
        pixels = np.frombuffer(self._target.read(components=3, alignment=1), np.uint8)
        return pixels.reshape(self._size, self._size, 3)[::-1]


@dataclass(frozen=True, slots=True, eq=False)
class Observations:
    """What the network sees of posed hands.

    Attributes:
        pose: (poses, 45) relative to the mean pose.
        betas: (poses, 10).
        vertices: (poses, N, 3) m.
        landmarks: (poses, 21, 3) m, triangulated.
        spread: (poses, 21) m, median distance of the views' rays from them.
    """

    pose: FloatArray
    betas: FloatArray
    vertices: FloatArray
    landmarks: FloatArray
    spread: FloatArray


class LandmarkObserver:
    """Renders posed hands with a forearm and triangulates what the landmark network says about the renders."""

    def __init__(self, model: HandModel, wrist_loop: NDArray[np.int64]) -> None:
        """`wrist_loop` are the vertices around the end of the mesh, in the order in which the forearm's faces go on."""
        self._model = model
        self._loop = wrist_loop
        count, ring = len(model.v_template), len(wrist_loop)
        rings = np.concatenate([[wrist_loop], count + np.arange(4 * ring).reshape(4, ring)])
        quads = [
            (near[i], near[(i + 1) % ring], far[(i + 1) % ring], far[i])
            for near, far in pairwise(rings)
            for i in range(ring)
        ]
        forearm = [triangle for a, b, c, d in quads for triangle in ((a, b, c), (a, c, d))]
        end = np.isin(model.faces, wrist_loop).all(axis=1)
        faces = np.concatenate([model.faces[~end], np.array(forearm)]).astype(np.int32)
        self._renderer = Renderer(faces, count + 4 * ring, CROP_SIZE)
        self._network = Network(model_path(HAND_LANDMARK))

    def observe(self, poses: int, views: int, rng: np.random.Generator) -> Observations:
        """Observe random poses and shapes, each from `views` directions around it."""
        kept = []
        for _ in range(poses):
            pose, betas = random_pose(self._model, rng), rng.normal(0, 0.7, 10)
            mesh = forward(self._model, np.zeros(3), pose, betas, np.zeros(3))
            assert mesh.vertices is not None
            cameras = [_random_camera(mesh.landmarks, rng) for _ in range(views)]
            # Twice: the second crop is laid around what the first one showed, as in tracking.
            seen, _ = self._triangulate(mesh.vertices, mesh.landmarks, cameras, rng)
            around = np.where(np.isfinite(seen), seen, mesh.landmarks)
            seen, rest = self._triangulate(mesh.vertices, around, cameras, rng)
            if np.isfinite(seen).all():
                kept.append((pose, betas, mesh.vertices, seen, rest))
        return Observations(*(np.array(column) for column in zip(*kept, strict=True)))

    def picture(
        self, vertices: FloatArray, camera: Camera, crop: CropCamera, rng: np.random.Generator
    ) -> NDArray[np.uint8]:
        """A render (224, 224, 3) BGR of hand vertices (N, 3) m with forearm, random skin, light and background."""
        skin = np.array([0.55, 0.66, 0.88]) * rng.uniform(0.45, 1.0) * rng.uniform(0.93, 1.07, 3)
        colours = np.tile(skin, (len(vertices) + 4 * len(self._loop), 1))
        if rng.random() < 0.4:  # a sleeve
            colours[len(vertices) + len(self._loop) :] = rng.uniform(0, 1, 3)
        light = np.array([rng.normal(0, 0.5), rng.normal(-0.5, 0.4), -1.0])
        whole = np.concatenate([vertices, self._forearm(vertices, rng)])
        points = camera.to_camera(whole) @ crop.crop_from_camera.T
        background = rng.uniform(0.05, 0.95) * rng.uniform(0.85, 1.0, 3)
        return self._renderer.draw(points, colours, crop.focal, background, light / np.linalg.norm(light))

    def _forearm(self, vertices: FloatArray, rng: np.random.Generator) -> FloatArray:
        """Four rings (4 * loop, 3) that carry the end of the mesh on, away from the hand, a little bent."""
        ring = vertices[self._loop]
        middle = ring.mean(axis=0)
        back = middle - vertices[self._model.weights[:, 0] > 0.95].mean(axis=0)
        back = back / np.linalg.norm(back) + rng.normal(0, 0.15, 3)
        back /= np.linalg.norm(back)
        steps = ((0.015, 1.0), (0.05, 1.08), (0.12, 1.3), (0.25, 1.5))
        return np.concatenate([middle + (ring - middle) * scale + back * step for step, scale in steps])

    def _triangulate(
        self, vertices: FloatArray, around: FloatArray, cameras: list[Camera], rng: np.random.Generator
    ) -> tuple[FloatArray, FloatArray]:
        crops = [(region.camera, region.crop) for region in regions_from_joints(cameras, [(None, around)])]
        images = np.stack([self.picture(vertices, camera, crop, rng) for camera, crop in crops])
        screen, presence, _, _ = self._network(images)
        pixels = screen.reshape(-1, LANDMARKS, 3)[..., :2].astype(np.float64) - 0.5
        kept = [index for index in range(len(crops)) if presence[index, 0] > _MIN_PRESENCE]
        if len(kept) < _MIN_VIEWS:
            return np.full((LANDMARKS, 3), np.nan), np.full(LANDMARKS, np.nan)
        rays = np.stack([crops[i][0].world_rays(crops[i][1].directions(pixels[i])) for i in kept], axis=1)
        centres = np.array([crops[i][0].centre for i in kept])
        return triangulate_robustly(centres, rays)


def sparse_combination(
    vertices: FloatArray,
    targets: FloatArray,
    candidates: int,
    *,
    allowed: NDArray[np.bool_] | None = None,
    noise: float = 0.0,
) -> FloatArray:
    """Non-negative weights (N,), summing to 1, of the vertices nearest to a point such that it is followed best.

    Args:
        vertices: (cases, N, 3) m.
        targets: (cases, 3) m.
        candidates: how many vertices to choose from.
        allowed: (N,) which vertices may be used; all by default.
        noise: m; with noisy targets cases count less the more they deviate beyond this, and the weights are spread
            over more of the ring around the joint.
    """
    distance = np.linalg.norm(vertices - targets[:, None], axis=-1).mean(axis=0)
    if allowed is not None:
        distance = np.where(allowed, distance, np.inf)
    near = np.argsort(distance)[:candidates]
    near = near[np.isfinite(distance[near])]
    trust = np.ones(len(targets))
    for step in range(_FIT_STEPS):
        # Offsets instead of positions make "sums to 1" a matter of scale, which one heavy row settles. The last rows
        # favour many vertices over few with opposite errors, and near ones over far ones.
        offsets = (vertices[:, near] - targets[:, None]).transpose(0, 2, 1)  # (cases, 3, candidates)
        weighted = (np.sqrt(trust)[:, None, None] * offsets).reshape(-1, len(near))
        spread = (1e-4 + 0.06 * noise) * np.sqrt(len(targets)) * np.diag(1 + distance[near] / 0.02)
        system = np.concatenate([weighted, np.full((1, len(near)), 10.0), spread])
        solution, _ = nnls(system, np.concatenate([np.zeros(3 * len(targets)), [10.0], np.zeros(len(near))]))
        if noise:
            trust = 1 / (1 + (np.linalg.norm(offsets @ solution, axis=1) / noise) ** 2)
        if step == _FIT_STEPS // 2:  # then go on with those that matter
            near, solution = near[solution > _LEAST_WEIGHT], solution[solution > _LEAST_WEIGHT]
    row = np.zeros(vertices.shape[1])
    row[near] = solution / solution.sum()
    return row


def triangulate_robustly(centres: FloatArray, rays: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Points (j, 3) m nearest to rays (j, views, 3) from centres (views, 3), by Cauchy weights, and the median
    distance (j,) m of the rays from them."""
    across = np.eye(3) - rays[..., :, None] * rays[..., None, :]
    weight = np.ones(rays.shape[:2])
    for _ in range(20):
        weighted = across * weight[..., None, None]
        points = np.linalg.solve(weighted.sum(axis=1), (weighted @ centres[None, :, :, None]).sum(axis=1))[..., 0]
        distance = np.linalg.norm((across @ (points[:, None] - centres)[..., None])[..., 0], axis=-1)
        weight = 1 / (1 + (distance / _ROBUST_SCALE) ** 2)
    return points, np.median(distance, axis=1)


def random_pose(model: HandModel, rng: np.random.Generator) -> FloatArray:
    """A hand pose (45,) as fingers do it: bends about the mean pose's own axes, some spreading, a moving thumb."""
    mean = model.pose_mean.reshape(15, 3)
    pose = np.zeros((15, 3))
    curl = rng.uniform(-0.3, 1.0)
    for first in (0, 3, 6, 9):
        axis = mean[first + 1] / np.linalg.norm(mean[first + 1])
        own = np.clip(curl + rng.normal(0, 0.25), -0.35, 1.2)
        bends = own * np.array([1.0, 1.0, 0.6]) + rng.normal(0, 0.12, 3)
        pose[first : first + 3] = bends[:, None] * axis
        pose[first, 1] += rng.normal(0, 0.1)
    thumb = mean[14] / np.linalg.norm(mean[14])
    pose[12] = rng.normal(0, 0.15, 3)
    pose[13:] = rng.uniform(-0.3, 0.5, (2, 1)) * thumb
    return pose.ravel()


def _random_camera(landmarks: FloatArray, rng: np.random.Generator) -> Camera:
    """A camera that looks at the hand, not along it: there a single image says little about the joints."""
    middle, along = landmarks.mean(axis=0), landmarks[9] - landmarks[0]
    along = along / np.linalg.norm(along)
    while True:
        direction = rng.normal(size=3)
        direction /= np.linalg.norm(direction)
        if abs(direction @ along) < 0.7:
            break
    rotation = axis_angle_to_matrix(rng.normal(0, 1, 3))
    z = -direction
    x = np.cross(rotation[0], z)
    x /= np.linalg.norm(x)
    camera_from_world = np.eye(4)
    camera_from_world[:3, :3] = np.stack([x, np.cross(z, x), z])
    camera_from_world[:3, 3] = -camera_from_world[:3, :3] @ (middle + direction * _CAMERA_DISTANCE)
    matrix = np.array([[1000.0, 0, 639.5], [0, 1000.0, 479.5], [0, 0, 1]])
    return Camera("virtual", (1280, 960), matrix, np.zeros(0), camera_from_world)


def joint_offsets(model: HandModel, seen: Observations) -> FloatArray:
    """How far (16, 3) m the seen landmarks are from the model's joints, in the rest pose; zero for the wrist.

    A joint belongs to two bones; seen from the one and from the other it should be at the same place.
    """
    joints = rest_joints(model, seen.betas)
    rotations = pose_rotations(model, np.zeros(3), seen.pose)
    transforms = bone_transforms(rotations, joints)
    offsets = np.zeros((JOINTS, 3))
    for landmark, joint in LANDMARK_JOINTS.items():
        for bone in (joint, int(model.parents[joint])):
            moved = seen.landmarks[:, landmark] - transforms[:, bone, :, 3]
            at_rest = (moved[:, None] @ transforms[:, bone, :, :3])[:, 0]
            offsets[joint] += np.median(at_rest - joints[:, joint], axis=0) / 2
    return offsets


def fit_landmarks(model: HandModel, seen: Observations) -> HandModel:
    """The model with a landmark regressor fitted to two thirds of the observations; prints what the last third says."""
    split = 2 * len(seen.pose) // 3
    regressor = np.zeros((LANDMARKS, len(model.v_template)))
    for landmark in range(LANDMARKS):
        # Fingers touch: only a finger's own vertices may speak for its joints beyond the knuckle.
        first = 1 + 3 * (0, 1, 3, 2)[(landmark - 5) // 4] if landmark > 4 else 13
        own = model.weights[:, first : first + 3].sum(axis=1) > 0.5
        allowed = own if landmark not in (0, 1, 5, 9, 13, 17) else None
        regressor[landmark] = sparse_combination(
            seen.vertices[:split], seen.landmarks[:split, landmark], 150, allowed=allowed, noise=_ROBUST_SCALE
        )
    deviation = regressor @ seen.vertices[split:] - seen.landmarks[split:]
    median = np.median(np.linalg.norm(deviation, axis=-1), axis=0)
    print(f"landmarks, median distance on held-out poses {np.round(1e3 * median, 1)} mm")
    bias = np.linalg.norm(np.median(deviation, axis=0), axis=-1)
    print(f"landmarks, median deviation on held-out poses {np.round(1e3 * bias, 1)} mm")
    print(f"vertices per landmark {(regressor > 0).sum(axis=1)}")
    return replace(model, landmark_regressor=regressor)
