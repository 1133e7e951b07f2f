"""Recordings of rendered hands with exact truth: an ordinary recording with a `truth.npz` beside its `rig.toml`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hamuco.calibration.camera import Camera
from hamuco.capture.recording import Recording
from hamuco.engine.hand_model import HandModel, load_hand_model
from hamuco.training.synthetic.filming import START_NS, Draw, Exposure, FilmOptions, Shoot, Shot, film
from hamuco.training.synthetic.look import Look, draw_look
from hamuco.training.synthetic.motion import draw_trajectories
from hamuco.training.synthetic.renderer import Renderer
from hamuco.training.synthetic.sensor import draw_sensor
from hamuco.training.synthetic.truth import TRUTH_FILE, Trajectory, Truth, ViewTruth

FloatArray = NDArray[np.float64]

# The motion is known for longer than the recording: exposures have a length, and noted times are off by some ms.
_BEYOND_NS = 200_000_000
# Exposure times of dim rooms at 30 frames/s, s. Other presets are sharp: it saves drawing every frame several times.
_HARD_EXPOSURE = (0.004, 0.02)
_BLUR_STEP_PX = 2.0  # what moves between the pictures that make up one exposure
_MOST_PICTURES = 9


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipOptions(FilmOptions):
    """A recording of hands: see `FilmOptions`; `hands` is 1, right or left as the seed has it, or 2, a right and a left one."""

    hands: int = 2

    def __post_init__(self) -> None:
        FilmOptions.__post_init__(self)  # super() does not find its class in a dataclass with slots
        if self.hands not in (1, 2):
            raise ValueError(f"hands is {self.hands}, expected 1 or 2")


def write_clip(
    out: Path, options: ClipOptions, progress: Callable[[int, int], None], workers: int | None = None
) -> Recording:
    """Render a recording of hands.

    Args:
        out: folder to make; must not exist or be empty.
        options: what to record. The same options make the same motion and the same pixels.
        progress: is called with the number of frames that are done and the number of all.
        workers: see `film`.

    Raises:
        ValueError: options that cannot be, or something in the folder's place.
        GraphicsError: there is no OpenGL, or images are larger than it draws.
        OSError: the folder cannot be written, or a worker died. Nothing is left of it, see `film`.
    """
    model = load_hand_model()
    shoot = options.shoot()
    trajectories = draw_trajectories(
        model,
        options.hands,
        options.seconds + 2e-9 * _BEYOND_NS,
        START_NS - _BEYOND_NS,
        options.generator("motion"),
    )
    look = draw_look(options.look_preset, options.hands, options.generator("look"), trajectories[0].side)

    def finish(folder: Path, shots: Mapping[str, Shot]) -> None:
        views = {name: _view_truth(model, trajectories, shot) for name, shot in shots.items()}
        Truth(model.name, trajectories, views).save(folder / TRUTH_FILE)

    return film(out, shoot, partial(_open_scene, options, shoot, trajectories, look), finish, progress, workers)


def _view_truth(model: HandModel, trajectories: Sequence[Trajectory], shot: Shot) -> ViewTruth:
    hands = [trajectory.landmarks_at(shot.t_true_ns, model) for trajectory in trajectories]
    return ViewTruth(shot.t_true_ns, np.stack(hands, axis=1).astype(np.float32), shot.visible)


def _open_scene(options: ClipOptions, shoot: Shoot, trajectories: tuple[Trajectory, ...], look: Look) -> Draw:
    model = load_hand_model()
    renderer = Renderer(model)
    sensors, exposure_ns = {}, {}
    for name in shoot.rig.names:
        rng = options.generator("sensor", name)
        # Blur by motion comes from the motion here.
        sensors[name] = replace(draw_sensor(options.look_preset, rng), motion_px=np.zeros(2))
        exposure_ns[name] = round(1e9 * rng.uniform(*_HARD_EXPOSURE)) if options.preset == "hard" else 0

    def draw(name: str, index: int) -> Exposure:
        camera = shoot.rig[name]
        t_ns = int(shoot.schedules[name].t_true_ns[index])
        joints = [trajectory.landmarks_at(t_ns, model) for trajectory in trajectories]
        count = _pictures(model, trajectories, camera, t_ns, exposure_ns[name])
        pictures = [
            renderer.draw(look, [(hand.side, hand.at(time)) for hand in trajectories], camera)
            for time in (t_ns + exposure_ns[name] * (np.arange(count) - count // 2) // count).tolist()
        ]
        middle = pictures[count // 2]
        colour = np.mean([picture.colour for picture in pictures], axis=0) if count > 1 else middle.colour
        image = sensors[name].expose(colour, options.generator("noise", name, index))
        return Exposure(image, np.array([middle.visible(camera, hand) for hand in joints]))

    return draw


def _pictures(model: HandModel, trajectories: Sequence[Trajectory], camera: Camera, t_ns: int, exposure_ns: int) -> int:
    """How many pictures, an odd number, make up an exposure so that it looks like one that never stops."""
    if exposure_ns == 0:
        return 1
    ends = np.array([t_ns - exposure_ns // 2, t_ns + exposure_ns // 2])
    paths = [np.diff(camera.project(hand.landmarks_at(ends, model)), axis=0) for hand in trajectories]
    with np.errstate(invalid="ignore"):
        longest = np.nanmax(np.linalg.norm(paths, axis=-1), initial=0.0)
    return min(1 + 2 * int(longest / (2 * _BLUR_STEP_PX)), _MOST_PICTURES)
