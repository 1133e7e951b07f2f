"""Where training data comes from, as a configuration says it; what has to be cut into crops first is cut here."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from hamuco.capture.recording import Recording
from hamuco.training.crop_builders import (
    FORMAT,
    LabelKind,
    crop_set_of_dataset,
    crop_set_of_recording,
    crop_set_of_stream,
)
from hamuco.training.crop_set import MARGIN, CropSet
from hamuco.training.datasets.freihand import FreiHAND
from hamuco.training.datasets.hanco import HanCo
from hamuco.training.datasets.recorded import Recorded
from hamuco.training.datasets.sample import Dataset
from hamuco.training.labels import labels_of
from hamuco.training.loader import Source
from hamuco.training.synthetic.crops import CropOptions
from hamuco.training.synthetic.look import Preset
from hamuco.training.synthetic.renderer import check_graphics

KINDS = ("crops", "recording", "hanco", "freihand", "synthetic")


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderConfig:
    """What is rendered; views and size are the training's.

    Attributes:
        samples: hands to render once, before the training, into the folder `crops` of the training, from which another
            training can take them as `crops`. Else hands are rendered while training goes on, none of them twice.
        preset, seed, second_hand, shift, scale, rotation: see `CropOptions`. Stored crops lie as evenly as a tracker's, and
            are moved by the training's augmentation: for them the last three do not count.
    """

    samples: int | None = None

    preset: Preset = "room"
    seed: int = 0
    second_hand: float = 0.2
    shift: float = 0.1
    scale: float = 1.25
    rotation: float = float(np.radians(20.0))

    def __post_init__(self) -> None:
        self.options()
        if self.samples is not None and self.samples < 1:
            raise ValueError(f"samples is {self.samples}, expected 1 or more")

    def options(self) -> CropOptions:
        values = asdict(self)
        del values["samples"]
        return CropOptions(**values)


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceConfig:
    """Exactly one of the first five.

    Attributes:
        crops: folder of a crop set.
        recording: a recording with labels, from `hamuco label`. Its crops are cut once and lie beside the labels.
        hanco, freihand: folder of the data set; its training part, or in validation its test part. Its crops are cut into
            the folder `crops` of the training, and can be given to another training as `crops`.
        synthetic: hands that are rendered while training goes on.
        labels: of a recording, the name of its labels, "landmarks" if not given; of a data set "truth" (the projected
            joints) if not given, or "network" (what the landmark network says); the same of hands that are rendered once.
            Those that are rendered while training goes on have true labels.
        truth: take the 3D truth of a synthetic recording along; other sources always bring what they have.
        share: of every batch, relative to the other sources', rounded to whole hands: those that rounding down would cost
            most get one more, of several alike the first. Shares of 3, 1 and 1 are 5, 2 and 1 of 8 hands, 6, 2 and 2 of 10.

    Raises:
        ValueError: none or several of the first five, or labels that there are not.
    """

    crops: Path | None = None
    recording: Path | None = None
    hanco: Path | None = None
    freihand: Path | None = None
    synthetic: RenderConfig | None = None
    labels: str | None = None
    truth: bool = False
    share: float = 1.0

    def __post_init__(self) -> None:
        given = [kind for kind in KINDS if getattr(self, kind) is not None]
        if len(given) != 1:
            raise ValueError(f"a source needs exactly one of {', '.join(KINDS)}; it has {', '.join(given) or 'none'}")
        if self.labels is None:
            return
        if given[0] == "crops" or (self.synthetic is not None and self.synthetic.samples is None):
            raise ValueError(
                f"labels = {self.labels!r} is for recordings, data sets and synthetic hands with `samples`, not for {given[0]}"
            )
        if given[0] != "recording" and self.labels not in ("truth", "network"):
            raise ValueError(f"labels of a data set are 'truth' or 'network', not {self.labels!r}")


Progress = Callable[[str, int, int], None]
"""Is called with what is done, how much of it is done, and how much there is."""


def check(source: SourceConfig, image_size: int, views: int, out: Path, validation: bool) -> None:
    """Raise at once what `prepare` would raise of what is not there: before it, others may be cut for hours."""
    if source.crops is not None:
        CropSet(source.crops)
    elif source.recording is not None:
        labels_of(Recording.open(source.recording), source.labels or "landmarks")
        if source.truth:
            Recorded(source.recording)
    elif (path := _crops_at(source, image_size, views, out, validation)) is not None and path.exists():
        CropSet(path)
    elif source.synthetic is not None:
        check_graphics()
    else:
        _dataset(source, validation)


def prepare(
    source: SourceConfig, image_size: int, views: int, out: Path, validation: bool, progress: Progress
) -> Source:
    """A source that the loader can read. Cuts or renders crops where that was not done before.

    Args:
        source: as configured.
        image_size: px of the network's crops; stored ones show as much detail.
        views: of hands that are rendered once.
        out: of the training.
        validation: take a data set's test part.
        progress: of cutting.

    Raises:
        ValueError, OSError: as the readers of recordings and data sets say.
    """
    size = round(MARGIN * image_size)

    def cutting(done: int, total: int) -> None:
        progress("cutting crops" if source.synthetic is None else "rendering hands", done, total)

    if source.crops is not None:
        return Source(CropSet(source.crops).path, source.share)
    if source.recording is not None:
        recording = Recording.open(source.recording)
        crops = crop_set_of_recording(recording, source.labels or "landmarks", size, source.truth, cutting)
        return Source(crops.path, source.share)
    rendered = source.synthetic
    if (path := _crops_at(source, image_size, views, out, validation)) is None:
        assert rendered is not None
        return Source(replace(rendered.options(), views=views), source.share)
    if not path.exists():
        labels = _label_kind(source)
        dataset = None if rendered is not None else _dataset(source, validation)
        path.parent.mkdir(parents=True, exist_ok=True)
        if dataset is not None:
            crop_set_of_dataset(dataset, path, labels, size, progress=cutting)
        elif rendered is not None and rendered.samples is not None:
            options = replace(rendered.options(), views=views)
            crop_set_of_stream(options, path, rendered.samples, labels, size, progress=cutting)
    return Source(CropSet(path).path, source.share)


def _crops_at(source: SourceConfig, image_size: int, views: int, out: Path, validation: bool) -> Path | None:
    """Where the crops of a data set or of hands that are rendered once belong; None for other sources.

    Nothing is read: the data set may be gone once it was cut. The name ends in a digest of all that the crops depend on.
    """
    size, folder = f"{_label_kind(source)}-{round(MARGIN * image_size)}", out / "crops"
    if (rendered := source.synthetic) is not None and rendered.samples is not None:
        name = f"{rendered.preset}-{rendered.seed}-{rendered.samples}x{views}-{size}"
        rest = f"second hands {rendered.second_hand}"
    elif source.hanco is not None:
        name, rest = f"hanco-{'test' if validation else 'train'}-{size}", str(source.hanco.absolute())
    elif source.freihand is not None:
        name, rest = f"freihand-{_split(validation)}-{size}", str(source.freihand.absolute())
    else:
        return None
    if (folder / name).exists():  # of a training that began when names had no digest
        return folder / name
    digest = hashlib.sha256(f"{name}, {rest}, format {FORMAT}".encode()).hexdigest()[:8]
    return folder / f"{name}-{digest}"


def _label_kind(source: SourceConfig) -> LabelKind:
    return "network" if source.labels == "network" else "truth"


def _dataset(source: SourceConfig, validation: bool) -> Dataset:
    """A published data set, or the part of it to validate on."""
    if source.hanco is not None:
        return HanCo(source.hanco, "test") if validation else HanCo(source.hanco, "train", "rgb")
    assert source.freihand is not None
    return FreiHAND(source.freihand, _split(validation))


def _split(validation: bool) -> Literal["evaluation", "training"]:
    return "evaluation" if validation else "training"
