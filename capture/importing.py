"""Footage that somebody else recorded, turned into a recording. Videos are copied as they are, never re-encoded."""

from __future__ import annotations

import csv
import re
import shutil
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from decimal import Decimal, InvalidOperation
from pathlib import Path

from hamuco.calibration.camera import Rig
from hamuco.calibration.rig_file import save_rig
from hamuco.capture.recording import (
    VIDEO_SUFFIXES,
    RecordedFrame,
    Recording,
    RecordingError,
    check_order,
    partial_folder,
    read_timestamps,
    write_timestamps,
)
from hamuco.capture.source import check_size
from hamuco.capture.video import VideoFile

_CALISCOPE = ("sync_index", "cam_id", "frame_time")
# Videos often end a little before their times do. Where more of the rows have no image, these are another take's.
_MOST_BEYOND = 0.1


def expand_template(template: str, cameras: Iterable[str]) -> dict[str, Path]:
    """Video of each camera from a path with `{camera}` in it, for example `hands_cam_{camera}.mp4`.

    `{camera}` stands for the camera's name or, where no such file exists, for the number at the end of its name.
    Raises RecordingError, listing every camera whose video does not exist.
    """
    if "{camera}" not in template:
        raise RecordingError(f"{template!r} does not contain {{camera}}, the place of the camera's name or number")
    videos, absent = {}, []
    for camera in cameras:
        texts = [camera] if (number := _number(camera)) is None else [camera, number]
        candidates = [Path(template.replace("{camera}", text)) for text in texts]
        existing = [path for path in candidates if path.is_file()]
        if existing:
            videos[camera] = existing[0]
        else:
            absent.append(f"{camera!r} (looked for {' and '.join(map(str, candidates))})")
    if absent:
        raise RecordingError(f"no video of camera {'; '.join(absent)}")
    return videos


def import_recording(
    out: Path, rig: Rig, videos: Mapping[str, Path], timestamps: Path | None, fps: float | None
) -> Recording:
    """Make a recording of foreign footage. Exactly one of `timestamps` and `fps` says when the frames were taken.

    Args:
        out: folder to make; must not exist or be empty.
        videos: one file for each camera of the rig.
        timestamps: our timestamps.csv, or Caliscope's (sync_index, cam_id, frame_time in seconds, and optionally
            frame_index; without it a camera's k-th row is frame k of its video).
        fps: constant rate of videos that all start at the same moment.

    Returns:
        The recording; its `warnings` tell of unequal lengths, gaps and frames that will be dropped.

    Raises:
        RecordingError: contradictory arguments, a missing video, or bad timestamps.
        SourceError: a video that does not open or has not the size of its calibration.
    """
    absent = [name for name in rig.names if name not in videos]
    unknown = [name for name in videos if name not in rig.names]
    if absent or unknown:
        what = f"no video of camera {', '.join(absent)}" if absent else f"camera {', '.join(unknown)} is not in the rig"
        raise RecordingError(f"{what}; the rig has {', '.join(rig.names)}")
    counts = {}
    for camera in rig:
        if videos[camera.name].suffix.lower() not in VIDEO_SUFFIXES:
            raise RecordingError(f"video {videos[camera.name]} is not one of {', '.join(VIDEO_SUFFIXES)}")
        video = VideoFile(videos[camera.name])
        video.close()
        check_size(f"camera {camera.name!r} ({video.path})", video.size, camera.size)
        counts[camera.name] = video.frame_count

    if timestamps is not None and fps is None:
        frames = _read_foreign(timestamps, rig.names)
    elif fps is not None and timestamps is None:
        if not 0 < fps < 1e4:
            raise RecordingError(f"{fps} frames/s is not a rate")
        frames = {name: _constant_rate(count, fps) for name, count in counts.items()}
    else:
        both = "not both" if fps is not None else "one of them"
        raise RecordingError(f"say when the frames were taken: with --timestamps FILE or --fps RATE, {both}")

    for name, count in counts.items():
        beyond = sum(row.frame >= count for row in frames[name])
        if beyond > _MOST_BEYOND * len(frames[name]):
            raise RecordingError(
                f"{beyond} of {len(frames[name])} rows that {timestamps} has of camera {name!r} are of no image: {videos[name]} "
                f"has {count}. Are they of one take?"
            )
    with partial_folder(out) as folder, ExitStack() as undone:
        undone.callback(shutil.rmtree, folder, ignore_errors=True)  # copies are not worth keeping
        save_rig(rig, folder / "rig.toml")
        write_timestamps(folder / "timestamps.csv", frames)
        for name in rig.names:
            shutil.copyfile(videos[name], folder / f"{name}{videos[name].suffix.lower()}")
        undone.pop_all()
    return Recording.open(out)


def _constant_rate(count: int, fps: float) -> tuple[RecordedFrame, ...]:
    return tuple(RecordedFrame(k, k, round(k * 1e9 / fps)) for k in range(count))


def _read_foreign(path: Path, cameras: tuple[str, ...]) -> dict[str, tuple[RecordedFrame, ...]]:
    if not path.is_file():
        raise RecordingError(f"timestamps file {path} does not exist")
    with path.open(newline="", encoding="utf-8") as file:
        columns = csv.DictReader(file).fieldnames or ()
    if all(name in columns for name in _CALISCOPE):
        return _read_caliscope(path, cameras)
    return read_timestamps(path, cameras)


def _read_caliscope(path: Path, cameras: tuple[str, ...]) -> dict[str, tuple[RecordedFrame, ...]]:
    names = {f"{cam_id}": name for name in cameras if (cam_id := _number(name)) is not None}
    # (sync_index, line, frame_index or None, time) of each camera; a set's cameras may come in any order.
    rows: dict[str, list[tuple[int, int, int | None, int]]] = {name: [] for name in cameras}
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        for row in reader:
            name = names.get(row["cam_id"])
            if name is None:
                raise RecordingError(
                    f"{path}, line {reader.line_num}: cam_id {row['cam_id']} is none of the rig's cameras "
                    f"({', '.join(cameras)})"
                )
            try:
                # Decimal: seconds of a clock that runs for days have more digits than a float keeps as nanoseconds.
                t_capture_ns = int(Decimal(row["frame_time"]) * 1_000_000_000)
                frame = int(row["frame_index"]) if row.get("frame_index") else None
                rows[name].append((int(row["sync_index"]), reader.line_num, frame, t_capture_ns))
            except (InvalidOperation, TypeError, ValueError) as error:
                raise RecordingError(f"{path}, line {reader.line_num} is not a row of numbers: {row}") from error
    frames = {}
    for name, camera_rows in rows.items():
        if not camera_rows:
            raise RecordingError(f"{path} has no row of camera {name!r}")
        recorded: list[RecordedFrame] = []
        for k, (sync_index, line, frame, t_capture_ns) in enumerate(sorted(camera_rows)):
            current = RecordedFrame(sync_index, k if frame is None else frame, t_capture_ns)
            if recorded:
                check_order(f"{path}, line {line}", name, recorded[-1], current)
            recorded.append(current)
        frames[name] = tuple(recorded)
    return frames


def _number(camera: str) -> str | None:
    """The number at the end of a camera's name, without leading zeros: "3" of "cam_03"; None if there is none."""
    match = re.search(r"(\d+)$", camera)
    return None if match is None else str(int(match[1]))
