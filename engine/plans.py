"""Plans: engines that were built of a bundle's networks, for a runtime and a device, as a folder that says what it is.

    plan.toml             what it was built of, with and for (see `PlanCard`), and the SHA-256 of the other files
    estimator.engine      of estimator.onnx, as hamuco.engine.device_graphs has it
    interaction.engine    of interaction.onnx, likewise

They lie in the bundle's own folder `engines`; if that cannot be written, or is the package's, in the user's cache. Nothing
here loads a runtime: a plan that does not fit is refused before its library sees it, which may crash on foreign bytes.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import tomlkit

from hamuco.engine.bundle import HAMUCO_S, Bundle
from hamuco.engine.model_files import file_sha256

RTX_ARCHITECTURES = ("sm_80", "sm_86", "sm_89", "sm_120", "sm_121")
"""What TensorRT for RTX builds for if it is told nothing: GeForce RTX 30, 40 and 50, and what else is of their kind."""

RuntimeName = Literal["tensorrt", "tensorrt-rtx"]
RouteName = Literal["onnx", "torch"]
Precision = Literal["fp16", "bf16"]

CARD, ESTIMATOR, INTERACTION = "plan.toml", "estimator.engine", "interaction.engine"
NOT_COMPARED = "not compared: no device"

_FILES = (ESTIMATOR, INTERACTION)
_VERSION = 1  # of the card, and of what is at the seams of the engines
_MOST_VIEWS = 16  # of engines that are built without saying
_HEADER = """\
An engine that `hamuco build` made of a bundle.

  model          SHA-256 of its networks
  platform       what it runs with and on; version: of the runtime's library, it runs with no other
  profile        views: least, usual and most; hands: most
  seconds        that the build took
  route          onnx: of the bundle's graphs; torch: of its network in torch, by torch-tensorrt
  parity         how far joints are from those of the bundle on the CPU in single precision, mm"""


class PlanError(ValueError):
    """There is no plan that fits, or it is damaged; the message names the mismatch and the command that mends it."""


@dataclass(frozen=True, slots=True)
class Platform:
    """What plans are built for, and what runs them.

    Attributes:
        runtime: tensorrt or tensorrt-rtx.
        version: of its library; a plan runs with no other.
        device: the GPU's name; empty for a plan that runs on all GPUs of its architectures.
        architectures: sm_89 for instance; a device has one.
    """

    runtime: RuntimeName
    version: str
    device: str
    architectures: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.runtime} {self.version} on {self.device or ', '.join(self.architectures)}"


@dataclass(frozen=True, slots=True)
class Profile:
    """How much a plan can take at a time.

    Attributes:
        views: least, usual and most; it is fastest for the usual number.
        hands: most; the usual number too.
    """

    views: tuple[int, int, int]
    hands: int

    def __post_init__(self) -> None:
        least, usual, most = self.views
        if not 1 <= least <= usual <= most or self.hands < 1:
            raise ValueError(
                f"{self}: expected 1 <= least <= usual <= most views, and 1 hand or more, as in 1:8:16 and 2"
            )

    def __str__(self) -> str:
        return f"{':'.join(map(str, self.views))} views, {self.hands} hand{'s' if self.hands > 1 else ''}"


@dataclass(frozen=True, slots=True)
class Parity:
    """How far joints of the built networks are from those of the bundle in single precision, on so many crops; mm."""

    p99_mm: float
    max_mm: float
    crops: int


@dataclass(frozen=True, slots=True)
class PlanCard:
    """What a plan is.

    Attributes:
        bundle: name of the bundle, for people.
        model: `model_hash` of its networks.
        platform: what it was built with and for.
        precision: that most layers compute in.
        profile: what it can take.
        seconds: that the build took.
        parity: or why it was not measured.
        route: how it was built; cards from before there were two do not say.
    """

    bundle: str
    model: str
    platform: Platform
    precision: Precision
    profile: Profile
    seconds: float
    parity: Parity | str
    route: RouteName = "onnx"

    @property
    def folder_name(self) -> str:
        """One for each bundle's plan that another does not replace."""
        device = self.platform.device or "+".join(self.platform.architectures)
        views = ".".join(map(str, self.profile.views))
        name = f"{self.platform.runtime}-{self.platform.version}-{device}-{self.precision}-{views}x{self.profile.hands}"
        name += "" if self.route == "onnx" else f"-{self.route}"
        return re.sub(r"[^\w.+-]+", "-", name)


@dataclass(frozen=True, slots=True)
class Plan:
    """A built plan.

    Attributes:
        path: of its folder.
        card: what it is.
        digests: SHA-256 of its files by name.
    """

    path: Path
    card: PlanCard
    digests: Mapping[str, str]

    @property
    def estimator(self) -> Path:
        return self.path / ESTIMATOR

    @property
    def interaction(self) -> Path:
        return self.path / INTERACTION


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a plan has to run: on this platform, so many views and hands at a time."""

    platform: Platform
    views: int
    hands: int


def model_hash(bundle: Bundle) -> str:
    """SHA-256 of both networks."""
    return hashlib.sha256(f"{file_sha256(bundle.estimator)} {file_sha256(bundle.interaction)}".encode()).hexdigest()


def engines_folder(bundle: Bundle) -> Path:
    """Where plans of a bundle are written."""
    if bundle.path.resolve() != HAMUCO_S.resolve() and os.access(bundle.path, os.W_OK):
        return bundle.path / "engines"
    return _cached_engines(bundle)


def find_plan(bundle: Bundle, wanted: Wanted) -> Plan:
    """The plan that fits; of several, the one for the fewest views and hands; of those, as `hamuco build` has it by default.

    Raises:
        PlanError: none fits, or the one that does is damaged.
        OSError: a file cannot be read.
    """
    platform, model = wanted.platform, model_hash(bundle)
    built_for = platform.runtime == "tensorrt" or set(platform.architectures) <= set(RTX_ARCHITECTURES)
    runtime: RuntimeName = platform.runtime if built_for else "tensorrt"
    profile = Profile((1, wanted.views, max(_MOST_VIEWS, wanted.views)), wanted.hands)
    command = _command(bundle, runtime, "fp16", profile)
    plans, damaged = [], []
    for folder in (bundle.path / "engines", _cached_engines(bundle)):
        for path in sorted(folder.glob(f"*/{CARD}")):
            try:
                plans.append(read_plan(path.parent))
            except PlanError as error:
                damaged.append(f"{error}. Remove its folder, and build it again: {command}")
    misfits = [_misfits(plan.card, model, wanted) for plan in plans]
    fitting = [plan for plan, found in zip(plans, misfits, strict=True) if not any(found)]
    if fitting:
        plan = min(fitting, key=_rank)
        check_files(plan, bundle)
        return plan
    if not built_for:
        gpu = f"{platform.device} ({', '.join(platform.architectures)})"
        raise PlanError(
            f"{platform.runtime} does not build for {gpu}, take --runtime {runtime}. Build its engine: {command}"
        )
    if damaged:
        raise PlanError(damaged[0])
    if not plans:
        raise PlanError(f"no engine of {bundle.card.name} was built for {platform}. Build it: {command}")
    # Say what is wrong with the one that comes nearest: whose first misfit is the last that counts.
    nearest = max(range(len(plans)), key=lambda index: [not found for found in misfits[index]])
    reason = next(filter(None, misfits[nearest]))
    raise PlanError(f"engine {plans[nearest].path} {reason}. Build one that fits: {command}")


def build_command(bundle: Bundle, card: PlanCard, profile: Profile | None = None) -> str:
    """What a user types to build a plan of a bundle again; or, with a profile, another one that is like it but for that."""
    runtime, architectures = card.platform.runtime, card.platform.architectures
    command = _command(bundle, runtime, card.precision, profile or card.profile)
    if runtime == "tensorrt-rtx" and architectures != RTX_ARCHITECTURES:
        command += "".join(f" --arch {one}" for one in architectures)
    if card.route != "onnx":
        command += f" --route {card.route}"
    return command if profile else f"{command} --replace"


def _command(bundle: Bundle, runtime: RuntimeName, precision: Precision, profile: Profile) -> str:
    name = HAMUCO_S.name if bundle.path == HAMUCO_S else bundle.path
    views = ":".join(map(str, profile.views))
    return f"hamuco build {name} --runtime {runtime} --precision {precision} --views {views} --hands {profile.hands}"


@contextmanager
def new_plan(path: Path, replace: bool) -> Iterator[Path]:
    """A folder with a name of its own that becomes `path` when the block ends; after an exception nothing is left.

    Raises:
        PlanError: there is something at `path`, and it is not to be replaced.
        OSError: it cannot be written.
    """
    check_free(path, replace)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".building-", dir=path.parent) as folder:
        new, old = Path(folder) / "new", Path(folder) / "old"
        new.mkdir()
        yield new
        check_free(path, replace)
        if path.exists():
            path.rename(old)
        new.rename(path)


def check_free(path: Path, replace: bool) -> None:
    """
    Raises:
        PlanError: there is something at `path`, and it is not to be replaced.
    """
    if path.exists() and not replace:
        raise PlanError(f"{path} was built already: build it again with --replace")


def write_plan(card: PlanCard, folder: Path) -> None:
    """Make a plan of a folder that has the engines: write its card."""
    document = tomlkit.document()
    for line in _HEADER.splitlines():
        document.add(tomlkit.comment(line))
    values: dict[str, Any] = {"version": _VERSION} | asdict(card)
    values["files"] = {
        name: {"bytes": (folder / name).stat().st_size, "sha256": file_sha256(folder / name)} for name in _FILES
    }
    for key, value in values.items():
        document.add(key, tomlkit.item(value))
    (folder / CARD).write_text(tomlkit.dumps(document), encoding="utf-8")


def read_plan(folder: Path) -> Plan:
    """The plan in a folder, as its card says; `find_plan` compares its files too.

    Raises:
        PlanError: the card is damaged, or of another version.
        OSError: it cannot be read.
    """
    path = folder / CARD
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
        if document["version"] != _VERSION:
            raise PlanError(f"{path} is a card of version {document['version']}, this is for version {_VERSION}")
        platform, profile, parity = document["platform"], document["profile"], document["parity"]
        card = PlanCard(
            bundle=document["bundle"],
            model=document["model"],
            platform=Platform(**platform | {"architectures": tuple(platform["architectures"])}),
            precision=document["precision"],
            profile=Profile(tuple(profile["views"]), profile["hands"]),
            seconds=document["seconds"],
            parity=parity if isinstance(parity, str) else Parity(**parity),
            route=document.get("route", "onnx"),
        )
        return Plan(folder, card, {name: document["files"][name]["sha256"] for name in _FILES})
    except PlanError:
        raise
    except (KeyError, TypeError, ValueError) as error:  # not TOML, not UTF-8, or not what `write_plan` writes
        raise PlanError(f"{path} is not the card of an engine ({type(error).__name__}: {error})") from error


def check_files(plan: Plan, bundle: Bundle) -> None:
    """
    Raises:
        PlanError: an engine is missing, or is not what was built of the bundle.
    """
    command = build_command(bundle, plan.card)
    for name in _FILES:
        path = plan.path / name
        if not path.is_file():
            raise PlanError(f"{path} is missing. Build it again: {command}")
        if file_sha256(path) != plan.digests[name]:
            raise PlanError(
                f"{path} is not the file that was built, it was cut off or changed and has {path.stat().st_size} bytes "
                f"now. Build it again: {command}"
            )


def _misfits(card: PlanCard, model: str, wanted: Wanted) -> list[str]:
    """What is wrong with a plan, "" for what is not, most important first."""
    built, here, (least, _, most) = card.platform, wanted.platform, card.profile.views
    for_device = built.device in ("", here.device) and set(here.architectures) <= set(built.architectures)
    gpu = f"{here.device} ({', '.join(here.architectures)})"
    hands = f"{card.profile.hands} hand{'s' if card.profile.hands > 1 else ''}"
    checks = (
        (card.model == model, f"is of other networks ({card.bundle}, {card.model[:12]}..., expected {model[:12]}...)"),
        (built.runtime == here.runtime, f"is for {built.runtime}, not for {here.runtime}"),
        (built.version == here.version, f"was built by {built.runtime} {built.version}, this is {here.version}"),
        (
            for_device,
            f"was built for {built.device or ', '.join(built.architectures)}, this GPU is {gpu}",
        ),
        (least <= wanted.views <= most, f"takes {least} to {most} views, wanted are {wanted.views}"),
        (wanted.hands <= card.profile.hands, f"takes {hands} at most, wanted are {wanted.hands}"),
    )
    return ["" if good else reason for good, reason in checks]


def _rank(plan: Plan) -> tuple[int, bool, bool]:
    """Less is better."""
    card = plan.card
    return card.profile.views[2] * card.profile.hands, card.route != "onnx", card.precision != "fp16"


def _cached_engines(bundle: Bundle) -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "hamuco" / "engines" / f"{bundle.card.name}-{model_hash(bundle)[:12]}"
