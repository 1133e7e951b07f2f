"""`hamuco doctor`: what can this machine do?"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

from hamuco.app.report import machine_name
from hamuco.engine import kernels
from hamuco.engine.bundle import HAMUCO_S, load_bundle
from hamuco.engine.cuda_driver import REBUILD
from hamuco.engine.model_files import ALL_FILES, ModelFileError, check_model_file, model_folder
from hamuco.engine.openvino_networks import inference_precision, runtime_name
from hamuco.engine.plans import (
    CARD,
    PlanError,
    Platform,
    RuntimeName,
    Wanted,
    check_files,
    engines_folder,
    find_plan,
    read_plan,
)
from hamuco.engine.quantize import int8_is_exact

_PYTHON = (sys.executable, "-P", "-c")  # -P: nothing from the current folder
_PATIENCE_S = 30  # TensorRT is 2 GB to load
_OPEN_GRAPHICS = """
import moderngl
print(moderngl.create_context(standalone=True, require=330, backend="egl").info["GL_RENDERER"])
"""
_GRAPHICS_ADVICE = (
    'Only synthetic recordings need it: pip install "hamuco[synth]", and a driver (Debian: libegl1 libgl1-mesa-dri)'
)
_OPEN_DEVICE = """
import json
from hamuco.engine.cuda import Device
from hamuco.engine.cuda_driver import CudaError, load_driver
try:
    device = Device(load_driver())
except CudaError as error:
    raise SystemExit(str(error))
print(json.dumps([device.name, device.architecture, ".".join(map(str, device.driver.version))]))
"""
_LOAD_RUNTIME = """
import sys
from hamuco.engine.tensorrt_engine import EngineError, load_runtime
try:
    print(load_runtime(sys.argv[1]).__version__)
except EngineError as error:
    raise SystemExit(str(error))
"""
# What an engine has to take at least to be of use: two cameras, and as many hands as are followed without saying.
_LEAST_VIEWS, _HANDS = 2, 2


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at; `needed` when nothing works without it."""

    what: str
    good: bool
    needed: bool
    detail: str

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class _Gpu:
    """The one that is used; `architecture` is sm_90 for instance."""

    name: str
    architecture: str


def examine() -> list[Finding]:
    """Look at everything. Fetches nothing, opens no camera, imports no GPU library."""
    return [
        Finding("machine", True, True, machine_name()),
        Finding("hamuco", True, True, f"{importlib.metadata.version('hamuco')} in {sys.prefix}"),
        Finding("CPU runtime", True, True, _cpu_runtime()),
        *(_model_file(file.name) for file in ALL_FILES),
        _cameras(),
        _shared_memory(),
        *_nvidia(),
        *(
            _optional(package, why)
            for package, why in (
                ("rerun-sdk", "the viewer: pip install 'hamuco[view]'"),
                ("torch", "training"),
            )
        ),
        _graphics(),
        _display(),
    ]


def _cpu_runtime() -> str:
    own = inference_precision()
    return f"{runtime_name('int8' if int8_is_exact() else own)}; networks of --model in {own}"


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


def _nvidia() -> list[Finding]:
    """The GPU, and each thing that `hamuco live --runtime tensorrt` needs. Tracking needs none of it."""
    gpu, findings = _gpu()
    versions = {}
    for runtime in get_args(RuntimeName):
        loads, said = _tried(*_PYTHON, _LOAD_RUNTIME, runtime)
        findings.append(Finding(runtime, loads, False, said if loads else f"{said}, for NVIDIA GPUs"))
        if loads:
            versions[runtime] = said
    findings.append(_kernels())
    if gpu is None or not versions:
        findings.append(_all_engines())
    else:
        findings += [
            _engine(Platform(runtime, version, gpu.name, (gpu.architecture,))) for runtime, version in versions.items()
        ]
    return findings


def _gpu() -> tuple[_Gpu | None, list[Finding]]:
    """As the driver's own program lists them, and the one that CUDA opens."""
    program = shutil.which("nvidia-smi")
    opens, said = _tried(*_PYTHON, _OPEN_DEVICE)
    if program is None and not opens and said.startswith("no NVIDIA driver"):
        return None, [Finding("NVIDIA GPU", False, False, "no driver for one here; tracking runs on the CPU")]
    findings = []
    if program is not None:
        query = ("--query-gpu=name,driver_version,memory.total", "--format=csv,noheader")
        answers, listed = _tried(program, *query)
        findings.append(Finding("NVIDIA GPU", answers, False, listed))
    if not opens:
        return None, [*findings, Finding("CUDA", False, False, said)]
    name, architecture, version = json.loads(said)
    return _Gpu(name, architecture), [*findings, Finding("CUDA", True, False, f"{version} on {name}, {architecture}")]


def _kernels() -> Finding:
    folder = Path(kernels.__file__).parent
    absent = [source.stem for source in sorted(folder.glob("*.cu")) if not source.with_suffix(".fatbin").is_file()]
    if absent:
        detail = f"not compiled: {', '.join(absent)}. A wheel may bring them, or with the CUDA toolkit: {REBUILD}"
        return Finding("CUDA kernels", False, False, detail)
    return Finding("CUDA kernels", True, False, str(folder))


def _engine(here: Platform) -> Finding:
    """Of the bundle that comes with the package, for the GPU that is here."""
    what = f"{here.runtime} engine"
    try:
        plan = find_plan(load_bundle(HAMUCO_S), Wanted(here, _LEAST_VIEWS, _HANDS))
    except (PlanError, OSError) as error:
        return Finding(what, False, False, str(error))
    card = plan.card
    return Finding(what, True, False, f"{card.bundle}, {card.precision}, {card.profile}: {plan.path}")


def _all_engines() -> Finding:
    """That were built of the bundle that comes with the package; none of them can run here."""
    bundle, built, damaged = load_bundle(HAMUCO_S), [], []
    for path in sorted(engines_folder(bundle).glob(f"*/{CARD}")):
        try:
            plan = read_plan(path.parent)
            check_files(plan, bundle)
            built.append(f"{plan.card.platform}, {plan.card.precision}, {plan.card.profile}")
        except (PlanError, OSError) as error:
            damaged.append(str(error))
    if not built and not damaged:
        absent = f"none of {bundle.card.name} built; only NVIDIA GPUs need them: hamuco build --help"
        return Finding("engines", False, False, absent)
    listed = [f"of {bundle.card.name} for other computers: {'; '.join(built)}"] if built else []
    return Finding("engines", not damaged, False, "; ".join([*damaged, *listed]))


def _optional(package: str, why: str) -> Finding:
    try:
        return Finding(package, True, False, importlib.metadata.version(package))
    except importlib.metadata.PackageNotFoundError:
        return Finding(package, False, False, f"not installed ({why})")


def _tried(*command: str) -> tuple[bool, str]:
    """Whether a command works, and what it prints or else why not, in one line.

    What may crash or hang with a broken driver is tried in a process of its own.
    """
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_PATIENCE_S)
    except subprocess.TimeoutExpired:
        return False, f"no answer within {_PATIENCE_S} s: is the driver stuck?"
    if result.returncode < 0:
        return False, f"the driver crashed ({signal.Signals(-result.returncode).name})"
    if result.returncode == 0:
        return True, "; ".join(result.stdout.strip().splitlines())
    return False, ((result.stderr or result.stdout).strip().splitlines() or ["no reason given"])[-1]


def _graphics() -> Finding:
    """OpenGL as the synthetic rig opens it."""
    opens, said = _tried(*_PYTHON, _OPEN_GRAPHICS)
    detail = f"{said}, for synthetic recordings" if opens else f"{said}. {_GRAPHICS_ADVICE}"
    return Finding("OpenGL (EGL)", opens, False, detail)


def _display() -> Finding:
    display = os.environ.get("WAYLAND_DISPLAY") or os.environ.get("DISPLAY")
    return Finding("display", bool(display), False, display or "none: use --browser or --view-file for the viewer")
