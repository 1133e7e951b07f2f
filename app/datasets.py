"""Published data sets by their names on the command line."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from hamuco.training.datasets.freihand import FreiHAND
from hamuco.training.datasets.hanco import HanCo
from hamuco.training.datasets.sample import Dataset

DATASETS: Mapping[str, Callable[..., Dataset]] = {"hanco": HanCo, "freihand": FreiHAND}
"""Data sets by the name on the command line; NAME:SPLIT chooses a split."""


def open_dataset(name: str, path: Path) -> Dataset:
    """A data set by its name on the command line.

    Raises:
        ValueError: no such data set, or the folder is not one; the message says what is there.
    """
    reader, split = dataset_reader(name)
    return reader(path, *([split] if split else []))


def dataset_reader(name: str) -> tuple[Callable[..., Dataset], str]:
    """What opens the folder of a data set, and the split, which may be empty. Raises ValueError for an unknown name."""
    known, _, split = name.partition(":")
    if known not in DATASETS:
        raise ValueError(f"data set {name!r} is not known; choose one of {', '.join(DATASETS)}")
    return DATASETS[known], split
