from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields, replace

import msgpack
import numpy as np
import pytest
from hands_for_streaming import example_hand, example_set

from hamuco.fusion.hand import JOINT_EDGES, JOINT_NAMES
from hamuco.streaming.header import MAX_HEADER_BYTES, MessageError
from hamuco.streaming.messages import (
    MAX_PART_BYTES,
    HandMessage,
    Schema,
    SetMessage,
    decode_message,
    encode_hand,
    encode_schema,
    encode_set,
)

FACES = np.array([[0, 1, 2], [2, 1, 3]], np.int32)


def hand_parts(**change: object) -> list[bytes]:
    hand = replace(example_hand(3), **change)  # type: ignore[arg-type]
    return encode_hand(hand, example_set(7, (hand,)), seq=11, t_publish_ns=2**62)


def all_messages() -> list[list[bytes]]:
    return [
        hand_parts(),
        hand_parts(side="left", vertices=np.arange(30.0).reshape(10, 3)),
        encode_set(example_set(7, ()), 5, 6, -(2**62)),
        encode_schema(Schema(publisher="rig", unix_offset_ns=3), 0, 1),
        encode_schema(Schema(publisher="rig", unix_offset_ns=3, faces=FACES), 0, 1),
    ]


@pytest.mark.parametrize("vertices", [None, np.random.default_rng(0).normal(size=(1609, 3)), np.zeros((0, 3))])
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_hand_arrives_as_it_was_sent(side: str, vertices: np.ndarray | None) -> None:
    hand = replace(example_hand(3), side=side, vertices=vertices)  # type: ignore[arg-type]
    hand_set = example_set(7, (hand,))
    message = decode_message(encode_hand(hand, hand_set, seq=11, t_publish_ns=2**62))
    assert isinstance(message, HandMessage)
    assert (message.seq, message.t_publish_ns) == (11, 2**62)
    for name in ("set_id", "t_capture_ns", "spread_ns", "smoothing_delay_ns", "stage_ms"):
        assert getattr(message, name) == getattr(hand_set, name), name
    for name in ("track_id", "side", "side_confidence", "state", "views", "reprojection_px", "fit_residual_mm"):
        assert getattr(message, name) == getattr(hand, name), name
    pairs = [(message.joints, hand.joints), (message.joint_confidence, hand.joint_confidence)]
    pairs += [(getattr(message.parameters, f.name), getattr(hand.parameters, f.name)) for f in fields(hand.parameters)]
    if vertices is not None:
        assert message.vertices is not None
        pairs.append((message.vertices, vertices))
    else:
        assert message.vertices is None
    for received, sent in pairs:
        assert not received.flags.writeable
        np.testing.assert_array_equal(received.astype(np.float32), sent.astype(np.float32))
    assert message.joints.dtype == message.parameters.betas.dtype == np.float32


def test_the_byte_layout_is_the_documented_one() -> None:
    hand = example_hand(3)
    topic, header, joints, parameters = hand_parts()
    assert topic == b"hand.right"
    assert set(msgpack.unpackb(header)) == {
        *("v", "seq", "t_publish_ns", "set_id", "t_capture_ns", "spread_ns", "smoothing_delay_ns", "stage_ms"),
        *("track_id", "side_confidence", "state", "joint_confidence", "views", "reprojection_px", "fit_residual_mm"),
    }
    assert joints == b"".join(np.float32(number).astype("<f4").tobytes() for number in hand.joints.ravel())
    assert (len(joints), len(parameters)) == (252, 244)
    expected = [*hand.parameters.global_orient, *hand.parameters.hand_pose, *hand.parameters.betas]
    np.testing.assert_array_equal(
        np.frombuffer(parameters, "<f4"), np.array([*expected, *hand.parameters.transl], "<f4")
    )


def test_missing_residuals_travel_as_nan() -> None:
    message = decode_message(
        hand_parts(reprojection_px=math.nan, fit_residual_mm=math.nan, views=(), state="predicted")
    )
    assert isinstance(message, HandMessage)
    assert math.isnan(message.reprojection_px)
    assert math.isnan(message.fit_residual_mm)
    assert message.views == ()


def test_a_set_arrives_as_it_was_sent() -> None:
    hand_set = example_set(7, (example_hand(1), example_hand(2)))
    message = decode_message(encode_set(hand_set, seq=5, t_publish_ns=6, unix_offset_ns=-(2**62)))
    assert isinstance(message, SetMessage)
    assert message.hands == 2
    assert (message.seq, message.t_publish_ns, message.unix_offset_ns) == (5, 6, -(2**62))
    for name in ("set_id", "t_capture_ns", "spread_ns", "smoothing_delay_ns", "stage_ms", "cameras", "counters"):
        assert getattr(message, name) == getattr(hand_set, name), name


@pytest.mark.parametrize("faces", [None, FACES])
def test_a_schema_arrives_as_it_was_sent(faces: np.ndarray | None) -> None:
    schema = Schema(publisher="Rig \u00fc", unix_offset_ns=3, faces=faces)
    message = decode_message(encode_schema(schema, seq=0, t_publish_ns=1))
    assert isinstance(message, Schema)
    assert message.joint_names == JOINT_NAMES
    assert message.joint_edges == JOINT_EDGES
    assert sum(length for _, length in message.parameters) == 61
    assert message.units == {"length": "m", "angle": "rad", "time": "ns"}
    assert (message.publisher, message.unix_offset_ns, message.frame) == ("Rig \u00fc", 3, schema.frame)
    if faces is None:
        assert message.faces is None
    else:
        np.testing.assert_array_equal(message.faces, faces)


def test_a_hand_that_is_not_finite_is_not_sent() -> None:
    joints = example_hand(3).joints.copy()
    joints[4, 1] = np.nan
    with pytest.raises(MessageError, match=r"hand 3 \(right\): joints must be \(21, 3\) finite numbers.* 1 that are"):
        hand_parts(joints=joints)
    with pytest.raises(MessageError, match=r"got shape \(20, 3\)"):
        hand_parts(joints=joints[:20])
    with pytest.raises(MessageError, match="joint_confidence must be"):
        hand_parts(joint_confidence=np.full(21, np.nan))
    with pytest.raises(MessageError, match="vertices must be"):
        hand_parts(vertices=np.full((5, 3), np.inf))


def with_header(parts: list[bytes], **change: object) -> list[bytes]:
    """The message with header keys replaced; `...` removes one."""
    header = msgpack.unpackb(parts[1]) | change
    header = {key: value for key, value in header.items() if value is not ...}
    return [parts[0], msgpack.packb(header), *parts[2:]]


HAND_CHANGES: list[tuple[dict[str, object], str]] = [
    ({"v": 2}, "wire version 2, this program reads 1"),
    ({"v": ...}, "the header has no 'v'"),
    ({"seq": -1}, "'seq': expected 0 or more, got -1"),
    ({"seq": 1.0}, "'seq': expected a signed 64-bit integer, got 1.0"),
    ({"seq": True}, "'seq': expected a signed 64-bit integer, got True"),
    ({"t_capture_ns": 2**63}, "'t_capture_ns': expected a signed 64-bit integer"),
    ({"t_capture_ns": ...}, "the header has no 't_capture_ns'"),
    ({"stage_ms": [1.0]}, "'stage_ms': expected a map"),
    ({"stage_ms": {"fuse": None}}, "'stage_ms': expected a number, got None"),
    ({"stage_ms": {"fuse": math.nan}}, "'stage_ms': expected a finite number, got nan"),
    ({"side_confidence": math.nan}, "'side_confidence': expected a finite number"),
    ({"side_confidence": "0.9"}, "'side_confidence': expected a number, got '0.9'"),
    ({"state": "lost"}, "state is 'lost'"),
    ({"state": 1}, "'state': expected text, got 1"),
    ({"joint_confidence": [0.5] * 20}, "expected 21 joint confidences, got 20"),
    ({"joint_confidence": [0.5] * 20 + [math.inf]}, "'joint_confidence': expected a number, got inf"),
    ({"joint_confidence": 0.5}, "'joint_confidence': expected an array"),
    ({"views": ["a", 1]}, "'views': expected text, got 1"),
    ({"views": ["a"] * 257}, "not msgpack"),
    ({"views": ["a" * 201]}, "not msgpack"),
    ({"views": b"a"}, "not msgpack"),
    ({"reprojection_px": math.inf}, "'reprojection_px': expected a number, got inf"),
    ({"x": msgpack.ExtType(5, b"abc")}, "not msgpack"),
    ({"x": msgpack.Timestamp(1, 2)}, "not msgpack"),
]


@pytest.mark.parametrize(("change", "message"), HAND_CHANGES)
def test_headers_with_wrong_values_are_rejected(change: dict[str, object], message: str) -> None:
    with pytest.raises(MessageError, match=message):
        decode_message(with_header(hand_parts(), **change))


NAN = np.array(np.nan, "<f4").tobytes()
MALFORMED: dict[str, tuple[Callable[[], list[bytes]], str]] = {
    "no parts": (list, "at least 2 parts, got 0"),
    "one part": (lambda: [b"set"], "at least 2 parts, got 1"),
    "unknown topic": (lambda: [b"hand.middle", *hand_parts()[1:]], "unknown topic b'hand.middle'"),
    "no parameters": (lambda: hand_parts()[:3], "4 or 5 parts, got 3"),
    "too many parts": (lambda: [*hand_parts(), b"", b""], "4 or 5 parts, got 6"),
    "truncated joints": (lambda: [*hand_parts()[:2], hand_parts()[2][:-1], hand_parts()[3]], "got 251 and 244"),
    "long joints": (lambda: [*hand_parts()[:2], hand_parts()[2] + b"\0" * 4, hand_parts()[3]], "got 256 and 244"),
    "joints are not numbers": (
        lambda: [*hand_parts()[:2], NAN + hand_parts()[2][4:], hand_parts()[3]],
        "joints has numbers that are not finite",
    ),
    "parameters are not numbers": (
        lambda: [*hand_parts()[:3], hand_parts()[3][:-4] + NAN],
        "parameters has numbers that are not finite",
    ),
    "vertices are not triples": (lambda: [*hand_parts(), b"\0" * 16], "multiple of 12 bytes"),
    "vertices are not numbers": (lambda: [*hand_parts(), 3 * NAN], "vertices has numbers that are not finite"),
    "huge vertices": (lambda: [*hand_parts(), bytes(MAX_PART_BYTES // 12 * 12 + 12)], "2000000 at most, got"),
    "huge header": (lambda: [b"set", bytes(MAX_HEADER_BYTES + 1)], "the header has 65537 bytes"),
    "header is a list": (lambda: [b"set", msgpack.packb([1])], "the header is a list in msgpack, expected a map"),
    "header is text": (lambda: [b"set", b'{"v": 1}'], "not msgpack"),
    "empty header": (lambda: [b"set", b""], "not msgpack"),
    "two headers": (lambda: [b"set", 2 * all_messages()[2][1]], "not msgpack"),
    "deep nesting": (lambda: [b"set", b"\x91" * 60_000], "not msgpack"),
    "claims four billion entries": (lambda: [b"set", b"\xdf\xff\xff\xff\xff"], "not msgpack"),
    "keys are not text": (lambda: [b"set", msgpack.packb({1: 2})], "not msgpack"),
    "set with an array": (lambda: [*all_messages()[2], b""], "2 parts, got 3"),
    "schema with two arrays": (lambda: [*all_messages()[4], b""], "2 or 3 parts, got 4"),
    "faces are not triples": (lambda: [*all_messages()[3], b"\0" * 8], "multiple of 12"),
    "edges lead nowhere": (lambda: with_header(all_messages()[3], joint_edges=[[0, 21]]), "edges between them"),
    "edge of three": (lambda: with_header(all_messages()[3], joint_edges=[[0, 1, 2]]), "expected a pair"),
    "few joint names": (lambda: with_header(all_messages()[3], joint_names=["wrist"]), "21 joint names"),
    "parameters missing": (lambda: with_header(all_messages()[3], parameters=[["transl", 3]]), "61 numbers in all"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_messages_are_rejected(name: str) -> None:
    parts, message = MALFORMED[name]
    with pytest.raises(MessageError, match=message):
        decode_message(parts())


def test_keys_of_a_later_version_are_ignored() -> None:
    assert isinstance(decode_message(with_header(hand_parts(), radius=[1.5], note=None)), HandMessage)


def test_whole_numbers_pass_for_reals() -> None:
    """Writers in other languages pack 1.0 as 1."""
    message = decode_message(with_header(hand_parts(), side_confidence=1, stage_ms={"fuse": 2}))
    assert isinstance(message, HandMessage)
    assert message.stage_ms == {"fuse": 2.0}


@pytest.mark.parametrize("index", range(5))
def test_every_truncation_is_a_message_error_or_a_message(index: int) -> None:
    parts = all_messages()[index]
    for part in range(len(parts)):
        for length in range(len(parts[part])):
            damaged = [*parts[:part], parts[part][:length], *parts[part + 1 :]]
            # Only arrays of variable length can lose whole rows unnoticed.
            if part >= (4 if parts[0].startswith(b"hand") else 2) and length % 12 == 0:
                decode_message(damaged)
                continue
            with pytest.raises(MessageError):
                decode_message(damaged)


def test_random_damage_never_raises_anything_else() -> None:
    rng = np.random.default_rng(1)
    originals = all_messages()
    outcomes = {True: 0, False: 0}
    for _ in range(20_000):
        parts = [bytearray(part) for part in originals[rng.integers(len(originals))]]
        for _ in range(rng.integers(1, 5)):
            part = parts[1 if rng.random() < 0.7 else rng.integers(len(parts))]
            position = int(rng.integers(len(part) + 1))
            match rng.integers(3):
                case 0:
                    part[position : position + 1] = rng.bytes(1)
                case 1:
                    part[position:position] = rng.bytes(int(rng.integers(1, 9)))
                case _:
                    del part[position : position + int(rng.integers(1, 9))]
        try:
            decode_message([bytes(part) for part in parts])
            outcomes[True] += 1
        except MessageError:
            outcomes[False] += 1
    assert min(outcomes.values()) > 500, outcomes  # both happen, or the damage is not what it should be


def test_random_bytes_never_raise_anything_else() -> None:
    rng = np.random.default_rng(2)
    topics = [b"hand.left", b"hand.right", b"set", b"schema"]
    for _ in range(20_000):
        parts = [rng.bytes(int(rng.integers(40))) for _ in range(rng.integers(6))]
        if parts and rng.random() < 0.9:
            parts[0] = topics[rng.integers(4)]
        with pytest.raises(MessageError):
            decode_message(parts)


@pytest.mark.parametrize("module", ["messages", "publisher", "subscriber"])
def test_a_subscriber_stays_a_small_program(module: str) -> None:
    heavy = ("torch", "openvino", "cv2", "scipy", "tomlkit", "rich", "typer")
    code = f"import sys, hamuco.streaming.{module}; print([name for name in {heavy} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
