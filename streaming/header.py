"""Typed, bounded reading of a msgpack map that anybody may have sent."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeVar

import msgpack

# Limits for readers: far beyond any hand, small enough that a hostile sender cannot exhaust memory.
MAX_HEADER_BYTES = 65_536
MAX_TEXT_BYTES = 200
_MAX_ENTRIES = 256

T = TypeVar("T")
U = TypeVar("U")


class MessageError(ValueError):
    """Bytes that are not a message of our format, or a hand that cannot be put into one."""


class Header:
    """A decoded header; `read` fetches one key through one of the checks below."""

    def __init__(self, raw: bytes) -> None:
        if len(raw) > MAX_HEADER_BYTES:
            raise MessageError(f"the header has {len(raw)} bytes, more than {MAX_HEADER_BYTES}")
        try:
            values = msgpack.unpackb(
                raw,
                max_str_len=MAX_TEXT_BYTES,
                max_array_len=_MAX_ENTRIES,
                max_map_len=_MAX_ENTRIES,
                max_bin_len=0,
                max_ext_len=0,
            )
        except (ValueError, msgpack.UnpackException) as error:
            raise MessageError(f"the header is not msgpack: {error}") from error
        if not isinstance(values, dict):
            raise MessageError(f"the header is a {type(values).__name__} in msgpack, expected a map")
        self._values = values

    def read(self, key: str, check: Callable[[object], T]) -> T:
        """The value under `key`; `MessageError` if it is missing or not what `check` accepts."""
        if key not in self._values:
            raise MessageError(f"the header has no {key!r}")
        try:
            return check(self._values[key])
        except MessageError as error:
            raise MessageError(f"{key!r}: {error}") from error


def integer(value: object) -> int:
    if type(value) is not int or not -(2**63) <= value < 2**63:  # bool is an int to isinstance
        raise _unexpected("a signed 64-bit integer", value)
    return value


def count(value: object) -> int:
    if integer(value) < 0:
        raise _unexpected("0 or more", value)
    return integer(value)


def real(value: object) -> float:
    if not math.isfinite(real_or_nan(value)):
        raise _unexpected("a finite number", value)
    return real_or_nan(value)


def real_or_nan(value: object) -> float:
    if type(value) not in (int, float) or math.isinf(value):  # type: ignore[arg-type]
        raise _unexpected("a number", value)
    return float(value)  # type: ignore[arg-type]


def text(value: object) -> str:
    if not isinstance(value, str):
        raise _unexpected("text", value)
    return value


def array_of(check: Callable[[object], T]) -> Callable[[object], tuple[T, ...]]:
    """An array with entries that `check` accepts."""

    def read(value: object) -> tuple[T, ...]:
        if not isinstance(value, list):
            raise _unexpected("an array", value)
        return tuple(check(item) for item in value)

    return read


def pair_of(first: Callable[[object], T], second: Callable[[object], U]) -> Callable[[object], tuple[T, U]]:
    """An array of two entries."""

    def read(value: object) -> tuple[T, U]:
        if not isinstance(value, list) or len(value) != 2:
            raise _unexpected("a pair", value)
        return first(value[0]), second(value[1])

    return read


def map_of(check: Callable[[object], T]) -> Callable[[object], dict[str, T]]:
    """A map from text to values that `check` accepts."""

    def read(value: object) -> dict[str, T]:
        if not isinstance(value, dict):
            raise _unexpected("a map", value)
        return {text(key): check(item) for key, item in value.items()}

    return read


def _unexpected(expected: str, value: object) -> MessageError:
    return MessageError(f"expected {expected}, got {value!r:.60}")
