"""What is kept of a build. The engines are bytes: what is in them does not matter here."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from full_disk import room_for

from hamuco.engine.build import OnnxRoute, build_plan, built_plan
from hamuco.engine.builders import Progress
from hamuco.engine.bundle import Bundle
from hamuco.engine.plans import CARD, ESTIMATOR, NOT_COMPARED, Plan, PlanError, Platform, Precision, Profile, RouteName

PROFILE = Profile((1, 3, 5), 2)
ENGINES = b"estimator" * 1000, b"interaction" * 1000


class Ready:
    """A route whose engines are made at once."""

    name: RouteName = "onnx"
    platform = Platform("tensorrt-rtx", "1.7", "", ("sm_89",))

    def engines(
        self, bundle: Bundle, precision: Precision, profile: Profile, timings: Path, progress: Progress
    ) -> tuple[bytes, bytes]:
        return ENGINES


class Measured:
    """A builder that has measured kernels, as TensorRT does on a GPU."""

    platform = Platform("tensorrt", "10.13", "A GPU", ("sm_90",))

    def build(self, graph: bytes, shapes: object, progress: Progress, timings: bytes) -> tuple[bytes, bytes]:
        return b"engine", bytes(20_000)


def _build(bundle: Bundle, replace: bool = False) -> Plan:
    return build_plan(bundle, Ready(), "fp16", PROFILE, lambda *engines: NOT_COMPARED, lambda *step: None, replace)


def test_what_was_built_is_found_in_its_place(own_bundle: Bundle) -> None:
    assert built_plan(own_bundle, Ready(), "fp16", PROFILE) is None
    plan = _build(own_bundle)
    assert built_plan(own_bundle, Ready(), "fp16", PROFILE) == plan
    assert built_plan(own_bundle, Ready(), "bf16", PROFILE) is None
    with pytest.raises(PlanError, match="was built already: build it again with --replace"):
        _build(own_bundle)
    assert _build(own_bundle, replace=True).path == plan.path


def _without_a_line(path: Path) -> None:
    text = path.read_text()
    assert text.count('precision = "fp16"\n') == 1
    path.write_text(text.replace('precision = "fp16"\n', ""))


@pytest.mark.parametrize(
    ("name", "damage", "words"),
    [
        (CARD, Path.unlink, f"has no {CARD}, it is damaged: build it again with --replace"),
        (CARD, _without_a_line, r"is not the card of an engine \(.*precision.*\): build it again with --replace"),
        (ESTIMATOR, Path.unlink, f"{ESTIMATOR} is missing. Build it again: hamuco build .* --arch sm_89 .*--replace"),
    ],
)
def test_what_is_damaged_is_not_taken_for_built(
    own_bundle: Bundle, name: str, damage: Callable[[Path], None], words: str
) -> None:
    damage(_build(own_bundle).path / name)
    with pytest.raises(PlanError, match=words):
        built_plan(own_bundle, Ready(), "fp16", PROFILE)


def test_other_networks_in_the_same_folder_are_not_taken_for_built(own_bundle: Bundle, bundle: Bundle) -> None:
    plan = _build(own_bundle)
    text = (plan.path / CARD).read_text()
    (plan.path / CARD).write_text(text.replace(plan.card.model, "0" * 64))
    with pytest.raises(PlanError, match=r"was built of other networks than those of .*: build it again with --replace"):
        built_plan(own_bundle, Ready(), "fp16", PROFILE)


def test_a_full_disk_leaves_nothing_half_written(own_bundle: Bundle) -> None:
    folder = own_bundle.path / "engines"
    said = r"engines/tensorrt-rtx-1\.7-sm_89-\S+ cannot be written \(File too large; 0\.0 MB\): "
    advice = "; make room on that disk and build again"
    with room_for(len(ENGINES[0]) + 10), pytest.raises(OSError, match=f"{said}nothing is there{advice}"):
        _build(own_bundle)
    assert list(folder.iterdir()) == []
    plan = _build(own_bundle)
    with room_for(len(ENGINES[0]) + 10), pytest.raises(OSError, match=f"{said}what was there before is whole{advice}"):
        _build(own_bundle, replace=True)
    assert built_plan(own_bundle, Ready(), "fp16", PROFILE) == plan
    assert list(folder.iterdir()) == [plan.path]


def test_a_full_disk_costs_what_was_measured_but_no_engine(
    own_bundle: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    route, folder = OnnxRoute(Measured()), own_bundle.path / "engines"  # type: ignore[arg-type]
    timings = folder / "tensorrt-10.13-A-GPU.timings"

    def build(replace: bool) -> Plan:
        return build_plan(
            own_bundle, route, "fp16", PROFILE, lambda *engines: NOT_COMPARED, lambda *step: None, replace
        )

    with room_for(10_000):  # enough for the engines, which took minutes: they are kept
        plan = build(replace=False)
    assert list(folder.iterdir()) == [plan.path]
    said = r"what TensorRT measured cannot be kept in \S+A-GPU\.timings \(File too large; 0\.0 MB\): "
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 2  # of two engines
    assert all(re.match(said, record.getMessage()) for record in caplog.records)
    timings.write_bytes(b"of an older build")
    with room_for(10_000):
        build(replace=True)
    assert timings.read_bytes() == b"of an older build"
    build(replace=True)
    assert timings.read_bytes() == bytes(20_000)
    assert sorted(folder.iterdir()) == sorted([plan.path, timings])
