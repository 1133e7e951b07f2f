"""Calibrations made by other programs, read into a `Rig`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from hamuco.calibration.camera import CalibrationError, Camera, FloatArray, Rig
from hamuco.calibration.rig_file import (
    camera_tables,
    load_rig,
    make_camera,
    parse_toml,
    read_flag,
    read_numbers,
    read_size,
    rigid_transform,
)

_UNDERSTOOD = (
    "understood are: rig.toml of HaMuCo Live; camera_array.toml of Caliscope; "
    "a handpose3d folder with c0.dat, rot_trans_c0.dat, c1.dat, ..."
)


def import_rig(path: Path, unit_m: float | None = None, size: tuple[int, int] | None = None) -> Rig:
    """Read a calibration in any format that is understood; the content decides which one it is.

    - `rig.toml`, see `hamuco.calibration.rig_file`.
    - Caliscope's `camera_array.toml`: world -> camera, OpenCV's lens models. `[cameras.3]` becomes "cam_3", as in
      Caliscope's file names; cameras marked `ignore = true` are left out.
    - A handpose3d folder (github.com/TemugeB/handpose3d): `c<N>.dat` with matrix and distortion, `rot_trans_c<N>.dat`
      with world -> camera, become "cam_<N>".

    Args:
        path: a file or a folder.
        unit_m: length of the file's unit in metres. Caliscope writes metres, which is assumed unless this says
            otherwise; handpose3d chessboard squares, whose size must be given.
        size: image width and height, px, for handpose3d, whose files do not tell it.

    Raises:
        OSError: the path cannot be read.
        CalibrationError: the format is not understood, or the file describes cameras that cannot be right.
    """
    if not path.exists():
        raise CalibrationError(f"there is no calibration {path}")
    if unit_m is not None and not (np.isfinite(unit_m) and unit_m > 0):
        raise CalibrationError(f"the unit of length is {unit_m} m; a positive number is expected")
    if path.is_dir():
        numbers = sorted(int(found[1]) for file in path.iterdir() if (found := re.fullmatch(r"c(\d+)\.dat", file.name)))
        if not numbers:
            raise CalibrationError(f"{path} has no calibration in a known format; {_UNDERSTOOD}")
        if size is None:
            raise CalibrationError(
                f"{path}: handpose3d files do not tell the image size; give it (--size, or `size`), for example 720x720"
            )
        if unit_m is None:
            raise CalibrationError(
                f"{path}: handpose3d files do not tell the unit of length; give it in metres (--unit-m, or `unit_m`): "
                "the side of a square of the chessboard that was used"
            )
        return Rig(tuple(_handpose3d_camera(path, number, unit_m, size) for number in numbers))

    document = _parse_toml(path)
    if size is not None:
        raise CalibrationError(f"{path} has its own image sizes; leave out `size` {size}")
    tables = document.get("cameras")
    if not isinstance(tables, dict):
        raise CalibrationError(f"{path} is not a calibration in a known format; {_UNDERSTOOD}")
    if any(isinstance(table, dict) and ("cam_id" in table or "distortions" in table) for table in tables.values()):
        return _caliscope_rig(document, path, 1.0 if unit_m is None else unit_m)
    if unit_m not in (None, 1):
        raise CalibrationError(f"{path} is in metres; leave out `unit_m` {unit_m}")
    return load_rig(path)


def _parse_toml(path: Path) -> dict[str, Any]:
    """Content of a TOML file, or an error that lists what is understood."""
    try:
        return parse_toml(path)
    except CalibrationError as error:
        raise CalibrationError(f"{error}; {_UNDERSTOOD}") from error


def _caliscope_rig(document: Mapping[str, Any], path: Path, unit_m: float) -> Rig:
    cameras = [
        _caliscope_camera(key, table, path, unit_m)
        for key, table in camera_tables(document, path).items()
        if not read_flag(table, "ignore", f"{path}, camera {key!r}")
    ]
    if not cameras:
        raise CalibrationError(f"{path}: all cameras are marked `ignore = true`; at least one has to stay")
    return Rig(tuple(cameras))


def _caliscope_camera(key: str, table: Mapping[str, Any], path: Path, unit_m: float) -> Camera:
    where = f"{path}, camera {key!r}"
    for extrinsic in ("rotation", "translation"):
        if extrinsic not in table:
            raise CalibrationError(
                f"{where}: {extrinsic!r} is missing; calibrate the camera's position in Caliscope or mark it `ignore = true`"
            )
    # Some versions write the rotation as a vector: axis times angle.
    if isinstance(table["rotation"], list) and not any(isinstance(row, list) for row in table["rotation"]):
        rotation: FloatArray = np.asarray(cv2.Rodrigues(read_numbers(table, "rotation", (3,), where))[0], np.float64)
    else:
        rotation = read_numbers(table, "rotation", (3, 3), where)
    return make_camera(
        path,
        {
            "name": f"cam_{key}",
            "size": read_size(table, where),
            "matrix": read_numbers(table, "matrix", (3, 3), where),
            "distortion": read_numbers(table, "distortions", (-1,), where),
            "camera_from_world": rigid_transform(rotation, unit_m * read_numbers(table, "translation", (3,), where)),
            "fisheye": read_flag(table, "fisheye", where),
        },
    )


def _handpose3d_camera(folder: Path, number: int, unit_m: float, size: tuple[int, int]) -> Camera:
    lens = _read_dat(folder / f"c{number}.dat")
    pose = _read_dat(folder / f"rot_trans_c{number}.dat")
    where = f"{folder}, camera {number}"
    translation = read_numbers(pose, "T", (3, 1), where)[:, 0]
    return make_camera(
        folder,
        {
            "name": f"cam_{number}",
            "size": size,
            "matrix": read_numbers(lens, "intrinsic", (3, 3), where),
            "distortion": read_numbers(lens, "distortion", (1, -1), where)[0],
            "camera_from_world": rigid_transform(read_numbers(pose, "R", (3, 3), where), unit_m * translation),
        },
    )


def _read_dat(path: Path) -> dict[str, list[list[float]]]:
    """Sections "name:" followed by rows of numbers.

    Only the first section of a name counts: some files go on with the pose relative to another camera.
    """
    sections: dict[str, list[list[float]]] = {}
    rows: list[list[float]] = []
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        content = line.partition("#")[0].strip()
        if content.endswith(":"):
            rows = []
            sections.setdefault(content[:-1], rows)
        elif content:
            try:
                rows.append([float(word) for word in content.split()])
            except ValueError as error:
                raise CalibrationError(
                    f"{path}, line {number}: expected numbers or a name with a colon: {content!r}"
                ) from error
    return sections
