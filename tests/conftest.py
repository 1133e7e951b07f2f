"""Fixtures that several test files share."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hamuco.engine.bundle import HAMUCO_S, Bundle, load_bundle
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


@pytest.fixture
def own_bundle(bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    """A copy of it in the folder `small`, whose engines nobody else sees."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    shutil.copytree(bundle.path, tmp_path / "small", ignore=shutil.ignore_patterns("engines"))
    return load_bundle(tmp_path / "small")


@pytest.fixture(scope="session")
def hamuco_s() -> Bundle:
    """The bundle that comes with the package."""
    return load_bundle(HAMUCO_S)


@pytest.fixture(scope="session")
def fatbins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of what the driver's stand-in takes for compiled kernels."""
    from fake_driver import write_fatbins

    folder = tmp_path_factory.mktemp("fatbins")
    write_fatbins(folder)
    return folder


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Torch computes with one: small networks are quicker so, and sums always have the same order."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def free_hand() -> HandModel:
    return load_hand_model()


@pytest.fixture(scope="session")
def with_posedirs(free_hand: HandModel) -> HandModel:
    """Centimetres of pose-dependent correction: much more than any real model has."""
    rng = np.random.default_rng(3)
    return replace(free_hand, posedirs=rng.normal(0, 0.003, (len(free_hand.v_template), 3, 135)))
