"""Fetches and caches the two networks of the default estimator: MediaPipe's palm detector and hand landmark network.

Both are Apache-2.0 and lie inside the `mediapipe` wheel, which is fetched with pip, checked by hash and discarded.
"""

from __future__ import annotations

import hashlib
import logging
import os
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

_log = logging.getLogger(__name__)

REQUIREMENT = "mediapipe==0.10.21"
# One fixed wheel on every platform: the two files are data, and one hash then serves everybody.
_WHEEL_SHA256 = "05dc4a9e593655a79558d05d6227d31018c2537a4bd3362b51e230cf22aecfe3"
_PIP_ARGUMENTS = ("--no-deps", "--only-binary=:all:", "--platform=manylinux_2_28_x86_64", "--python-version=3.11")


class ModelFileError(OSError):
    """A network file is missing, could not be fetched, or is not the file it should be."""


@dataclass(frozen=True, slots=True)
class ModelFile:
    """One network inside the wheel."""

    name: str
    member: str
    sha256: str


PALM_DETECTOR = ModelFile(
    "palm_detection_full.tflite",
    "mediapipe/modules/palm_detection/palm_detection_full.tflite",
    "1b14e9422c6ad006cde6581a46c8b90dd573c07ab7f3934b5589e7cea3f89a54",
)
HAND_LANDMARK = ModelFile(
    "hand_landmark_full.tflite",
    "mediapipe/modules/hand_landmark/hand_landmark_full.tflite",
    "11c272b891e1a99ab034208e23937a8008388cf11ed2a9d776ed3d01d0ba00e3",
)
ALL_FILES = (PALM_DETECTOR, HAND_LANDMARK)


def model_folder() -> Path:
    """Where the files are kept: `HAMUCO_MODELS` if set, else the user's cache folder."""
    if folder := os.environ.get("HAMUCO_MODELS"):
        return Path(folder)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hamuco" / "models"


def model_path(file: ModelFile) -> Path:
    """Path of a checked local copy, fetched on first use.

    Raises:
        ModelFileError: it is not there and cannot be fetched, or its content is not what it should be.
    """
    if not (model_folder() / file.name).exists():
        fetch_model_files()
    return check_model_file(file)


def check_model_file(file: ModelFile) -> Path:
    """Path of the local copy, if its content is what it should be.

    Raises:
        ModelFileError: it is not.
    """
    path = model_folder() / file.name
    digest = file_sha256(path)
    if digest != file.sha256:
        raise ModelFileError(
            f"{path} is not the expected file (sha256 {digest[:12]}..., expected {file.sha256[:12]}...). "
            f"Delete it and run again to fetch a fresh copy."
        )
    return path


def fetch_model_files() -> None:
    """Fetch the wheel with pip and put its two networks into `model_folder()`.

    Raises:
        ModelFileError: pip failed (offline, no pip) or the wheel is not the expected one.
    """
    folder = model_folder()
    _log.info("fetching the hand networks with pip into %s: 36 MB, once", folder)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
        command += [*_PIP_ARGUMENTS, f"--dest={scratch}", REQUIREMENT]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        wheels = list(Path(scratch).glob("*.whl"))
        if result.returncode != 0 or len(wheels) != 1:
            reason = (result.stderr.strip().splitlines() or ["no wheel was written"])[-1]
            raise ModelFileError(
                f"could not fetch the hand networks (pip download {REQUIREMENT}: {reason}). "
                f"With network access run `hamuco doctor --fetch` once, or copy "
                f"{' and '.join(file.name for file in ALL_FILES)} from another machine into {folder}."
            )
        digest = file_sha256(wheels[0])
        if digest != _WHEEL_SHA256:
            raise ModelFileError(
                f"the wheel {wheels[0].name} that pip fetched has sha256 {digest[:12]}..., expected "
                f"{_WHEEL_SHA256[:12]}...; nothing was installed. Check the package index that pip is set up to use."
            )
        with zipfile.ZipFile(wheels[0]) as wheel:
            for file in ALL_FILES:
                extracted = Path(scratch) / file.name
                extracted.write_bytes(wheel.read(file.member))
                extracted.replace(folder / file.name)  # atomic: a second process never sees half a file


def file_sha256(path: Path) -> str:
    """Of all its bytes, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
