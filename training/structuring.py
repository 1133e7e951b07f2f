"""Plain values, as TOML files have them, into frozen dataclasses and back: strictly, with errors that name the key."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from cattrs import Converter, transform_error
from cattrs.errors import BaseValidationError, ForbiddenExtraKeysError
from cattrs.gen import make_dict_structure_fn

T = TypeVar("T")


class StructureError(ValueError):
    """Values that do not fit; says all that is wrong, a line each."""


def structure(values: Mapping[str, Any], kind: type[T]) -> T:
    """A dataclass from plain values.

    Unlike cattrs by itself, no value is converted: 1.5 is no whole number, and "no" is not true.

    Raises:
        StructureError: unknown keys, with the nearest known one; values of the wrong kind; and what the dataclasses
            themselves say is wrong.
    """
    try:
        return _CONVERTER.structure(values, kind)
    except BaseValidationError as error:
        lines = transform_error(error, format_exception=lambda cause, _: _reason(cause, kind))
    except (ValueError, TypeError) as error:  # of `kind` as a whole
        raise StructureError(str(error)) from error
    raise StructureError("\n".join(_key_first(line) for line in lines))


def unstructure(value: Any) -> dict[str, Any]:
    """Plain values of a dataclass, complete; tuples become lists, paths text, and None stays."""
    values: dict[str, Any] = _CONVERTER.unstructure(value)
    return values


def set_value(values: dict[str, Any], text: str) -> None:
    """Set a value, in place, by a text such as "loss.weights.consistency=0.5" or "sources.0.recording=rec".

    What is behind the = is TOML, or else text. Raises StructureError for what cannot be set.
    """
    keys, equals, written = text.partition("=")
    *tables, last = keys.strip().split(".")
    if not equals or not last or not all(tables):
        raise StructureError(f"{text!r} is not KEY=VALUE, such as loss.weights.consistency=0.5")
    try:
        value = tomllib.loads(f"value = {written}")["value"]
    except tomllib.TOMLDecodeError:
        value = written.strip()
    place: Any = values
    for key in tables:
        place = _entry(place, key, text) if isinstance(place, list) else place.setdefault(key, {})
        if not isinstance(place, dict | list):
            raise StructureError(f"{text!r}: {key} is no table, it is {place!r}")
    if isinstance(place, list):
        _entry(place, last, text)
        place[int(last)] = value
    else:
        place[last] = value


def laid_over(base: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Values, and those of `base` where they say nothing."""
    merged = dict(base)
    for key, value in values.items():
        below = base.get(key)
        merged[key] = laid_over(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return merged


def first_difference(one: Mapping[str, Any], other: Mapping[str, Any]) -> tuple[str, Any, Any] | None:
    """Dotted name and both values of the first key in which plain values differ; None stands for nothing."""
    ours, theirs = dict(_flat(one, "")), dict(_flat(other, ""))
    for key in [*ours, *(key for key in theirs if key not in ours)]:
        if ours.get(key) != theirs.get(key):
            return key, ours.get(key), theirs.get(key)
    return None


def without_none(values: Any) -> Any:
    """Plain values as TOML can say them."""
    if isinstance(values, Mapping):
        return {key: without_none(value) for key, value in values.items() if value is not None}
    return [without_none(value) for value in values] if isinstance(values, list) else values


def _entry(values: list[Any], number: str, text: str) -> Any:
    if not number.isdecimal() or int(number) >= len(values):
        raise StructureError(f"{text!r}: {number} should be one of {len(values)} entries, counted from 0")
    return values[int(number)]


def _flat(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    if not isinstance(value, Mapping | list):
        yield name, value
        return
    for key, part in value.items() if isinstance(value, Mapping) else enumerate(value):
        yield from _flat(part, f"{name}.{key}" if name else str(key))


def _converter() -> Converter:
    converter = Converter(forbid_extra_keys=True)
    converter.register_structure_hook(bool, _exactly((bool,), "true or false", bool))
    converter.register_structure_hook(int, _exactly((int,), "a whole number", int))
    converter.register_structure_hook(float, _exactly((int, float), "a number", float))
    converter.register_structure_hook(str, _exactly((str,), "text", str))
    converter.register_structure_hook(Path, _exactly((str,), "a path", lambda text: Path(text).expanduser()))
    converter.register_unstructure_hook(Path, str)
    converter.register_structure_hook_func(_is(Literal), _one_of)

    def table(kind: type[T]) -> Callable[[Any, Any], T]:
        fill = make_dict_structure_fn(kind, converter, _cattrs_forbid_extra_keys=True)

        def structured(value: Any, _: Any) -> T:
            if not isinstance(value, Mapping):
                raise TypeError(f"expected a table, it is {value!r}")
            return fill(value, kind)

        return structured

    def entries(value: Any, kind: Any) -> Any:
        if not isinstance(value, list | tuple):
            raise TypeError(f"expected a list, it is {value!r}")
        whole: Any = list[get_args(kind)[0]]  # type: ignore[misc]
        return tuple(converter.structure(value, whole))

    converter.register_structure_hook_factory(is_dataclass, table)
    converter.register_structure_hook_func(_is(tuple), entries)
    return converter


def _is(origin: Any) -> Callable[[Any], bool]:
    def says(kind: Any) -> bool:
        found: Any = get_origin(kind)
        return found is origin

    return says


def _exactly(kinds: tuple[type, ...], words: str, convert: Callable[[Any], Any]) -> Callable[[Any, Any], Any]:
    def checked(value: Any, _: Any) -> Any:
        # Python counts true among the whole numbers.
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            raise TypeError(f"expected {words}, it is {value!r}")
        return convert(value)

    return checked


def _one_of(value: Any, kind: Any) -> Any:
    if value not in get_args(kind):
        raise ValueError(f"expected one of {', '.join(map(repr, get_args(kind)))}, it is {value!r}")
    return value


_CONVERTER = _converter()


def _reason(error: BaseException, kind: type) -> str:
    if not isinstance(error, ForbiddenExtraKeysError):
        return str(error)
    known = [field.name for field in fields(error.cl)]
    said = []
    for key in sorted(error.extra_fields):
        if near := get_close_matches(key, known, 1):
            advice = f"did you mean {near[0]}?"
        elif elsewhere := [name for name in _keys(kind) if name.rsplit(".", 1)[-1] == key]:
            advice = f"did you mean {elsewhere[0]}?"
        else:
            advice = f"known are {', '.join(known)}"
        said.append(f"unknown key {key}, {advice}")
    return "; ".join(said)


def _keys(kind: type, prefix: str = "") -> Iterator[str]:
    """Dotted names of all keys of a dataclass and of those in it."""
    for name, hint in get_type_hints(kind).items():
        yield prefix + name
        if is_dataclass(hint) and isinstance(hint, type):
            yield from _keys(hint, f"{prefix}{name}.")


def _key_first(line: str) -> str:
    """From "reason @ $.table.list[0].key" of cattrs to "table.list.0.key: reason"."""
    reason, _, place = line.rpartition(" @ $")
    key = re.sub(r"\[(\d+)\]", r".\1", place).lstrip(".")
    return f"{key}: {reason}" if key else reason
