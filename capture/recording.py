"""Recordings: a folder with the videos of all cameras, their capture times and the calibration they were taken with.

    rig.toml          the rig as it was calibrated at that time
    <camera>.mkv      one video per camera of the rig, or .mp4 or .avi
    timestamps.csv    set_id, camera, frame, t_capture_ns and optionally t_uncertainty_ns, t_device_ns, t_arrival_ns

`frame` is the frame's number in the video from 0. A video's own times are nominal; timestamps.csv is the truth.
"""

from __future__ import annotations

import csv
import statistics
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Literal, Self, get_args

import cv2

from hamuco.calibration.camera import Rig
from hamuco.calibration.rig_file import load_rig, save_rig
from hamuco.capture.frame import FrameSet
from hamuco.capture.h264 import H264Writer
from hamuco.capture.source import SourceError, check_size
from hamuco.capture.video import VideoFile

VIDEO_SUFFIXES = (".mkv", ".mp4", ".avi")
Codec = Literal["mjpeg", "h264"]
CODECS: tuple[Codec, ...] = get_args(Codec)
"""Of new videos. Motion JPEG: every frame stands alone, some 25 kB of 640x480. H.264: a tenth of that, most frames told
as changes of others, and PyAV is needed to write it; for clips that travel."""

_REQUIRED = ("set_id", "camera", "frame", "t_capture_ns")
_OPTIONAL = ("t_uncertainty_ns", "t_device_ns", "t_arrival_ns")
_MOST_LISTED = 8  # cameras, in a message
_GAP_PERIODS = 1.5  # a longer interval means that at least one frame is missing


class RecordingError(ValueError):
    """A folder that is not a recording, or one that contradicts itself."""


@dataclass(frozen=True, slots=True)
class RecordedFrame:
    """One row of timestamps.csv; the times are those of `Frame`, an uncertainty of 0 means that none was recorded."""

    set_id: int
    frame: int
    t_capture_ns: int
    t_uncertainty_ns: int = 0
    t_device_ns: int | None = None
    t_arrival_ns: int | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Recording:
    """A checked recording.

    Attributes:
        videos: video file of each camera, in rig order.
        frames: rows of each camera, in rig order; frame numbers and times increase strictly.
        warnings: what is incomplete but usable, one sentence each: gaps, rows without an image, images without a row.
    """

    path: Path
    rig: Rig
    videos: Mapping[str, Path]
    frames: Mapping[str, tuple[RecordedFrame, ...]]
    warnings: tuple[str, ...]

    @property
    def first_ns(self) -> int:
        """Earliest capture time of all cameras."""
        return min(rows[0].t_capture_ns for rows in self.frames.values())

    @property
    def duration_ns(self) -> int:
        """Latest minus earliest capture time of all cameras."""
        return max(rows[-1].t_capture_ns for rows in self.frames.values()) - self.first_ns

    @staticmethod
    def open(path: Path) -> Recording:
        """Read and check a recording.

        Raises RecordingError for a missing or contradictory part, CalibrationError for a bad rig.toml and SourceError
        for a video that does not open or has not the size of its calibration.
        """
        if not path.exists() and _partial(path).exists():
            raise RecordingError(
                f"{path} is not there, only {_partial(path)}, which an interrupted run left: it is not whole. "
                "Record or render it again"
            )
        for name in ("rig.toml", "timestamps.csv"):
            if not (path / name).is_file():
                raise RecordingError(f"{path} is not a recording: it has no {name}; make one with `hamuco import`")
        rig = load_rig(path / "rig.toml")
        frames = read_timestamps(path / "timestamps.csv", rig.names)
        videos, warnings = {}, []
        for camera in rig:
            videos[camera.name] = _video_of(path, camera.name)
            video = VideoFile(videos[camera.name])
            video.close()
            check_size(f"camera {camera.name!r} ({video.path})", video.size, camera.size)
            warnings += _irregularities(camera.name, frames[camera.name], video.frame_count)
        counts = {name: len(rows) for name, rows in frames.items()}
        if len(set(counts.values())) > 1:
            listing = ", ".join(f"{name} {count}" for name, count in counts.items())
            if len(counts) > _MOST_LISTED:
                listing = f"{min(counts.values())} to {max(counts.values())}"
            warnings.append(f"the cameras have different numbers of frames ({listing}): some sets will be incomplete")
        return Recording(path, rig, videos, frames, tuple(warnings))


def read_timestamps(path: Path, cameras: Iterable[str]) -> dict[str, tuple[RecordedFrame, ...]]:
    """Rows of a timestamps.csv by camera, in the order of `cameras`; every camera must have some.

    Raises RecordingError naming the line for an unknown camera, a repeated frame or a time that goes backwards.
    """
    frames: dict[str, list[RecordedFrame]] = {name: [] for name in cameras}
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        absent = [name for name in _REQUIRED if name not in (reader.fieldnames or ())]
        if absent:
            raise RecordingError(f"{path} has no column {', '.join(absent)}; the first line must name the columns")
        for row in reader:
            where = f"{path}, line {reader.line_num}"
            if row["camera"] not in frames:
                raise RecordingError(f"{where}: camera {row['camera']!r} is not in the rig ({', '.join(frames)})")
            rows = frames[row["camera"]]
            try:
                recorded = _parse_row(row)
            except (TypeError, ValueError) as error:
                raise RecordingError(f"{where} is not a row of whole numbers: {row}") from error
            if rows:
                check_order(where, row["camera"], rows[-1], recorded)
            rows.append(recorded)
    for name, rows in frames.items():
        if not rows:
            raise RecordingError(f"{path} has no row of camera {name!r}")
    return {name: tuple(rows) for name, rows in frames.items()}


def _parse_row(row: Mapping[str, str | None]) -> RecordedFrame:
    def optional(name: str) -> int | None:
        text = row.get(name)
        return int(text) if text else None

    set_id, frame, t_capture_ns = (int(row[name] or "") for name in ("set_id", "frame", "t_capture_ns"))
    if frame < 0:
        raise ValueError(f"frame {frame} is negative")
    t_uncertainty_ns, t_device_ns, t_arrival_ns = (optional(name) for name in _OPTIONAL)
    return RecordedFrame(set_id, frame, t_capture_ns, t_uncertainty_ns or 0, t_device_ns, t_arrival_ns)


def check_order(where: str, camera: str, previous: RecordedFrame, current: RecordedFrame) -> None:
    """Raise RecordingError unless `current` comes after `previous`, by number and by time."""
    if current.frame == previous.frame:
        raise RecordingError(f"{where}: frame {current.frame} of camera {camera!r} is listed twice")
    if current.frame < previous.frame or current.t_capture_ns <= previous.t_capture_ns:
        raise RecordingError(
            f"{where}: camera {camera!r} goes backwards from frame {previous.frame} at {previous.t_capture_ns} ns "
            f"to frame {current.frame} at {current.t_capture_ns} ns; sort or correct the file"
        )


def write_timestamps(path: Path, frames: Mapping[str, Iterable[RecordedFrame]]) -> None:
    """Write a timestamps.csv, sets in order and within a set the cameras in the order of `frames`."""
    order = {name: index for index, name in enumerate(frames)}
    rows = [(row.set_id, order[name], name, row) for name, camera_rows in frames.items() for row in camera_rows]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow((*_REQUIRED, *_OPTIONAL))
        for *_, name, row in sorted(rows, key=lambda item: (item[0], item[1], item[3].frame)):
            writer.writerow(_csv_row(name, row))


def _csv_row(camera: str, row: RecordedFrame) -> tuple[int | str | None, ...]:
    optional = (row.t_uncertainty_ns, row.t_device_ns, row.t_arrival_ns)
    return (row.set_id, camera, row.frame, row.t_capture_ns, *optional)


def _video_of(path: Path, camera: str) -> Path:
    candidates = [path / f"{camera}{suffix}" for suffix in VIDEO_SUFFIXES]
    existing = [candidate for candidate in candidates if candidate.is_file()]
    if len(existing) != 1:
        found = f"has {len(existing)} videos" if existing else "has no video"
        names = ", ".join(candidate.name for candidate in candidates)
        raise RecordingError(f"{path} {found} of camera {camera!r}; one of {names} is expected")
    return existing[0]


def _irregularities(camera: str, rows: tuple[RecordedFrame, ...], video_frames: int) -> list[str]:
    found = []
    imageless = sum(row.frame >= video_frames for row in rows)
    if imageless:
        found.append(
            f"camera {camera!r}: the video ends after {video_frames} frames, {imageless} of {len(rows)} rows of "
            "timestamps.csv have no image and will be dropped"
        )
    unlisted = video_frames - (len(rows) - imageless)
    if unlisted:
        found.append(f"camera {camera!r}: {unlisted} of {video_frames} frames of the video have no time; not used")
    intervals = [later.t_capture_ns - earlier.t_capture_ns for earlier, later in pairwise(rows)]
    if intervals:
        period = statistics.median(intervals)
        gaps = sum(interval > _GAP_PERIODS * period for interval in intervals)
        if gaps:
            longest = max(range(len(intervals)), key=intervals.__getitem__)
            found.append(
                f"camera {camera!r}: frames are missing, gaps in time of more than {_GAP_PERIODS} periods of "
                f"{period / 1e6:.1f} ms: {gaps}; the longest of {intervals[longest] / 1e9:.2f} s after frame "
                f"{rows[longest].frame}"
            )
    return found


def check_free(path: Path) -> None:
    """Raise RecordingError if there is something at `path`, or left at `<path>.partial`, OSError if nobody can know."""
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise RecordingError(f"{path} exists and is not an empty folder; choose another name")
    if _partial(path).exists():
        raise RecordingError(f"{_partial(path)} is left from an interrupted run; look at it, then remove or rename it")


def _partial(path: Path) -> Path:
    return path.with_name(path.name + ".partial")


@contextmanager
def partial_folder(path: Path) -> Iterator[Path]:
    """A folder `<path>.partial` that becomes `path` when the block ends without an exception.

    After an exception it stays where it is, so that what was recorded is not lost and not taken for a whole.

    Raises:
        RecordingError: there is something at `path` or `<path>.partial` already.
        OSError: the folder cannot be made.
    """
    check_free(path)
    partial = _partial(path)
    try:
        partial.mkdir(parents=True)
    except OSError as error:
        raise OSError(
            f"folder {partial} cannot be made ({error.strerror}): choose a place where you may write"
        ) from error
    yield partial
    if path.exists():
        path.rmdir()
    partial.rename(path)


class RecordingWriter:
    """Writes frame sets into a new recording. A context manager: the recording is whole when the block ends.

    Until then, and after any error, it is the folder `<path>.partial`. With Motion JPEG, the video that was written before
    a crash can be played.
    """

    def __init__(self, path: Path, rig: Rig, fps: float, codec: Codec = "mjpeg") -> None:
        """
        Args:
            path: folder to make; must not exist or be empty.
            rig: cameras with even image width and height.
            fps: nominal rate written into the videos, 1 to 1000; the times of the frames are recorded as they are.
            codec: see `Codec`.

        Raises:
            RecordingError: a size or rate that videos cannot have.
        """
        for camera in rig:
            # Chroma is stored for two by two pixels; OpenCV would drop the odd row and column without a word.
            if camera.size[0] % 2 or camera.size[1] % 2:
                raise RecordingError(
                    f"camera {camera.name!r} has {camera.size[0]}x{camera.size[1]} px: a video needs an even width and "
                    "height"
                )
        if not 1 <= fps <= 1000:
            raise RecordingError(f"{fps} frames/s is not a rate for a video; 1 to 1000 are")
        self._path = path
        self._rig = rig
        self._fps = fps
        self._codec = codec
        self._videos: dict[str, cv2.VideoWriter | H264Writer] = {}
        self._counts = dict.fromkeys(rig.names, 0)

    @property
    def folder(self) -> Path:
        """Where the recording is being made, for files that go with it. Only inside of the block."""
        return self._folder

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._folder = stack.enter_context(partial_folder(self._path))
            save_rig(self._rig, self._folder / "rig.toml")
            for camera in self._rig:
                path = self._video_path(camera.name)
                video = _open_video(path, self._codec, self._fps, camera.size)
                stack.callback(video.release)
                self._videos[camera.name] = video
            timestamps = (self._folder / "timestamps.csv").open("w", newline="", encoding="utf-8")
            self._timestamps = stack.enter_context(timestamps)
            self._rows = csv.writer(self._timestamps)
            self._rows.writerow((*_REQUIRED, *_OPTIONAL))
            self._open = stack.pop_all()
        return self

    def write(self, frame_set: FrameSet) -> None:
        """Append the frames of one set; a camera without a frame in it gets no row.

        Raises:
            OSError: the disk is full.
            SourceError: an image has not the size of its camera.
        """
        for name, frame in frame_set.frames.items():
            height, width = frame.image.shape[:2]
            check_size(f"camera {name!r}", (width, height), self._rig[name].size)
            if not self._videos[name].write(frame.image):
                raise OSError(self._cut_off(name))
            row = RecordedFrame(
                frame_set.set_id,
                self._counts[name],
                frame.t_capture_ns,
                frame.t_uncertainty_ns,
                frame.t_device_ns,
                frame.t_arrival_ns,
            )
            self._rows.writerow(_csv_row(name, row))
            self._counts[name] += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._open.__exit__(kind, error, trace)
            return
        with self._open:
            self._finish()

    def _finish(self) -> None:
        """Raise unless everything that was written is there."""
        silent = [name for name, count in self._counts.items() if not count]
        if silent:
            raise RecordingError(
                f"no frame of camera {', '.join(silent)} came in, and a recording needs some of every camera; the other "
                f"frames are in {self._folder}"
            )
        try:
            self._timestamps.close()
        except OSError as full:
            raise OSError(f"{self._timestamps.name} is cut off ({full.strerror}): make room on the disk") from full
        for name, count in self._counts.items():
            # The last frames leave OpenCV's buffer here, where it does not tell that the disk is full.
            self._videos[name].release()
            if _frames_in(self._video_path(name)) != count:
                raise OSError(self._cut_off(name))

    def _video_path(self, camera: str) -> Path:
        return self._folder / f"{camera}.mkv"

    def _cut_off(self, camera: str) -> str:
        return (
            f"video {self._video_path(camera)} is cut off, its {self._counts[camera]} frames did not all reach the disk: "
            "is it full? Make room and record again"
        )


def _open_video(path: Path, codec: Codec, fps: float, size: tuple[int, int]) -> cv2.VideoWriter | H264Writer:
    if codec == "h264":
        return H264Writer(path, fps, size)
    video = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), fps, size)
    if not video.isOpened():
        raise OSError(f"video {path} cannot be written: is the disk full or the folder read-only?")
    return video


def _frames_in(path: Path) -> int:
    try:
        video = VideoFile(path)
    except SourceError:
        return 0
    video.close()
    return video.frame_count
