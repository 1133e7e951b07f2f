"""Bundles: a trained pair of networks as one folder, ready to run without the library that trained them.

    model.toml          what it is (see `Card`), and the SHA-256 of the other files
    estimator.onnx      crops (n, S, S, 3) uint8 BGR -> what each shows alone
    interaction.onnx    what the views of hands show -> what they show together
    hand.npz            the hand model, a right hand, whose parameters the networks give

Names and shapes of the networks' inputs and outputs are those of `hamuco.engine.hamuco`.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import tomlkit

from hamuco.engine.crops import BoxRule
from hamuco.engine.hand_model import HandModel, load_hand_model
from hamuco.engine.model_files import file_sha256

CARD, ESTIMATOR, INTERACTION, HAND = "model.toml", "estimator.onnx", "interaction.onnx", "hand.npz"

HAMUCO_S = Path(__file__).parent / "hamuco-s"
"""The bundle that comes with the package."""

_FILES = (ESTIMATOR, INTERACTION, HAND)
_VERSION = 1
_JOINTS = "MediaPipe 21"
_HEADER = f"""\
A trained HaMuCo for `hamuco live --model FOLDER`.

  image_size     px of the square crops, a multiple of 32; uint8 BGR, normalized inside the networks
  crop_scale     width of a crop, in sides of the box around a hand; crop_shift: its shift, in sides, up the hand
  joints         order of the landmarks
  accuracy       as measured, on what
  files          SHA-256 of the other files; {HAND} is the hand model"""
_ADVICE = "copy or export the bundle again"


class BundleError(ValueError):
    """A folder that is not a bundle, or a bundle that is damaged, too new, or does not fit."""


@dataclass(frozen=True, slots=True, eq=False)
class Card:
    """What is known of the networks.

    Attributes:
        name: for tables and reports, such as hamuco-s.
        image_size: px of the square crops.
        box_rule: how crops were laid around hands in training.
        training_data: what the networks learnt from.
        accuracy: what was measured, and on what; "not measured" is an answer.
        licence: of the weights and of the hand model.
        architecture: configurations of the networks, for people to read: names with numbers, texts or more such, as TOML
            has them: nothing is None.
    """

    name: str
    image_size: int
    box_rule: BoxRule
    training_data: str
    accuracy: str
    licence: str
    architecture: Mapping[str, Any]


@dataclass(frozen=True, slots=True, eq=False)
class Bundle:
    """A bundle whose files are those that were written.

    Attributes:
        path: of the folder.
        card: what it is.
        hand: the hand model.
    """

    path: Path
    card: Card
    hand: HandModel

    @property
    def estimator(self) -> Path:
        return self.path / ESTIMATOR

    @property
    def interaction(self) -> Path:
        return self.path / INTERACTION


def load_bundle(path: Path) -> Bundle:
    """Open a bundle and compare every file with its hash.

    Args:
        path: its folder, or `hamuco-s`, which comes with the package; where there is a folder of that name, the folder.

    Raises:
        BundleError: a file is missing, shortened, changed or contradicts the card; or the card is not TOML, lacks
            something, or is of another version. The message says which.
        HandModelError: the hand model is no hand model.
        OSError: a file cannot be read.
    """
    if path == Path(HAMUCO_S.name) and not path.exists():
        path = HAMUCO_S
    if not (path / CARD).is_file():
        what = f"it has no {CARD}" if path.is_dir() else "it is not a folder" if path.exists() else "it is not there"
        raise BundleError(
            f"{path} is no bundle: {what}. A bundle is the folder that `hamuco export` makes, or {HAMUCO_S.name}"
        )
    try:
        document = tomllib.loads((path / CARD).read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BundleError(f"{path / CARD} is not TOML, it was cut off or changed ({error}): {_ADVICE}") from error
    version = document.get("version", _VERSION)  # a card without any is damaged, which `_card` says
    if version != _VERSION:
        raise BundleError(
            f"{path} is a bundle of version {version}, this is for version {_VERSION}: take a version of hamuco of its "
            "age, or export it again"
        )
    card = _card(document, path / CARD)
    for name in _FILES:
        _check_file(path / name, str(document["files"][name]))
    hand = load_hand_model(path / HAND)
    if hand.side != "right":
        raise BundleError(f"{path / HAND} is a {hand.side} hand, and the networks know right ones: export it again")
    return Bundle(path, card, hand)


def write_card(card: Card, folder: Path) -> None:
    """Make a bundle of a folder that has the other files: write its card with their hashes."""
    document = tomlkit.document()
    for line in _HEADER.splitlines():
        document.add(tomlkit.comment(line) if line else tomlkit.nl())
    values = {
        "version": _VERSION,
        "name": card.name,
        "image_size": card.image_size,
        "crop_scale": float(card.box_rule.scale),
        "crop_shift": float(card.box_rule.shift),
        "joints": _JOINTS,
        "training_data": card.training_data,
        "accuracy": card.accuracy,
        "licence": card.licence,
        "architecture": dict(card.architecture),
        "files": {name: file_sha256(folder / name) for name in _FILES},
    }
    for key, value in values.items():
        document.add(key, tomlkit.item(value))
    (folder / CARD).write_text(tomlkit.dumps(document), encoding="utf-8")


def _card(document: Mapping[str, Any], path: Path) -> Card:
    kinds: dict[str, type] = {
        "version": int, "name": str, "image_size": int, "crop_scale": float, "crop_shift": float, "joints": str,
        "training_data": str, "accuracy": str, "licence": str, "architecture": dict, "files": dict,
    }  # fmt: skip
    for key, kind in kinds.items():
        if key not in document:
            raise BundleError(f"{path} has no {key!r}, it was cut off or changed: {_ADVICE}")
        if not isinstance(document[key], kind):
            raise BundleError(f"{path}: {key} is {document[key]!r}, expected {kind.__name__}: {_ADVICE}")
    if missing := [name for name in _FILES if name not in document["files"]]:
        raise BundleError(f"{path} has no hash of {', '.join(missing)}, it was cut off or changed: {_ADVICE}")
    if document["joints"] != _JOINTS:
        raise BundleError(f"{path}: the order of its joints is {document['joints']!r}, ours is {_JOINTS!r}")
    rule = BoxRule(document["crop_scale"], document["crop_shift"])
    known = {field.name: document.get(field.name, rule) for field in fields(Card)}
    return Card(**known)


def _check_file(path: Path, sha256: str) -> None:
    if not path.is_file():
        raise BundleError(f"{path} is missing: {_ADVICE}")
    digest = file_sha256(path)
    if digest != sha256:
        raise BundleError(
            f"{path} is not the file that was exported: it has {path.stat().st_size} bytes and sha256 {digest[:12]}..., "
            f"expected {sha256[:12]}... It was cut off or changed: {_ADVICE}"
        )
