"""`hamuco bench latency`: from camera images to fused meshes, stage by stage, by number of views and hands.

The hands are those of the clip that comes with the package, where its truth says they are: nothing is detected or
followed, so that every runtime has the same work. Where more views are wanted than the clip has, other moments of it
play more cameras; they cost what true views cost, though their hands do not agree.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from hamuco.app.chains import Chain, ChainRun, Scene, scene_of
from hamuco.app.report import machine_name
from hamuco.training.datasets.recorded import Recorded

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.figure import Figure

TOTAL = "total"
_WARM_UP = 10  # runs that are not counted: memory is laid out, caches fill
_MOMENTS_APART = 10  # sets between two moments that play different cameras


@dataclass(frozen=True, slots=True)
class Row:
    """What one runtime takes for one scene.

    Attributes:
        p50, p99, most: ms, of each stage and of all together, `TOTAL`.
        differs_mm: mean distance of the meshes' vertices from the first runtime's; None of the first one itself.
    """

    runtime: str
    views: int
    hands: int
    rounds: int
    p50: Mapping[str, float]
    p99: Mapping[str, float]
    most: Mapping[str, float]
    differs_mm: float | None


def measure(chains: Sequence[Chain], scene: Scene, rounds: int, progress: Callable[[int, int], None]) -> Iterator[Row]:
    """Run the chains on a scene by turns, so that what else the machine does hits all; the first runs do not count."""
    runs: list[list[ChainRun]] = [[] for _ in chains]
    for number in range(_WARM_UP + rounds):
        for chain, own in zip(chains, runs, strict=True):
            own.append(chain(scene))
        progress(number + 1, _WARM_UP + rounds)
    for chain, own in zip(chains, runs, strict=True):
        stages = 1e3 * np.array([run.seconds for run in own[_WARM_UP:]])
        milliseconds = np.column_stack([stages, stages.sum(axis=1)])
        p50, p99 = np.percentile(milliseconds, [50, 99], axis=0)
        names = (*chain.stages, TOTAL)
        yield Row(
            runtime=chain.name,
            views=len(scene.hands[0]),
            hands=len(scene.hands),
            rounds=rounds,
            p50=dict(zip(names, p50.tolist(), strict=True)),
            p99=dict(zip(names, p99.tolist(), strict=True)),
            most=dict(zip(names, milliseconds.max(axis=0).tolist(), strict=True)),
            differs_mm=None if own is runs[0] else _distance_mm(own[-1], runs[0][-1]),
        )


def _distance_mm(one: ChainRun, other: ChainRun) -> float:
    """Mean distance of vertices, of the hands that both have."""
    pairs = [(a, b) for a, b in zip(one.meshes, other.meshes, strict=True) if a is not None and b is not None]
    return float(np.mean([1e3 * np.linalg.norm(a - b, axis=-1) for a, b in pairs])) if pairs else float("nan")


def bench_latency(
    clip: Recorded,
    chains: Sequence[Chain],
    sizes: Sequence[tuple[int, int]],
    rounds: int,
    progress: Callable[[str], AbstractContextManager[Callable[[int, int], None]]],
) -> list[Row]:
    """Every chain with every size, (views, hands)."""
    rows: list[Row] = []
    largest = scene_of(islice(clip, 0, None, _MOMENTS_APART), *max(sizes))
    for chain in chains:  # what one of them cannot take, it says now, and not after minutes
        chain(largest)
    for views, hands in sizes:
        scene = scene_of(islice(clip, 0, None, _MOMENTS_APART), views, hands)
        with progress(f"{views} views, {hands} hands") as tell:
            rows += measure(chains, scene, rounds, tell)
    return rows


def print_rows(rows: Sequence[Row], console: Console) -> None:
    """A table for each runtime."""
    for runtime in dict.fromkeys(row.runtime for row in rows):
        own = [row for row in rows if row.runtime == runtime]
        stages = [name for name in own[0].p50 if name != TOTAL]
        compared = ["differs, mm"] if own[0].differs_mm is not None else []
        table = Table(title=f"{runtime}: ms, p50", title_justify="left", box=box.SIMPLE_HEAD, padding=0, pad_edge=False)
        for head in ("views", "hands", *stages, TOTAL, "p99", *compared):
            table.add_column(head, justify="right")
        for row in own:
            cells = [row.p50[name] for name in (*stages, TOTAL)] + [row.p99[TOTAL]]
            cells += [] if row.differs_mm is None else [row.differs_mm]
            table.add_row(str(row.views), str(row.hands), *(f"{cell:.2f}" for cell in cells))
        console.print(table)


def save_rows(rows: Sequence[Row], model: str, out: Path) -> list[Path]:
    """Write latency.json, and latency.png where matplotlib is installed; what was written."""
    out.mkdir(parents=True, exist_ok=True)
    written = [out / "latency.json"]
    document = {"machine": machine_name(), "model": model, "rows": [asdict(row) for row in rows]}
    written[0].write_text(json.dumps(document, indent=1), encoding="utf-8")
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return written
    sizes, runtimes = len({(row.views, row.hands) for row in rows}), len({row.runtime for row in rows})
    # Wide enough for the legend beside the panels, and for the names of runtimes above them.
    figure = Figure(figsize=(1.8 + max(3.6, 1 + 0.7 * sizes) * runtimes, 4.2), layout="constrained")
    draw_rows(rows, figure)
    written.append(out / "latency.png")
    figure.savefig(written[-1], dpi=130)
    return written


def draw_rows(rows: Sequence[Row], figure: Figure) -> None:
    """A panel of stacked bars for each runtime, all on one scale, so that bars can be compared."""
    runtimes = list(dict.fromkeys(row.runtime for row in rows))
    # From the first to the last, also where runtimes divide the work differently.
    place = {stage: number for row in rows for number, stage in enumerate(row.p50) if stage != TOTAL}
    stages = sorted(place, key=place.__getitem__)
    colour = {stage: f"C{number}" for number, stage in enumerate(stages)}
    panels = figure.subplots(1, len(runtimes), sharey=True, squeeze=False)[0]
    shown: dict[str, Artist] = {}  # of every stage, once
    for panel, runtime in zip(panels, runtimes, strict=True):
        own = [row for row in rows if row.runtime == runtime]
        places = np.arange(len(own))
        below = np.zeros(len(own))
        for stage in (name for name in own[0].p50 if name != TOTAL):
            heights = np.array([row.p50[stage] for row in own])
            shown[stage] = panel.bar(places, heights, bottom=below, color=colour[stage])[0]
            below += heights
        (shown["p99 of all"],) = panel.plot(places, [row.p99[TOTAL] for row in own], "k_", markersize=14)
        # The total in figures too: a bar may be too low to be seen beside another runtime's.
        labels = [f"{row.views} x {row.hands}\n{row.p50[TOTAL]:.2f} ms" for row in own]
        panel.set_xticks(places, labels, fontsize=8)
        panel.set_xlim(-0.7, len(own) - 0.3)
        panel.set_xlabel("views x hands, p50 of all")
        panel.set_title(fill(runtime, 10 + 8 * len(own)), fontsize=9, loc="left")
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("p50 of each stage, ms")
    panels[0].set_ylim(bottom=0)
    # In the order in which they lie on each other.
    names = [*reversed(stages), "p99 of all"]
    figure.legend([shown[name] for name in names], names, frameon=False, fontsize=8, loc="outside right upper")
