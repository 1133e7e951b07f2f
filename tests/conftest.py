"""Fixtures that several test files share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hamuco.engine.bundle import Bundle


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
