from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from capture_footage import SIZE, corrupt_frames, number_of, write_video

from hamuco.capture.source import SourceError
from hamuco.capture.video import VideoFile


def numbers(path: Path) -> list[tuple[int, int]]:
    """(number by the file, number by the picture) of every frame that decodes."""
    video = VideoFile(path)
    image = np.empty((SIZE[1], SIZE[0], 3), np.uint8)
    found = []
    while (number := video.next_frame()) is not None:
        assert video.retrieve(image)
        found.append((number, number_of(image)))
    video.close()
    return found


@pytest.mark.parametrize("suffix", [".avi", ".mkv", ".mp4"])
def test_frames_are_numbered(tmp_path: Path, suffix: str) -> None:
    path = write_video(tmp_path / f"video{suffix}", 20)
    assert numbers(path) == [(k, k) for k in range(20)]


@pytest.mark.parametrize("suffix", [".avi", ".mkv"])
def test_numbers_survive_broken_frames(tmp_path: Path, suffix: str) -> None:
    path = write_video(tmp_path / f"video{suffix}", 20)
    corrupt_frames(path, 0, 7, 8)
    assert VideoFile(path).frame_count == 20
    assert numbers(path) == [(k, k) for k in range(20) if k not in (0, 7, 8)]


def test_a_cut_video_has_fewer_frames(tmp_path: Path) -> None:
    path = write_video(tmp_path / "video.mkv", 20)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    found = numbers(path)
    assert 0 < len(found) < 20
    assert found == [(k, k) for k in range(len(found))]


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"gone\.mp4 does not exist"):
        VideoFile(tmp_path / "gone.mp4")
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(SourceError, match=r"text\.mp4 cannot be read"):
        VideoFile(tmp_path / "text.mp4")


def test_another_size_than_the_buffer_is_an_error(tmp_path: Path) -> None:
    video = VideoFile(write_video(tmp_path / "video.avi", 2))
    assert video.size == SIZE
    video.next_frame()
    with pytest.raises(SourceError, match="160x120 px but its calibration is for 64x48"):
        video.retrieve(np.empty((48, 64, 3), np.uint8))
    video.close()
