from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from capture_footage import make_frame

from hamuco.capture.frame import Frame, FrameSet
from hamuco.capture.synchronizer import Synchronizer, SynchronizerCounters

MS = 1_000_000
Sets = list[dict[str, int]]


def sequences(sets: Iterable[FrameSet]) -> Sets:
    return [{name: frame.sequence for name, frame in frame_set.frames.items()} for frame_set in sets]


def frames_at(camera: str, times_ms: Sequence[float]) -> list[Frame]:
    return [make_frame(camera, k, round(time * MS)) for k, time in enumerate(times_ms)]


def run(synchronizer: Synchronizer, frames: Iterable[Frame]) -> list[FrameSet]:
    sets = [frame_set for frame in frames for frame_set in synchronizer.push(frame)]
    return sets + synchronizer.flush()


def in_time_order(cameras: Mapping[str, list[Frame]]) -> list[Frame]:
    return sorted((frame for frames in cameras.values() for frame in frames), key=lambda frame: frame.t_capture_ns)


def test_a_set_is_given_as_soon_as_its_last_frame_is_there() -> None:
    synchronizer = Synchronizer(["b", "a"])
    a, b = frames_at("a", [0, 33, 66, 99]), frames_at("b", [5, 38, 71, 104])
    assert [len(synchronizer.push(frame)) for frame in (a[0], b[0], a[1])] == [0, 0, 0]
    # The first set also needs each camera's second frame, which tells the period.
    assert sequences(synchronizer.push(b[1])) == [{"b": 0, "a": 0}, {"b": 1, "a": 1}]
    assert synchronizer.push(a[2]) == []
    (frame_set,) = synchronizer.push(b[2])
    assert (frame_set.set_id, list(frame_set.frames), frame_set.spread_ns) == (2, ["b", "a"], 5 * MS)
    assert frame_set.t_capture_ns == 68_500_000


def test_a_lost_frame_costs_one_camera_of_one_set() -> None:
    cameras = {"a": frames_at("a", [0, 33, 66, 132, 165]), "b": frames_at("b", [5, 38, 71, 104, 137, 170])}
    cameras["c"] = frames_at("c", [10, 43, 76, 109, 142, 175])
    synchronizer = Synchronizer(list(cameras))
    sets = run(synchronizer, in_time_order(cameras))
    assert sequences(sets)[2:5] == [{"a": 2, "b": 2, "c": 2}, {"b": 3, "c": 3}, {"a": 3, "b": 4, "c": 4}]
    assert synchronizer.counters == SynchronizerCounters(frames_seen=17, sets_complete=5, sets_incomplete=1)


def test_cameras_half_a_period_apart_keep_their_partners() -> None:
    # Jitter moves b to either side of the middle between two frames of a.
    a = frames_at("a", [33.0 * k for k in range(40)])
    b = frames_at("b", [33.0 * k + 16.5 + (2 if k % 2 else -2) for k in range(40)])
    assert sequences(run(Synchronizer(["a", "b"]), in_time_order({"a": a, "b": b}))) == [
        {"a": k, "b": k} for k in range(40)
    ]


def test_a_camera_of_double_rate_gives_every_second_frame() -> None:
    cameras = {"slow": frames_at("slow", [33.0 * k for k in range(10)])}
    cameras["quick"] = frames_at("quick", [1 + 16.5 * k for k in range(20)])
    sets = sequences(run(Synchronizer(["slow", "quick"]), in_time_order(cameras)))
    assert [s for s in sets if len(s) == 2] == [{"slow": k, "quick": 2 * k} for k in range(10)]
    assert [s for s in sets if len(s) == 1] == [{"quick": 2 * k + 1} for k in range(10)]


def test_tolerance_limits_the_spread() -> None:
    cameras = {"a": frames_at("a", [0, 33, 66]), "b": frames_at("b", [4, 38, 72])}
    sets = run(Synchronizer(["a", "b"], tolerance_ns=5 * MS), in_time_order(cameras))
    assert sequences(sets) == [{"a": 0, "b": 0}, {"a": 1, "b": 1}, {"a": 2}, {"b": 2}]


def random_rig(seed: int) -> dict[str, list[Frame]]:
    """Cameras of random phase, rate, jitter and losses."""
    rng = np.random.default_rng(seed)
    cameras = {}
    for name in "abcd"[: rng.integers(2, 5)]:
        period = rng.choice([33.3, 33.4, 16.7])
        times = rng.uniform(0, 33) + period * np.arange(40) + rng.normal(0, 2.5, 40)
        kept = rng.random(40) > 0.1
        cameras[name] = frames_at(name, np.sort(times)[kept].tolist())
    return cameras


@pytest.mark.parametrize("seed", range(25))
def test_sets_do_not_depend_on_the_order_of_arrival(seed: int) -> None:
    cameras = random_rig(seed)
    count = sum(map(len, cameras.values()))
    reference = sequences(run(Synchronizer(list(cameras), capacity=64), in_time_order(cameras)))
    rng = np.random.default_rng(seed)
    for _ in range(8):
        synchronizer = Synchronizer(list(cameras), capacity=64)
        left = {name: list(frames) for name, frames in cameras.items()}
        sets: list[FrameSet] = []
        while left:
            name = str(rng.choice(list(left)))
            for _ in range(rng.integers(1, 12)):
                if left[name]:
                    sets += synchronizer.push(left[name].pop(0))
            if not left[name]:
                del left[name]
                sets += synchronizer.camera_ended(name)
        assert sequences(sets) == reference
        assert synchronizer.take_dropped() == []
        assert sum(len(frame_set.frames) for frame_set in sets) == count  # each frame in exactly one set
        assert [frame_set.set_id for frame_set in sets] == list(range(len(sets)))


def test_the_deadline_closes_a_set_and_late_frames_are_handed_back() -> None:
    synchronizer = Synchronizer(["a", "b"], deadline_ns=50 * MS)
    a, b = frames_at("a", [0, 33, 66, 99]), frames_at("b", [2, 35, 68, 101])
    for frame in (a[0], b[0], a[1]):
        synchronizer.push(frame)
    assert len(synchronizer.push(b[1])) == 2
    synchronizer.push(a[2])
    assert synchronizer.advance(115 * MS) == []
    assert sequences(synchronizer.advance(116 * MS)) == [{"a": 2}]
    assert synchronizer.push(b[2]) == []
    assert synchronizer.take_dropped() == [b[2]]
    assert synchronizer.take_dropped() == []
    assert sequences([*synchronizer.push(a[3]), *synchronizer.push(b[3])]) == [{"a": 3, "b": 3}]
    assert synchronizer.counters == SynchronizerCounters(
        frames_seen=8, sets_complete=3, sets_incomplete=1, dropped_late=1
    )


def test_a_camera_that_never_delivers_does_not_stop_the_rest() -> None:
    synchronizer = Synchronizer(["a", "b", "c"], deadline_ns=50 * MS)
    cameras = {"a": frames_at("a", [0, 33, 66]), "b": frames_at("b", [2, 35, 68])}
    for frame in in_time_order(cameras):
        assert synchronizer.push(frame) == []
    assert sequences(synchronizer.advance(200 * MS)) == [{"a": k, "b": k} for k in range(3)]


def test_an_ended_camera_is_not_waited_for() -> None:
    synchronizer = Synchronizer(["a", "b"])
    for frame in frames_at("a", [0, 33, 66]):
        assert synchronizer.push(frame) == []
    assert sequences(synchronizer.camera_ended("b")) == [{"a": 0}, {"a": 1}, {"a": 2}]
    with pytest.raises(ValueError, match="camera 'b' has ended"):
        synchronizer.push(make_frame("b", 0, 0))


def test_unusable_frames_are_counted_and_handed_back() -> None:
    synchronizer = Synchronizer(["a", "b"], capacity=2)
    a = frames_at("a", [0, 33, 66])
    bad = [make_frame("a", 1, 40 * MS), make_frame("a", 5, 33 * MS), make_frame("a", 0, 20 * MS)]
    for frame in (a[0], a[1], *bad, a[2]):
        assert synchronizer.push(frame) == []
    assert synchronizer.take_dropped() == [*bad, a[0]]
    assert synchronizer.counters == SynchronizerCounters(
        frames_seen=6, dropped_duplicate=2, dropped_out_of_order=1, dropped_queue_full=1
    )
    assert sequences(synchronizer.flush()) == [{"a": 1}, {"a": 2}]


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="unique: a, a"):
        Synchronizer(["a", "a"])
    with pytest.raises(ValueError, match="capacity of 1"):
        Synchronizer(["a"], capacity=1)
    with pytest.raises(ValueError, match="'c' is not one of a, b"):
        Synchronizer(["a", "b"]).push(make_frame("c", 0, 0))


@pytest.mark.parametrize(
    ("path", "sets", "complete"),
    [
        ("caliscope-4cam-hands/timestamps_hands.csv", 36, 36),
        ("caliscope-4cam-mirror-board/timestamps.csv", 48, 48),
        ("caliscope-30fps-timing-and-tracks/timestamps_30fps_4cam_with_drops.csv", 269, 263),
    ],
)
def test_real_timestamps_form_the_recorded_sets(data_dir: Path, path: str, sets: int, complete: int) -> None:
    """Every set equals one that the recording program formed with both neighbours of each frame known."""
    with (data_dir / path).open(newline="") as file:
        rows = sorted((int(row["sync_index"]), row["cam_id"], float(row["frame_time"])) for row in csv.DictReader(file))
    cameras: dict[str, list[Frame]] = {}
    recorded: dict[int, dict[str, int]] = {}
    for sync_index, camera, time_s in rows:
        frames = cameras.setdefault(camera, [])
        recorded.setdefault(sync_index, {})[camera] = len(frames)
        frames.append(make_frame(camera, len(frames), round(time_s * 1e9)))
    synchronizer = Synchronizer(sorted(cameras))
    assert sequences(run(synchronizer, in_time_order(cameras))) == list(recorded.values())
    assert len(recorded) == sets
    assert synchronizer.counters.sets_complete == complete


def test_sets_never_go_back_in_time() -> None:
    # A stalled driver hands over its frames in a burst, stamped as they arrive.
    times_ms = {"a": [0, 100, 200, 300, 400], "b": [0, 390, 391, 392, 400], "c": [0, 100, 200, 300, 400]}
    frames = [make_frame(name, k, t * 1_000_000) for name, times in times_ms.items() for k, t in enumerate(times)]
    synchronizer = Synchronizer(list(times_ms))
    sets = []
    for frame in sorted(frames, key=lambda frame: (frame.t_capture_ns, frame.camera)):
        sets += synchronizer.push(frame)
    sets += synchronizer.flush()
    middles = [frame_set.t_capture_ns for frame_set in sets]
    assert all(later > earlier for earlier, later in pairwise(middles)), middles
    assert [frame_set.set_id for frame_set in sets] == list(range(len(sets)))
    in_sets = sum(len(frame_set.frames) for frame_set in sets)
    assert in_sets + len(synchronizer.take_dropped()) == len(frames)
