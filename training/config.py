"""What a training is: a TOML file, checked key by key, as frozen dataclasses.

Files may leave out whatever has a default. Keys that do not exist and values of the wrong kind are errors that name them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import indent
from typing import Any, Literal

import tomlkit

from hamuco.training.augment import Augmentation
from hamuco.training.config_file import ConfigError, read_values
from hamuco.training.loader import samples_per_source
from hamuco.training.losses import LossConfig
from hamuco.training.networks.hamuco import HaMuCoConfig, default_config
from hamuco.training.sources import SourceConfig
from hamuco.training.structuring import (
    first_difference,
    laid_over,
    structure,
    unstructure,
    without_none,
)
from hamuco.training.validation import Figure

Precision = Literal["f32", "bf16", "fp16"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StartConfig:
    """What a training starts from.

    Attributes:
        network: name for `default_config`; what [model] says goes before it.
        backbone: file of weights for the backbone, such as torchvision's of ImageNet.
        estimator: checkpoint or bundle whose estimator to start from: the cross-view network then learns in a second stage.
        weights: checkpoint or bundle of the same networks; the optimizer starts anew.
    """

    network: str = "hamuco-s"
    backbone: Path | None = None
    estimator: Path | None = None
    weights: Path | None = None

    def __post_init__(self) -> None:
        given = [name for name in ("backbone", "estimator", "weights") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} are given, but the later has the earlier's weights among its own")


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidationConfig:
    """
    Attributes:
        sources: hands to validate on; without any there is no validation, and no best checkpoint.
        every: steps between validations.
        batches: how many batches are validated on, always the same ones.
        best: the checkpoint with the smallest of this figure is kept as best.pt.
    """

    sources: tuple[SourceConfig, ...] = ()
    every: int = 1000
    batches: int = 16
    best: Figure = "fused_mpjpe_mm"

    def __post_init__(self) -> None:
        _check_least(self, {"every": 1, "batches": 1})


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig:
    """How a training runs, which a resumed one may change: nothing here changes what is learned, but for rounding.

    Attributes:
        device: "auto" takes a GPU where there is one.
        threads: of the CPU that torch computes with; 0 leaves it to torch, which takes all.
        workers: processes that read crops, and as many that render; 0 does it between the steps.
        log_every: steps between rows of the log.
        checkpoint_every: steps between checkpoints.
    """

    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int = 0
    workers: int = 2
    log_every: int = 50
    checkpoint_every: int = 1000

    def __post_init__(self) -> None:
        _check_least(self, {"threads": 0, "workers": 0, "log_every": 1, "checkpoint_every": 1})


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """A training. Paths are relative to the working directory.

    Attributes:
        seed: of everything random.
        rounds: of self-training, each with all steps: after one, the network makes better labels of its stored hands, from
            which the next one learns. Experimental: what it gains was not measured.
        steps: of the optimizer, in each round.
        batch: hands per step, of every process.
        views: crops per hand.
        learning_rate: of AdamW, after the warm-up.
        weight_decay: of AdamW.
        warmup_steps: in which the learning rate rises from zero, evenly.
        cosine: let the learning rate fall to zero along half a cosine; else it stays.
        gradient_norm: gradients are made no longer than this.
        precision: of the networks' inner products; losses and weights are always single precision.
        sources: hands to learn from.
        validation, start, model, loss, augmentation, run: tables of their own.
    """

    seed: int = 0
    rounds: int = 1
    steps: int = 100_000
    batch: int = 32
    views: int = 4
    learning_rate: float = 3e-4
    weight_decay: float = 0.01
    warmup_steps: int = 500
    cosine: bool = True
    gradient_norm: float = 1.0
    precision: Precision = "f32"
    sources: tuple[SourceConfig, ...] = ()
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    start: StartConfig = field(default_factory=StartConfig)
    model: HaMuCoConfig = field(default_factory=lambda: default_config("hamuco-s"))
    loss: LossConfig = field(default_factory=LossConfig)
    augmentation: Augmentation = field(default_factory=Augmentation)
    run: RunConfig = field(default_factory=RunConfig)

    def __post_init__(self) -> None:
        _check_least(
            self, {"seed": 0, "rounds": 1, "steps": 1, "batch": 1, "views": 1, "weight_decay": 0, "warmup_steps": 0}
        )
        for name in ("learning_rate", "gradient_norm"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} is {getattr(self, name):g}, expected a number above 0")
        if self.seed >= 2**63:
            raise ValueError(f"seed is {self.seed}, expected less than 2**63")
        if not self.sources:
            raise ValueError('there are no sources: nothing to learn from; say [[sources]] with recording = "FOLDER"')
        samples_per_source([source.share for source in self.sources], self.batch)
        if shares := [source.share for source in self.validation.sources]:
            try:
                samples_per_source(shares, self.batch)
            except ValueError as error:
                raise ValueError(f"validation.sources: {error}") from error
        learnt = [source.synthetic.seed for source in self.sources if source.synthetic is not None]
        for number, source in enumerate(self.validation.sources):
            if source.synthetic is not None and source.synthetic.seed in learnt:
                raise ValueError(
                    f"validation.sources.{number}.synthetic.seed is {source.synthetic.seed}, which is rendered to learn "
                    "from: choose another"
                )

    def rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / (self.warmup_steps + 1)
        if not self.cosine:
            return self.learning_rate
        past = (step - self.warmup_steps) / max(self.steps - self.warmup_steps, 1)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * past))


def load_config(name: str, overrides: Sequence[str] = ()) -> TrainConfig:
    """Read a configuration.

    Args:
        name, overrides: see `read_values`.

    Raises:
        ConfigError: as for `read_values`, and every key and value that is wrong, a line each.
        OSError: the file cannot be read.
    """
    return config_from(read_values(name, overrides), name)


def config_from(values: Mapping[str, Any], origin: str) -> TrainConfig:
    """A configuration from plain values, as TOML has them; `origin` is named in errors. Raises ConfigError."""
    start, model = values.get("start", {}), values.get("model", {})
    network = start.get("network", StartConfig().network) if isinstance(start, Mapping) else None
    try:
        if isinstance(network, str) and isinstance(model, Mapping):  # if not, it is said below
            values = {**values, "model": laid_over(unstructure(default_config(network)), model)}
        return structure(values, TrainConfig)
    except ValueError as error:
        raise ConfigError(f"configuration {origin}:\n" + indent(str(error), "  ")) from error


def config_values(config: TrainConfig) -> dict[str, Any]:
    """The configuration as plain values, complete; None where there is nothing."""
    return unstructure(config)


def config_text(config: TrainConfig) -> str:
    """The configuration as the text of a TOML file, complete."""
    return tomlkit.dumps(without_none(unstructure(config)))


def difference(one: Mapping[str, Any], other: Mapping[str, Any]) -> tuple[str, Any, Any] | None:
    """The first key in which the plain values of two trainings differ, and both values; `run` may differ."""
    return first_difference({**one, "run": None}, {**other, "run": None})


def _check_least(config: Any, least: Mapping[str, float]) -> None:
    for name, smallest in least.items():
        if not getattr(config, name) >= smallest:  # nor NaN
            raise ValueError(f"{name} is {getattr(config, name)}, expected {smallest} or more")
