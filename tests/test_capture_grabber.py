from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from capture_footage import SIZE, HangingConfig, corrupt_frames, make_recording, number_of, write_video

from hamuco.capture.frame import Frame
from hamuco.capture.grabber import CameraCounters, CameraEvent, Grabbers
from hamuco.capture.replay import Pace, replay_configs
from hamuco.capture.source import OpenCVConfig, SourceConfig, SourceError
from hamuco.capture.synchronizer import Synchronizer
from hamuco.capture.transport import SharedFrames

PATIENCE_S = 30  # until a test gives up; nothing is expected to take that long


def received(grabbers: Grabbers, count: int) -> list[Frame | CameraEvent]:
    """The next items, at least `count`."""
    items: list[Frame | CameraEvent] = []
    give_up_s = time.monotonic() + PATIENCE_S
    while len(items) < count:
        assert time.monotonic() < give_up_s, items
        items += grabbers.receive(100)
    return items


def played(grabbers: Grabbers) -> tuple[list[list[tuple[str, int, int, int]]], list[CameraEvent]]:
    """All sets as (camera, sequence, time since the epoch, number in the picture), and all events."""
    synchronizer = Synchronizer(list(grabbers.counters))
    sets, events = [], []
    while grabbers.active:
        for item in received(grabbers, 1):
            if isinstance(item, CameraEvent):
                events.append(item)
                formed = synchronizer.camera_ended(item.camera)
            else:
                formed = synchronizer.push(item)
            for frame_set in formed:
                frames = frame_set.frames.values()
                sets.append(
                    [(f.camera, f.sequence, f.t_capture_ns - grabbers.epoch_ns, number_of(f.image)) for f in frames]
                )
                for frame in frames:
                    grabbers.release(frame)
    return sets, events


def assert_nothing_left() -> None:
    assert multiprocessing.active_children() == []


def test_replay_is_lossless_and_the_same_at_any_pace(tmp_path: Path) -> None:
    recording = make_recording(tmp_path, ["a", "b"], count=25)
    corrupt_frames(recording.videos["b"], 10)
    runs = []
    paces: tuple[Pace, ...] = ("fast", "fast", "original")
    for pace in paces:
        with Grabbers(replay_configs(recording, pace), slots=3) as grabbers:
            runs.append(played(grabbers)[0])
            counters = grabbers.counters
        assert counters == {
            "a": CameraCounters(received=25),
            "b": CameraCounters(received=24, undecodable=1),
        }
    assert runs[0] == runs[1] == runs[2]
    assert [len(frame_set) for frame_set in runs[0]] == [1 if k == 10 else 2 for k in range(25)]
    assert all(sequence == number for frame_set in runs[0] for _, sequence, _, number in frame_set)
    assert [frame_set[0][2] for frame_set in runs[0]] == [round(k * 1e9 / 30) for k in range(25)]
    assert_nothing_left()


def test_a_killed_grabber_is_one_event_and_the_others_run_on(tmp_path: Path) -> None:
    # Ten frames/s: the footage lasts far longer than it takes to kill one of the two.
    configs = replay_configs(make_recording(tmp_path, ["a", "b"], count=25, fps=10.0), "original")
    with Grabbers(configs) as grabbers:
        received(grabbers, 2)
        os.kill(grabbers.process_ids["a"], signal.SIGKILL)
        frames_in_use = []
        events: list[CameraEvent] = []
        while grabbers.active:
            for item in received(grabbers, 1):
                if isinstance(item, CameraEvent):
                    events.append(item)
                elif item.camera == "b":
                    grabbers.release(item)
                else:
                    frames_in_use.append(item)
        assert events == [
            CameraEvent("a", "lost", "the grabber of 'a' died (SIGKILL)"),
            CameraEvent("b", "ended", "end of the footage"),
        ]
        for frame in frames_in_use:
            assert number_of(frame.image) == frame.sequence
            grabbers.release(frame)
        counters = grabbers.counters["b"]
        # The two frames taken at first were not released, which leaves enough slots to lose nothing.
        assert (counters.received, counters.dropped_no_slot) == (25, 0)
    assert_nothing_left()


def test_live_frames_are_dropped_and_counted_when_nobody_releases(tmp_path: Path) -> None:
    path = write_video(tmp_path / "video.avi", 12)
    with Grabbers([OpenCVConfig(camera="a", device=str(path), size=SIZE)], slots=3) as grabbers:
        items = []
        while grabbers.active:
            items += received(grabbers, 1)
        assert [item.sequence for item in items if isinstance(item, Frame)] == [0, 1, 2]
        assert grabbers.counters["a"] == CameraCounters(received=3, dropped_no_slot=9)


def test_a_replay_waits_for_a_slow_pipeline_instead_of_dropping(tmp_path: Path) -> None:
    with Grabbers(replay_configs(make_recording(tmp_path, ["a"], count=12), "original"), slots=3) as grabbers:
        frames = [item for item in received(grabbers, 3) if isinstance(item, Frame)]
        time.sleep(0.5)  # the recording's 12 frames are over by then
        while grabbers.active:
            if frames:
                grabbers.release(frames.pop(0))
            frames += [item for item in grabbers.receive(100) if isinstance(item, Frame)]
        assert grabbers.counters["a"] == CameraCounters(received=12)


def test_a_third_process_reads_slots_until_they_are_overwritten(tmp_path: Path) -> None:
    with Grabbers(replay_configs(make_recording(tmp_path, ["a"], count=6), "fast"), slots=2) as grabbers:
        first, second = (item for item in received(grabbers, 2) if isinstance(item, Frame))
        reference = grabbers.slot_of(first)
        viewer = SharedFrames(reference.path, reference.size, reference.slots)
        image = viewer.read_slot(reference.slot, reference.generation)
        assert image is not None
        assert number_of(image) == 0
        grabbers.release(first)
        (third,) = (item for item in received(grabbers, 1) if isinstance(item, Frame))
        assert viewer.read_slot(reference.slot, reference.generation) is None
        assert [number_of(frame.image) for frame in (second, third)] == [1, 2]
        with pytest.raises(ValueError, match="frame 0 of camera 'a' is not in use; was it released twice"):
            grabbers.release(first)


@pytest.mark.parametrize(
    ("device", "size", "message"),
    [
        (97, SIZE, r"camera 'b' \(97\) does not open"),
        ("video.avi", (640, 480), "'b'.*160x120 px but its calibration is for 640x480"),
        ("text.avi", SIZE, r"camera 'b' .*text\.avi\) does not open"),
    ],
)
def test_start_is_all_or_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: int | str, size: tuple[int, int], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write_video(tmp_path / "video.avi", 5)
    (tmp_path / "text.avi").write_text("no video")
    configs = [
        OpenCVConfig(camera="a", device="video.avi", size=SIZE),
        OpenCVConfig(camera="b", device=device, size=size),
    ]
    with pytest.raises(SourceError, match=message), Grabbers(configs):
        pass
    assert_nothing_left()


def test_a_hanging_driver_is_ended(tmp_path: Path) -> None:
    configs: list[SourceConfig] = [
        HangingConfig("a"),
        *replay_configs(make_recording(tmp_path, ["b"], count=5), "fast"),
    ]
    with Grabbers(configs) as grabbers:
        items = received(grabbers, 6)
        assert [item.camera for item in items] == ["b"] * 6
        assert grabbers.active == ("a",)
    assert_nothing_left()


def test_images_stay_readable_after_closing(tmp_path: Path) -> None:
    with Grabbers(replay_configs(make_recording(tmp_path, ["a"], count=3), "fast")) as grabbers:
        items = received(grabbers, 4)
    images = [item.image for item in items if isinstance(item, Frame)]
    del grabbers, items
    assert [number_of(image) for image in images] == [0, 1, 2]


def run_script(script: str, arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", script, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


SCRIPT = """
import os, signal, sys
from pathlib import Path
from capture_footage import HangingConfig
from hamuco.capture.grabber import Grabbers
from hamuco.capture.replay import replay_configs
from hamuco.capture.recording import Recording

if __name__ == "__main__":
    configs = [*replay_configs(Recording.open(Path(sys.argv[1])), "fast"), HangingConfig("hanging")]
    with Grabbers(configs) as grabbers:
        frame = grabbers.receive(20_000)[0]
        print(grabbers.slot_of(frame).path.parent, flush=True)
        if sys.argv[2] == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
"""


def test_nothing_leaks_at_exit(tmp_path: Path) -> None:
    recording = make_recording(tmp_path, ["a"], count=5)
    result = run_script(SCRIPT, [str(recording.path), "ends"])
    assert (result.returncode, result.stderr) == (0, "")
    assert not Path(result.stdout.strip()).exists()


def test_grabbers_end_and_clean_up_when_their_parent_is_killed(tmp_path: Path) -> None:
    recording = make_recording(tmp_path, ["a"], count=5)
    # The pipes of the script are inherited by the grabbers: run returns only when the last of them has ended.
    result = run_script(SCRIPT, [str(recording.path), "killed"])
    assert result.returncode == -signal.SIGKILL
    assert not Path(result.stdout.strip()).exists()
