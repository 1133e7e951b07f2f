"""Builds plans: both engines of a bundle, for one platform, precision and profile, by one of two routes."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace as changed
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from hamuco.engine.builders import Builder, Progress
from hamuco.engine.bundle import Bundle
from hamuco.engine.plans import (
    CARD,
    ESTIMATOR,
    INTERACTION,
    NOT_COMPARED,
    Parity,
    Plan,
    PlanCard,
    PlanError,
    Platform,
    Precision,
    Profile,
    RouteName,
    check_files,
    check_free,
    engines_folder,
    model_hash,
    new_plan,
    read_plan,
    write_plan,
)
from hamuco.engine.tensorrt_engine import EngineError, Shape

if TYPE_CHECKING:
    from onnx import ModelProto

_log = logging.getLogger(__name__)

Compare = Callable[[bytes, bytes], Parity | str]
"""Called with the engines of the estimator and of the interaction network: their parity, or why there is none."""


class Route(Protocol):
    """How engines are made of a bundle: `OnnxRoute`, or hamuco.training.torch_route, which needs torch."""

    @property
    def name(self) -> RouteName: ...

    @property
    def platform(self) -> Platform:
        """What the engines are for."""

    def engines(
        self, bundle: Bundle, precision: Precision, profile: Profile, timings: Path, progress: Progress
    ) -> tuple[bytes, bytes]:
        """Make those of the estimator and of the interaction network, with tensors as `hamuco.engine.device_graphs` has them.

        Args:
            bundle, precision, profile, progress: see `build_plan`.
            timings: file for what TensorRT measures, which makes the next build faster; it need not be there.

        Raises:
            EngineError: it cannot be built.
            OSError: a file cannot be read or written.
        """


class OnnxRoute:
    """Of the bundle's graphs, by the runtime's own parser."""

    name: RouteName = "onnx"

    def __init__(self, builder: Builder) -> None:
        self.platform, self._builder = builder.platform, builder

    def engines(
        self, bundle: Bundle, precision: Precision, profile: Profile, timings: Path, progress: Progress
    ) -> tuple[bytes, bytes]:
        """See `Route`.

        Raises:
            EngineError: it cannot be built; onnx is not installed.
            GraphError: the bundle is not built as `hamuco export` does.
            OSError: a file cannot be read or written.
        """
        try:
            from hamuco.engine.device_graphs import estimator_graph, interaction_graph
        except ModuleNotFoundError as error:
            extra = self.platform.runtime
            raise EngineError(
                f'building needs {error.name}, which is not installed: pip install "hamuco[{extra}]"'
            ) from error
        graphs = estimator_graph(bundle.estimator, precision), interaction_graph(bundle.interaction, precision)
        estimator, interaction = (self._engine(graph, profile, timings, progress) for graph in graphs)
        return estimator, interaction

    def _engine(self, graph: ModelProto, profile: Profile, timings: Path, progress: Progress) -> bytes:
        known = timings.read_bytes() if timings.is_file() else b""
        engine, measured = self._builder.build(graph.SerializeToString(), shapes(graph, profile), progress, known)
        if measured:
            _keep_timings(timings, measured)
        return engine


def built_plan(bundle: Bundle, route: Route, precision: Precision, profile: Profile) -> Plan | None:
    """What `build_plan` has made of the same before; None where there is nothing in its place.

    Raises:
        PlanError: it is damaged, or of networks that the bundle had before.
        OSError: it cannot be read.
    """
    card = _card(bundle, route, precision, profile)
    path = engines_folder(bundle) / card.folder_name
    if not path.exists():
        return None
    if not (path / CARD).is_file():
        raise PlanError(f"{path} has no {CARD}, it is damaged: build it again with --replace")
    try:
        plan = read_plan(path)
    except PlanError as error:
        raise PlanError(f"{error}: build it again with --replace") from error
    if plan.card.model != card.model:
        raise PlanError(
            f"{path} was built of other networks than those of {bundle.path}: build it again with --replace"
        )
    check_files(plan, bundle)
    return plan


def build_plan(
    bundle: Bundle,
    route: Route,
    precision: Precision,
    profile: Profile,
    compare: Compare,
    progress: Progress,
    replace: bool = False,
) -> Plan:
    """Build both engines; nothing is left of a build that fails or is interrupted, but what TensorRT measured.

    Args:
        bundle: what to build of.
        route: what to build with.
        precision: that most layers compute in.
        profile: what the engines have to take.
        compare: see `Compare`.
        progress: see `Progress`.
        replace: build also if it was built already.

    Raises:
        PlanError: it was built already.
        EngineError, GraphError: as for the route.
        OSError: it cannot be written, and what was in its place before is whole.
    """
    card = _card(bundle, route, precision, profile)
    path = engines_folder(bundle) / card.folder_name
    check_free(path, replace)  # before minutes are spent
    started = time.perf_counter()
    engines = route.engines(bundle, precision, profile, _timings_path(path.parent, route.platform), progress)
    card = changed(card, seconds=round(time.perf_counter() - started, 2), parity=compare(*engines))
    try:
        with new_plan(path, replace) as folder:
            (folder / ESTIMATOR).write_bytes(engines[0])
            (folder / INTERACTION).write_bytes(engines[1])
            write_plan(card, folder)
    except OSError as error:
        left = "what was there before is whole" if path.exists() else "nothing is there"
        raise OSError(
            f"{path} cannot be written ({error.strerror or error}; {sum(map(len, engines)) / 1e6:.1f} MB): {left}; make "
            "room on that disk and build again"
        ) from error
    return read_plan(path)


def shapes(graph: ModelProto, profile: Profile) -> dict[str, tuple[Shape, Shape, Shape]]:
    """Smallest, usual and largest of a graph's inputs."""
    return {
        one.name: extremes([size.dim_param or size.dim_value for size in one.type.tensor_type.shape.dim], profile)
        for one in graph.graph.input
    }


def extremes(shape: Sequence[str | int], profile: Profile) -> tuple[Shape, Shape, Shape]:
    """Smallest, usual and largest of a shape in which `crops`, `hands` and `views` vary."""
    _, usual, most = profile.views
    sizes = {
        "crops": (1, usual * profile.hands, most * profile.hands),  # a hand may be seen by one view of many
        "hands": (1, profile.hands, profile.hands),
        "views": profile.views,
    }
    least, expected, largest = zip(
        *[sizes[size] if isinstance(size, str) else (size, size, size) for size in shape], strict=True
    )
    return least, expected, largest


def _card(bundle: Bundle, route: Route, precision: Precision, profile: Profile) -> PlanCard:
    """Of what is not built yet."""
    model = model_hash(bundle)
    return PlanCard(bundle.card.name, model, route.platform, precision, profile, 0.0, NOT_COMPARED, route.name)


def _keep_timings(timings: Path, measured: bytes) -> None:
    """For the next build: whole, or as they were. Not worth an engine that took minutes."""
    try:
        timings.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".building-", dir=timings.parent) as folder:
            new = Path(folder) / timings.name
            new.write_bytes(measured)
            new.replace(timings)
    except OSError as error:
        _log.warning(
            "what TensorRT measured cannot be kept in %s (%s; %.1f MB): the next build will take longer",
            timings,
            error.strerror or error,
            len(measured) / 1e6,
        )


def _timings_path(folder: Path, platform: Platform) -> Path:
    device = "-".join(platform.device.split())
    return folder / f"{platform.runtime}-{platform.version}-{device}.timings"
