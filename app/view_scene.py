"""What the viewer shows, as Rerun entities:

    world/cameras/<camera>          pose, pinhole without distortion, and below it the undistorted image
    world/hands/<side>[_<n>]/...    mesh, bones, joints and label of the n-th hand of a side
    world/truth/<side>[_<n>]        the skeleton as it truly is, for a recording that has its truth
    error/<side>[_<n>]              distance of the tracked from the true joints, mm; a gap where not tracked
    latency/<stage>                 milliseconds per stage, and from exposure to publication
    status, log                     a table of hands and counters, and lines of text

on the timelines "set" (set ids) and "capture_time". A 2D view at a camera lets Rerun itself project the hands of the
world into the image, which is exact because distortion is taken out of the image, not put into the hands.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence

import cv2
import numpy as np
import rerun as rr
import rerun.blueprint as rrb
from numpy.typing import NDArray
from scipy.sparse import csr_array

from hamuco.app.view_link import TrueSkeleton
from hamuco.calibration.camera import Camera, Rig
from hamuco.capture.source import Image
from hamuco.engine.hand_model import HandModel
from hamuco.engine.skinning import skin
from hamuco.fusion.hand import JOINT_EDGES, Side
from hamuco.streaming.messages import HandMessage, SetMessage

FloatArray = NDArray[np.float64]

_IMAGE_WIDTH = 640  # px at most; more costs time for what nobody sees in a small view
_JPEG_QUALITY = 80
# The widest that a view gets, in tangents from its axis: 60 degrees, beyond which a pinhole image is mostly border.
_WIDEST = 1.7
# Orange and blue stay apart for colour-blind eyes, in a shade that shows form.
_MESH_COLOUR: dict[Side, tuple[int, int, int]] = {"right": (226, 158, 112), "left": (118, 162, 222)}
_BONE_COLOUR: dict[Side, tuple[int, int, int]] = {"right": (255, 120, 30), "left": (40, 130, 255)}
# Opacity of the mesh, through which bones and image are seen, for hands that are tracked and for extrapolated ones.
_MESH_OPACITY = {"tracked": 190, "predicted": 60}
# Less where the true bones, which are inside of a well tracked hand, have to be seen too.
_MESH_OPACITY_WITH_TRUTH = {"tracked": 110, "predicted": 50}
_BONE_OPACITY = {"tracked": 255, "predicted": 100}
_TRUE_COLOUR = (60, 190, 90)  # of neither hand; seen on dark and light pages
_ROOM = 0.3  # m, for hands around the point that the cameras look at
_SILENT_NS = 1_000_000_000  # after which a camera without frames is mentioned
_PLOT_S = 10.0
# Paul Tol's bright scheme, after white for the total.
_PLOT_COLOURS = (0x888888FF, 0x4477AAFF, 0xEE6677FF, 0x228833FF, 0xCCBB44FF, 0x66CCEEFF, 0xAA3377FF, 0x996633FF)
_VIEWS_PER_ROW = 4


class PinholeView:
    """A camera's image without lens distortion, scaled down to `_IMAGE_WIDTH`."""

    def __init__(self, camera: Camera) -> None:
        width, height = camera.size
        scale = min(1.0, _IMAGE_WIDTH / width)
        self.size = (round(width * scale), round(height * scale))
        """Width and height, px."""
        self.matrix = _covering_matrix(camera, self.size)
        """3x3, with pixel centres at integer coordinates."""
        columns, rows = np.meshgrid(np.arange(self.size[0]), np.arange(self.size[1]))
        normalized = np.stack(
            [
                (columns - self.matrix[0, 2]) / self.matrix[0, 0],
                (rows - self.matrix[1, 2]) / self.matrix[1, 1],
            ],
            axis=-1,
        )
        source = camera.distort(normalized).astype(np.float32)
        self._maps = cv2.convertMaps(source[..., 0], source[..., 1], cv2.CV_16SC2)

    def __call__(self, image: Image) -> Image:
        """Camera image (height, width, 3) -> image of `size`; black where the camera does not see."""
        result: Image = cv2.remap(image, *self._maps, interpolation=cv2.INTER_LINEAR)  # type: ignore[assignment]
        return result


def _covering_matrix(camera: Camera, size: tuple[int, int]) -> FloatArray:
    """Pinhole matrix whose image shows at least what the camera sees between the middles of its four borders."""
    u, v = (np.array(camera.size) - 1.0) / 2
    middles = camera.undistort([[0.0, v], [2 * u, v], [u, 0.0], [u, 2 * v]])
    (left, right), (top, bottom) = middles[:2, 0], middles[2:, 1]
    low = np.maximum(np.nan_to_num([left, top], nan=-_WIDEST), -_WIDEST)
    high = np.minimum(np.nan_to_num([right, bottom], nan=_WIDEST), _WIDEST)
    last = np.array(size) - 1.0
    focal = (last / (high - low)).min()
    centre = last / 2 - focal * (low + high) / 2
    return np.array([[focal, 0, centre[0]], [0, focal, centre[1]], [0, 0, 1]])


class Scene:
    """Logs frame sets, one after the other, to a Rerun recording."""

    def __init__(self, recording: rr.RecordingStream, rig: Rig, model: HandModel, with_truth: bool = False) -> None:
        self._recording = recording
        self._mesh_opacity = _MESH_OPACITY_WITH_TRUTH if with_truth else _MESH_OPACITY
        self._views = {camera.name: PinholeView(camera) for camera in rig}
        self._bodies: dict[Side, _Body] = {"right": _Body(model), "left": _Body(model.mirrored())}
        self._poses: dict[str, FloatArray] = {}
        self._last_ns: dict[str, int] = {}  # camera -> capture time of the last set that it was in
        self._silent: set[str] = set()
        self._shown: dict[str, tuple[int, Side]] = {}  # entity -> track and side of the hand it shows
        self._with_mesh: set[str] = set()
        self._plots: dict[str, str] = {}  # stage -> entity
        self._true: set[str] = set()  # true hands that are shown, as named in entities
        self._with_error: set[str] = set()
        size = _workspace(rig)[1]
        # What is logged before the first set has to be on the timelines too, or it is not shown on them.
        self._set_time(0, time.time_ns())
        for camera in rig:
            view = self._views[camera.name]
            matrix = view.matrix.copy()
            matrix[:2, 2] += 0.5  # Rerun puts the corner of the image, not the centre of its first pixel, at the origin
            pinhole = rr.Pinhole(
                image_from_camera=matrix,
                resolution=view.size,
                camera_xyz=rr.ViewCoordinates.RDF,
                image_plane_distance=0.12 * size,
                line_width=0.0,
            )
            recording.log(camera_path(camera.name), pinhole, static=True)
            self._move_camera(camera.name, camera.camera_from_world)
        self.say(f"viewing {len(rig)} cameras: {', '.join(rig.names)}")

    def show(
        self,
        message: SetMessage,
        hands: Sequence[HandMessage],
        images: Mapping[str, Image],
        camera_from_world: Mapping[str, FloatArray],
        counters: Mapping[str, int],
    ) -> None:
        """Log one set.

        Args:
            message: the set.
            hands: its hands.
            images: camera name -> image; may lack cameras.
            camera_from_world: camera name -> pose 4x4 as refined by now; may lack cameras.
            counters: of the viewer itself, shown below those of the set.
        """
        t_ns = message.t_capture_ns
        self._set_time(message.set_id, t_ns + message.unix_offset_ns)
        for name, pose in camera_from_world.items():
            if not np.array_equal(pose, self._poses[name]):
                self._move_camera(name, pose)
        for name, image in images.items():
            jpeg = cv2.imencode(".jpg", self._views[name](image), (cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY))[1]
            picture = rr.EncodedImage(contents=jpeg.tobytes(), media_type="image/jpeg")
            self._recording.log(f"{camera_path(name)}/image", picture)
        self._show_hands(hands)
        self._mention_cameras(message)
        total_ms = (message.t_publish_ns - t_ns) * 1e-6
        self._plot_latencies({"exposure to publication": total_ms, **message.stage_ms})
        text = _status(message, hands, total_ms, counters)
        self._recording.log("status", rr.TextDocument(text, media_type=rr.MediaType.MARKDOWN))

    def show_truth(self, truth: Sequence[TrueSkeleton]) -> None:
        """Log the true hands of the set that was shown last."""
        sides = Counter[Side]()
        shown = set()
        for true in truth:
            sides[true.side] += 1
            name = _numbered(true.side, sides[true.side])
            shown.add(name)
            bones = true.joints[np.array(JOINT_EDGES)]  # (20, 2, 3)
            strips = rr.LineStrips3D(bones, colors=_TRUE_COLOUR, radii=rr.Radius.ui_points(1.25))
            self._recording.log(f"world/truth/{name}", strips)
            self._plot_error(name, true)
        for name in self._true - shown:
            self._recording.log(f"world/truth/{name}", rr.Clear(recursive=False))
        self._true = shown

    def say(self, text: str, level: rr.TextLogLevel = rr.TextLogLevel.INFO) -> None:
        """Add a line to the log."""
        self._recording.log("log", rr.TextLog(text, level=level))

    def _set_time(self, set_id: int, unix_ns: int) -> None:
        self._recording.set_time("set", sequence=set_id)
        self._recording.set_time("capture_time", timestamp=np.datetime64(unix_ns, "ns"))

    def _move_camera(self, name: str, camera_from_world: FloatArray) -> None:
        self._poses[name] = camera_from_world
        world_from_camera = np.linalg.inv(camera_from_world)
        pose = rr.Transform3D(translation=world_from_camera[:3, 3], mat3x3=world_from_camera[:3, :3])
        self._recording.log(camera_path(name), pose)

    def _show_hands(self, hands: Sequence[HandMessage]) -> None:
        shown: dict[str, tuple[int, Side]] = {}
        for hand in hands:
            # By place in the set, not by track: a long run has any number of tracks, the tree of entities should not.
            number = 1 + sum(side == hand.side for _, side in shown.values())
            path = f"world/hands/{_numbered(hand.side, number)}"
            shown[path] = (hand.track_id, hand.side)
            self._show_hand(path, hand)
        for path in self._shown.keys() - shown.keys():
            self._recording.log(path, rr.Clear(recursive=True))
        before, now = set(self._shown.values()), set(shown.values())
        for track_id, side in sorted(now - before):
            self.say(f"{side} hand {track_id} found")
        for track_id, side in sorted(before - now):
            self.say(f"{side} hand {track_id} gone")
        self._shown = shown

    def _show_hand(self, path: str, hand: HandMessage) -> None:
        body = self._bodies[hand.side]
        colour = (*_BONE_COLOUR[hand.side], _BONE_OPACITY[hand.state])
        if path not in self._with_mesh:
            self._with_mesh.add(path)
            # Static, because triangles do not change and are half of the data.
            triangles = rr.Mesh3D.from_fields(triangle_indices=body.model.faces)
            self._recording.log(f"{path}/mesh", triangles, static=True)
        vertices = body.vertices(hand)
        mesh = rr.Mesh3D.from_fields(
            vertex_positions=vertices,
            vertex_normals=body.normals(vertices),
            albedo_factor=(*_MESH_COLOUR[hand.side], self._mesh_opacity[hand.state]),
        )
        self._recording.log(f"{path}/mesh", mesh)
        bones = hand.joints[np.array(JOINT_EDGES)]  # (20, 2, 3)
        self._recording.log(f"{path}/bones", rr.LineStrips3D(bones, colors=colour, radii=rr.Radius.ui_points(1.0)))
        self._recording.log(f"{path}/joints", rr.Points3D(hand.joints, colors=colour, radii=rr.Radius.ui_points(2.5)))
        label = f"{hand.side} {hand.track_id}" + ("" if hand.state == "tracked" else " (predicted)")
        self._recording.log(
            f"{path}/label", rr.Points3D(hand.joints[:1], colors=colour, labels=label, radii=rr.Radius.ui_points(4.0))
        )

    def _plot_latencies(self, latency_ms: Mapping[str, float]) -> None:
        for stage, ms in latency_ms.items():
            if stage not in self._plots:
                self._plots[stage] = rr.new_entity_path(["latency", stage.replace(" ", "_")])
                # Rerun's own colours are nearly the same for some names.
                colour = _PLOT_COLOURS[(len(self._plots) - 1) % len(_PLOT_COLOURS)]
                self._recording.log(self._plots[stage], rr.SeriesLines(colors=colour, names=stage), static=True)
            self._recording.log(self._plots[stage], rr.Scalars(ms))

    def _plot_error(self, name: str, true: TrueSkeleton) -> None:
        entity = f"error/{name}"
        if name not in self._with_error:
            self._with_error.add(name)
            lines = rr.SeriesLines(colors=_BONE_COLOUR[true.side], names=name.replace("_", " "))
            self._recording.log(entity, lines, static=True)
        self._recording.log(entity, rr.Scalars(true.mpjpe_mm))

    def _mention_cameras(self, message: SetMessage) -> None:
        """Say when a camera stops delivering, and when it is back."""
        t_ns = message.t_capture_ns
        for name in self._views:
            if name in message.cameras:
                self._last_ns[name] = t_ns
                if name in self._silent:
                    self._silent.remove(name)
                    self.say(f"camera {name} delivers again")
            elif t_ns - self._last_ns.setdefault(name, t_ns) > _SILENT_NS and name not in self._silent:
                self._silent.add(name)
                self.say(f"no frames from camera {name} for {_SILENT_NS / 1e9:g} s", rr.TextLogLevel.WARN)


class _Body:
    """The hand model of one side, as a mesh with smooth shading."""

    def __init__(self, model: HandModel) -> None:
        self.model = model
        corners = model.faces.ravel()
        triangles = np.repeat(np.arange(len(model.faces)), 3)
        shape = (len(model.v_template), len(model.faces))
        self._vertex_from_face = csr_array((np.ones(len(corners), np.float32), (corners, triangles)), shape)

    def vertices(self, hand: HandMessage) -> NDArray[np.float32]:
        """(N, 3) m."""
        p = hand.parameters
        return skin(self.model, p.global_orient, p.hand_pose, p.betas, p.transl)

    def normals(self, vertices: NDArray[np.float32]) -> NDArray[np.float32]:
        """Unit normals (N, 3): the means of those of the triangles around each vertex, by area."""
        a, b, c = vertices[self.model.faces].transpose(1, 0, 2)
        normals = self._vertex_from_face @ np.cross(b - a, c - a)
        return np.asarray(normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12), np.float32)


def _numbered(side: Side, number: int) -> str:
    """Part of an entity's name for the n-th hand of a side."""
    return side if number == 1 else f"{side}_{number}"


def camera_path(name: str) -> str:
    """Entity of a camera."""
    return rr.new_entity_path(["world", "cameras", name])


def blueprint(rig: Rig, with_truth: bool = False) -> rrb.Blueprint:
    """Layout of the window: the world, one view per camera, errors where there is truth, latencies, status and log."""
    target, size = _workspace(rig)
    up = -np.mean([camera.camera_from_world[1, :3] for camera in rig], axis=0)
    up /= np.linalg.norm(up)
    ahead = _ahead(rig, target, up)
    world = rrb.Spatial3DView(
        origin="world",
        name="world",
        line_grid=rrb.LineGrid3D(spacing=0.1, plane=rr.components.Plane3D(up, up @ target - 0.4 * size)),
        # As the person sees the own hands, with the cameras behind them, whose images would otherwise stand before them.
        eye_controls=rrb.EyeControls3D(
            position=target + (size + _ROOM) * (0.35 * up - 0.5 * ahead),
            look_target=target + 0.12 * size * up,
            eye_up=up,
        ),
    )
    cameras = [
        rrb.Spatial2DView(origin=camera_path(name), contents=["$origin/**", "world/hands/**"], name=name)
        for name in rig.names
    ]
    recent = rrb.VisibleTimeRange(
        "capture_time",
        start=rrb.TimeRangeBoundary.cursor_relative(seconds=-_PLOT_S),
        end=rrb.TimeRangeBoundary.cursor_relative(),
    )
    numbers = [
        rrb.TimeSeriesView(origin="latency", name="latency, ms", time_ranges=recent),
        rrb.TextDocumentView(origin="status", name="status"),
        rrb.TextLogView(
            origin="log",
            name="log",
            columns=rrb.TextLogColumns(timeline_columns=["capture_time"], text_log_columns=["LogLevel", "Body"]),
        ),
    ]
    shares = [4, 4, 3]
    if with_truth:
        numbers.insert(
            0, rrb.TimeSeriesView(origin="error", name="distance to the true joints, mm", time_ranges=recent)
        )
        shares.insert(0, 4)
    return rrb.Blueprint(
        rrb.Vertical(
            rrb.Horizontal(world, rrb.Vertical(*numbers, row_shares=shares), column_shares=[5, 3]),
            rrb.Grid(*cameras, grid_columns=min(len(cameras), _VIEWS_PER_ROW)),
            row_shares=[2, -(-len(cameras) // _VIEWS_PER_ROW)],
        ),
        rrb.TimePanel(state="collapsed", timeline="capture_time", play_state="following"),
        collapse_panels=True,
    )


def _workspace(rig: Rig) -> tuple[FloatArray, float]:
    """The point that the cameras look at, (3,) m, and their mean distance from it, m."""
    axes = np.array([camera.camera_from_world[2, :3] for camera in rig])
    centres = np.array([camera.centre for camera in rig])
    # Nearest to all optical axes; the weak pull to half a metre ahead decides for one camera, or parallel ones.
    across = np.eye(3) - axes[:, :, None] * axes[:, None, :]
    ahead = (centres + 0.5 * axes).mean(axis=0)
    target = np.linalg.solve(
        across.sum(axis=0) + 1e-2 * np.eye(3), (across @ centres[..., None])[..., 0].sum(axis=0) + 1e-2 * ahead
    )
    return target, float(np.linalg.norm(centres - target, axis=1).mean())


def _ahead(rig: Rig, target: FloatArray, up: FloatArray) -> FloatArray:
    """Unit vector (3,), level, from the point that the cameras look at to them, or to one of a ring around it."""
    towards = np.array([camera.centre for camera in rig]) - target
    level = towards - (towards @ up)[:, None] * up
    lengths = np.linalg.norm(level, axis=1)
    mean = level.mean(axis=0)
    if np.linalg.norm(mean) < 0.3 * lengths.mean():
        mean = level[lengths.argmax()]
    return np.asarray(mean / np.linalg.norm(mean))


def _status(message: SetMessage, hands: Sequence[HandMessage], total_ms: float, counters: Mapping[str, int]) -> str:
    """Markdown."""
    cameras, spread_ms = len(message.cameras), message.spread_ns * 1e-6
    lines = [
        f"set **{message.set_id}** · {cameras} cameras · spread {spread_ms:.1f} ms · to publication **{total_ms:.0f} ms**",
        "",
        "| hand | state | views | px | fit mm |",
        "|---|---|---|---|---|",
    ]
    for hand in hands:
        numbers = f"{hand.reprojection_px:.1f} | {hand.fit_residual_mm:.1f}"
        lines.append(f"| {hand.side} {hand.track_id} | {hand.state} | {', '.join(hand.views)} | {numbers} |")
    counts = (*message.counters.items(), *counters.items())
    lines += ["", " · ".join(f"{name.replace('_', ' ')} **{count}**" for name, count in counts)]
    return "\n".join(lines)
