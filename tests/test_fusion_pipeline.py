"""A bundle's networks on a GPU in the whole pipeline, by stand-ins for the driver; the CPU's is tested by whole runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from gpu_stand_in import StandIn

from hamuco.calibration.camera import Camera, Rig
from hamuco.capture.frame import FrameSet
from hamuco.engine.bundle import Bundle
from hamuco.fusion.hand import Hand, HandSet
from hamuco.fusion.pipeline import Pipeline
from hamuco.training.datasets.footage import decode
from hamuco.training.datasets.recorded import Recorded

pytestmark = pytest.mark.usefixtures("one_thread")

DEMO_CLIP = Path(__file__).parents[1] / "app/demo_clip"
SETS = 8
# Both see the same images. One rounds pixels to grey levels and may compute in bfloat16; a landmark is off by 0.04 half
# crops of 10 cm, 4 mm (`SIGMA`), and half of that is still less than any other network would keep to.
APART_M = 0.002


@pytest.fixture(scope="module")
def filmed() -> tuple[Rig, list[FrameSet]]:
    demo = Recorded(DEMO_CLIP)
    return demo.recording.rig, list(decode(demo.recording, demo.sets[:SETS]))


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StandIn:
    """Opened in place of the GPU that the pipeline asks for."""
    made = StandIn(tmp_path)

    def open_runtime(bundle: Bundle, runtime: str, cameras: Sequence[Camera], hands: int) -> object:
        assert (runtime, hands) == ("tensorrt", 2)
        return made.open(bundle, cameras)

    monkeypatch.setattr("hamuco.fusion.pipeline.open_runtime", open_runtime)
    return made


def _run(pipeline: Pipeline, frame_sets: Sequence[FrameSet]) -> list[HandSet]:
    found = []
    for frame_set in frame_sets:
        found.append(pipeline.process(frame_set).hand_set)
        pipeline.prepare(frame_set)
    return found


def _assert_near(got: Sequence[Hand], expected: Sequence[Hand]) -> None:
    assert [(hand.track_id, hand.side) for hand in got] == [(hand.track_id, hand.side) for hand in expected]
    for one, other in zip(got, expected, strict=True):
        assert np.linalg.norm(one.joints - other.joints, axis=1).mean() < APART_M


def test_hands_are_those_of_the_cpu_and_go_on_through_a_fault(
    filmed: tuple[Rig, list[FrameSet]], hamuco_s: Bundle, stand_in: StandIn
) -> None:
    rig, frame_sets = filmed
    on_cpu = Pipeline(rig, bundle=hamuco_s)
    expected = _run(on_cpu, frame_sets)
    assert [len(hand_set.hands) for hand_set in expected[1:]] == (SETS - 1) * [2]
    assert "gpu_faults" not in expected[-1].counters
    pipeline = Pipeline(rig, bundle=hamuco_s, runtime="tensorrt")
    got = _run(pipeline, frame_sets[:-2])
    assert pipeline.estimator.runtime == f"torch {torch.__version__} float32"
    assert (got[-1].counters["gpu_faults"], got[-1].counters["cpu_fallback"], pipeline.alarms) == (0, 0, {})
    stand_in.library.codes = {"cuEventSynchronize": 700}
    got += _run(pipeline, frame_sets[-2:])
    assert (got[-1].counters["gpu_faults"], got[-1].counters["cpu_fallback"]) == (1, 2)
    assert pipeline.estimator.runtime == on_cpu.estimator.runtime
    (alarm,) = pipeline.alarms.values()
    assert alarm.startswith("GPU fault 1 of 3, the CPU takes over")
    for one, other in zip(got, expected, strict=True):
        _assert_near(one.hands, other.hands)
    pipeline.close()
    assert stand_in.count("cuDevicePrimaryCtxRelease_v2") == stand_in.count("cuDevicePrimaryCtxRetain") == 1


def test_a_runtime_needs_a_bundle(filmed: tuple[Rig, list[FrameSet]]) -> None:
    with pytest.raises(ValueError, match="tensorrt runs the networks of a bundle: say which"):
        Pipeline(filmed[0], runtime="tensorrt")
