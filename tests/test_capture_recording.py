from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np
import pytest
from capture_footage import LEVEL, SIZE, make_frame, make_recording, make_rig, number_of, write_video

from hamuco.capture.frame import FrameSet
from hamuco.capture.recording import Codec, Recording, RecordingError, RecordingWriter
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


def test_a_large_rig_is_not_listed_camera_by_camera(tmp_path: Path) -> None:
    names = [f"cam_{index}" for index in range(9)]
    folder = make_recording(tmp_path, names, count=3).path
    lines = (folder / "timestamps.csv").read_text().splitlines(keepends=True)
    (folder / "timestamps.csv").write_text("".join(lines[:-1]))
    *_, last = Recording.open(folder).warnings
    assert last == "the cameras have different numbers of frames (2 to 3): some sets will be incomplete"


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


def moving_sets(count: int) -> list[FrameSet]:
    """A smooth picture that moves by two pixels a frame, of camera a."""
    rows, columns = np.mgrid[0 : SIZE[1], 0 : SIZE[0]]
    sets = []
    for k in range(count):
        grey = 128 + 60 * np.sin((columns - 2 * k) / 9) + 40 * np.cos(rows / 7)
        image = np.repeat(grey[..., None], 3, axis=2).astype(np.uint8)
        sets.append(FrameSet(k, {"a": make_frame("a", k, 33_000_000 * k, image)}))
    return sets


def test_h264_is_a_fraction_of_the_size_and_nearly_as_good(tmp_path: Path) -> None:
    sizes: dict[Codec, int] = {}
    codecs: list[Codec] = ["mjpeg", "h264"]
    for codec in codecs:
        with RecordingWriter(tmp_path / codec, make_rig("a"), fps=30.0, codec=codec) as writer:
            for frame_set in moving_sets(30):
                writer.write(frame_set)
        recording = Recording.open(tmp_path / codec)
        assert recording.warnings == ()
        sizes[codec] = recording.videos["a"].stat().st_size
        config = replay_configs(recording, "fast")[0]
        source = config.create()
        source.open()
        source.begin(epoch_ns=0)
        for frame_set in moving_sets(30):
            frame = read(source, config)
            assert frame is not None
            # 35 dB is a deviation of 4.5 grey levels; the picture of the frame before or after is at 25 dB.
            assert cv2.PSNR(frame.image, frame_set.frames["a"].image) > 35
        source.close()
    assert sizes["h264"] < 0.4 * sizes["mjpeg"]


def test_h264_of_the_same_images_is_the_same_file(tmp_path: Path) -> None:
    for name in ("one", "other"):
        with RecordingWriter(tmp_path / name, make_rig("a"), fps=30.0, codec="h264") as writer:
            for frame_set in moving_sets(5):
                writer.write(frame_set)
    one, other = ((tmp_path / name / "a.mkv").read_bytes() for name in ("one", "other"))
    assert one == other


@pytest.mark.parametrize("size", [(161, 120), (160, 121)])
def test_a_size_that_no_video_has_is_an_error_before_anything_is_written(tmp_path: Path, size: tuple[int, int]) -> None:
    with pytest.raises(RecordingError, match=rf"camera 'a' has {size[0]}x{size[1]} px: a video needs an even"):
        RecordingWriter(tmp_path / "new", make_rig("a", size=size), fps=30.0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("fps", [0.0, -30.0, float("nan"), float("inf")])
def test_a_rate_that_no_video_has_is_an_error(tmp_path: Path, fps: float) -> None:
    with pytest.raises(RecordingError, match="is not a rate for a video"):
        RecordingWriter(tmp_path / "new", make_rig("a"), fps=fps)


def test_a_camera_without_a_frame_leaves_no_whole_recording(tmp_path: Path) -> None:
    def write_one_camera() -> None:
        with RecordingWriter(tmp_path / "new", make_rig("a", "b"), fps=30.0) as writer:
            writer.write(moving_sets(1)[0])

    with pytest.raises(RecordingError, match=r"no frame of camera b came in.*new\.partial"):
        write_one_camera()
    assert [path.name for path in tmp_path.iterdir()] == ["new.partial"]


def test_missing_parents_are_made(tmp_path: Path) -> None:
    with RecordingWriter(tmp_path / "some" / "where" / "new", make_rig("a"), fps=30.0) as writer:
        writer.write(moving_sets(1)[0])
    assert len(Recording.open(tmp_path / "some" / "where" / "new").frames["a"]) == 1


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(RecordingError, match="file exists and is not an empty folder"),
        RecordingWriter(tmp_path / "file", make_rig("a"), fps=30.0),
    ):
        pass
    with (
        pytest.raises(OSError, match=r"file/new\.partial cannot be made \(Not a directory\)"),
        RecordingWriter(tmp_path / "file" / "new", make_rig("a"), fps=30.0),
    ):
        pass


@contextmanager
def not_as_root() -> Iterator[None]:
    """Root may write everywhere, so a test that is run by root becomes nobody."""
    own = os.geteuid()
    os.seteuid(own or 65534)
    try:
        yield
    finally:
        os.seteuid(own)


def test_a_folder_that_may_not_be_written_is_named() -> None:
    with TemporaryDirectory() as folder:  # pytest's folders cannot be entered by nobody
        Path(folder).chmod(0o555)
        with (
            not_as_root(),
            pytest.raises(OSError, match=r"new\.partial cannot be made \(Permission denied\): choose a place"),
            RecordingWriter(Path(folder) / "new", make_rig("a"), fps=30.0),
        ):
            pass


# A limit on the size of files fails writes as a full disk does: with an error of the system call.
_FULL_DISK = """
import resource, signal, sys
from pathlib import Path
import numpy as np
from capture_footage import SIZE, make_frame, make_rig
from hamuco.capture.frame import FrameSet
from hamuco.capture.recording import RecordingWriter

folder, codec, limit, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
rng = np.random.default_rng(0)
try:
    with RecordingWriter(folder, make_rig("a"), fps=30.0, codec=codec) as writer:
        for k in range(count):
            image = rng.integers(0, 256, (SIZE[1], SIZE[0], 3), np.uint8)
            writer.write(FrameSet(k, {"a": make_frame("a", k, 33_000_000 * k, image)}))
        print("written")
except OSError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("codec", "limit", "count", "when"),
    [
        # Random pixels take some 15 kB a frame, and OpenCV's buffer has 32 kB; that of H.264 has seconds.
        ("mjpeg", 100_000, 100, "at once"),
        ("h264", 100_000, 100, "at the end"),
        ("mjpeg", 8_000, 1, "at the end"),
        ("h264", 8_000, 1, "at the end"),
    ],
)
def test_a_full_disk_is_an_error(tmp_path: Path, codec: Codec, limit: int, count: int, when: str) -> None:
    command = [sys.executable, "-c", _FULL_DISK, str(tmp_path / "new"), codec, str(limit), str(count)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent), "OPENCV_LOG_LEVEL": "ERROR"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True)
    # Failures of single writes show at once; what was still in the buffer is found to be missing at the end.
    assert ("written" in result.stdout) == (when == "at the end"), result
    assert "a.mkv is cut off" in result.stdout
    assert "is it full?" in result.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["new.partial"]


def test_what_an_interrupted_run_left_is_named(tmp_path: Path) -> None:
    (tmp_path / "clip.partial").mkdir()
    with pytest.raises(RecordingError, match=r"clip is not there, only .*clip\.partial"):
        Recording.open(tmp_path / "clip")
