"""Exposures of all cameras, drawn by worker processes and written as a recording, set by set as live capture forms them."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import threading
import zlib
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from hamuco.calibration.camera import Rig
from hamuco.capture.frame import Frame, FrameSet
from hamuco.capture.interruption import starting_processes
from hamuco.capture.recording import CODECS, Codec, Recording, RecordingWriter, check_free
from hamuco.capture.synchronizer import Synchronizer
from hamuco.training.synthetic.look import PRESETS, Preset
from hamuco.training.synthetic.rigs import make_rig, parse_rig
from hamuco.training.synthetic.timing import TIMINGS, Schedule, Timing, exposure_schedule

START_NS = 1_000_000_000
"""Capture time at which recordings begin; stamps with jitter stay positive."""

_LONGEST_S = 1800.0
_LARGEST_PX = 4096
_NO_IMAGE = np.zeros((0, 0, 3), np.uint8)
_SETS_AHEAD = 2  # per worker: one in work, one ready; bounds the memory


@dataclass(frozen=True, slots=True, eq=False)
class Exposure:
    """One image, (height, width, 3) uint8 BGR, and which points of interest are visible in it: any shape, bool."""

    image: NDArray[np.uint8]
    visible: NDArray[np.bool_]


Draw = Callable[[str, int], Exposure]
"""Draws the frame with an index in its camera's schedule: draw(camera, index)."""

OpenScene = Callable[[], Draw]
"""Sets a scene up in the process that calls it. Can be pickled: it travels to the workers."""


@dataclass(frozen=True, slots=True, eq=False)
class Shoot:
    """What to record.

    Attributes:
        rig: cameras.
        timing, schedules: their exposures; a schedule for each camera.
        codec: of the videos.
    """

    rig: Rig
    timing: Timing
    schedules: Mapping[str, Schedule]
    codec: Codec


@dataclass(frozen=True, slots=True, kw_only=True)
class FilmOptions:
    """What recordings of hands and of boards have in common. The same options make the same recording.

    Attributes:
        rig: a layout and a number of cameras, such as "ring4"; see `hamuco.training.synthetic.rigs`.
        seconds: length, up to half an hour.
        seed: of everything that is drawn, 0 or more.
        preset: how hard the pictures are, of `hamuco.training.synthetic.look`.
        size: width and height of all images, px, even.
        fps: frames per second, 1 to 1000.
        timing: how well the cameras keep step, of `hamuco.training.synthetic.timing`.
        codec: of the videos.

    Raises:
        ValueError: on construction, naming the option and what it may be.
    """

    rig: str = "ring4"
    seconds: float = 8.0
    seed: int = 1
    preset: str = "room"
    size: tuple[int, int] = (640, 480)
    fps: float = 30.0
    timing: str = "synced"
    codec: str = "mjpeg"

    def __post_init__(self) -> None:
        parse_rig(self.rig)
        if not 0 < self.seconds <= _LONGEST_S:
            raise ValueError(f"seconds is {self.seconds:g}, expected more than 0 and at most {_LONGEST_S:g}")
        if not (min(self.size) > 0 and max(self.size) <= _LARGEST_PX):
            raise ValueError(f"size is {self.size[0]}x{self.size[1]} px, expected at most {_LARGEST_PX} px a side")
        if any(side % 2 for side in self.size):
            raise ValueError(
                f"size is {self.size[0]}x{self.size[1]} px, expected an even width and height, as videos have"
            )
        if not 1 <= self.fps <= 1000:
            raise ValueError(f"fps is {self.fps:g}, expected 1 to 1000 frames per second, as videos have")
        if self.seed < 0:
            raise ValueError(f"seed is {self.seed}, expected 0 or more")
        for name, known in (("preset", PRESETS), ("timing", tuple(TIMINGS)), ("codec", CODECS)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} {getattr(self, name)!r} is none of {', '.join(known)}")

    def generator(self, *name: str | int) -> np.random.Generator:
        """The generator of one part: another draw in one part leaves the others as they are."""
        words = [zlib.crc32(str(part).encode()) for part in name]
        return np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=words))

    def shoot(self) -> Shoot:
        """Cameras and their exposures. Raises ValueError where they cannot be."""
        layout, views = parse_rig(self.rig)
        rig = make_rig(layout, views, self.size, self.generator("rig"))
        timing = replace(TIMINGS[self.timing], fps=self.fps)
        schedules = exposure_schedule(timing, rig.names, self.seconds, START_NS, self.generator("timing"))
        return Shoot(rig, timing, schedules, cast(Codec, self.codec))

    @property
    def look_preset(self) -> Preset:
        return cast(Preset, self.preset)


@dataclass(frozen=True, slots=True, eq=False)
class Shot:
    """What was recorded of one camera.

    Attributes:
        t_true_ns: (F,) int64 true middles of the exposures of the frames in its video.
        visible: (F, ...) bool of their exposures.
    """

    t_true_ns: NDArray[np.int64]
    visible: NDArray[np.bool_]


def film(
    out: Path,
    shoot: Shoot,
    open_scene: OpenScene,
    finish: Callable[[Path, Mapping[str, Shot]], None],
    progress: Callable[[int, int], None],
    workers: int | None = None,
) -> Recording:
    """Draw and record all frames.

    Args:
        out: folder to make; must not exist or be empty.
        shoot: what to record.
        open_scene: what the cameras see.
        finish: adds files to the folder before it gets its name; is given the folder and what was recorded.
        progress: is called with the number of frames that are done and the number of all.
        workers: processes that draw, by default one per core of this computer; 1 draws in this process. The recording
            does not depend on it.

    Raises:
        RecordingError: there is something in the folder's place.
        OSError: the folder cannot be written, or a worker died.

    The recording is made in `<out>.partial`. After an error, or Ctrl-C, nothing is left of it: without its truth it is
    worth nothing, and the same options make it again.
    """
    sets = plan_sets(shoot.schedules, shoot.timing)
    total = sum(len(planned.frames) for planned in sets)
    index = {
        name: {int(sequence): k for k, sequence in enumerate(schedule.sequence)}
        for name, schedule in shoot.schedules.items()
    }
    orders = [[(name, index[name][frame.sequence]) for name, frame in planned.frames.items()] for planned in sets]
    kept: dict[str, list[tuple[int, NDArray[np.bool_]]]] = {name: [] for name in shoot.rig.names}
    progress(0, total)
    workers = workers or len(os.sched_getaffinity(0))
    check_free(out)  # what is in the partial folder from here on is ours
    recorder = RecordingWriter(out, shoot.rig, shoot.timing.fps, shoot.codec)
    try:
        # The folder and the videos first: where nothing can be written, nothing is drawn.
        with recorder as writer, closing(_exposures(open_scene, orders, min(workers, len(sets)))) as exposures:
            done = 0
            for planned, order, exposed in zip(sets, orders, exposures, strict=True):
                frames = {}
                for (name, number), exposure in zip(order, exposed, strict=True):
                    frames[name] = replace(planned.frames[name], image=exposure.image)
                    kept[name].append((number, exposure.visible))
                writer.write(FrameSet(planned.set_id, frames))
                done += len(frames)
                progress(done, total)
            finish(writer.folder, {name: _shot(shoot.schedules[name], frames) for name, frames in kept.items()})
    except BaseException:
        shutil.rmtree(out.with_name(f"{out.name}.partial"), ignore_errors=True)
        raise
    return Recording.open(out)


def _shot(schedule: Schedule, frames: Sequence[tuple[int, NDArray[np.bool_]]]) -> Shot:
    numbers = [number for number, _ in frames]
    return Shot(schedule.t_true_ns[numbers], np.array([visible for _, visible in frames]))


def plan_sets(schedules: Mapping[str, Schedule], timing: Timing) -> list[FrameSet]:
    """The sets that live capture would make of these frames, with the noted times and empty images.

    A frame arrives half a period after the middle of its exposure, read out and transferred.
    """
    half_period_ns = round(0.5e9 / timing.fps)
    uncertainty_ns = round(2e6 * timing.jitter_ms)
    frames = [
        Frame(name, int(sequence), int(noted), uncertainty_ns, int(noted) + half_period_ns, None, _NO_IMAGE)
        for name, schedule in schedules.items()
        for sequence, noted in zip(schedule.sequence, schedule.t_noted_ns, strict=True)
    ]
    synchronizer = Synchronizer(tuple(schedules))
    sets = []
    for frame in sorted(frames, key=lambda frame: frame.t_arrival_ns):
        sets += synchronizer.push(frame)
    return sets + synchronizer.flush()


def _exposures(
    open_scene: OpenScene, orders: Sequence[list[tuple[str, int]]], workers: int
) -> Generator[list[Exposure]]:
    """The frames of each set, in order."""
    if workers == 1:
        draw = open_scene()
        for order in orders:
            yield [draw(camera, index) for camera, index in order]
        return
    spawn = multiprocessing.get_context("spawn")
    executor = ProcessPoolExecutor(workers, mp_context=spawn, initializer=_start_worker, initargs=(open_scene,))
    ahead: deque[Future[list[Exposure]]] = deque()
    remaining = iter(orders)
    try:
        for _ in orders:
            for order in islice(remaining, _SETS_AHEAD * workers - len(ahead)):
                with starting_processes():
                    ahead.append(executor.submit(_expose, order))
            yield ahead.popleft().result()
    except BrokenProcessPool as error:
        raise OSError(
            "a process that renders died: was it killed, or is this computer out of memory? Smaller images, or fewer "
            "workers, need less"
        ) from error
    finally:
        executor.shutdown(cancel_futures=True)


_open_scene: OpenScene | None = None
_draw: Draw | None = None


def _start_worker(open_scene: OpenScene) -> None:
    """The scene is set up with the first set, from where its errors reach the caller."""
    global _open_scene
    _open_scene = open_scene
    # Software GL would otherwise start a thread per core in every worker.
    os.environ["LP_NUM_THREADS"] = "0"
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_with_parent() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()


def _expose(order: list[tuple[str, int]]) -> list[Exposure]:
    global _draw
    if _draw is None:
        assert _open_scene is not None
        _draw = _open_scene()
    return [_draw(camera, index) for camera, index in order]
