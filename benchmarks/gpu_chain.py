"""The whole chain on a CUDA GPU, of any of the configurations, with random weights: what it takes, beside plain PyTorch and
the least that arithmetic and memory allow.

    python benchmarks/gpu_chain.py [--network hamuco-r50] [--views 8] [--hands 2] [--rounds 300] [--out FOLDER]

From images in memory to fused meshes in memory. Plain PyTorch is the networks' own forward pass under autocast, of crops
that are on the GPU already, without fusion; it skins the meshes of all views twice, the chain once. The floors count the networks alone: their
multiplications at the rate of a large product of half-precision matrices, measured here; and their weights, read once, and
their maps, written and read once, at the rate of a large copy, measured here too. Needs `make kernels`.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from hamuco.app.chains import Scene, scene_of
from hamuco.app.offline import DEMO_CLIP
from hamuco.engine.cuda import Device
from hamuco.engine.cuda_driver import load_driver
from hamuco.engine.gpu_runtime import GpuRuntime
from hamuco.engine.hand_model import load_hand_model
from hamuco.engine.kernel_launch import Kernels
from hamuco.training.batch import Views
from hamuco.training.datasets.recorded import Recorded
from hamuco.training.gpu_networks import TorchNetworks
from hamuco.training.networks.hamuco import HaMuCo, default_config

PRODUCT, COPY_BYTES = 8192, 2**30


def random_network(name: str) -> HaMuCo:
    """Weights of the last layers too, which training starts at zero: what was computed before them would not count."""
    torch.manual_seed(0)
    network = HaMuCo(default_config(name), load_hand_model()).eval()
    for module in network.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.02)
    return network


def milliseconds(run: Callable[[], object], rounds: int) -> np.ndarray:
    """Of every round, the device being idle at both ends."""
    times = []
    for number in range(rounds + 20):
        torch.cuda.synchronize()
        began = time.perf_counter()
        run()
        torch.cuda.synchronize()
        if number >= 20:
            times.append(1e3 * (time.perf_counter() - began))
    return np.array(times)


def sets_per_second(runtime: GpuRuntime, scene: Scene, rounds: int) -> float:
    """With the next set uploaded while one is computed."""
    runtime.start(scene.images, scene.hands)
    began = time.perf_counter()
    for _ in range(rounds):
        runtime.start(scene.images, scene.hands)
        runtime.finish()
    seconds = time.perf_counter() - began
    runtime.finish()
    return rounds / seconds


def floors(network: HaMuCo, views: Views) -> tuple[float, float]:
    """Milliseconds that the networks' arithmetic and their memory take at least."""
    sizes = [parameter.numel() for parameter in network.parameters()]

    def count(module: nn.Module, given: object, result: object) -> None:
        if isinstance(result, torch.Tensor):
            sizes.append(2 * result.numel())

    hooks = [
        module.register_forward_hook(count) for module in network.modules() if isinstance(module, nn.Conv2d | nn.Linear)
    ]
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        network(views)
    for hook in hooks:
        hook.remove()
    matrix = torch.randn(PRODUCT, PRODUCT, device="cuda", dtype=torch.float16)
    product = float(np.median(milliseconds(lambda: matrix @ matrix, 20)))
    source = torch.empty(COPY_BYTES, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    copy = float(np.median(milliseconds(lambda: target.copy_(source), 20)))
    return counter.get_total_flops() / (2 * PRODUCT**3) * product, 2 * sum(sizes) / (2 * COPY_BYTES) * copy


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--network", default="hamuco-r50")
    parser.add_argument("--views", type=int, default=8)
    parser.add_argument("--hands", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--out", type=Path, help="folder for the profile")
    options = parser.parse_args()
    network = random_network(options.network)
    size = network.config.estimator.image_size
    scene = scene_of(islice(Recorded(DEMO_CLIP), 0, None, 10), options.views, options.hands)
    cameras = [region.camera for region in scene.hands[0]]

    shape = (options.hands, options.views)
    images = torch.randint(0, 256, (*shape, size, size, 3), dtype=torch.uint8, device="cuda")
    views = Views(images, torch.ones(shape, dtype=torch.bool, device="cuda"), torch.full(shape, 0.2, device="cuda"))
    on_gpu = random_network(options.network).cuda()

    def eager() -> object:
        with torch.inference_mode(), torch.autocast("cuda", torch.float16):
            return on_gpu(views)

    rows: dict[str, np.ndarray] = {}
    for last in (False, True):
        device = Device(load_driver())
        networks = TorchNetworks(network, channels_last=last)
        runtime = GpuRuntime(networks, network.hand_model, cameras, Kernels(device), device)

        def one_set(runtime: GpuRuntime = runtime) -> object:
            runtime.start(scene.images, scene.hands)
            return runtime.finish()

        order = "channels last" if last else "NCHW"
        rows[f"chain, {order}"] = milliseconds(one_set, options.rounds)
        print(f"{order}: {sets_per_second(runtime, scene, options.rounds):.0f} sets/s with two under way")
    rows["networks alone, eager, autocast"] = milliseconds(eager, options.rounds)
    table = Table(f"{options.network}, {options.views} views x {options.hands} hands, ms", "p50", "p99", "max")
    for name, times in rows.items():
        table.add_row(name, *(f"{one:.3f}" for one in (*np.percentile(times, [50, 99]), times.max())))
    arithmetic, memory = floors(on_gpu, views)
    table.add_row("floor of arithmetic", f"{arithmetic:.3f}")
    table.add_row("floor of memory", f"{memory:.3f}")
    Console(width=100).print(table)
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}")
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
        with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as record:
            for _ in range(20):
                one_set()
        text = record.key_averages().table(sort_by="device_time_total", row_limit=40, max_name_column_width=80)
        (options.out / "profile.txt").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
