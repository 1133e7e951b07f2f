"""`rig.toml`, our own calibration file: written and read without losing a bit."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tomlkit

from hamuco.calibration.camera import CalibrationError, Camera, FloatArray, Rig

_HEADER = """\
Cameras of one rig, in the order in which HaMuCo Live uses them.

  size           image width and height, px; the matrix belongs to this size
  matrix         pinhole matrix K, px; pixel centres at integer coordinates
  distortion     OpenCV coefficients k1 k2 p1 p2 [k3 ...]; with fisheye = true the four of OpenCV's fisheye model
  rotation       3x3, world -> camera: x_camera = rotation x_world + translation
  translation    metres, world -> camera; camera axes x right, y down, z forward
  source         optional: where live frames come from (a device index, a file, a URL)
"""
_REQUIRED_KEYS = ("size", "matrix", "distortion", "rotation", "translation")
_OPTIONAL_KEYS = ("fisheye", "source")


def load_rig(path: Path) -> Rig:
    """Read a `rig.toml`.

    Raises:
        OSError: the file cannot be read.
        CalibrationError: it is not TOML, has unknown or missing keys, or describes cameras that cannot be right.
    """
    document = parse_toml(path)
    reject_unknown_keys(document, ("cameras",), str(path))
    tables = camera_tables(document, path)
    return Rig(tuple(_camera(name, table, path) for name, table in tables.items()))


def save_rig(rig: Rig, path: Path) -> None:
    """Write a `rig.toml`; a reader sees the old file or the new one, never a part.

    Raises:
        OSError: the folder does not exist or cannot be written.
    """
    document = tomlkit.document()
    for line in _HEADER.splitlines():
        document.add(tomlkit.comment(line))
    cameras = tomlkit.table(is_super_table=True)
    for camera in rig:
        table = tomlkit.table()
        if camera.source is not None:
            table["source"] = camera.source
        table["size"] = list(camera.size)
        if camera.fisheye:
            table["fisheye"] = True
        table["matrix"] = _rows(camera.matrix)
        table["distortion"] = camera.distortion.tolist()
        table["rotation"] = _rows(camera.camera_from_world[:3, :3])
        table["translation"] = camera.camera_from_world[:3, 3].tolist()
        cameras[camera.name] = table
    document["cameras"] = cameras
    unfinished = path.with_name(path.name + ".unfinished")
    unfinished.write_text(tomlkit.dumps(document), encoding="utf-8")
    unfinished.replace(path)


def parse_toml(path: Path) -> dict[str, Any]:
    """Content of a TOML file; `CalibrationError` with the place where it stops being TOML."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise CalibrationError(f"{path} is not a TOML file: {error}") from error


def camera_tables(document: Mapping[str, Any], path: Path) -> dict[str, dict[str, Any]]:
    """The `[cameras.<name>]` tables of a document, in the order of the file."""
    tables = document.get("cameras")
    if not isinstance(tables, dict) or not tables:
        raise CalibrationError(f"{path} has no cameras: a table [cameras.<name>] for each is expected")
    for name, table in tables.items():
        if not isinstance(table, dict):
            raise CalibrationError(f"{path}, camera {name!r}: expected a table [cameras.{name}], got {table!r}")
    return tables


def reject_unknown_keys(table: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
    """`CalibrationError` naming the keys of `table` that are not `known`."""
    unknown = [key for key in table if key not in known]
    if unknown:
        raise CalibrationError(f"{where}: unknown key {', '.join(map(repr, unknown))}; known are {', '.join(known)}")


def read_numbers(table: Mapping[str, Any], key: str, shape: tuple[int, ...], where: str) -> FloatArray:
    """The finite numbers under `key`; -1 in `shape` stands for any length."""
    if key not in table:
        raise CalibrationError(f"{where}: {key!r} is missing")
    expected = " x ".join("any number of" if length < 0 else str(length) for length in shape)
    problem = CalibrationError(f"{where}: {key!r} should be {expected} finite numbers, got {table[key]!r}")
    try:
        values = np.array(table[key])
    except ValueError as error:  # rows of different lengths
        raise problem from error
    lengths_fit = len(values.shape) == len(shape) and all(
        length in (-1, actual) for length, actual in zip(shape, values.shape, strict=True)
    )
    if not lengths_fit or (values.size and values.dtype.kind not in "iuf") or not np.isfinite(values).all():
        raise problem
    return values.astype(np.float64)


def read_size(table: Mapping[str, Any], where: str) -> tuple[int, int]:
    """Image width and height under `size`."""
    width, height = read_numbers(table, "size", (2,), where)
    if min(width, height) < 1 or width % 1 or height % 1:
        raise CalibrationError(f"{where}: 'size' should be width and height in whole px, got {table['size']!r}")
    return int(width), int(height)


def read_flag(table: Mapping[str, Any], key: str, where: str) -> bool:
    """True or false under `key`; false when it is absent."""
    value = table.get(key, False)
    if not isinstance(value, bool):
        raise CalibrationError(f"{where}: {key!r} should be true or false, got {value!r}")
    return value


def make_camera(path: Path, camera: Mapping[str, Any]) -> Camera:
    """`Camera(**camera)`, whose errors then name the file."""
    try:
        return Camera(**camera)
    except CalibrationError as error:
        raise CalibrationError(f"{path}, {error}") from error


def rigid_transform(rotation: FloatArray, translation: FloatArray) -> FloatArray:
    """Rotation (3, 3) and translation (3,) -> 4x4."""
    transform = np.eye(4)
    transform[:3, :3] = rotation
    transform[:3, 3] = translation
    return transform


def _camera(name: str, table: dict[str, Any], path: Path) -> Camera:
    where = f"{path}, camera {name!r}"
    reject_unknown_keys(table, _REQUIRED_KEYS + _OPTIONAL_KEYS, where)
    source = table.get("source")
    if source is not None and not isinstance(source, str):
        raise CalibrationError(f"{where}: 'source' should be text in quotes, got {source!r}")
    return make_camera(
        path,
        {
            "name": name,
            "size": read_size(table, where),
            "matrix": read_numbers(table, "matrix", (3, 3), where),
            "distortion": read_numbers(table, "distortion", (-1,), where),
            "camera_from_world": rigid_transform(
                read_numbers(table, "rotation", (3, 3), where), read_numbers(table, "translation", (3,), where)
            ),
            "fisheye": read_flag(table, "fisheye", where),
            "source": source,
        },
    )


def _rows(matrix: FloatArray) -> tomlkit.items.Array:
    """A matrix with one row per line."""
    array = tomlkit.array()
    array.extend(matrix.tolist())
    return array.multiline(True)
