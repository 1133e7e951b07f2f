"""Builds plans: both engines of a bundle, for one platform, precision and profile."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace as changed
from pathlib import Path
from typing import TYPE_CHECKING

from hamuco.engine.builders import Builder, Progress
from hamuco.engine.bundle import Bundle
from hamuco.engine.plans import (
    ESTIMATOR,
    INTERACTION,
    NOT_COMPARED,
    Parity,
    Plan,
    PlanCard,
    Platform,
    Precision,
    Profile,
    check_free,
    engines_folder,
    model_hash,
    new_plan,
    read_plan,
    write_plan,
)
from hamuco.engine.tensorrt_engine import BuildError, Shape

if TYPE_CHECKING:
    from onnx import ModelProto

Compare = Callable[[bytes, bytes], Parity | str]
"""Called with the engines of the estimator and of the interaction network: their parity, or why there is none."""


def build_plan(
    bundle: Bundle,
    builder: Builder,
    precision: Precision,
    profile: Profile,
    compare: Compare,
    progress: Progress,
    replace: bool = False,
) -> Plan:
    """Build both engines; nothing is left of a build that fails or is interrupted, but what TensorRT measured.

    Args:
        bundle: what to build of.
        builder: what to build with.
        precision: that most layers compute in.
        profile: what the engines have to take.
        compare: see `Compare`.
        progress: see `Progress`.
        replace: build also if it was built already.

    Raises:
        PlanError: it was built already.
        BuildError: it cannot be built; onnx is not installed.
        GraphError: the bundle is not built as `hamuco export` does.
        OSError: it cannot be written.
    """
    try:
        from hamuco.engine.device_graphs import estimator_graph, interaction_graph
    except ModuleNotFoundError as error:
        extra = builder.platform.runtime
        raise BuildError(
            f'building needs {error.name}, which is not installed: pip install "hamuco[{extra}]"'
        ) from error

    card = PlanCard(
        bundle.card.name, model_hash(bundle), builder.platform, precision, profile, seconds=0.0, parity=NOT_COMPARED
    )
    path = engines_folder(bundle) / card.folder_name
    check_free(path, replace)  # before minutes are spent
    started = time.perf_counter()
    graphs = estimator_graph(bundle.estimator, precision), interaction_graph(bundle.interaction, precision)
    engines = []
    for graph in graphs:
        timings = _timings_path(path.parent, builder.platform)
        known = timings.read_bytes() if timings.is_file() else b""
        engine, measured = builder.build(graph.SerializeToString(), shapes(graph, profile), progress, known)
        if measured:
            timings.parent.mkdir(parents=True, exist_ok=True)
            timings.write_bytes(measured)  # half of it would not be taken
        engines.append(engine)
    card = changed(card, seconds=round(time.perf_counter() - started, 2), parity=compare(*engines))
    with new_plan(path, replace) as folder:
        (folder / ESTIMATOR).write_bytes(engines[0])
        (folder / INTERACTION).write_bytes(engines[1])
        write_plan(card, folder)
    return read_plan(path)


def shapes(graph: ModelProto, profile: Profile) -> dict[str, tuple[Shape, Shape, Shape]]:
    """Smallest, usual and largest of a graph's inputs."""
    _, usual, most = profile.views
    sizes = {
        "crops": (1, usual * profile.hands, most * profile.hands),  # a hand may be seen by one view of many
        "hands": (1, profile.hands, profile.hands),
        "views": profile.views,
    }
    found = {}
    for one in graph.graph.input:
        dimensions = [sizes.get(size.dim_param, 3 * (size.dim_value,)) for size in one.type.tensor_type.shape.dim]
        least, usual_size, largest = zip(*dimensions, strict=True)
        found[one.name] = (least, usual_size, largest)
    return found


def _timings_path(folder: Path, platform: Platform) -> Path:
    device = "-".join(platform.device.split())
    return folder / f"{platform.runtime}-{platform.version}-{device}.timings"
