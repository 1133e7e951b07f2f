"""Sources as configured."""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from labelled_footage import write_labelled
from made_up_datasets import write_hanco
from small_training import write_drawn_hands

from hamuco.training.crop_set import CropSet, CropSetError
from hamuco.training.datasets.files import DatasetError
from hamuco.training.sources import RenderConfig, SourceConfig, check, prepare
from hamuco.training.synthetic.crops import CropOptions
from hamuco.training.synthetic.renderer import GraphicsError


def silent(what: str, done: int, total: int) -> None:
    pass


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({}, "needs exactly one of crops, recording, hanco, freihand, synthetic; it has none"),
        ({"crops": Path("a"), "hanco": Path("b")}, "it has crops, hanco"),
        ({"crops": Path("a"), "labels": "truth"}, "labels = 'truth' is for recordings, .*, not for crops"),
        ({"hanco": Path("a"), "labels": "openpose"}, "labels of a data set are 'truth' or 'network', not 'openpose'"),
    ],
)
def test_what_is_no_source_is_said(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        SourceConfig(**values)


def test_what_is_rendered_is_checked_at_once() -> None:
    with pytest.raises(ValueError, match="second_hand is 2, expected 0 to 1"):
        RenderConfig(second_hand=2)
    source = prepare(
        SourceConfig(synthetic=RenderConfig(preset="plain", seed=5), share=0.5), 64, 4, Path(), False, silent
    )
    assert source.crops == CropOptions(preset="plain", seed=5)
    assert source.share == 0.5


def test_hands_can_be_rendered_once_before_the_training(tmp_path: Path) -> None:
    shown: list[tuple[str, int, int]] = []
    source = SourceConfig(synthetic=RenderConfig(preset="plain", seed=5, samples=2), labels="truth", share=0.5)
    found = [prepare(source, 64, 3, tmp_path, False, lambda *args: shown.append(args)) for _ in range(2)]
    assert found[0] == found[1]
    assert isinstance(found[0].crops, Path)
    assert found[0].crops.parent == tmp_path / "crops"
    crops = CropSet(found[0].crops)
    assert (crops.size, crops.margin, len(crops), crops.view_count) == (96, 1.5, 2, 6)
    assert shown == [("rendering hands", 2, 2)]
    with pytest.raises(ValueError, match="samples is 0, expected 1 or more"):
        RenderConfig(samples=0)
    with pytest.raises(ValueError, match="synthetic hands with `samples`, not for synthetic"):
        SourceConfig(synthetic=RenderConfig(), labels="network")


def test_what_is_rendered_otherwise_has_a_folder_of_its_own(tmp_path: Path) -> None:
    rendered = RenderConfig(preset="plain", seed=5, samples=1, second_hand=0.0)
    for options, folders in ((rendered, 1), (replace(rendered, second_hand=1.0), 2), (replace(rendered, shift=0.0), 2)):
        crops = prepare(SourceConfig(synthetic=options), 64, 2, tmp_path, False, silent).crops
        assert len(list((tmp_path / "crops").iterdir())) == folders  # of stored crops, the shift is the training's
    assert isinstance(crops, Path)
    (tmp_path / "older" / "crops").mkdir(parents=True)
    older = crops.rename(tmp_path / "older" / "crops" / "plain-5-1x2-truth-96")
    for one in (rendered, replace(rendered, second_hand=1.0)):  # as it was then
        assert prepare(SourceConfig(synthetic=one), 64, 2, tmp_path / "older", False, silent).crops == older


def test_without_graphics_nothing_is_cut_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = SourceConfig(synthetic=RenderConfig(preset="plain", samples=1))
    prepare(stored, 64, 2, tmp_path / "out", False, silent)
    monkeypatch.setitem(sys.modules, "moderngl", None)  # makes the import fail
    for source in (stored, SourceConfig(synthetic=RenderConfig())):
        with pytest.raises(GraphicsError, match="apt install"):
            check(source, 64, 2, tmp_path, False)
    check(stored, 64, 2, tmp_path / "out", False)  # nothing is left to render


def test_crop_sets_are_taken_as_they_are(tmp_path: Path) -> None:
    path = write_drawn_hands(tmp_path / "set", 2)
    assert prepare(SourceConfig(crops=path), 64, 4, tmp_path, False, silent).crops == path
    with pytest.raises(CropSetError, match="is not a crop set"):
        prepare(SourceConfig(crops=tmp_path), 64, 4, tmp_path, False, silent)


def test_recordings_are_cut_once(tmp_path: Path) -> None:
    write_labelled(tmp_path / "rec", frames=2)
    shown: list[tuple[str, int, int]] = []
    for truth in (False, True):
        source = SourceConfig(recording=tmp_path / "rec", truth=truth)
        found = [prepare(source, 64, 4, tmp_path, False, lambda *args: shown.append(args)) for _ in range(2)]
        assert found[0] == found[1]
        assert isinstance(found[0].crops, Path)
        crops = CropSet(found[0].crops)
        # Half again as wide as the network's crops, and as sharp.
        assert (crops.size, crops.margin, len(crops)) == (96, 1.5, 4)
        assert bool(crops.truth(0).joints[0, 0] == crops.truth(0).joints[0, 0]) == truth
    assert shown == [("cutting crops", 1, 2), ("cutting crops", 2, 2)] * 2


def test_a_recording_without_labels_is_said(tmp_path: Path) -> None:
    write_labelled(tmp_path / "rec", frames=2)
    with pytest.raises(
        FileNotFoundError,
        match=r"named openpose, but landmarks: take .* --set sources\.0\.labels=landmarks, or .*rec --openpose FOLDER`",
    ):
        prepare(SourceConfig(recording=tmp_path / "rec", labels="openpose"), 64, 4, tmp_path, False, silent)
    with pytest.raises(FileNotFoundError, match=r"no labels named better, but landmarks: .*`hamuco label .*rec`$"):
        check(SourceConfig(recording=tmp_path / "rec", labels="better"), 64, 4, tmp_path, False)


def test_cutting_that_was_interrupted_begins_anew(tmp_path: Path) -> None:
    write_hanco(tmp_path / "hanco", {110: 2})

    def stop(what: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    for source in (
        SourceConfig(hanco=tmp_path / "hanco"),
        SourceConfig(synthetic=RenderConfig(preset="plain", samples=2)),
    ):
        with pytest.raises(KeyboardInterrupt):
            prepare(source, 64, 2, tmp_path, False, stop)
        crops = prepare(source, 64, 2, tmp_path, False, silent).crops
        assert isinstance(crops, Path)
        assert len(CropSet(crops)) == 2
    assert not list((tmp_path / "crops").glob("*.partial"))


@pytest.mark.parametrize("source", [SourceConfig(hanco=Path("there/is/none")), SourceConfig(freihand=Path("none"))])
def test_a_data_set_that_is_none_is_said(source: SourceConfig, tmp_path: Path) -> None:
    with pytest.raises(DatasetError):
        prepare(source, 64, 4, tmp_path / "out", False, silent)
    assert not (tmp_path / "out").exists()


def test_a_data_set_is_cut_once(tmp_path: Path) -> None:
    write_hanco(tmp_path / "hanco", {110: 2, 1200: 1})
    source = SourceConfig(hanco=tmp_path / "hanco")
    for validation, samples in ((False, 2), (True, 1)):
        first = prepare(source, 64, 4, tmp_path, validation, silent)
        assert isinstance(first.crops, Path)
        assert len(CropSet(first.crops)) == samples
        made = (first.crops / "index.npz").stat().st_mtime_ns
        assert prepare(source, 64, 4, tmp_path, validation, silent) == first
        assert (first.crops / "index.npz").stat().st_mtime_ns == made
    shutil.copytree(tmp_path / "hanco", tmp_path / "another")
    another = prepare(SourceConfig(hanco=tmp_path / "another"), 64, 4, tmp_path, True, silent)
    assert another.crops != first.crops
    # Once cut, it may be gone.
    shutil.rmtree(tmp_path / "hanco")
    check(source, 64, 4, tmp_path, True)
    assert prepare(source, 64, 4, tmp_path, True, silent) == first
