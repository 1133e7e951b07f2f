"""The viewer with its real process, publisher, shared memory and Rerun."""

from __future__ import annotations

import os
import re
import signal
import socket
import sys
import threading
import time
import urllib.request
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import rerun as rr
import rerun.blueprint as rrb
from hands_for_streaming import example_hand
from numpy.typing import NDArray
from rerun.chunk import RrdReader
from synthetic_hand import synthetic_hand

from hamuco.app.truth_monitor import TruthMatch
from hamuco.app.view_link import TrueSkeleton, ViewerError, ViewerLink, ViewNote, decode_note, encode_note
from hamuco.app.view_scene import PinholeView, Scene, blueprint
from hamuco.calibration.camera import Camera, Rig
from hamuco.capture.frame import Frame, FrameSet
from hamuco.capture.grabber import SlotReference
from hamuco.capture.transport import SharedFrames
from hamuco.fusion.hand import JOINT_EDGES, HandSet, Side
from hamuco.streaming.messages import HandMessage, SetMessage, decode_message, encode_hand, encode_set
from hamuco.streaming.publisher import Publisher

SIZE = (320, 240)
CAMERAS = ("left one", "right one")
# Barrel distortion that moves the corners of the image by some 20 px.
DISTORTION = (-0.25, 0.08, 0.001, -0.002, -0.01)


def make_camera(name: str, size: tuple[int, int] = SIZE, x: float = 0.0) -> Camera:
    camera_from_world = np.eye(4)
    camera_from_world[0, 3] = -x
    matrix = [[0.8 * size[0], 0, 0.52 * size[0]], [0, 0.8 * size[0], 0.47 * size[1]], [0, 0, 1]]
    return Camera(name, size, np.array(matrix), np.array(DISTORTION), camera_from_world)


RIG = Rig(tuple(make_camera(name, x=0.2 * index) for index, name in enumerate(CAMERAS)))


def frame_set(set_id: int) -> FrameSet:
    image = np.zeros((SIZE[1], SIZE[0], 3), np.uint8)
    return FrameSet(set_id, {name: Frame(name, set_id, 10**9 * set_id, 0, 0, None, image) for name in CAMERAS})


def hand_set(set_id: int, *sides: str) -> HandSet:
    hands = [replace(example_hand(track_id), side=side) for track_id, side in enumerate(sides)]  # type: ignore[arg-type]
    return HandSet(
        set_id=set_id,
        t_capture_ns=time.monotonic_ns(),
        spread_ns=0,
        cameras=CAMERAS,
        hands=tuple(hands),
        stage_ms={"fuse": 2.5},
        counters={"hands_lost": 7},
    )


def true_hand(side: Side, mpjpe_mm: float) -> TruthMatch:
    joints = np.linspace(0.0, 0.2, 63).reshape(21, 3)
    return TruthMatch(side, joints, None, mpjpe_mm, mpjpe_mm / 2)


def filled_slots(folder: Path) -> dict[str, SlotReference]:
    """One image per camera in shared memory; the second camera's is already overwritten by the next."""
    slots = {}
    for index, name in enumerate(CAMERAS):
        path = folder / f"{index}.frames"
        SharedFrames.create(path, SIZE, 2)
        writer = SharedFrames(path, SIZE, 2, writable=True)
        writer.begin_write(1)[:] = 100
        slots[name] = SlotReference(path, SIZE, 2, 1, writer.end_write(1))
    writer.begin_write(1)
    writer.end_write(1)
    return slots


def views_of(part: rrb.Container | rrb.View) -> list[rrb.View]:
    if isinstance(part, rrb.View):
        return [part]
    return [view for inner in part.contents for view in views_of(inner)]


def logged(path: Path) -> dict[str, list[dict[str, Any]]]:
    """Rows of a Rerun recording, by entity, in order of sets; what belongs to no set comes first."""
    rows: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for chunk in RrdReader(path).stream().to_chunks():
        batch = chunk.to_record_batch()
        # Python's own times have no nanoseconds.
        columns = [name for name in batch.schema.names if not name.endswith("_time")]
        rows[chunk.entity_path] += batch.select(columns).to_pylist()
    for entity in rows.values():
        entity.sort(key=lambda row: row.get("set", -1))
    return rows


@pytest.mark.parametrize("size", [(640, 480), (1280, 720)])
def test_a_point_seen_by_the_camera_is_where_the_pinhole_view_projects_it(size: tuple[int, int]) -> None:
    camera = make_camera("a", size)
    view = PinholeView(camera)
    scale = view.size[0] / size[0]
    for point in ([0.0, 0.0, 1.0], [0.45, 0.2, 1.0], [-0.5, -0.25, 1.0]):
        columns, rows = np.meshgrid(np.arange(size[0]), np.arange(size[1]))
        u, v = camera.project(point)
        spot = 255 * np.exp(-((columns - u) ** 2 + (rows - v) ** 2) / (2 * (3 / scale) ** 2))
        image = view(np.repeat(spot.astype(np.uint8)[..., None], 3, axis=2))[..., 0].astype(float)
        columns, rows = np.meshgrid(np.arange(view.size[0]), np.arange(view.size[1]))
        seen = np.array([(columns * image).sum(), (rows * image).sum()]) / image.sum()
        expected = (view.matrix @ point)[:2] / point[2]
        # Across a spot of 3 px the magnification of this lens changes by some per cent, which shifts its centre by
        # less than 0.2 px; a mix-up of pixel centres and corners would show as 0.25 px at scale 1/2.
        np.testing.assert_allclose(seen, expected, atol=0.2)


def test_view_shows_what_the_camera_sees_between_the_middles_of_its_borders() -> None:
    camera = make_camera("a")
    white = np.full((SIZE[1], SIZE[0], 3), 255, np.uint8)
    view = PinholeView(camera)
    image = view(white)
    middles = [[0, (SIZE[1] - 1) / 2], [SIZE[0] - 1, (SIZE[1] - 1) / 2]]
    normalized = camera.undistort(middles)
    pixels = normalized @ view.matrix[:2, :2].T + view.matrix[:2, 2]
    assert pixels[:, 0].min() >= -1e-6
    assert pixels[:, 0].max() <= view.size[0] - 1 + 1e-6
    assert (image > 0).mean() > 0.8


def test_silent_camera_is_mentioned_once_and_extrapolated_hands_are_faint(tmp_path: Path) -> None:
    recording = rr.RecordingStream("test")
    recording.save(tmp_path / "view.rrd")
    scene = Scene(recording, RIG, synthetic_hand())
    encoded = encode_set(hand_set(0), 0, 0, 0), encode_hand(example_hand(3), hand_set(0), 0, 0)
    message, hand = (decode_message(parts) for parts in encoded)
    assert isinstance(message, SetMessage)
    assert isinstance(hand, HandMessage)
    predicted = replace(hand, state="predicted", views=())
    # Ten sets 0.3 s apart; the second camera misses those from 0.3 to 2.1 s.
    for set_id in range(10):
        cameras = CAMERAS[:1] if 1 <= set_id <= 7 else CAMERAS
        at = replace(message, set_id=set_id, t_capture_ns=300_000_000 * set_id, cameras=cameras)
        scene.show(at, [hand if set_id < 5 else predicted], {}, {}, {})
    recording.disconnect()

    rows = logged(tmp_path / "view.rrd")
    texts = [row["TextLog:text"][0] for row in rows["/log"] if "camera right one" in row["TextLog:text"][0]]
    assert texts == ["no frames from camera right one for 1 s", "camera right one delivers again"]
    opacities = [row["Mesh3D:albedo_factor"][0] & 0xFF for row in rows["/world/hands/right/mesh"] if "set" in row]
    assert min(opacities[:5]) > 2 * max(opacities[5:])
    assert rows["/world/hands/right/label"][9]["Points3D:labels"] == ["right 3 (predicted)"]


def test_a_note_arrives_as_it_was_sent(tmp_path: Path) -> None:
    joints = np.linspace(-1.0, 1.0, 63, dtype=np.float32).reshape(21, 3)
    truth = (TrueSkeleton("left", joints, 3.5), TrueSkeleton("right", -joints, float("nan")))
    poses = {camera.name: camera.camera_from_world for camera in RIG}
    note = ViewNote(7, filled_slots(tmp_path), poses, truth)
    received = decode_note(encode_note(note))
    assert received.set_id == 7
    assert received.slots == note.slots
    for name, pose in poses.items():
        np.testing.assert_array_equal(received.camera_from_world[name], pose)
    assert [true.side for true in received.truth] == ["left", "right"]
    for one, other in zip(received.truth, truth, strict=True):
        np.testing.assert_array_equal(one.joints, other.joints)
        np.testing.assert_equal(one.mpjpe_mm, other.mpjpe_mm)


@pytest.mark.parametrize("with_truth", [False, True])
def test_the_panel_for_errors_is_there_for_truth_only(with_truth: bool) -> None:
    layout = blueprint(RIG, with_truth)
    names = [view.name for view in views_of(layout.root_container)]
    assert names.count("distance to the true joints, mm") == with_truth
    assert names.count("latency, ms") == 1


def looking_at_origin(centre: NDArray[np.float64]) -> Camera:
    """World z is up."""
    forward = -centre / np.linalg.norm(centre)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    camera_from_world = np.eye(4)
    camera_from_world[:3, :3] = [right, np.cross(forward, right), forward]
    camera_from_world[:3, 3] = -camera_from_world[:3, :3] @ centre
    return replace(make_camera(str(centre)), camera_from_world=camera_from_world)


@pytest.mark.parametrize("around", [2 * np.pi * np.arange(4) / 4, np.array([-0.4, 0.4])], ids=["ring", "front"])
def test_eye_is_behind_and_above_the_hands_whatever_the_rig(around: NDArray[np.float64]) -> None:
    centres = 0.6 * np.stack([np.cos(around), np.sin(around), np.full(len(around), 0.3)], axis=1)
    layout = blueprint(Rig(tuple(map(looking_at_origin, centres))))
    (world,) = [view for view in views_of(layout.root_container) if view.name == "world"]
    eye: Any = world.properties["EyeControls3D"]
    x, y, z = eye.position.as_arrow_array().to_pylist()[0]
    assert np.hypot(x, y) > 0.3  # hands are within this of the point that the cameras look at
    assert z > 0.1
    if len(centres) == 2:
        assert x < 0


def test_recording_has_images_and_hands_of_a_set_under_the_same_time(tmp_path: Path) -> None:
    path = tmp_path / "view.rrd"
    slots = filled_slots(tmp_path)
    truth = [true_hand("left", 6.25), true_hand("right", 4.5), true_hand("right", np.nan)]
    moved = Rig((replace(RIG.cameras[0], camera_from_world=make_camera("", x=0.01).camera_from_world), RIG.cameras[1]))
    with (
        Publisher(f"ipc://{tmp_path}/hands") as publisher,
        ViewerLink(RIG, f"ipc://{tmp_path}/hands", "file", path, synthetic_hand(), with_truth=True) as link,
    ):
        assert link.alive
        link.say("camera third was lost: unplugged")
        # The viewer may see only some of the sets; and its subscription takes a moment.
        for set_id in range(100):
            publisher.publish(hand_set(set_id, *(("left", "right", "right") if set_id < 60 else ("right",))))
            link.show(frame_set(set_id), slots, moved, truth if set_id < 80 else ())
            time.sleep(0.01)
    assert not link.alive

    rows = logged(path)
    for hand in ("left", "right", "right_2"):
        meshes = [row for row in rows[f"/world/hands/{hand}/mesh"] if row.get("Mesh3D:vertex_positions")]
        assert len(meshes[0]["Mesh3D:vertex_positions"]) == len(synthetic_hand().v_template)
        assert len(rows[f"/world/hands/{hand}/bones"][0]["LineStrips3D:strips"]) == 20
        assert len(rows[f"/world/hands/{hand}/joints"][0]["Points3D:positions"]) == 21
    assert rows["/world/hands/right/label"][0]["Points3D:labels"] == ["right 1"]
    images = rows[r"/world/cameras/left\ one/image"]
    decoded = cv2.imdecode(np.frombuffer(bytes(images[0]["EncodedImage:blob"][0]), np.uint8), cv2.IMREAD_COLOR)
    assert decoded is not None
    assert decoded.shape == (SIZE[1], SIZE[0], 3)
    assert abs(int(decoded[120, 160, 0]) - 100) <= 2  # JPEG
    assert {row["set"] for row in images} <= {row.get("set") for row in rows["/latency/fuse"]}
    assert r"/world/cameras/right\ one/image" not in rows  # overwritten
    status = [row["TextDocument:text"][0] for row in rows["/status"]]
    assert "hands lost **7**" in status[-1]
    assert f"viewer: images missed **{len(status)}**" in status[-1]
    # Once as calibrated, once as refined; camera_from_world moves by -x.
    poses = [row["Transform3D:translation"] for row in rows[r"/world/cameras/left\ one"] if "set" in row]
    np.testing.assert_allclose(np.array(poses)[:, 0], [[0, 0, 0], [0.01, 0, 0]], atol=1e-7)
    for hand, error in (("left", 6.25), ("right", 4.5), ("right_2", np.nan)):
        bones = [row["LineStrips3D:strips"] for row in rows[f"/world/truth/{hand}"] if row.get("LineStrips3D:strips")]
        np.testing.assert_allclose(bones[0], truth[0].joints[np.array(JOINT_EDGES)], atol=1e-7)  # float32 of 0.2 m
        errors = {row["Scalars:scalars"][0] for row in rows[f"/error/{hand}"] if row.get("Scalars:scalars")}
        np.testing.assert_array_equal(list(errors), [error] * len(errors))
        # Neither stays when the truth ends.
        assert not rows[f"/world/truth/{hand}"][-1].get("LineStrips3D:strips")
    texts = [row["TextLog:text"][0] for row in rows["/log"]]
    assert "camera third was lost: unplugged" in texts
    assert "left hand 0 found" in texts
    assert "left hand 0 gone" in texts


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_stopped_or_killed_viewer_costs_the_pipeline_nothing(tmp_path: Path) -> None:
    slots = filled_slots(tmp_path)
    with (
        Publisher(f"ipc://{tmp_path}/hands") as publisher,
        ViewerLink(RIG, f"ipc://{tmp_path}/hands", "file", tmp_path / "view.rrd") as link,
    ):
        os.kill(link.process_id, signal.SIGSTOP)
        before = resident_bytes()
        for set_id in range(5000):
            publisher.publish(hand_set(set_id, "right"))
            link.show(frame_set(set_id), slots, RIG)
            link.say("x" * 20_000)
        # All of it would be 100 MB; 16 notes and 50 messages may be kept, and what the allocator keeps.
        assert resident_bytes() - before < 20_000_000
        assert link.alive

        os.kill(link.process_id, signal.SIGKILL)
        wait_until(lambda: not link.alive)
        link.show(frame_set(5000), slots, RIG)
        publisher.publish(hand_set(5000, "right"))


def wait_until(done: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 30
    while not done():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def connects(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=5).close()
    except ConnectionRefusedError:
        return False
    return True


def test_browser_view_is_served_to_this_computer_only_and_ends_with_the_run(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with ViewerLink(RIG, f"ipc://{tmp_path}/hands", "browser") as link:
        words = capfd.readouterr().err
        address = re.search(r"http://127\.0\.0\.1:(\d+)/\?url=rerun%2Bhttp%3A%2F%2F127\.0\.0\.1%3A(\d+)%2Fproxy", words)
        assert address, words
        web_port, data_port = int(address[1]), int(address[2])
        with urllib.request.urlopen(address[0]) as page:
            assert b"rerun" in page.read().lower()
        # The viewer itself comes with the package: a web page that needs the network would be of no use in a lab.
        with urllib.request.urlopen(f"http://127.0.0.1:{web_port}/re_viewer_bg.wasm") as program:
            assert len(program.read()) > 1_000_000
        if sys.platform == "linux":  # elsewhere 127.0.0.2 is no address of the computer
            assert not connects("127.0.0.2", web_port)
            assert not connects("127.0.0.2", data_port)
        os.kill(link.process_id, signal.SIGKILL)
    wait_until(lambda: not connects("127.0.0.1", web_port) and not connects("127.0.0.1", data_port))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_viewer_that_is_interrupted_while_it_starts_leaves_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    link = ViewerLink(RIG, f"ipc://{tmp_path}/hands", "browser")

    def interrupt() -> None:
        children = Path(f"/proc/{link.process_id}/task/{link.process_id}/children")
        wait_until(lambda: bool(children.read_text().strip()))  # the web server
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt), link:
        thread.join()  # where it was up sooner
    thread.join()
    assert not link.alive
    with pytest.raises(ProcessLookupError):  # nobody is left in its group
        os.killpg(link.process_id, 0)
    assert "Traceback" not in capfd.readouterr().err


def test_the_viewer_keeps_no_usage_statistics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CI", "XDG_CONFIG_HOME", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)
    home = tmp_path / "home"
    monkeypatch.setenv("HOME", str(home))
    with ViewerLink(RIG, f"ipc://{tmp_path}/hands", "browser") as link:
        assert link.alive
    assert [path for path in home.rglob("*") if "analytics" in path.name] == []


def test_without_a_display_one_line_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    with ViewerLink(RIG, f"ipc://{tmp_path}/hands", "window") as link:
        link.show(frame_set(0), {}, RIG)
    words = capfd.readouterr().err
    assert "no display to open a window on" in words
    assert words.count("\n") == 1
    assert not link.alive


def test_what_cannot_be_had_is_said_before_anything_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ViewerError, match="there is no folder"):
        ViewerLink(RIG, "ipc:///nowhere", "file", tmp_path / "missing" / "view.rrd")
    with pytest.raises(ViewerError, match="path is needed"):
        ViewerLink(RIG, "ipc:///nowhere", "file")
    monkeypatch.setitem(sys.modules, "rerun", None)  # what an import finds that is not installed
    with pytest.raises(ViewerError, match=r"pip install 'hamuco\[view\]'"):
        ViewerLink(RIG, "ipc:///nowhere", "browser")
