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
from cut_demo_clip import cut_demo_clip
from full_disk import room_for
from hands_in_the_air import HandsInTheAir, exact, places
from made_up_datasets import write_hanco
from rich.console import Console
from rigs import ring_rig
from true_footage import write_recording

from hamuco.app.accuracy import AccuracyOptions, bench_accuracy
from hamuco.app.accuracy_tables import LIVE, Run, notes, print_run, save_run
from hamuco.app.datasets import open_dataset
from hamuco.app.left_out_tables import FILES, MEANING, save_left_out
from hamuco.training.datasets.files import DatasetError
from hamuco.training.evaluation import Evaluation, Progress, evaluate
from hamuco.training.leave_one_out import LeaveOneOutError, LeftOut
from hamuco.training.tally import HAMUCO

BARS: list[str] = []


@contextmanager
def bar(name: str) -> Iterator[Progress]:
    BARS.append(name)
    yield lambda done, total: None


def measured(
    recordings: list[Path], datasets: list[tuple[str, Path]], options: AccuracyOptions, terminal: Console
) -> tuple[Evaluation, ...]:
    """Of data with truth."""
    return bench_accuracy(recordings, datasets, options, terminal, bar).evaluations


def console() -> Console:
    return Console(width=140, record=True, quiet=True)


@pytest.fixture(scope="module")
def grey(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recording in which nobody can see the hands."""
    return write_recording(tmp_path_factory.mktemp("accuracy") / "grey", 3, cameras=3)


def test_a_recording_gives_tables_files_and_a_live_row(grey: Path, tmp_path: Path) -> None:
    BARS.clear()
    printed = Console(width=140, record=True, file=(tmp_path / "printed").open("w"))
    (evaluation,) = measured([grey], [], AccuracyOptions(tmp_path / "out"), printed)
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
    (evaluation,) = measured([grey], [], options, console())
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
    (evaluation,) = measured([], [("hanco", tmp_path / "HanCo")], options, console())
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
    (evaluation,) = measured([clip], [], AccuracyOptions(tmp_path / "out"), console())
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


@pytest.fixture(scope="module")
def unknown(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recording of hands without truth."""
    return cut_demo_clip(tmp_path_factory.mktemp("accuracy") / "unknown", cameras=4, sets=4, truth=False)


def test_a_recording_without_truth_is_measured_by_leaving_one_view_out(unknown: Path, tmp_path: Path) -> None:
    BARS.clear()
    printed = Console(width=200, record=True, file=(tmp_path / "printed").open("w"))
    options = AccuracyOptions(tmp_path / "out", protocol="hamuco", live=False, views=(3,), limit=3)
    run = bench_accuracy([unknown], [], options, printed, bar)
    printed.file.close()
    ((left_out,), text) = run.left_out, printed.export_text()
    assert (run.evaluations, left_out.moments) == ((), 3)
    assert BARS == ["unknown, one view left out"]
    (said,) = [line for line in text.splitlines() if "--protocol" in line]
    assert said.strip() == "not used, for lack of truth: --protocol, --no-live, --views"
    figures = left_out.figures("RANSAC")
    assert f"{figures.median_px:.2f}" in text
    assert f"{figures.views} of {figures.views}" in text

    out = tmp_path / "out"
    assert sorted(path.name for path in out.iterdir()) == sorted(FILES)
    assert "saved in" in text
    assert text.endswith(", ".join(FILES) + "\n")
    for saved in (text, (out / "leave_one_out.md").read_text()):
        assert MEANING in " ".join(saved.split())
    rows = list(csv.DictReader((out / "leave_one_out.csv").read_text().splitlines()))
    assert len(rows) == 4 * (1 + 4)  # four methods, in all views and in those of four cameras
    (stored,) = json.loads((out / "leave_one_out.json").read_text())["recordings"]
    assert (stored["name"], stored["hands"]) == ("unknown", left_out.hands)
    for row, one in zip(rows, stored["figures"], strict=True):
        known = left_out.figures(row["method"], None if row["camera"] == "all" else row["camera"])
        assert (one["method"], one["camera"]) == (row["method"], row["camera"])
        assert one["median_px"] == float(row["median_px"]) == round(known.median_px, 4)
        assert one["views"] == int(row["views"]) == known.views


def test_recordings_with_and_without_truth_go_together(grey: Path, unknown: Path, tmp_path: Path) -> None:
    printed = Console(width=140, record=True, file=(tmp_path / "printed").open("w"))
    options = AccuracyOptions(tmp_path / "out", live=False, limit=3, views=(2, 3, 8))
    run = bench_accuracy([unknown, grey], [], options, printed, bar)
    printed.file.close()
    text = printed.export_text()
    assert [one.name for one in run.left_out] == ["unknown"]
    assert [one.dataset for one in run.evaluations] == ["grey"]
    assert sorted(run.evaluations[0].subsets) == [2, 3]
    assert {path.name for path in options.out.iterdir()} == {"accuracy.md", "accuracy.csv", "accuracy.json", *FILES}
    assert "not used" not in text  # what needs the truth has one to go by
    assert "grey is not measured with 8 views: of its 3 cameras, choose 2, 3" in text


def test_what_cannot_be_left_out_or_chosen_is_said_before_anything_is_measured(grey: Path, tmp_path: Path) -> None:
    BARS.clear()
    options = AccuracyOptions(tmp_path / "out")
    two = write_recording(tmp_path / "two", 2, cameras=2, truth=False)
    with pytest.raises(LeaveOneOutError, match=r"has no truth, and 2 cameras: .* 3 cameras are needed"):
        bench_accuracy([grey, two], [], options, console(), bar)
    with pytest.raises(ValueError, match="grey is not measured with 4 or 7 views: of its 3 cameras, choose 2, 3"):
        bench_accuracy([grey], [], replace(options, views=(4, 7)), console(), bar)
    assert BARS == []
    assert not options.out.exists()
    nothing_seen = write_recording(tmp_path / "unseen", 2, cameras=3, truth=False)
    with pytest.raises(LeaveOneOutError, match="no hand that 3 of its 3 cameras see at once in 2 moments"):
        bench_accuracy([nothing_seen], [], options, console(), bar)
    assert not options.out.exists()


def test_what_could_be_measured_is_saved_where_the_rest_could_not(grey: Path, unknown: Path, tmp_path: Path) -> None:
    unseen, empty = (write_recording(tmp_path / name, 2, cameras=3, truth=False) for name in ("unseen", "empty"))
    printed = Console(width=300, record=True, file=(tmp_path / "printed").open("w"))
    options = AccuracyOptions(tmp_path / "out", live=False, limit=3)
    with pytest.raises(ValueError, match=r"^not measured, for what is said above: unseen, empty$"):
        bench_accuracy([unknown, unseen, grey, empty], [], options, printed, bar)
    printed.file.close()
    text = printed.export_text()
    for path in (unseen, empty):
        assert f"{path} has no truth, and no hand that 3 of its 3 cameras see at once" in text
    assert "saved in" in text
    (stored,) = json.loads((options.out / "leave_one_out.json").read_text())["recordings"]
    assert stored["name"] == "unknown"
    (stored,) = json.loads((options.out / "accuracy.json").read_text())["datasets"]
    assert stored["name"] == "grey"
    with pytest.raises(ValueError, match=r"^not measured, for what is said above: unseen, empty$"):
        bench_accuracy([unseen, empty], [], replace(options, out=tmp_path / "none"), console(), bar)
    assert not (tmp_path / "none").exists()


def test_a_camera_that_saw_no_hand_has_no_figure(tmp_path: Path) -> None:
    one = LeftOut("clip", ("a", "b"), 1, 1, np.array([0]), {"DLT": np.full((1, 21), 3.0)})
    save_left_out([one], "a machine", "a runtime", tmp_path)
    assert "| DLT | 3.00 | - |" in (tmp_path / "leave_one_out.md").read_text()
    rows = list(csv.DictReader((tmp_path / "leave_one_out.csv").read_text().splitlines()))
    assert [(row["camera"], row["views"], row["median_px"]) for row in rows] == [
        ("all", "1", "3.0"), ("a", "1", "3.0"), ("b", "0", ""),
    ]  # fmt: skip
