"""How fast training crops are rendered, and whether memory stays flat.

    python benchmarks/synthetic_crops.py [--crops 2000] [--workers 2] [--soak 100000]

CPU time per crop is that of all processes, from /proc (Linux): other load on the machine changes it little. With
`--soak`, that many crops are drawn instead, and the memory of all processes is printed every 10,000.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from rich.console import Console
from rich.table import Table

from hamuco.app.report import machine_name
from hamuco.training.synthetic.crop_stream import CropStream
from hamuco.training.synthetic.crops import CropOptions
from hamuco.training.synthetic.look import Preset

CROPS_PER_BATCH = 256
SOAK_STEP = 10_000


def cpu_seconds(processes: Sequence[int]) -> float:
    """User and system time of processes."""
    ticks = 0
    for process in processes:
        after_name = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        ticks += int(after_name[11]) + int(after_name[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def resident_mb(process: int) -> float:
    """Memory of a process that is in use and its own; shared memory is left out, which every process would count."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(("RssAnon", "RssFile"))) / 1024


def measure(options: CropOptions, workers: int, crops: int) -> tuple[float, float]:
    """Crops per second, and CPU milliseconds per crop."""
    with CropStream(options, CROPS_PER_BATCH // options.views, workers) as stream:
        processes = (os.getpid(), *stream.process_ids)
        for _ in range(4):  # fills and empties all slots once
            next(stream)
        start, cpu, made = time.perf_counter(), cpu_seconds(processes), 0
        while made < crops:
            made += next(stream).masks.shape[0] * options.views
        return made / (time.perf_counter() - start), 1e3 * (cpu_seconds(processes) - cpu) / made


def speed(crops: int, workers: int) -> None:
    """Print the table of speeds."""
    table = Table("preset", "views", "crops/s", "CPU ms/crop")
    for preset in get_args(Preset):
        for views in (1, 4, 8):
            rate, cpu_ms = measure(CropOptions(preset=preset, views=views), workers, crops)
            table.add_row(preset, str(views), f"{rate:.0f}", f"{cpu_ms:.2f}")
    Console(width=100).print(table)
    print(f"128x128 px, {workers} workers, {crops} crops each; load {os.getloadavg()[0]:.1f}; {machine_name()}")


def soak(crops: int, workers: int) -> None:
    """Print memory as the crops go by."""
    options = CropOptions(views=8)
    print("crops, MB of the consumer, of each worker")
    with CropStream(options, CROPS_PER_BATCH // options.views, workers) as stream:
        made = printed = 0
        for batch in stream:
            made += batch.masks.shape[0] * options.views
            if made >= printed:
                memory = [resident_mb(process) for process in (os.getpid(), *stream.process_ids)]
                print(f"{made:7d}", *(f"{one:.0f}" for one in memory), flush=True)
                printed += SOAK_STEP
            if made >= crops:
                return


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--crops", type=int, default=2000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--soak", type=int, metavar="CROPS")
    arguments = parser.parse_args()
    if arguments.soak is not None:
        soak(arguments.soak, arguments.workers)
    else:
        speed(arguments.crops, arguments.workers)


if __name__ == "__main__":
    main()
