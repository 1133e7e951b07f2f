"""The accuracy bench as it is called: tables, files, the live row, and what it says when something is wrong."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from full_disk import room_for
from hands_in_the_air import HandsInTheAir, exact, places
from made_up_datasets import write_hanco
from rich.console import Console
from rigs import ring_rig
from true_footage import write_recording

from hamuco.app.accuracy import AccuracyOptions, bench_accuracy, open_dataset
from hamuco.app.accuracy_tables import LIVE, Run, notes, print_run, save_run
from hamuco.training.datasets.files import DatasetError
from hamuco.training.evaluation import Progress, evaluate
from hamuco.training.tally import HAMUCO

BARS: list[str] = []


@contextmanager
def bar(name: str) -> Iterator[Progress]:
    BARS.append(name)
    yield lambda done, total: None


def console() -> Console:
    return Console(width=140, record=True, quiet=True)


@pytest.fixture(scope="module")
def grey(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recording in which nobody can see the hands."""
    return write_recording(tmp_path_factory.mktemp("accuracy") / "grey", 3, cameras=3)


def test_a_recording_gives_tables_files_and_a_live_row(grey: Path, tmp_path: Path) -> None:
    BARS.clear()
    printed = Console(width=140, record=True, file=(tmp_path / "printed").open("w"))
    (evaluation,) = bench_accuracy([grey], [], AccuracyOptions(tmp_path / "out"), printed, bar)
    printed.file.close()
    assert evaluation.methods == ["DLT", "confidence weighted", "RANSAC", "triangulation + fit", LIVE]
    assert sorted(evaluation.subsets) == [2, 3]
    for (_, views), scores in evaluation.scores.items():
        # Nothing is found in grey images: every true hand of every subset is counted, none is estimated.
        assert (scores.hands, scores.estimated) == (2 * 3 * len(evaluation.subsets[views]), 0)
        assert np.isnan(scores.mpjpe)
    assert BARS[0] == "grey"
    assert BARS[-1] == "grey live, cam_0, cam_1, cam_2"
    assert "0.0 %" in printed.export_text()

    out = tmp_path / "out"
    assert sorted(path.name for path in out.iterdir()) == ["accuracy.csv", "accuracy.json", "accuracy.md"]
    rows = list(csv.DictReader((out / "accuracy.csv").read_text().splitlines()))
    assert [(row["method"], row["views"]) for row in rows if row["method"] == LIVE] == [(LIVE, "2"), (LIVE, "3")]
    assert {(row["estimated"], row["mpjpe"]) for row in rows} == {("0", "")}
    (stored,) = json.loads((out / "accuracy.json").read_text())["datasets"]
    assert stored["subsets"]["3"] == [["cam_0", "cam_1", "cam_2"]]
    assert stored["scores"][0]["mpjpe"] is None
    text = (out / "accuracy.md").read_text()
    assert "## grey, 3 moments: MPJPE / root-relative / PA in mm" in text
    assert f"| {LIVE} |" in text
    assert "within 100 mm, nearest first; another is an extra hand" in text


def test_tables_are_printed_also_where_nothing_can_be_drawn(
    grey: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    terminal = Console(width=140, record=True, file=(tmp_path / "printed").open("w"))
    bench_accuracy([grey], [], AccuracyOptions(tmp_path / "out", live=False, limit=1), terminal, bar)
    terminal.file.close()
    printed = terminal.export_text()
    assert 'no plots: they need matplotlib: pip install "hamuco[bench]"' in printed
    assert "triangulation + fit" in printed
    assert LIVE not in printed
    assert "live row" not in printed
    assert (tmp_path / "out" / "accuracy.md").is_file()


def test_on_a_full_disk_nothing_is_half_written(grey: Path, tmp_path: Path) -> None:
    options = AccuracyOptions(tmp_path / "out", live=False, limit=1)
    (evaluation,) = bench_accuracy([grey], [], options, console(), bar)
    before = {path: path.read_bytes() for path in options.out.iterdir()}
    size = (options.out / "accuracy.csv").stat().st_size
    pattern = r"accuracy\.(md|csv|json) cannot be written \(File too large; .*what was there before is whole; what was measured is"
    with room_for(size // 2), pytest.raises(OSError, match=pattern):
        save_run(Run((evaluation,), "another machine", "none"), [[]], options.out)
    assert {path: path.read_bytes() for path in options.out.iterdir()} == before
    with room_for(100), pytest.raises(OSError, match=r"accuracy\.md cannot be written .*: nothing is there"):
        save_run(Run((evaluation,), "another machine", "none"), [[]], tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_the_table_has_the_figures_that_were_measured(tmp_path: Path) -> None:
    rig = ring_rig(4)
    moved = [replace(hand, joints=hand.joints + (0.0, 0.0, 0.0123)) for hand in places(4)]
    shifted = HandsInTheAir(rig, moved, "moved")
    # The views see the hands 12.3 mm from where they are said to be.
    evaluation = evaluate(
        shifted, lambda sample, number: exact(replace(sample, hands=(places(4)[number],)), number), protocol=HAMUCO
    )
    terminal = Console(width=140, record=True, file=(tmp_path / "printed").open("w"))
    print_run(Run((evaluation,), "a machine", "a runtime"), terminal)
    terminal.file.close()
    text = terminal.export_text()
    (line,) = [line for line in text.splitlines() if line.strip().startswith("MPJPE")]
    assert line.split()[2] == "12.30"
    assert "N-MPJPE / PA-MPJPE in mm" in text
    assert "0.0/0.0" in text  # a shift is nothing once roots are aligned
    assert "Protocol hamuco" in text
    assert "This is another data set" in text


def test_notes_name_joints_of_another_definition() -> None:
    dataset = HandsInTheAir(ring_rig(2), places(1), "HanCo test", "keypoints near MANO's joints")
    text = " ".join(notes(evaluate(dataset, exact, protocol=HAMUCO)))
    assert "keypoints near MANO's joints. The methods give free hand landmarks: other points of the hand" in text
    assert "These are that test's moments" in text


def test_hanco_is_measured_with_its_eight_views(tmp_path: Path) -> None:
    write_hanco(tmp_path / "HanCo", {1200: 2}, ["rgb_merged"])
    options = AccuracyOptions(tmp_path / "out", protocol="hamuco")
    (evaluation,) = bench_accuracy([], [("hanco", tmp_path / "HanCo")], options, console(), bar)
    assert evaluation.dataset == "HanCo test"
    assert sorted(evaluation.subsets) == [2, 3, 4, 8]
    assert LIVE not in evaluation.methods
    assert not evaluation.same_joints
    assert evaluation.scores["DLT", 8].hands == 2


@pytest.mark.slow
def test_rendered_hands_are_measured_through_the_whole_chain(tmp_path: Path) -> None:
    pytest.importorskip("moderngl")
    from hamuco.training.synthetic.clip import ClipOptions, write_clip

    clip = tmp_path / "clip"
    write_clip(clip, ClipOptions(rig="ring4", seconds=1.5, hands=1, seed=5, preset="plain"), lambda done, total: None)
    (evaluation,) = bench_accuracy([clip], [], AccuracyOptions(tmp_path / "out"), console(), bar)
    fit, live = evaluation.scores["triangulation + fit", 4], evaluation.scores[LIVE, 4]
    # The network is said to be good to 3.5 px of crops twice as wide as a hand of 0.2 m: 6 mm per view across its ray.
    assert fit.coverage > 0.9
    assert fit.mpjpe < 12
    assert fit.pa_mpjpe < fit.mpjpe
    assert live.coverage > 0.5
    assert live.mpjpe < 24
    # Smoothing must be seen.
    assert live.acceleration < evaluation.scores["DLT", 4].acceleration
    assert len(list((tmp_path / "out").glob("clip-*.png"))) == 3


def test_what_cannot_be_measured_is_said_before_anything_is(grey: Path, tmp_path: Path) -> None:
    options = AccuracyOptions(tmp_path / "out")
    with pytest.raises(ValueError, match="nothing to measure"):
        bench_accuracy([], [], options, console(), bar)
    with pytest.raises(ValueError, match="protocol 'h36m' is not known; choose one of metric, hamuco"):
        bench_accuracy([grey], [], replace(options, protocol="h36m"), console(), bar)
    with pytest.raises(ValueError, match="data set 'interhand' is not known; choose one of hanco, freihand"):
        bench_accuracy([grey], [("interhand", tmp_path)], options, console(), bar)
    with pytest.raises(DatasetError, match="is not HanCo"):
        open_dataset("hanco:test", tmp_path)
    with pytest.raises(DatasetError, match="HanCo has no split 'spring'"):
        open_dataset("hanco:spring", tmp_path)
    assert not options.out.exists()
