from __future__ import annotations

from pathlib import Path

import pytest
from capture_footage import make_rig, write_video
from full_disk import room_for

from hamuco.calibration.formats import import_rig
from hamuco.capture.importing import expand_template, import_recording
from hamuco.capture.recording import RecordedFrame, Recording, RecordingError
from hamuco.capture.source import SourceError

RIG = make_rig("cam_0", "cam_1")


@pytest.fixture
def videos(tmp_path: Path) -> dict[str, Path]:
    return {name: write_video(tmp_path / f"clip_{name[-1]}.avi", 4) for name in RIG.names}


def test_template_matches_name_then_number(tmp_path: Path, videos: dict[str, Path]) -> None:
    template = str(tmp_path / "clip_{camera}.avi")
    assert expand_template(template, RIG.names) == videos
    named = write_video(tmp_path / "clip_cam_1.avi", 1)
    assert expand_template(template, RIG.names) == {**videos, "cam_1": named}
    with pytest.raises(RecordingError, match=r"'cam_7' \(looked for .*clip_cam_7\.avi and .*clip_7\.avi\); 'left'"):
        expand_template(template, ["cam_0", "cam_7", "left"])
    with pytest.raises(RecordingError, match=r"does not contain \{camera\}"):
        expand_template("clip_0.avi", ["cam_0"])


def test_constant_rate(tmp_path: Path, videos: dict[str, Path]) -> None:
    recording = import_recording(tmp_path / "out", RIG, videos, None, fps=25.0)
    assert recording.frames["cam_1"] == tuple(RecordedFrame(k, k, 40_000_000 * k) for k in range(4))
    assert recording.warnings == ()
    for name in RIG.names:
        assert recording.videos[name].read_bytes() == videos[name].read_bytes()
    assert not (tmp_path / "out.partial").exists()


def test_caliscope_timestamps_with_frame_numbers_in_any_order(tmp_path: Path, videos: dict[str, Path]) -> None:
    (tmp_path / "times.csv").write_text(
        "sync_index,cam_id,frame_index,frame_time\n8,1,2,47389.200000001\n8,0,1,47389.25\n7,0,0,47389.2\n7,1,0,47389.1\n"
    )
    recording = import_recording(tmp_path / "out", RIG, videos, tmp_path / "times.csv", None)
    # Read as decimals: a float of this size is good to 7e-12 s, but its product with 1e9 would be rounded.
    assert recording.frames["cam_0"] == (RecordedFrame(7, 0, 47389_200_000_000), RecordedFrame(8, 1, 47389_250_000_000))
    assert recording.frames["cam_1"] == (RecordedFrame(7, 0, 47389_100_000_000), RecordedFrame(8, 2, 47389_200_000_001))
    assert len(recording.warnings) == 2  # frames of either video without a time


def test_our_own_timestamps(tmp_path: Path, videos: dict[str, Path]) -> None:
    first = import_recording(tmp_path / "first", RIG, videos, None, fps=25.0)
    second = import_recording(tmp_path / "second", RIG, videos, first.path / "timestamps.csv", None)
    assert second.frames == first.frames


def test_times_of_another_take_are_refused(tmp_path: Path, videos: dict[str, Path]) -> None:
    rows = [f"{k},{camera},{k},{k / 25}" for camera in (0, 1) for k in range(6)]
    (tmp_path / "board.csv").write_text("\n".join(["sync_index,cam_id,frame_index,frame_time", *rows]) + "\n")
    with pytest.raises(
        RecordingError, match=r"^2 of 6 rows that .*board\.csv has of camera 'cam_0' are of no image: .* has 4\."
    ):
        import_recording(tmp_path / "out", RIG, videos, tmp_path / "board.csv", None)
    assert not list(tmp_path.glob("out*"))


def test_an_import_that_fails_leaves_nothing(tmp_path: Path, videos: dict[str, Path]) -> None:
    with pytest.raises(OSError, match="too large"), room_for(videos["cam_1"].stat().st_size - 1):
        import_recording(tmp_path / "out", RIG, videos, None, fps=25.0)
    assert not list(tmp_path.glob("out*"))


def test_unequal_lengths_are_told(tmp_path: Path, videos: dict[str, Path]) -> None:
    write_video(videos["cam_1"], 3)
    recording = import_recording(tmp_path / "out", RIG, videos, None, fps=25.0)
    assert recording.warnings == (
        "the cameras have different numbers of frames (cam_0 4, cam_1 3): some sets will be incomplete",
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sync_index,cam_id,frame_time\n0,0,0.1\n0,1,0.1\n1,0,0.05\n", "line 4: camera 'cam_0' goes backwards"),
        ("sync_index,cam_id,frame_time\n0,0,0.1\n0,5,0.1\n", "line 3: cam_id 5 is none of the rig's cameras"),
        ("sync_index,cam_id,frame_time\n0,0,0.1\n", "has no row of camera 'cam_1'"),
        ("sync_index,cam_id,frame_time\n0,0,soon\n", "line 2 is not a row of numbers"),
        ("sync_index,cam_id,frame_time\n0,0\n", "line 2 is not a row of numbers"),
        ("time,value\n0,0\n", "has no column set_id, camera, frame, t_capture_ns"),
    ],
)
def test_bad_timestamps(tmp_path: Path, videos: dict[str, Path], text: str, message: str) -> None:
    (tmp_path / "times.csv").write_text(text)
    with pytest.raises(RecordingError, match=message):
        import_recording(tmp_path / "out", RIG, videos, tmp_path / "times.csv", None)
    assert not (tmp_path / "out").exists()


def test_bad_arguments(tmp_path: Path, videos: dict[str, Path]) -> None:
    out = tmp_path / "out"
    with pytest.raises(RecordingError, match="no video of camera cam_1; the rig has cam_0, cam_1"):
        import_recording(out, RIG, {"cam_0": videos["cam_0"]}, None, 30.0)
    with pytest.raises(RecordingError, match="camera cam_9 is not in the rig"):
        import_recording(out, RIG, {**videos, "cam_9": videos["cam_0"]}, None, 30.0)
    with pytest.raises(SourceError, match=r"gone\.avi does not exist"):
        import_recording(out, RIG, {**videos, "cam_1": tmp_path / "gone.avi"}, None, 30.0)
    with pytest.raises(RecordingError, match=r"times\.csv does not exist"):
        import_recording(out, RIG, videos, tmp_path / "times.csv", None)
    for timestamps, fps in ((None, None), (tmp_path / "times.csv", 30.0)):
        with pytest.raises(RecordingError, match="with --timestamps FILE or --fps RATE"):
            import_recording(out, RIG, videos, timestamps, fps)
    with pytest.raises(RecordingError, match=r"-1\.0 frames/s is not a rate"):
        import_recording(out, RIG, videos, None, -1.0)
    write_video(videos["cam_1"], 4, size=(64, 48))
    with pytest.raises(SourceError, match=r"'cam_1'.*64x48 px but its calibration is for 160x120"):
        import_recording(out, RIG, videos, None, 30.0)
    assert not out.exists()


def test_an_existing_folder_is_not_overwritten(tmp_path: Path, videos: dict[str, Path]) -> None:
    out = tmp_path / "out"
    out.mkdir()
    import_recording(out, RIG, videos, None, 30.0)  # empty: taken
    with pytest.raises(RecordingError, match="exists and is not an empty folder"):
        import_recording(out, RIG, videos, None, 30.0)


def test_real_recording(tmp_path: Path, data_dir: Path) -> None:
    source = data_dir / "caliscope-4cam-hands"
    rig = import_rig(source / "camera_array.toml")
    clips = expand_template(str(source / "hands_cam_{camera}.mp4"), rig.names)
    recording = import_recording(tmp_path / "out", rig, clips, source / "timestamps_hands.csv", None)
    assert recording.warnings == ()
    assert [len(rows) for rows in recording.frames.values()] == [36] * 4
    assert recording.frames["cam_1"][0] == RecordedFrame(26, 0, 123_334_808_300)
    assert Recording.open(recording.path).rig.names == ("cam_0", "cam_1", "cam_2", "cam_3")
