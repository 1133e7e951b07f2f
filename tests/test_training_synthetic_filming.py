from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from capture_footage import number_of

from hamuco.capture.recording import RecordingError
from hamuco.capture.replay import replay_configs
from hamuco.capture.source import read
from hamuco.training.synthetic.filming import START_NS, Draw, Exposure, FilmOptions, Shoot, Shot, film, plan_sets

OPTIONS = FilmOptions(rig="table3", seconds=0.7, size=(160, 120), timing="webcam")


def open_grey_scene(names: tuple[str, ...], size: tuple[int, int]) -> Draw:
    """Frame k of a camera is uniformly grey and says so; `visible` is its number and its camera's in bits."""

    def draw(camera: str, index: int) -> Exposure:
        bits = [(index >> bit) & 1 == 1 for bit in range(6)] + [name == camera for name in names]
        return Exposure(np.full((size[1], size[0], 3), 8 * index, np.uint8), np.array(bits))

    return draw


def open_broken_scene() -> Draw:
    raise RuntimeError("the scene does not open")


def grey(shoot: Shoot) -> Any:
    return partial(open_grey_scene, shoot.rig.names, OPTIONS.size)


def no_files(folder: Path, shots: Any) -> None: ...


def ignore(done: int, total: int) -> None: ...


@pytest.mark.parametrize("workers", [1, 2])
def test_frames_are_drawn_for_their_times_and_recorded_in_order(tmp_path: Path, workers: int) -> None:
    shoot = OPTIONS.shoot()
    # Frames are lost: one of each camera, somewhere else.
    schedules = {}
    for lost, (name, schedule) in enumerate(shoot.schedules.items(), start=5):
        kept = np.arange(len(schedule.t_true_ns)) != lost
        schedules[name] = replace(
            schedule,
            t_true_ns=schedule.t_true_ns[kept],
            t_noted_ns=schedule.t_noted_ns[kept],
            sequence=schedule.sequence[kept],
        )
    shoot = replace(shoot, schedules=schedules)
    finished: dict[str, Shot] = {}
    steps = []

    def finish(folder: Path, shots: Any) -> None:
        assert folder.name == "clip.partial"
        (folder / "extra").write_text("with it")
        finished.update(shots)

    recording = film(
        tmp_path / "clip", shoot, grey(shoot), finish, lambda done, total: steps.append((done, total)), workers
    )
    assert (recording.path / "extra").read_text() == "with it"
    frames = sum(len(schedule.sequence) for schedule in schedules.values())
    assert steps[0] == (0, frames)
    assert steps[-1] == (frames, frames)
    assert steps == sorted(steps)
    for position, config in enumerate(replay_configs(recording, "fast")):
        schedule = schedules[config.camera]
        assert [row.t_capture_ns for row in config.frames] == schedule.t_noted_ns.tolist()
        np.testing.assert_array_equal(finished[config.camera].t_true_ns, schedule.t_true_ns)
        visible = finished[config.camera].visible
        np.testing.assert_array_equal(visible[:, :6] @ (1 << np.arange(6)), np.arange(len(schedule.sequence)))
        np.testing.assert_array_equal(visible[:, 6:], np.tile(np.arange(3) == position, (len(visible), 1)))
        source = config.create()
        source.open()
        source.begin(epoch_ns=0)
        numbers = []
        while (frame := read(source, config)) is not None:
            numbers.append(number_of(frame.image))
        source.close()
        assert numbers == list(range(len(schedule.sequence)))


def test_sets_are_those_of_live_capture() -> None:
    shoot = FilmOptions(rig="ring4", seconds=4, timing="free-running").shoot()
    sets = plan_sets(shoot.schedules, shoot.timing)
    taken = [(name, frame.sequence) for planned in sets for name, frame in planned.frames.items()]
    assert len(set(taken)) == len(taken)
    lost = sum(len(schedule.sequence) for schedule in shoot.schedules.values()) - len(taken)
    assert 0 <= lost <= 4  # the synchronizer may drop frames in which a camera is early by much
    times = [planned.t_capture_ns for planned in sets]
    assert times == sorted(times)
    complete = [planned for planned in sets if len(planned.frames) == 4]
    assert len(complete) > 0.85 * len(sets)
    assert max(planned.spread_ns for planned in complete) < 34_000_000  # a period
    for frame in sets[3].frames.values():
        assert frame.t_arrival_ns - frame.t_capture_ns == 16_666_667
        assert frame.t_uncertainty_ns == 4_000_000  # twice the jitter of webcams


def test_cameras_on_one_trigger_make_complete_sets_only() -> None:
    shoot = FilmOptions(rig="dome8", seconds=2, timing="synced").shoot()
    sets = plan_sets(shoot.schedules, shoot.timing)
    assert [len(planned.frames) for planned in sets] == [8] * 60
    assert START_NS < sets[0].t_capture_ns < START_NS + 40_000_000


def test_parts_have_generators_of_their_own() -> None:
    options = FilmOptions(seed=7)
    first = {
        name: options.generator(*name).integers(1 << 62)
        for name in (("a",), ("b",), ("a", 0), ("a", 1), ("a", "b"), ("b", "a"))
    }
    assert len(set(first.values())) == len(first)
    assert options.generator("a").integers(1 << 62) == first["a",]
    assert FilmOptions(seed=8).generator("a").integers(1 << 62) != first["a",]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rig": "circle4"}, "rig 'circle4' is none of ring, dome"),
        ({"rig": "ring0"}, "a ring rig has 1 to 64 views, not 0"),
        ({"seconds": 0.0}, "seconds is 0, expected more than 0"),
        ({"seconds": float("nan")}, "seconds is nan, expected more than 0"),
        ({"seconds": 1e9}, r"seconds is 1e\+09, expected .* at most 1800"),
        ({"seed": -1}, "seed is -1, expected 0 or more"),
        ({"preset": "easy"}, "preset 'easy' is none of plain, room, hard"),
        ({"timing": "exact"}, "timing 'exact' is none of synced, webcam, free-running"),
        ({"codec": "mpeg4"}, "codec 'mpeg4' is none of mjpeg, h264"),
        ({"size": (640, 0)}, "640x0 px, expected at most 4096"),
        ({"size": (20_000, 15_000)}, "20000x15000 px, expected at most 4096"),
        ({"size": (640, 10)}, "640x10 px: both sides"),
        ({"size": (161, 120)}, "161x120 px, expected an even width and height"),
        ({"fps": 0.0}, "fps is 0, expected 1 to 1000"),
        ({"fps": 0.5, "seconds": 9.0}, "fps is 0.5, expected 1 to 1000"),
        ({"seconds": 0.01}, "less than two frames"),
    ],
)
def test_options_that_cannot_be_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FilmOptions(**changes).shoot()


@pytest.mark.parametrize("workers", [1, 2])
def test_a_scene_that_does_not_open_says_why(tmp_path: Path, workers: int) -> None:
    with pytest.raises(RuntimeError, match="the scene does not open"):
        film(tmp_path / "clip", OPTIONS.shoot(), open_broken_scene, no_files, ignore, workers)
    assert list(tmp_path.iterdir()) == []


def open_deadly_scene() -> Draw:
    def draw(camera: str, index: int) -> Exposure:
        if index == 10:
            os._exit(1)
        return Exposure(np.zeros((120, 160, 3), np.uint8), np.array([True]))

    return draw


def test_a_worker_that_dies_ends_the_run_with_an_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="a process that renders died"):
        film(tmp_path / "clip", OPTIONS.shoot(), open_deadly_scene, no_files, ignore, workers=2)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_drawn_where_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "clip").mkdir()
    (tmp_path / "clip" / "mine").write_text("")
    with pytest.raises(RecordingError, match="exists and is not an empty folder"):
        film(tmp_path / "clip", OPTIONS.shoot(), open_broken_scene, no_files, ignore, workers=1)
    assert [path.name for path in tmp_path.iterdir()] == ["clip"]
    (tmp_path / "left.partial").mkdir()
    with pytest.raises(RecordingError, match=r"left\.partial is left from an interrupted run"):
        film(tmp_path / "left", OPTIONS.shoot(), open_broken_scene, no_files, ignore, workers=1)
    assert (tmp_path / "left.partial").is_dir()  # another run may be writing there
    with pytest.raises(OSError, match=r"mine/clip\.partial cannot be made \(Not a directory\)"):
        film(tmp_path / "clip/mine/clip", OPTIONS.shoot(), open_broken_scene, no_files, ignore, workers=1)


def test_without_its_encoder_nothing_is_drawn_or_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    shoot = replace(OPTIONS, codec="h264").shoot()
    with pytest.raises(OSError, match=r"H\.264 needs PyAV: pip install av"):
        film(tmp_path / "clip", shoot, open_broken_scene, no_files, ignore, workers=1)
    assert list(tmp_path.iterdir()) == []


def test_where_the_last_step_fails_no_recording_is_left(tmp_path: Path) -> None:
    def finish(folder: Path, shots: Any) -> None:
        raise OSError("no room for the truth")

    with pytest.raises(OSError, match="no room for the truth"):
        film(tmp_path / "clip", OPTIONS.shoot(), grey(OPTIONS.shoot()), finish, ignore, workers=1)
    assert list(tmp_path.iterdir()) == []


_SLOW_RUN = """
import os, sys, time
from functools import partial
from pathlib import Path
from hamuco.training.synthetic.filming import film
from test_training_synthetic_filming import OPTIONS, no_files, open_slow_scene

if __name__ == "__main__":
    progress = lambda done, total: print(done, flush=True)
    film(Path(sys.argv[1]), OPTIONS.shoot(), partial(open_slow_scene, sys.argv[2]), no_files, progress, workers=2)
"""


def open_slow_scene(folder: str) -> Draw:
    """Leaves a file with the number of its process."""
    (Path(folder) / str(os.getpid())).write_text("")

    def draw(camera: str, index: int) -> Exposure:
        time.sleep(0.05)
        return Exposure(np.zeros((120, 160, 3), np.uint8), np.array([True]))

    return draw


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks for processes in /proc")
@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_run_leaves_no_processes_and_no_whole_recording(tmp_path: Path, kind: signal.Signals) -> None:
    script, pids = tmp_path / "run.py", tmp_path / "pids"
    script.write_text(_SLOW_RUN)
    pids.mkdir()
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    process = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path / "clip"), str(pids)],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    while int(process.stdout.readline()) == 0:
        pass
    if kind == signal.SIGINT:
        os.killpg(process.pid, kind)  # as a terminal does: the workers get it too
    else:
        process.kill()
    _, errors = process.communicate(timeout=60)
    if kind == signal.SIGINT:
        assert errors.rstrip().endswith("KeyboardInterrupt")
        assert errors.count("Traceback") == 1, errors  # none of a worker
    assert process.returncode != 0
    left = ["clip.partial"] if kind == signal.SIGKILL else []  # nobody is there to clean up after SIGKILL
    assert sorted(path.name for path in tmp_path.iterdir()) == [*left, "pids", "run.py"]
    workers = [int(path.name) for path in pids.iterdir()]
    assert workers
    deadline = time.monotonic() + 60
    while any(Path(f"/proc/{pid}").exists() for pid in workers):
        assert time.monotonic() < deadline, "workers are left"
        time.sleep(0.05)
