"""Does the landmark network, which was trained on real hands, take drawn hands for hands?

    python benchmarks/synthetic_realism.py [--crops N] [--seed S] [--sheet FOLDER]

Random hands are drawn from random directions into crops laid around the true joints, as in tracking, and shown to the
network. "Clear" are crops in which at least 15 of the 21 joints are visible: nothing but 20 mm of own flesh lies in front
of them; "along the palm" are those of them that are seen along the line from wrist to middle knuckle, within 37 degrees.
"Found" is a presence of at least 0.5. The error of a crop is the mean distance of the 21 landmarks from the projected
truth in the image, relative to the hand's size: wrist to middle knuckle in space, at the distance of the middle knuckle.
The mirrored control shows the same crops left to right: a network that treats hands alike finds them as well.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

from hamuco.calibration.camera import Camera
from hamuco.engine.hand_model import HandModel, load_hand_model
from hamuco.engine.landmarks import CROP_SIZE, regions_from_joints
from hamuco.engine.model_files import HAND_LANDMARK, model_path
from hamuco.engine.openvino_networks import Network
from hamuco.engine.quantize import hand_landmark_ranges
from hamuco.engine.skinning import forward
from hamuco.training.synthetic.look import PRESETS, Preset, draw_look, with_arms_behind
from hamuco.training.synthetic.motion import draw_hand
from hamuco.training.synthetic.placing import mirrored
from hamuco.training.synthetic.renderer import Renderer
from hamuco.training.synthetic.sensor import draw_sensor

FloatArray = NDArray[np.float64]

LEAST_VISIBLE = 15
LEAST_PRESENCE = 0.5
ALONG_FINGERS = 0.8  # cosine between the line of sight and wrist to middle knuckle
TARGETS: dict[Preset, tuple[float, float]] = {"room": (0.95, 0.06)}
WRIST, MIDDLE_MCP = 0, 9


@dataclass(frozen=True, slots=True, eq=False)
class Crop:
    """One drawn hand.

    Attributes:
        image: (224, 224, 3) uint8 BGR.
        joints: (21, 2) px, true.
        visible: (21,) bool.
        size: px, of the hand.
        along: absolute cosine between the line of sight and the palm.
    """

    image: NDArray[np.uint8]
    joints: FloatArray
    visible: NDArray[np.bool_]
    size: float
    along: float


def draw_crop(renderer: Renderer, model: HandModel, preset: Preset, rng: np.random.Generator) -> Crop | None:
    """One random hand, right or left, from any direction; None when no crop can be laid."""
    look, hand, sensor = draw_look(preset, 1, rng), draw_hand(model, rng), draw_sensor(preset, rng)
    left = rng.random() < 0.5
    own, hand = (model.mirrored(), mirrored(hand)) if left else (model, hand)
    joints = forward(own, hand.global_orient, hand.hand_pose, hand.betas, hand.transl, with_vertices=False).landmarks
    look = with_arms_behind(look, [joints], rng)
    camera = looking_at(joints.mean(axis=0), rng)
    regions = regions_from_joints([camera], [(None, joints)])
    if not regions:
        return None
    view = regions[0].crop
    turn = np.eye(4)
    turn[:3, :3] = view.crop_from_camera
    middle = (view.size - 1) / 2
    matrix = np.array([[view.focal, 0, middle], [0, view.focal, middle], [0, 0, 1]])
    size = (view.size, view.size)
    crop_camera = Camera("crop", size, matrix, np.zeros(0), turn @ camera.camera_from_world)
    (picture,) = renderer.draw_crops(look, [("left" if left else "right", hand)], [crop_camera])
    points = crop_camera.to_camera(joints)
    palm = points[MIDDLE_MCP] - points[WRIST]
    length = float(np.linalg.norm(palm))
    return Crop(
        image=sensor.expose(picture.colour, rng),
        joints=crop_camera.project(joints),
        visible=picture.visible(crop_camera, joints),
        size=view.focal * length / float(points[MIDDLE_MCP, 2]),
        along=abs(float(palm @ points[MIDDLE_MCP])) / length / float(np.linalg.norm(points[MIDDLE_MCP])),
    )


def looking_at(target: FloatArray, rng: np.random.Generator) -> Camera:
    """A camera 0.45 to 1 m from a point that looks at it, from any direction, turned in any way."""
    rotation = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    rotation *= np.sign(np.linalg.det(rotation))
    pose = np.eye(4)
    pose[:3, :3] = rotation
    pose[:3, 3] = np.array([0, 0, rng.uniform(0.45, 1.0)]) - rotation @ target
    matrix = np.array([[600.0, 0, 319.5], [0, 600.0, 239.5], [0, 0, 1]])
    return Camera("virtual", (640, 480), matrix, np.zeros(0), pose)


def judge(network: Network, crops: list[Crop], *, flipped: bool = False) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Presence (n,), error relative to the hand's size (n,), and the landmarks (n, 21, 2) px, of crops."""
    images = np.stack([crop.image[:, ::-1] if flipped else crop.image for crop in crops])
    screen, presence, _, _ = network(np.ascontiguousarray(images))
    # The network counts from the crop's corner, we from the centre of its first pixel.
    found = screen.reshape(-1, 21, 3)[..., :2].astype(np.float64) - 0.5
    if flipped:
        found[..., 0] = CROP_SIZE - 1 - found[..., 0]
    distance = np.linalg.norm(found - np.stack([crop.joints for crop in crops]), axis=-1).mean(axis=1)
    return presence[:, 0].astype(np.float64), distance / np.array([crop.size for crop in crops]), found


def sheet(crops: list[Crop], landmarks: FloatArray, presence: FloatArray, columns: int = 10) -> NDArray[np.uint8]:
    """The first crops side by side, the network's landmarks in green, the truth in red, missed hands framed."""
    tiles = []
    for crop, found, sure in zip(crops[: 6 * columns], landmarks, presence, strict=False):
        tile = crop.image.copy()
        for points, colour in ((crop.joints, (0, 0, 255)), (found, (0, 255, 0))):
            for x, y in np.rint(points).astype(int):
                cv2.circle(tile, (int(x), int(y)), 1, colour, -1)
        if sure < LEAST_PRESENCE:
            cv2.rectangle(tile, (1, 1), (CROP_SIZE - 2, CROP_SIZE - 2), (0, 0, 255), 2)
        tiles.append(tile)
    tiles += [np.zeros_like(tiles[0])] * (-len(tiles) % columns)
    rows = [np.concatenate(tiles[start : start + columns], axis=1) for start in range(0, len(tiles), columns)]
    return np.concatenate(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--crops", type=int, default=400, help="to draw for each preset")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--sheet", type=Path, help="folder for one picture of crops for each preset")
    parser.add_argument("--preset", choices=PRESETS, action="append", help="only this one; may be repeated")
    options = parser.parse_args()
    model = load_hand_model()
    renderer, network = Renderer(model), Network(model_path(HAND_LANDMARK), hand_landmark_ranges())
    table = Table("preset", "which", "crops", "found", "median", "90 %", "mirrored", "median", "")
    missed = False
    for preset in options.preset or PRESETS:
        rng = np.random.default_rng(options.seed)
        drawn = [
            draw_crop(renderer, model, preset, rng)
            for _ in track(range(options.crops), description=preset, transient=True)
        ]
        crops = [crop for crop in drawn if crop is not None]
        presence, error, landmarks = judge(network, crops)
        control_presence, control_error, _ = judge(network, crops, flipped=True)
        clear = np.array([crop.visible.sum() for crop in crops]) >= LEAST_VISIBLE
        along = np.array([crop.along for crop in crops]) > ALONG_FINGERS
        for which, chosen in (("clear", clear), ("along the palm", clear & along), ("others", ~clear)):
            found = chosen & (presence >= LEAST_PRESENCE)
            control = chosen & (control_presence >= LEAST_PRESENCE)
            share, median = float(found.sum() / chosen.sum()), float(np.median(error[found]))
            target = TARGETS.get(preset) if which == "clear" else None
            good = target is None or (share >= target[0] and median < target[1])
            missed |= not good
            table.add_row(
                preset,
                which,
                str(chosen.sum()),
                f"{share:.1%}",
                f"{median:.1%}",
                f"{np.quantile(error[found], 0.9):.1%}",
                f"{control.sum() / chosen.sum():.1%}",
                f"{np.median(control_error[control]):.1%}",
                "" if target is None else "ok" if good else "MISSED",
            )
        if options.sheet:
            options.sheet.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(options.sheet / f"{preset}.png"), sheet(crops, landmarks, presence))
    Console().print(table)
    for preset, (share, median) in TARGETS.items():
        print(f"target for {preset}, clear: found >= {share:.0%}, median error < {median:.0%} of the hand's size")
    raise SystemExit(missed)


if __name__ == "__main__":
    main()
