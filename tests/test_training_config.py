"""Configurations of trainings."""

from __future__ import annotations

import math
import tomllib
from pathlib import Path
from typing import Any

import pytest

from hamuco.training.config import (
    config_from,
    config_text,
    config_values,
    difference,
    load_config,
)
from hamuco.training.config_file import CONFIGS, ConfigError
from hamuco.training.loader import samples_per_source
from hamuco.training.losses import LossConfig
from hamuco.training.networks.hamuco import default_config

HANDS: dict[str, Any] = {"sources": [{"synthetic": {}}]}


@pytest.mark.parametrize("name", ["my-rig", "hamuco-s", "hamuco-r18", "hamuco-r50"])
def test_the_configurations_of_the_package_are_whole(name: str) -> None:
    config = load_config(name)
    assert config.model == default_config(config.start.network)
    assert bool(config.validation.sources) == (name != "my-rig")  # a recording of one's own has no truth
    assert config_from(tomllib.loads(config_text(config)), "again") == config


def test_there_are_no_others() -> None:
    assert {path.stem for path in CONFIGS.iterdir()} == {"hamuco-s", "hamuco-r18", "hamuco-r50", "my-rig"}


@pytest.mark.parametrize(
    ("name", "hands"), [("my-rig", [5, 2, 1]), ("hamuco-s", [2, 2, 1, 1]), ("hamuco-r18", [8]), ("hamuco-r50", [8])]
)
def test_shares_are_rounded_to_whole_hands(name: str, hands: list[int]) -> None:
    config = load_config(name)
    assert samples_per_source([source.share for source in config.sources], config.batch) == hands


def test_the_paper_is_what_is_trained_on_hanco() -> None:
    config = load_config("hamuco-r18")
    assert (config.batch, config.views, config.learning_rate, config.weight_decay) == (8, 8, 3e-4, 0.01)
    assert config.loss == LossConfig()
    assert config.rate(config.steps - 1) < 1e-6


def test_a_file_is_read_and_changed(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('steps = 7\n[start]\nnetwork = "hamuco-r18"\n[[sources]]\nrecording = "rec"\n')
    config = load_config(
        str(file), ["sources.0.share=2", "loss.weights.consistency=0.5", "model.estimator.image_size=64"]
    )
    assert (config.steps, config.sources[0].recording, config.sources[0].share) == (7, Path("rec"), 2.0)
    assert config.loss.weights.consistency == 0.5
    assert (config.model.estimator.backbone, config.model.estimator.image_size) == ("resnet18", 64)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"sources": []}, "there are no sources: nothing to learn from"),
        ({**HANDS, "stepz": 3}, "unknown key stepz, did you mean steps?"),
        ({**HANDS, "threads": 3}, "unknown key threads, did you mean run.threads?"),
        (
            {**HANDS, "loss": {"weights": {"consistancy": 1}}},
            "loss.weights: unknown key consistancy, did you mean consis",
        ),
        ({**HANDS, "start": {"network": "big"}}, "there is no configuration 'big'; known are hamuco-s"),
        ({**HANDS, "start": 3}, "start: expected a table, it is 3"),
        ({**HANDS, "model": 3}, "model: expected a table, it is 3"),
        ({**HANDS, "start": {"weights": "a", "backbone": "b"}}, "start: backbone and weights are given, but"),
        ({**HANDS, "steps": 0}, "steps is 0, expected 1 or more"),
        ({**HANDS, "learning_rate": 0}, "learning_rate is 0, expected a number above 0"),
        ({**HANDS, "gradient_norm": math.inf}, "gradient_norm is inf, expected a number above 0"),
        ({**HANDS, "weight_decay": math.nan}, "weight_decay is nan, expected 0 or more"),
        ({**HANDS, "seed": 2**63}, "seed is 9223372036854775808, expected less than 2**63"),
        (
            {**HANDS, "loss": {"weights": {"consistency": math.nan}}},
            "loss.weights: consistency is nan, expected 0 or more",
        ),
        ({**HANDS, "loss": {"weights": {"shape_prior": -1}}}, "loss.weights: shape_prior is -1, expected 0 or more"),
        ({"sources": [{"synthetic": {}, "share": 0}]}, "shares of the sources are [0.0], expected one source or more"),
        ({"sources": [{"recording": "a"}, {"recording": "b"}], "batch": 1}, "a batch of 1 has no sample of source 1"),
        (
            {**HANDS, "batch": 1, "validation": {"sources": [{"recording": "a"}, {"recording": "b"}]}},
            "validation.sources: a batch of 1 has no sample of source 1",
        ),
        ({**HANDS, "run": {"log_every": 0}}, "run: log_every is 0, expected 1 or more"),
        ({**HANDS, "validation": {"best": "loss"}}, "validation.best: expected one of 'single_mpjpe_mm'"),
        (
            {**HANDS, "validation": {"sources": [{"synthetic": {"seed": 0}}]}},
            "validation.sources.0.synthetic.seed is 0, which is rendered to learn from: choose another",
        ),
    ],
)
def test_what_is_wrong_is_said(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config_from(values, "x.toml")
    assert str(caught.value).startswith("configuration x.toml:\n  ")
    assert said in str(caught.value)


def test_files_that_are_none_are_said(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"there is no file big, and no configuration .* hamuco-r18, hamuco-r50, hamuco-s, my-rig"
    ):
        load_config("big")
    broken = tmp_path / "broken.toml"
    broken.write_bytes(b"\xff\xfe steps = ")
    with pytest.raises(ConfigError, match=r"broken\.toml is not a TOML file"):
        load_config(str(broken))
    with pytest.raises(ConfigError, match=r"--set 'steps' is not KEY=VALUE"):
        load_config("hamuco-s", ["steps"])


def test_the_rate_rises_and_falls() -> None:
    config = config_from({**HANDS, "steps": 110, "warmup_steps": 10, "learning_rate": 2.0}, "x")
    rates = [config.rate(step) for step in range(111)]
    assert rates[0] == pytest.approx(2 / 11)
    assert rates[9] == pytest.approx(20 / 11)
    assert rates[10] == 2.0
    assert rates[60] == pytest.approx(1.0)  # half of the cosine
    assert rates[110] == pytest.approx(0.0, abs=1e-15)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    flat = config_from({**HANDS, "steps": 110, "warmup_steps": 10, "learning_rate": 2.0, "cosine": False}, "x")
    assert {flat.rate(step) for step in range(10, 110)} == {2.0}


def test_trainings_differ_in_all_but_how_they_run() -> None:
    one = config_values(config_from({**HANDS, "run": {"workers": 3}}, "x"))
    assert difference(one, config_values(config_from(HANDS, "x"))) is None
    other = config_values(config_from({**HANDS, "augmentation": {"blur": 0.0}}, "x"))
    assert difference(one, other) == ("augmentation.blur", 0.2, 0.0)
