from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from capture_footage import LEVEL, SIZE, make_frame, make_recording, make_rig, number_of, write_video

from hamuco.capture.frame import FrameSet
from hamuco.capture.recording import Recording, RecordingError, RecordingWriter
from hamuco.capture.replay import replay_configs
from hamuco.capture.source import SourceError, read

HEADER = "set_id,camera,frame,t_capture_ns\n"


def rows(camera: str, *frame_and_ms: tuple[int, int]) -> str:
    return "".join(f"{frame},{camera},{frame},{ms * 1_000_000}\n" for frame, ms in frame_and_ms)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Folder of a sound recording of cameras a and b, 20 frames each."""
    recording = make_recording(tmp_path, ["a", "b"])
    assert recording.warnings == ()
    return recording.path


@pytest.mark.parametrize("name", ["rig.toml", "timestamps.csv"])
def test_a_missing_part_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(RecordingError, match=f"is not a recording: it has no {name}"):
        Recording.open(folder)


def test_a_missing_or_ambiguous_video_is_named(folder: Path) -> None:
    (folder / "a.mkv").write_bytes((folder / "a.avi").read_bytes())
    with pytest.raises(RecordingError, match="has 2 videos of camera 'a'"):
        Recording.open(folder)
    (folder / "a.mkv").unlink()
    (folder / "a.avi").unlink()
    with pytest.raises(RecordingError, match=r"has no video of camera 'a'; one of a\.mkv, a\.mp4, a\.avi"):
        Recording.open(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("set_id,camera,t_capture_ns\n", "has no column frame"),
        (HEADER + rows("a", (0, 0)) + rows("c", (0, 0)), "line 3: camera 'c' is not in the rig"),
        (HEADER + rows("a", (0, 0)) + rows("b", (0, 0), (1, 33), (2, 20)), "line 5: camera 'b' goes backwards"),
        (HEADER + rows("a", (0, 0), (1, 33), (0, 66)), "line 4: camera 'a' goes backwards from frame 1"),
        (HEADER + rows("a", (0, 0), (1, 33), (1, 66)), "line 4: frame 1 of camera 'a' is listed twice"),
        (HEADER + rows("a", (0, 0)), "has no row of camera 'b'"),
        (HEADER + "0,a,0,0.5\n", "line 2 is not a row of whole numbers"),
        (HEADER + "0,a,0\n", "line 2 is not a row of whole numbers"),
        (HEADER + "0,a,-1,5\n", "line 2 is not a row of whole numbers"),
    ],
)
def test_bad_timestamps_name_the_line(folder: Path, text: str, message: str) -> None:
    (folder / "timestamps.csv").write_text(text)
    with pytest.raises(RecordingError, match=message):
        Recording.open(folder)


def test_gaps_and_unequal_lengths_are_allowed_and_told(folder: Path) -> None:
    every = [(k, 33 * k) for k in range(20)]
    (folder / "timestamps.csv").write_text(HEADER + rows("a", *every[:8], *every[10:]) + rows("b", *every, (20, 660)))
    assert Recording.open(folder).warnings == (
        "camera 'a': 2 of 20 frames of the video have no time; not used",
        (
            "camera 'a': frames are missing, gaps in time of more than 1.5 periods of 33.0 ms: 1; the longest of 0.10 s "
            "after frame 7"
        ),
        "camera 'b': the video ends after 20 frames, 1 of 21 rows of timestamps.csv have no image and will be dropped",
        "the cameras have different numbers of frames (a 18, b 21): some sets will be incomplete",
    )


def test_a_video_of_another_size_is_an_error(folder: Path) -> None:
    write_video(folder / "b.avi", 20, size=(64, 48))
    with pytest.raises(SourceError, match=r"'b'.*64x48 px but its calibration is for 160x120"):
        Recording.open(folder)


def grey_sets(count: int) -> list[FrameSet]:
    """Sets of cameras a and b, the latter missing in set 2."""
    sets = []
    for k in range(count):
        image = np.full((SIZE[1], SIZE[0], 3), k * LEVEL, np.uint8)
        cameras = ["a"] if k == 2 else ["a", "b"]
        sets.append(FrameSet(k, {name: make_frame(name, k, 10**12 + 33_000_001 * k, image) for name in cameras}))
    return sets


def test_what_is_written_is_what_is_replayed(tmp_path: Path) -> None:
    with RecordingWriter(tmp_path / "new", make_rig("a", "b"), fps=30.0) as writer:
        for frame_set in grey_sets(6):
            writer.write(frame_set)
        assert not (tmp_path / "new").exists()
    recording = Recording.open(tmp_path / "new")
    assert [row.t_capture_ns for row in recording.frames["b"]] == [10**12 + 33_000_001 * k for k in (0, 1, 3, 4, 5)]
    assert [row.set_id for row in recording.frames["b"]] == [0, 1, 3, 4, 5]
    assert (recording.first_ns, recording.duration_ns) == (10**12, 5 * 33_000_001)
    config = replay_configs(recording, "fast")[1]
    source = config.create()
    source.open()
    source.begin(epoch_ns=7)
    frames = []
    while (frame := read(source, config)) is not None:
        frames.append((number_of(frame.image), frame.t_capture_ns))
    source.close()
    assert frames == [(k, 7 + 33_000_001 * k) for k in (0, 1, 3, 4, 5)]


def test_an_interrupted_recording_is_not_taken_for_a_whole_one(tmp_path: Path) -> None:
    def interrupted() -> None:
        with RecordingWriter(tmp_path / "new", make_rig("a", "b"), fps=30.0) as writer:
            writer.write(grey_sets(1)[0])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not (tmp_path / "new").exists()
    assert (tmp_path / "new.partial" / "timestamps.csv").read_text().count("\n") == 3
    with (
        pytest.raises(RecordingError, match=r"new\.partial is left from an interrupted run"),
        RecordingWriter(tmp_path / "new", make_rig("a"), fps=30.0),
    ):
        pass


def test_nothing_is_overwritten(folder: Path) -> None:
    with (
        pytest.raises(RecordingError, match="exists and is not an empty folder"),
        RecordingWriter(folder, make_rig("a"), fps=30.0),
    ):
        pass
