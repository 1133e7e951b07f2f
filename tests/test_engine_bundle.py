"""Bundles as files; what is in the networks does not matter here."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from hamuco.engine.bundle import CARD, ESTIMATOR, HAND, INTERACTION, BundleError, Card, load_bundle, write_card
from hamuco.engine.crops import BoxRule
from hamuco.engine.hand_model import load_hand_model, save_hand_model

A_CARD = Card("mine", 128, BoxRule(2.0, 0.1), "rec", "8 mm", "CC0", {"estimator": {"backbone": "mobile", "width": 3}})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / ESTIMATOR).write_bytes(bytes(range(256)))
    (tmp_path / INTERACTION).write_bytes(b"another graph")
    save_hand_model(load_hand_model(), tmp_path / HAND)
    write_card(A_CARD, tmp_path)
    return tmp_path


def _rewrite(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))


def test_what_is_written_is_read(folder: Path) -> None:
    bundle = load_bundle(folder)
    for name in ("name", "image_size", "box_rule", "training_data", "accuracy", "licence", "architecture"):
        assert getattr(bundle.card, name) == getattr(A_CARD, name)
    assert bundle.hand.name == load_hand_model().name
    assert bundle.estimator.read_bytes() == bytes(range(256))
    assert bundle.interaction.name == INTERACTION


@pytest.mark.parametrize("name", [ESTIMATOR, INTERACTION, HAND])
def test_a_file_that_is_missing_cut_off_or_changed_is_named(folder: Path, name: str) -> None:
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(whole[:-1])
    with pytest.raises(BundleError, match=f"{name} is not the file that was exported: it has {len(whole) - 1} bytes"):
        load_bundle(folder)
    (folder / name).write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(BundleError, match=f"{name} is not the file that was exported.*copy or export the bundle again"):
        load_bundle(folder)
    (folder / name).unlink()
    with pytest.raises(BundleError, match=f"{name} is missing"):
        load_bundle(folder)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("version = 1", "version = 2", "is a bundle of version 2, this is for version 1"),
        ("version = 1\n", "", "has no 'version', it was cut off or changed: copy or export the bundle again"),
        ('licence = "CC0"\n', "", "has no 'licence'"),
        ("image_size = 128", 'image_size = "128"', "image_size is '128', expected int"),
        ("MediaPipe 21", "MANO 16", "the order of its joints is 'MANO 16', ours is 'MediaPipe 21'"),
        ("version = 1", "version =", "is not TOML"),
        (f'"{HAND}" = ', '"another" = ', f"has no hash of {HAND}, it was cut off or changed"),
    ],
)
def test_a_card_that_is_wrong_says_where(folder: Path, old: str, new: str, words: str) -> None:
    _rewrite(folder / CARD, old, new)
    with pytest.raises(BundleError, match=words):
        load_bundle(folder)


def test_a_card_that_was_cut_off_is_no_old_version(folder: Path) -> None:
    whole = (folder / CARD).read_bytes()
    for size in range(0, len(whole) - 1, 7):
        (folder / CARD).write_bytes(whole[:size])
        with pytest.raises(BundleError, match=r"it was cut off or changed.*: copy or export the bundle again"):
            load_bundle(folder)


def test_a_hand_of_the_other_side_is_refused(folder: Path) -> None:
    save_hand_model(load_hand_model().mirrored(), folder / HAND)
    write_card(A_CARD, folder)
    with pytest.raises(BundleError, match="is a left hand, and the networks know right ones"):
        load_bundle(folder)


def test_something_else_than_a_bundle_says_what_a_bundle_is(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for path, words in (
        (tmp_path / "nowhere", "is no bundle: it is not there"),
        (tmp_path / "empty", f"is no bundle: it has no {CARD}"),
        (folder / HAND, "is no bundle: it is not a folder"),
    ):
        with pytest.raises(BundleError, match=f"{words}. A bundle is the folder that `hamuco export` makes"):
            load_bundle(path)


def test_whole_numbers_of_the_crop_rule_are_kept(folder: Path) -> None:
    write_card(replace(A_CARD, box_rule=BoxRule(2, 0)), folder)
    assert load_bundle(folder).card.box_rule == BoxRule(2.0, 0.0)
