"""Training crops: one posed hand as several cameras see it, with exact truth. `crop_stream` makes batches of them.

A crop is a virtual pinhole camera that looks at the hand, laid as in tracking (`hamuco.engine.landmarks`) and then moved
a little. Its truth belongs to that camera. The hand is always a right one: a network sees a left hand as a mirrored crop
of a mirrored camera, so by symmetry nothing is missing. A second hand that is in touch with it is a left one.

Sample i is a function of the options and i alone, on one machine with one GL driver; another rounds colours differently.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from hamuco.calibration.camera import Camera, Rig
from hamuco.engine.crops import CropCamera
from hamuco.engine.hand_model import HandModel
from hamuco.engine.landmarks import regions_from_joints
from hamuco.engine.skinning import axis_angle_to_matrix, forward
from hamuco.fusion.hand import HandParameters, Side
from hamuco.training.synthetic.look import Look, Preset, draw_look, with_arms_behind
from hamuco.training.synthetic.motion import draw_hands
from hamuco.training.synthetic.renderer import Renderer
from hamuco.training.synthetic.rigs import MAX_VIEWS, Layout, make_rig
from hamuco.training.synthetic.sensor import draw_sensor

FloatArray = NDArray[np.float64]

SCENE_SAMPLES = 4
"""Samples in a row that share a scene: surroundings, skins, rig, and what two hands do. Its cost is spread over them."""

_HAND_LABEL = 1  # of the first hand in rendered pictures, without its forearm
_PARAMETERS = ("global_orient", "hand_pose", "betas", "transl")
_WRIST, _MIDDLE_MCP = 0, 9
_LAYOUTS: tuple[Layout, ...] = ("ring", "dome", "table", "random")
_SPARE_CAMERAS = 2  # see `_before_the_arm`
_CAMERA_SIZE = (1280, 720)  # of the rig's cameras, px; the crops do not depend on it


@dataclass(frozen=True, slots=True, kw_only=True)
class CropOptions:
    """What the crops are like.

    Attributes:
        preset: of surroundings, skin and sensor.
        views: crops per sample, each from another camera.
        size: width and height, px.
        seed: of everything random; not negative.
        second_hand: share of the scenes in which a left hand is in touch with the hand.
        shift: largest error of the crop's centre along each side, in crop sizes.
        scale: largest factor by which a crop is too large or too small.
        rotation: largest angle from upright, rad.
        margin: how much wider crops are than a tracker lays them, for training that lays its own crops within them.

    Raises:
        ValueError: a value that makes no sense, naming it.
    """

    preset: Preset = "room"
    views: int = 4
    size: int = 128
    seed: int = 0
    second_hand: float = 0.2
    shift: float = 0.1
    scale: float = 1.25
    rotation: float = float(np.radians(20.0))
    margin: float = 1.0

    def __post_init__(self) -> None:
        limits: dict[str, tuple[float, float]] = {
            "views": (1, MAX_VIEWS - _SPARE_CAMERAS),
            "size": (16, 1024),
            "seed": (0, 2**63 - 1),
            "second_hand": (0, 1),
            "shift": (0, 0.5),
            "scale": (1, 2),
            "rotation": (0, np.pi),
            "margin": (1, 3),
        }
        if self.preset not in get_args(Preset):
            raise ValueError(f"preset {self.preset!r} is none of {', '.join(get_args(Preset))}")
        for name, (low, high) in limits.items():
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name} is {getattr(self, name):g}, expected {low:g} to {high:g}")


@dataclass(frozen=True, slots=True, eq=False)
class CropBatch:
    """B samples of V crops, S px wide.

    Attributes:
        index: (B,) int64 numbers of the samples.
        images: (B, V, S, S, 3) uint8 BGR.
        masks: (B, V, S, S) bool, where the hand is seen; its forearm is no part of it.
        matrix: (B, V, 3, 3) float32 pinhole matrices of the crops, px.
        camera_from_world: (B, V, 4, 4) float32, m, of the crops' cameras.
        parameters: of the hand, float32 with B in front: global_orient (B, 3), hand_pose (B, 45), betas (B, 10),
            transl (B, 3).
        joints: (B, 21, 3) float32 m, world: landmarks of the hand model.
        pixels: (B, V, 21, 2) float32 px of the crops, the projected joints; also outside the crop.
        visible: (B, V, 21) bool: in the crop, and nothing but the hand's own flesh lies in front of the joint.
    """

    index: NDArray[np.int64]
    images: NDArray[np.uint8]
    masks: NDArray[np.bool_]
    matrix: NDArray[np.float32]
    camera_from_world: NDArray[np.float32]
    parameters: HandParameters
    joints: NDArray[np.float32]
    pixels: NDArray[np.float32]
    visible: NDArray[np.bool_]


def sample_dtype(options: CropOptions) -> np.dtype[np.void]:
    """One sample as a record: the fields of `CropBatch` and of its parameters, without B."""
    views, size = options.views, options.size
    fields: list[tuple[str, type, tuple[int, ...]]] = [
        ("index", np.int64, ()),
        ("images", np.uint8, (views, size, size, 3)),
        ("masks", np.bool_, (views, size, size)),
        ("matrix", np.float32, (views, 3, 3)),
        ("camera_from_world", np.float32, (views, 4, 4)),
        ("global_orient", np.float32, (3,)),
        ("hand_pose", np.float32, (45,)),
        ("betas", np.float32, (10,)),
        ("transl", np.float32, (3,)),
        ("joints", np.float32, (21, 3)),
        ("pixels", np.float32, (views, 21, 2)),
        ("visible", np.bool_, (views, 21)),
    ]
    return np.dtype(fields, align=True)


def batch_of(samples: NDArray[np.void]) -> CropBatch:
    """A copy of samples (B,) of `sample_dtype`."""
    own = {name: samples[name].copy() for name in samples.dtype.names or ()}
    parameters = HandParameters(*(own.pop(name) for name in _PARAMETERS))
    return CropBatch(**own, parameters=parameters)


@dataclass(frozen=True, slots=True, eq=False)
class _Scene:
    """What samples in a row share, and the hands of each."""

    look: Look
    rig: Rig
    hands: list[tuple[tuple[Side, HandParameters], ...]]


class CropPainter:
    """Draws samples. Not for use from several threads at once."""

    def __init__(self, options: CropOptions, model: HandModel) -> None:
        """
        Args:
            options: what to draw.
            model: of a right hand.

        Raises:
            GraphicsError: there is nothing to render with.
            ValueError: the renderer cannot use this model.
        """
        self._options = options
        self._model = model
        self._models = {model.side: model, model.mirrored().side: model.mirrored()}
        self._renderer = Renderer(model)
        self._scene: tuple[int, _Scene] | None = None

    def draw(self, index: int, sample: NDArray[np.void]) -> None:
        """Draw a sample by its number into a record () of `sample_dtype`."""
        options = self._options
        scene = self._scene_of(index)
        rng = np.random.default_rng((options.seed, 1, index))
        hands = scene.hands[index % SCENE_SAMPLES]
        own = {name: getattr(hands[0][1], name) for name in _PARAMETERS}
        joints, *others = (_landmarks(self._models[side], hand) for side, hand in hands)
        look = with_arms_behind(scene.look, [joints, *others], rng)
        cameras = _crop_cameras(options, _before_the_arm(scene.rig, options.views, joints), joints, rng)
        pictures = self._renderer.draw_crops(look, hands, cameras)
        sample["index"] = index
        for name, values in own.items():
            sample[name] = values
        sample["joints"] = joints
        for view, (camera, picture) in enumerate(zip(cameras, pictures, strict=True)):
            sample["images"][view] = draw_sensor(options.preset, rng).expose(picture.colour, rng)
            np.equal(picture.labels, _HAND_LABEL, out=sample["masks"][view])
            sample["matrix"][view] = camera.matrix
            sample["camera_from_world"][view] = camera.camera_from_world
            sample["pixels"][view] = camera.project(joints)
            sample["visible"][view] = picture.visible(camera, joints)

    def _scene_of(self, index: int) -> _Scene:
        number = index // SCENE_SAMPLES
        if self._scene is None or self._scene[0] != number:
            options = self._options
            rng = np.random.default_rng((options.seed, 0, number))
            count = 2 if rng.random() < options.second_hand else 1
            layout = _LAYOUTS[rng.integers(len(_LAYOUTS))]
            rig = make_rig(layout, options.views + _SPARE_CAMERAS, _CAMERA_SIZE, rng)
            look = draw_look(options.preset, count, rng)
            hands = draw_hands(self._model, rng, count, SCENE_SAMPLES)
            self._scene = number, _Scene(look, rig, hands)
        return self._scene[1]


def _landmarks(model: HandModel, hand: HandParameters) -> FloatArray:
    mesh = forward(model, hand.global_orient, hand.hand_pose, hand.betas, hand.transl, with_vertices=False)
    return mesh.landmarks


def _before_the_arm(rig: Rig, views: int, joints: FloatArray) -> Rig:
    """So many of the cameras, in their order, without those that look most along the forearm: they would see its end."""
    forearm = joints[_WRIST] - joints[_MIDDLE_MCP]
    towards = np.stack([camera.centre for camera in rig]) - joints[_WRIST]
    along = towards @ forearm / np.linalg.norm(towards, axis=1)
    return Rig(tuple(rig.cameras[index] for index in np.sort(np.argsort(along)[:views])))


def _crop_cameras(options: CropOptions, rig: Rig, joints: FloatArray, rng: np.random.Generator) -> list[Camera]:
    """One per camera of the rig: the crop that a tracker would lay around the hand, with some error."""
    # A rig sees all of the space that hands are drawn in, so that each camera has a region.
    crops = [region.crop for region in regions_from_joints(rig, [(None, joints)])]
    size, views = options.size, len(rig)
    shift = rng.uniform(-options.shift, options.shift, (views, 2))
    larger = options.scale ** rng.uniform(-1.0, 1.0, views)
    roll = rng.uniform(-options.rotation, options.rotation, views)
    half = np.array([crop.size / 2 / crop.focal for crop in crops])  # tangents
    turns = np.zeros((2, views, 3))
    turns[0, :, 2] = roll
    turns[1, :, 0], turns[1, :, 1] = -2 * half * shift[:, 1], 2 * half * shift[:, 0]
    rolled, tilted = axis_angle_to_matrix(turns)
    rotations = rolled @ tilted @ np.stack([crop.crop_from_camera for crop in crops])
    focals = size / 2 / half / larger / options.margin
    return [
        _as_camera(camera, CropCamera(rotation, float(focal), size))
        for camera, rotation, focal in zip(rig, rotations, focals, strict=True)
    ]


def _as_camera(camera: Camera, crop: CropCamera) -> Camera:
    middle = (crop.size - 1) / 2
    matrix = np.array([[crop.focal, 0.0, middle], [0.0, crop.focal, middle], [0.0, 0.0, 1.0]])
    camera_from_world = np.eye(4)
    camera_from_world[:3] = crop.crop_from_camera @ camera.camera_from_world[:3]
    return Camera(camera.name, (crop.size, crop.size), matrix, np.zeros(0), camera_from_world)
