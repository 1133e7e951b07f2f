"""The wire format: hands as ZeroMQ multipart messages. No socket, clock or thread in here.

A message is a sequence of parts. All numbers in raw parts are little-endian and packed, without padding.

    part  hand.left, hand.right               set                 schema
    ----  ----------------------------------  ------------------  -----------------------------------------------
    0     topic, ASCII                        topic               topic
    1     header, msgpack map                 header              header
    2     joints, float32 [21][3], 252 bytes  -                   faces, int32 [F][3], only if meshes are sent
    3     parameters, float32 [61], 244 bytes -                   -
    4     vertices, float32 [N][3], optional  -                   -

Parameters are global_orient [3], hand_pose [45], betas [10], transl [3], in this order. Positions are metres in the
world frame of the rig, rotations axis-angle in radians, times nanoseconds of the publisher's monotonic clock; adding
`unix_offset_ns` gives Unix time. Raw parts and confidences are always finite. A mesh triangle is counter-clockwise seen
from outside on a right hand and clockwise on a left one.

Headers are maps from text to value. "int" is a signed 64-bit integer, "real" a msgpack float, "text" at most 200 bytes
of UTF-8. Readers ignore keys that they do not know; every key below is present.

    key                 type                in            meaning
    ------------------  ------------------  ------------  ---------------------------------------------------------
    v                   int                 all           version of this format, 1; a reader rejects any other
    seq                 int                 all           counts the messages of this topic from 0; a gap is a loss
    t_publish_ns        int                 all           when the message was handed to the network
    set_id              int                 hand.*, set   counts the frame sets; the hands of one set share it
    t_capture_ns        int                 hand.*, set   capture time of the set
    spread_ns           int                 hand.*, set   latest minus earliest capture time in the set
    smoothing_delay_ns  int                 hand.*, set   delay of the smoothing filter for slow motion
    stage_ms            map text -> real    hand.*, set   milliseconds per pipeline stage
    track_id            int                 hand.*        stays with a hand, is never used again
    side_confidence     real                hand.*        0.5 (unknown) to 1
    state               text                hand.*        "tracked", or "predicted" while no camera sees the hand
    joint_confidence    array of 21 real    hand.*        0 to 1
    views               array of text       hand.*        cameras whose observations were used
    reprojection_px     real                hand.*        median over the observations; NaN if there are none
    fit_residual_mm     real                hand.*        median over the joints; NaN if there are none
    unix_offset_ns      int                 set, schema   Unix time minus monotonic clock, fixed for a run
    hands               int                 set           hands in this set; 0 is sent too
    cameras             array of text       set           cameras that delivered a frame to the set
    counters            map text -> int     set           running totals of what was dropped or degraded
    publisher           text                schema        name of the program or rig
    joint_names         array of 21 text    schema        in the order of the joints
    joint_edges         array of [int int]  schema        bones as pairs of joint indices
    parameters          array of [text int] schema        name and length of each block in the parameter part
    units               map text -> text    schema        length, angle and time
    frame               text                schema        axes of the world frame

A `set` message follows the hands of its set. The `schema` message is sent whenever somebody subscribes to it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

import msgpack
import numpy as np
from numpy.typing import NDArray

from hamuco.fusion.hand import JOINT_EDGES, JOINT_NAMES, Hand, HandParameters, HandSet, Side, TrackState
from hamuco.streaming.header import (
    Header,
    MessageError,
    array_of,
    count,
    integer,
    map_of,
    pair_of,
    real,
    real_or_nan,
    text,
)

VERSION = 1
MAX_PART_BYTES = 2_000_000  # a mesh of 166,000 vertices

_JOINT_BYTES = 21 * 3 * 4
_PARAMETER_BLOCKS = (("global_orient", 3), ("hand_pose", 45), ("betas", 10), ("transl", 3))
_PARAMETER_COUNT = 61
_UNITS = {"length": "m", "angle": "rad", "time": "ns"}
_FRAME = "world frame of the rig's calibration, right-handed"


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class HandMessage(Hand):
    """A received hand: its arrays are read-only, those of raw parts float32. The added attributes belong to its frame set.

    Attributes:
        seq: counts the messages of the hand's side.
        set_id: id of the frame set; the hands of one set share it.
        t_capture_ns: capture time of the set, monotonic clock of the publishing host.
        t_publish_ns: when it was handed to the network, same clock.
        spread_ns: latest minus earliest capture time in the set.
        smoothing_delay_ns: delay of the smoothing filter for slow motion.
        stage_ms: milliseconds per pipeline stage.
    """

    seq: int
    set_id: int
    t_capture_ns: int
    t_publish_ns: int
    spread_ns: int
    smoothing_delay_ns: int
    stage_ms: Mapping[str, float]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class SetMessage:
    """What was true for one frame set, whether or not it had hands; see the table of the module."""

    seq: int
    set_id: int
    t_capture_ns: int
    t_publish_ns: int
    unix_offset_ns: int
    spread_ns: int
    smoothing_delay_ns: int
    stage_ms: Mapping[str, float]
    hands: int
    cameras: tuple[str, ...]
    counters: Mapping[str, int]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Schema:
    """What a subscriber needs to interpret the other messages; `faces` is (F, 3) int32, None without meshes."""

    publisher: str
    unix_offset_ns: int
    joint_names: tuple[str, ...] = JOINT_NAMES
    joint_edges: tuple[tuple[int, int], ...] = JOINT_EDGES
    parameters: tuple[tuple[str, int], ...] = _PARAMETER_BLOCKS
    units: Mapping[str, str] = field(default_factory=lambda: dict(_UNITS))
    frame: str = _FRAME
    faces: NDArray[np.int32] | None = None


Message = HandMessage | SetMessage | Schema


def encode_hand(hand: Hand, hand_set: HandSet, seq: int, t_publish_ns: int) -> list[bytes]:
    """Parts of a `hand.left` or `hand.right` message.

    Raises:
        MessageError: an array of the hand has a wrong shape or is not finite.
    """
    p = hand.parameters
    blocks = [p.global_orient, p.hand_pose, p.betas, p.transl]
    parts = [
        _checked("joints", hand.joints, (21, 3), hand).tobytes(),
        _checked("parameters", np.concatenate(blocks), (_PARAMETER_COUNT,), hand).tobytes(),
    ]
    if hand.vertices is not None:
        parts.append(_checked("vertices", hand.vertices, (len(hand.vertices), 3), hand).tobytes())
    header = {
        **_set_header(hand_set, seq, t_publish_ns),
        "track_id": int(hand.track_id),
        "side_confidence": float(hand.side_confidence),
        "state": hand.state,
        "joint_confidence": _checked("joint_confidence", hand.joint_confidence, (21,), hand).tolist(),
        "views": list(hand.views),
        "reprojection_px": float(hand.reprojection_px),
        "fit_residual_mm": float(hand.fit_residual_mm),
    }
    return [f"hand.{hand.side}".encode(), msgpack.packb(header), *parts]


def encode_set(hand_set: HandSet, seq: int, t_publish_ns: int, unix_offset_ns: int) -> list[bytes]:
    """Parts of a `set` message."""
    header = {
        **_set_header(hand_set, seq, t_publish_ns),
        "unix_offset_ns": unix_offset_ns,
        "hands": len(hand_set.hands),
        "cameras": list(hand_set.cameras),
        "counters": {name: int(count) for name, count in hand_set.counters.items()},
    }
    return [b"set", msgpack.packb(header)]


def encode_schema(schema: Schema, seq: int, t_publish_ns: int) -> list[bytes]:
    """Parts of a `schema` message."""
    header = {
        "v": VERSION,
        "seq": seq,
        "t_publish_ns": t_publish_ns,
        "publisher": schema.publisher,
        "unix_offset_ns": schema.unix_offset_ns,
        "joint_names": schema.joint_names,
        "joint_edges": schema.joint_edges,
        "parameters": schema.parameters,
        "units": dict(schema.units),
        "frame": schema.frame,
    }
    faces = [] if schema.faces is None else [np.ascontiguousarray(schema.faces, "<i4").tobytes()]
    return [b"schema", msgpack.packb(header), *faces]


def decode_message(parts: Sequence[bytes]) -> Message:
    """The value of a message.

    Raises:
        MessageError: anything about the bytes is not as the table of the module says. Nothing else is raised.
    """
    if len(parts) < 2:
        raise MessageError(f"a message has at least 2 parts, got {len(parts)}")
    topic, header, arrays = parts[0], Header(parts[1]), parts[2:]
    version = header.read("v", integer)
    if version != VERSION:
        raise MessageError(f"wire version {version}, this program reads {VERSION}; update the older of the two")
    if topic in (b"hand.left", b"hand.right"):
        return _decode_hand(cast(Side, topic.removeprefix(b"hand.").decode()), header, arrays)
    if topic == b"set":
        return _decode_set(header, arrays)
    if topic == b"schema":
        return _decode_schema(header, arrays)
    raise MessageError(f"unknown topic {topic[:20]!r}")


def _set_header(hand_set: HandSet, seq: int, t_publish_ns: int) -> dict[str, object]:
    return {
        "v": VERSION,
        "seq": seq,
        "t_publish_ns": t_publish_ns,
        "set_id": int(hand_set.set_id),
        "t_capture_ns": int(hand_set.t_capture_ns),
        "spread_ns": int(hand_set.spread_ns),
        "smoothing_delay_ns": int(hand_set.smoothing_delay_ns),
        "stage_ms": {name: float(ms) for name, ms in hand_set.stage_ms.items()},
    }


def _checked(name: str, values: NDArray[np.floating], shape: tuple[int, ...], hand: Hand) -> NDArray[np.float32]:
    array = np.ascontiguousarray(values, "<f4")
    if array.shape != shape or not np.isfinite(array).all():
        raise MessageError(
            f"hand {hand.track_id} ({hand.side}): {name} must be {shape} finite numbers, got shape {array.shape} "
            f"with {np.count_nonzero(~np.isfinite(array))} that are not finite"
        )
    return array


def _decode_hand(side: Side, header: Header, arrays: Sequence[bytes]) -> HandMessage:
    if len(arrays) not in (2, 3):
        raise MessageError(f"a hand message has 4 or 5 parts, got {2 + len(arrays)}")
    if len(arrays[0]) != _JOINT_BYTES or len(arrays[1]) != 4 * _PARAMETER_COUNT:
        raise MessageError(
            f"joints and parameters must be {_JOINT_BYTES} and {4 * _PARAMETER_COUNT} bytes, "
            f"got {len(arrays[0])} and {len(arrays[1])}"
        )
    parameters = _floats("parameters", arrays[1])
    state = header.read("state", text)
    if state not in ("tracked", "predicted"):
        raise MessageError(f"state is {state!r}, expected 'tracked' or 'predicted'")
    confidence = np.array(header.read("joint_confidence", array_of(real)), np.float64)
    if confidence.shape != (21,):
        raise MessageError(f"expected 21 joint confidences, got {len(confidence)}")
    confidence.setflags(write=False)
    return HandMessage(
        seq=header.read("seq", count),
        set_id=header.read("set_id", count),
        t_capture_ns=header.read("t_capture_ns", integer),
        t_publish_ns=header.read("t_publish_ns", integer),
        spread_ns=header.read("spread_ns", count),
        smoothing_delay_ns=header.read("smoothing_delay_ns", count),
        stage_ms=header.read("stage_ms", map_of(real)),
        track_id=header.read("track_id", count),
        side=side,
        side_confidence=header.read("side_confidence", real),
        state=cast(TrackState, state),
        joints=_floats("joints", arrays[0]).reshape(21, 3),
        joint_confidence=confidence,
        parameters=HandParameters(parameters[:3], parameters[3:48], parameters[48:58], parameters[58:]),
        views=header.read("views", array_of(text)),
        reprojection_px=header.read("reprojection_px", real_or_nan),
        fit_residual_mm=header.read("fit_residual_mm", real_or_nan),
        vertices=_floats("vertices", _triples(arrays[2])).reshape(-1, 3) if len(arrays) == 3 else None,
    )


def _decode_set(header: Header, arrays: Sequence[bytes]) -> SetMessage:
    if arrays:
        raise MessageError(f"a set message has 2 parts, got {2 + len(arrays)}")
    return SetMessage(
        seq=header.read("seq", count),
        set_id=header.read("set_id", count),
        t_capture_ns=header.read("t_capture_ns", integer),
        t_publish_ns=header.read("t_publish_ns", integer),
        unix_offset_ns=header.read("unix_offset_ns", integer),
        spread_ns=header.read("spread_ns", count),
        smoothing_delay_ns=header.read("smoothing_delay_ns", count),
        stage_ms=header.read("stage_ms", map_of(real)),
        hands=header.read("hands", count),
        cameras=header.read("cameras", array_of(text)),
        counters=header.read("counters", map_of(count)),
    )


def _decode_schema(header: Header, arrays: Sequence[bytes]) -> Schema:
    if len(arrays) > 1:
        raise MessageError(f"a schema message has 2 or 3 parts, got {2 + len(arrays)}")
    joint_names = header.read("joint_names", array_of(text))
    edges = header.read("joint_edges", array_of(pair_of(count, count)))
    if len(joint_names) != 21 or not all(joint < 21 for edge in edges for joint in edge):
        raise MessageError(f"expected 21 joint names and edges between them, got {len(joint_names)} and {edges}")
    blocks = header.read("parameters", array_of(pair_of(text, count)))
    if sum(length for _, length in blocks) != _PARAMETER_COUNT:
        raise MessageError(f"the parameter blocks must have {_PARAMETER_COUNT} numbers in all: {blocks}")
    return Schema(
        publisher=header.read("publisher", text),
        unix_offset_ns=header.read("unix_offset_ns", integer),
        joint_names=joint_names,
        joint_edges=edges,
        parameters=blocks,
        units=header.read("units", map_of(text)),
        frame=header.read("frame", text),
        faces=np.frombuffer(_triples(arrays[0]), "<i4").reshape(-1, 3) if arrays else None,
    )


def _floats(name: str, raw: bytes) -> NDArray[np.float32]:
    array = np.frombuffer(raw, "<f4")
    if not np.isfinite(array).all():
        raise MessageError(f"{name} has numbers that are not finite")
    return array


def _triples(raw: bytes) -> bytes:
    """Checks that bytes hold triples of 4-byte numbers."""
    if len(raw) % 12 or len(raw) > MAX_PART_BYTES:
        raise MessageError(f"expected a multiple of 12 bytes, {MAX_PART_BYTES} at most, got {len(raw)}")
    return raw
