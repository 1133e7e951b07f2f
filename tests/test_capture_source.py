from __future__ import annotations

from pathlib import Path

import pytest
from capture_footage import SIZE, corrupt_frames, number_of, write_video

from hamuco.capture.source import OpenCVConfig, SourceError, capture_estimate, read


def test_a_file_plays_the_camera(tmp_path: Path) -> None:
    path = write_video(tmp_path / "video.avi", 12)
    corrupt_frames(path, 5)
    config = OpenCVConfig(camera="a", device=str(path), size=SIZE)
    source = config.create()
    source.open()
    source.begin(epoch_ns=0)
    frames = []
    while (frame := read(source, config)) is not None:
        frames.append(frame)
    source.close()
    assert [frame.sequence for frame in frames] == [k for k in range(12) if k != 5]
    assert [number_of(frame.image) for frame in frames] == [k for k in range(12) if k != 5]
    assert source.undecodable == 1
    times = [frame.t_capture_ns for frame in frames]
    assert times == sorted(set(times))
    # Half a period before the arrival, known to a period, at 30 frames/s.
    assert all(frame.t_arrival_ns - frame.t_capture_ns == 16_666_666 for frame in frames)
    assert all(frame.t_uncertainty_ns == 33_333_333 for frame in frames)


def test_an_absent_device_is_named() -> None:
    source = OpenCVConfig(camera="left", device=97, size=SIZE).create()
    with pytest.raises(SourceError, match=r"camera 'left' \(97\) does not open"):
        source.open()
    with pytest.raises(SourceError, match=r"'left'.*is not open"):
        source.grab()
    source.close()


def test_a_wrong_size_names_both_and_open_can_be_retried(tmp_path: Path) -> None:
    path = tmp_path / "video.avi"
    write_video(path, 3, size=(64, 48))
    config = OpenCVConfig(camera="a", device=str(path), size=SIZE)
    source = config.create()
    with pytest.raises(SourceError, match=r"delivers 64x48 px but its calibration is for 160x120"):
        source.open()
    write_video(path, 3)
    source.open()
    source.begin(epoch_ns=0)
    assert read(source, config) is not None
    source.close()
    source.close()


def test_capture_time_prefers_a_plausible_device_stamp() -> None:
    period = 33_000_000
    assert capture_estimate(1_000_000_000, 990_000_000, period) == (990_000_000, 16_500_000)
    arrival_only = (1_000_000_000 - 16_500_000, 33_000_000)
    assert capture_estimate(1_000_000_000, None, period) == arrival_only
    # A stamp of another clock: in the future, or older than the driver's queue can hold.
    assert capture_estimate(1_000_000_000, 1_000_000_001, period) == arrival_only
    assert capture_estimate(1_000_000_000, 100_000_000, period) == arrival_only
