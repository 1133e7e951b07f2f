"""Fixtures that several test files share."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hamuco.engine.bundle import Bundle
from hamuco.engine.hand_model import HandModel, load_hand_model

# A script that starts the tests in its background has them ignore this, and their processes too, some of which are to be
# interrupted.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder of real footage and calibrations, which is not part of the repository."""
    folder = Path(os.environ.get("HAMUCO_DATA") or Path(__file__).parents[1] / "../shared/data").resolve()
    if not folder.is_dir():
        pytest.skip(f"no test recordings at {folder} (set HAMUCO_DATA to the folder that holds them)")
    return folder


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Of small, untrained networks."""
    from small_bundle import small_bundle  # loads torch

    return small_bundle(tmp_path_factory.mktemp("bundle"))


@pytest.fixture(scope="session")
def free_hand() -> HandModel:
    return load_hand_model()


@pytest.fixture(scope="session")
def with_posedirs(free_hand: HandModel) -> HandModel:
    """Centimetres of pose-dependent correction: much more than any real model has."""
    rng = np.random.default_rng(3)
    return replace(free_hand, posedirs=rng.normal(0, 0.003, (len(free_hand.v_template), 3, 135)))
