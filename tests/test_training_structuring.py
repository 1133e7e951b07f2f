"""Plain values into dataclasses, strictly."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from hamuco.training.structuring import (
    StructureError,
    first_difference,
    laid_over,
    set_value,
    structure,
    unstructure,
    without_none,
)


@dataclass(frozen=True, slots=True)
class Engine:
    cylinders: int = 4
    litres: float = 1.6
    fuel: Literal["petrol", "diesel"] = "petrol"

    def __post_init__(self) -> None:
        if self.cylinders < 1:
            raise ValueError(f"cylinders is {self.cylinders}, expected 1 or more")


@dataclass(frozen=True, slots=True)
class Car:
    name: str
    engine: Engine = field(default_factory=Engine)
    doors: tuple[Engine, ...] = ()
    manual: Path | None = None
    electric: bool = False


def test_values_become_dataclasses_and_values_again() -> None:
    car = structure({"name": "a", "engine": {"litres": 2}, "doors": [{"cylinders": 1}], "manual": "b/c"}, Car)
    assert car == Car("a", Engine(litres=2.0), (Engine(1),), Path("b/c"))
    assert isinstance(car.engine.litres, float)
    assert unstructure(car) == {
        "name": "a",
        "engine": {"cylinders": 4, "litres": 2.0, "fuel": "petrol"},
        "doors": [{"cylinders": 1, "litres": 1.6, "fuel": "petrol"}],
        "manual": "b/c",
        "electric": False,
    }
    assert structure(unstructure(car), Car) == car
    assert "manual" not in without_none(unstructure(structure({"name": "a"}, Car)))


def test_home_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/somebody")
    assert structure({"name": "a", "manual": "~/b"}, Car).manual == Path("/somebody/b")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"nam": "b"}, "unknown key nam, did you mean name?"),
        ({"engine": {"cylinder": 3}}, "engine: unknown key cylinder, did you mean cylinders?"),
        ({"cylinders": 3}, "unknown key cylinders, did you mean engine.cylinders?"),
        ({"xyz": 3}, "unknown key xyz, known are name, engine, doors, manual, electric"),
        ({"doors": [{}, {"fule": 3}]}, "doors.1: unknown key fule, did you mean fuel?"),
        ({"engine": {"cylinders": 1.5}}, "engine.cylinders: expected a whole number, it is 1.5"),
        ({"engine": {"cylinders": True}}, "engine.cylinders: expected a whole number, it is True"),
        ({"engine": {"litres": "2"}}, "engine.litres: expected a number, it is '2'"),
        ({"engine": {"fuel": "water"}}, "engine.fuel: expected one of 'petrol', 'diesel', it is 'water'"),
        ({"engine": {"cylinders": 0}}, "engine: cylinders is 0, expected 1 or more"),
        ({"engine": 5}, "engine: expected a table, it is 5"),
        ({"doors": "abc"}, "doors: expected a list, it is 'abc'"),
        ({"electric": 1}, "electric: expected true or false, it is 1"),
        ({"manual": 7}, "manual: expected a path, it is 7"),
    ],
)
def test_what_is_wrong_is_named(values: dict[str, Any], said: str) -> None:
    with pytest.raises(StructureError) as caught:
        structure({"name": "a", **values}, Car)
    assert str(caught.value) == said


def test_all_that_is_wrong_is_said_at_once() -> None:
    with pytest.raises(StructureError) as caught:
        structure({"name": 1, "engine": {"litres": "x", "fuel": "y"}, "colour": "red"}, Car)
    assert [line.partition(":")[0] for line in str(caught.value).splitlines()[:3]] == [
        "name", "engine.litres", "engine.fuel"
    ]  # fmt: skip
    assert "unknown key colour" in str(caught.value)


def test_values_are_set_by_dotted_keys() -> None:
    values: dict[str, Any] = {"doors": [{}, {"cylinders": 2}]}
    for text in (
        "name=text with = in it", "engine.litres=2.5", "doors.1.fuel=diesel", "electric = true", "list=[1, 2]",
        "doors.0={ cylinders = 9 }",
    ):  # fmt: skip
        set_value(values, text)
    assert values == {
        "doors": [{"cylinders": 9}, {"cylinders": 2, "fuel": "diesel"}],
        "name": "text with = in it",
        "engine": {"litres": 2.5},
        "electric": True,
        "list": [1, 2],
    }


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name", "'name' is not KEY=VALUE"),
        ("=3", "'=3' is not KEY=VALUE"),
        ("a..b=3", "is not KEY=VALUE"),
        ("doors.2.fuel=x", "2 should be one of 2 entries, counted from 0"),
        ("doors.first=x", "first should be one of 2 entries"),
        ("name.x=1", "name is no table, it is 'a'"),
    ],
)
def test_what_cannot_be_set_is_said(text: str, said: str) -> None:
    with pytest.raises(StructureError, match=said):
        set_value({"name": "a", "doors": [{}, {}]}, text)


def test_tables_are_laid_over_each_other() -> None:
    base = {"a": 1, "b": {"c": 2, "d": 3}}
    assert laid_over(base, {"b": {"d": 4}, "e": 5}) == {"a": 1, "b": {"c": 2, "d": 4}, "e": 5}
    assert base == {"a": 1, "b": {"c": 2, "d": 3}}


def test_the_first_difference_is_found() -> None:
    one = {"a": 1, "b": [{"c": 2}, {"c": 3}]}
    assert first_difference(one, {"a": 1, "b": [{"c": 2}, {"c": 3}]}) is None
    assert first_difference(one, {"a": 1, "b": [{"c": 2}, {"c": 4}]}) == ("b.1.c", 3, 4)
    assert first_difference(one, {"a": 1, "b": [{"c": 2}]}) == ("b.1.c", 3, None)
    assert first_difference(one, {**one, "z": 0}) == ("z", None, 0)
