"""The file of a configuration, as plain values. Needs no torch, so what is wrong with the file is said at once."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hamuco.training.structuring import StructureError, set_value

CONFIGS = Path(__file__).parent / "configs"
"""The configurations that come with the package."""


class ConfigError(ValueError):
    """A configuration that cannot be read, or says something that does not exist or makes no sense."""


def read_values(name: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """What a configuration says, for `hamuco.training.config.config_from`.

    Args:
        name: a TOML file, or one of those that come with the package: hamuco-s, hamuco-r18, hamuco-r50, my-rig.
        overrides: such as "loss.weights.consistency=0.5" or "sources.0.recording=rec"; see `set_value`.

    Raises:
        ConfigError: there is no such file, it is not TOML, or an override cannot be set.
        OSError: the file cannot be read.
    """
    path = Path(name) if Path(name).is_file() else CONFIGS / f"{name}.toml"
    if not path.is_file():
        known = ", ".join(sorted(one.stem for one in CONFIGS.glob("*.toml")))
        raise ConfigError(f"there is no file {name}, and no configuration of this name; known are {known}")
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not a TOML file: {error}") from error
    try:
        for text in overrides:
            set_value(values, text)
    except StructureError as error:
        raise ConfigError(f"--set {error}") from error
    return values
