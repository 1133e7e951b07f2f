from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest
from capture_footage import corrupt_frames, make_recording, number_of, write_video

from hamuco.capture.frame import Frame
from hamuco.capture.recording import Recording
from hamuco.capture.replay import ReplayConfig, ReplaySource, replay_configs
from hamuco.capture.source import SourceError, read


def play(config: ReplayConfig, epoch_ns: int = 0) -> tuple[list[Frame], ReplaySource]:
    source = config.create()
    source.open()
    source.begin(epoch_ns)
    frames = []
    while (frame := read(source, config)) is not None:
        frames.append(frame)
    source.close()
    return frames, source


def test_a_broken_frame_is_counted_and_leaves_a_gap(tmp_path: Path) -> None:
    recording = make_recording(tmp_path, ["a"], count=20)
    corrupt_frames(recording.videos["a"], 7)
    frames, source = play(replay_configs(recording, "fast")[0])
    expected = [k for k in range(20) if k != 7]
    assert [frame.sequence for frame in frames] == expected
    assert [number_of(frame.image) for frame in frames] == expected
    assert [frame.t_capture_ns for frame in frames] == [round(k * 1e9 / 30) for k in expected]
    assert (source.undecodable, source.missing) == (1, 0)


def test_a_short_video_is_counted(tmp_path: Path) -> None:
    recording = make_recording(tmp_path, ["a"], count=20)
    write_video(recording.videos["a"], 15)
    assert "5 of 20 rows of timestamps.csv have no image" in Recording.open(recording.path).warnings[0]
    frames, source = play(replay_configs(recording, "fast")[0])
    assert len(frames) == 15
    assert (source.undecodable, source.missing) == (0, 5)


def test_a_long_video_ends_with_its_rows(tmp_path: Path) -> None:
    recording = make_recording(tmp_path, ["a"], count=20)
    write_video(recording.videos["a"], 25)
    assert "5 of 25 frames of the video have no time" in Recording.open(recording.path).warnings[0]
    frames, source = play(replay_configs(recording, "fast")[0])
    assert len(frames) == 20
    assert (source.undecodable, source.missing) == (0, 0)


def test_original_pace_never_runs_ahead_and_has_the_same_times(tmp_path: Path) -> None:
    recording = make_recording(tmp_path, ["a"], count=6)
    epoch_ns = time.monotonic_ns()
    original, _ = play(replay_configs(recording, "original")[0], epoch_ns)
    fast, _ = play(replay_configs(recording, "fast")[0], epoch_ns)
    assert [frame.t_capture_ns for frame in original] == [frame.t_capture_ns for frame in fast]
    assert all(frame.t_arrival_ns >= frame.t_capture_ns for frame in original)


def test_a_wrong_size_or_an_unreadable_video_does_not_open(tmp_path: Path) -> None:
    config = replay_configs(make_recording(tmp_path, ["a"]), "fast")[0]
    with pytest.raises(SourceError, match="160x120 px but its calibration is for 640x480"):
        replace(config, size=(640, 480)).create().open()
    config.video.write_bytes(b"")
    with pytest.raises(SourceError, match="cannot be read"):
        config.create().open()
