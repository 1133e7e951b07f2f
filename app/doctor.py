"""`hamuco doctor`: what can this machine do?"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import signal
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hamuco.app.report import machine_name
from hamuco.engine.model_files import ALL_FILES, ModelFileError, check_model_file, model_folder
from hamuco.engine.quantize import int8_is_exact
from hamuco.engine.runtime import inference_precision, runtime_name

_OPEN_GRAPHICS = """
import moderngl
print(moderngl.create_context(standalone=True, require=330, backend="egl").info["GL_RENDERER"])
"""
_GRAPHICS_ADVICE = (
    'Only synthetic recordings need it: pip install "hamuco[synth]", and a driver (Debian: libegl1 libgl1-mesa-dri)'
)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at; `needed` when nothing works without it."""

    what: str
    good: bool
    needed: bool
    detail: str

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def examine() -> list[Finding]:
    """Look at everything. Fetches nothing, opens no camera, imports no GPU library."""
    return [
        Finding("machine", True, True, machine_name()),
        Finding("hamuco", True, True, f"{importlib.metadata.version('hamuco')} in {sys.prefix}"),
        Finding("CPU runtime", True, True, runtime_name("int8" if int8_is_exact() else inference_precision())),
        *(_model_file(file.name) for file in ALL_FILES),
        _cameras(),
        _shared_memory(),
        _gpu(),
        *(
            _optional(package, why)
            for package, why in (
                ("rerun-sdk", "the viewer: pip install 'hamuco[view]'"),
                ("tensorrt", "engines on NVIDIA GPUs"),
                ("torch", "training"),
            )
        ),
        _graphics(),
        _display(),
    ]


def cameras_attached() -> list[Path]:
    """Video devices of a Linux machine; other systems number them and do not tell."""
    return sorted(Path("/dev").glob("video*"))


def _model_file(name: str) -> Finding:
    file = next(file for file in ALL_FILES if file.name == name)
    path = model_folder() / name
    if not path.exists():
        # Not needed yet: the first run fetches it, if it can.
        return Finding("network", False, False, f"{name} is not in {model_folder()}; hamuco doctor --fetch gets it")
    try:
        check_model_file(file)
    except ModelFileError as error:
        return Finding("network", False, True, str(error))
    return Finding("network", True, True, str(path))


def _cameras() -> Finding:
    devices = cameras_attached()
    unreadable = [str(path) for path in devices if not os.access(path, os.R_OK | os.W_OK)]
    if platform.system() != "Linux":
        return Finding("cameras", True, False, "not listed on this system; try hamuco live --camera 0")
    if unreadable:
        return Finding("cameras", False, False, f"no permission for {', '.join(unreadable)}: join the group 'video'")
    return Finding("cameras", bool(devices), False, ", ".join(map(str, devices)) or "no /dev/video*: none attached")


def _shared_memory() -> Finding:
    folder = Path("/dev/shm")
    if not folder.is_dir():
        return Finding("shared memory", True, False, "no /dev/shm; frames go through files in the temporary folder")
    free_mb = shutil.disk_usage(folder).free // 2**20
    # Eight slots of 1280x720 for four cameras.
    return Finding("shared memory", free_mb > 85, False, f"{free_mb} MB free in {folder}; four 720p cameras take 85")


def _gpu() -> Finding:
    program = shutil.which("nvidia-smi")
    if program is None:
        return Finding("NVIDIA GPU", False, False, "no nvidia-smi; tracking runs on the CPU")
    query = [program, "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    try:
        result = subprocess.run(query, capture_output=True, text=True, check=False, timeout=20)
    except subprocess.TimeoutExpired:
        return Finding("NVIDIA GPU", False, False, f"{program} does not answer: is the driver stuck?")
    detail = (result.stdout or result.stderr).strip().replace("\n", "; ")
    return Finding("NVIDIA GPU", result.returncode == 0, False, detail)


def _optional(package: str, why: str) -> Finding:
    try:
        return Finding(package, True, False, importlib.metadata.version(package))
    except importlib.metadata.PackageNotFoundError:
        return Finding(package, False, False, f"not installed ({why})")


def _graphics() -> Finding:
    """OpenGL as the synthetic rig opens it, tried in a process of its own: a broken driver takes its process along."""
    command = [sys.executable, "-P", "-c", _OPEN_GRAPHICS]  # -P: nothing from the current folder
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    except subprocess.TimeoutExpired:
        return Finding("OpenGL (EGL)", False, False, f"no answer within 20 s: is the driver stuck? {_GRAPHICS_ADVICE}")
    if result.returncode == 0:
        return Finding("OpenGL (EGL)", True, False, f"{result.stdout.strip()}, for synthetic recordings")
    if result.returncode < 0:
        reason = f"the driver crashed ({signal.Signals(-result.returncode).name})"
    else:
        reason = (result.stderr.strip().splitlines() or ["no reason given"])[-1]
    return Finding("OpenGL (EGL)", False, False, f"{reason}. {_GRAPHICS_ADVICE}")


def _display() -> Finding:
    display = os.environ.get("WAYLAND_DISPLAY") or os.environ.get("DISPLAY")
    return Finding("display", bool(display), False, display or "none: use --browser or --view-file for the viewer")
