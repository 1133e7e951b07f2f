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
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Self

import cv2

from hamuco.calibration.camera import Rig
from hamuco.calibration.rig_file import load_rig, save_rig
from hamuco.capture.frame import FrameSet
from hamuco.capture.source import check_size
from hamuco.capture.video import VideoFile

VIDEO_SUFFIXES = (".mkv", ".mp4", ".avi")
_REQUIRED = ("set_id", "camera", "frame", "t_capture_ns")
_OPTIONAL = ("t_uncertainty_ns", "t_device_ns", "t_arrival_ns")
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


@contextmanager
def partial_folder(path: Path) -> Iterator[Path]:
    """A folder `<path>.partial` that becomes `path` when the block ends without an exception.

    After an exception it stays where it is, so that what was recorded is not lost and not taken for a whole.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise RecordingError(f"{path} exists and is not an empty folder; choose another name")
    partial = path.with_name(path.name + ".partial")
    if partial.exists():
        raise RecordingError(f"{partial} is left from an interrupted run; look at it, then remove or rename it")
    partial.mkdir(parents=True)
    yield partial
    if path.exists():
        path.rmdir()
    partial.rename(path)


class RecordingWriter:
    """Writes frame sets into a new recording. A context manager: the recording is whole when the block ends.

    Videos are Motion JPEG in Matroska: every frame stands alone, and what was written before a crash can be read.
    """

    def __init__(self, path: Path, rig: Rig, fps: float) -> None:
        """`fps` is the nominal rate written into the videos; the times of the frames are recorded as they are."""
        self._rig = rig
        self._fps = fps
        self._folder = partial_folder(path)
        self._videos: dict[str, cv2.VideoWriter] = {}
        self._counts = dict.fromkeys(rig.names, 0)

    def __enter__(self) -> Self:
        folder = self._folder.__enter__()
        save_rig(self._rig, folder / "rig.toml")
        for camera in self._rig:
            path = folder / f"{camera.name}.mkv"
            video = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), self._fps, camera.size)
            if not video.isOpened():
                raise OSError(f"video {path} cannot be written: is the disk full or the folder read-only?")
            self._videos[camera.name] = video
        self._timestamps = (folder / "timestamps.csv").open("w", newline="", encoding="utf-8")
        self._rows = csv.writer(self._timestamps)
        self._rows.writerow((*_REQUIRED, *_OPTIONAL))
        return self

    def write(self, frame_set: FrameSet) -> None:
        """Append the frames of one set; a camera without a frame in it gets no row."""
        for name, frame in frame_set.frames.items():
            height, width = frame.image.shape[:2]
            check_size(f"camera {name!r}", (width, height), self._rig[name].size)
            self._videos[name].write(frame.image)
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
        for video in self._videos.values():
            video.release()
        self._timestamps.close()
        self._folder.__exit__(kind, error, trace)
