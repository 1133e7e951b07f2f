"""Does HaMuCo learn 3D hands from 2D pseudo labels alone, and what is each of its parts worth?

    python benchmarks/self_supervision.py FOLDER [--samples N] [--first-steps N] [--steps N] [--validation N] [--views V]
        [--longer-steps N] [--processes N]

Makes all that it needs in FOLDER, and what is there already is not made again. Hands are rendered, and labelled by the
landmark network, which was trained on real hands; training sees these labels and the cameras, and no 3D truth. In a first
stage the estimator learns from the labels by itself. With its weights every variant begins a second stage, of the same
number of steps; HaMuCo is then trained on for longer, and once more for half as long. They are measured, with truth, on
hands of another seed.

"Labels triangulated" takes the labels of the same views: RANSAC over pairs of views, then reweighted least squares. All is
measured with as many views as training has, and with two of them.
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from hamuco.engine.hamuco import ROOT
from hamuco.fusion.triangulate import triangulate
from hamuco.training.augment import PLAIN
from hamuco.training.batch import Batch
from hamuco.training.config import config_from, config_text
from hamuco.training.crop_builders import crop_set_of_stream
from hamuco.training.crop_set import CropSet
from hamuco.training.keeper import LAST
from hamuco.training.loader import LoaderOptions, Source, batches
from hamuco.training.metrics import joint_errors, mean, procrustes_aligned, root_aligned
from hamuco.training.networks.hamuco import CONFIGS
from hamuco.training.synthetic.crops import CropOptions
from hamuco.training.synthetic.look import Preset
from hamuco.training.validation import validate
from hamuco.training.weights import load_network

FloatArray = NDArray[np.float64]

PRESETS: tuple[Preset, ...] = ("room", "hard")
TRAINING_SEED: dict[Preset, int] = {"room": 11, "hard": 12}
VALIDATION_SEED: dict[Preset, int] = {"room": 901, "hard": 902}
BATCH = 12  # hands per step, of all processes together
LABEL_SIGMA = 0.03  # half crops; tracking assumes 3.5 of 112 px, but figures that were published stay comparable
NAN = float("nan")

# What every variant changes in the configuration.
FULL, LABELS, BASELINE = "HaMuCo", "labels triangulated", "no cross-view network"
LONGER, LONGEST = "HaMuCo, longer", "HaMuCo, longest"  # each goes on from the one before
VARIANTS: dict[str, dict[str, Any]] = {
    FULL: {},
    LONGER: {},
    LONGEST: {"": {"learning_rate": 5e-4}},
    BASELINE: {
        "loss.weights": {"refined_pixels": 0.0, "consistency": 0.0, "distillation": 0.0, "refined_pose_prior": 0.0}
    },
    "no attention branch": {"model.interaction": {"attention": False}},
    "no shared branch": {"model.interaction": {"shared": False}},
    "no consistency": {"loss.weights": {"consistency": 0.0}},
    "no distillation": {"loss.weights": {"distillation": 0.0}},
    "uncalibrated": {"loss": {"calibrated": False}},
}


@dataclass(frozen=True, slots=True)
class Row:
    """Figures of a method, on hands of a preset that so many views show.

    Attributes:
        pa_mm: PA-MPJPE of what each view says alone, of what it says after it heard the others, and of the fused hand; of
            labels only the last.
        root_mm: MPJPE after the roots are laid on each other, of the same.
        share: of the hands that the figures are about.
    """

    preset: Preset
    views: int
    method: str
    pa_mm: tuple[float, float, float]
    root_mm: tuple[float, float, float]
    share: float = 1.0


def configuration(options: argparse.Namespace, steps: int, changes: dict[str, Any]) -> dict[str, Any]:
    """Plain values of a training: the paper's losses and weights, and labels of the landmark network."""
    values: dict[str, Any] = {
        "seed": 1,
        "steps": steps,
        "batch": BATCH // options.processes,
        "views": options.views,
        "precision": "bf16",
        "learning_rate": 1e-3,
        "warmup_steps": min(200, steps // 10),
        "start": {"network": "hamuco-s"},
        "model": {"interaction": {}},
        "sources": [{"crops": str(crops_at(options.folder, preset, TRAINING_SEED[preset]))} for preset in PRESETS],
        "loss": {"weights": {}},
        "augmentation": {"rotation": 0.35, "shift": 0.07, "scale": 1.15, "occluder": 0.2},
        "run": {"workers": 1, "log_every": 50, "checkpoint_every": 500},
    }
    for table, entries in changes.items():
        place = values
        for name in filter(None, table.split(".")):
            place = place[name]
        place |= entries
    return values


def crops_at(folder: Path, preset: Preset, seed: int) -> Path:
    return folder / "crops" / f"{preset}-{seed}"


def make_crops(folder: Path, samples: int, validation: int, views: int, progress: Progress) -> None:
    """Render and label what is not there yet; `samples` are those of all presets together."""
    for seeds, count in ((VALIDATION_SEED, validation), (TRAINING_SEED, samples // len(PRESETS))):
        for preset, seed in seeds.items():
            path = crops_at(folder, preset, seed)
            if path.exists():
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            task = progress.add_task(f"labelling {path.name}", total=count)
            crop_set_of_stream(
                CropOptions(preset=preset, views=views, seed=seed),
                path,
                count,
                "network",
                progress=lambda done, _, task=task: progress.update(task, completed=done),  # type: ignore[misc]
            )


def run_training(options: argparse.Namespace, name: str, values: dict[str, Any]) -> Path:
    """Train, or go on with it where it was interrupted; its last checkpoint."""
    out: Path = options.folder / name.replace(",", "").replace(" ", "-").lower()
    config = out.with_suffix(".toml")
    config.write_text(config_text(config_from(values, name)), encoding="utf-8")
    print(f"{name}: {out}", flush=True)
    processes = ("torch.distributed.run", "--standalone", "--nproc-per-node", str(options.processes))
    command = ("hamuco.app.cli", "train", str(config), "--out", str(out), "--resume")
    subprocess.run([sys.executable, "-m", *processes, "-m", *command], check=True)
    return out / LAST


def held_out(folder: Path, preset: Preset, size: int, views: int) -> list[Batch]:
    """The hands that all methods are measured on, unspoiled, with the same views for all; what fills no batch is left out."""
    path = crops_at(folder, preset, VALIDATION_SEED[preset])
    options = LoaderOptions(batch=BATCH, views=views, size=size, workers=0)
    with closing(batches([Source(path)], options, PLAIN)) as endless:
        return list(islice(endless, len(CropSet(path)) // BATCH))


def triangulated(preset: Preset, views: int, hands: Sequence[Batch]) -> Row:
    """What the labels say without any training, of hands with labels in two views or more."""
    pa, root = [], []
    for batch in hands:
        labelled = (batch.views.valid & (batch.confidence > 0).all(dim=-1)).numpy()
        half_angle = batch.views.half_angle.double().numpy()
        crop_from_world = batch.crop_from_world.double().numpy()
        pixels, joints = batch.pixels.double().numpy(), batch.joints.double().numpy()
        for sample, seen in enumerate(labelled):
            if seen.sum() < 2:
                continue
            rotation, shift = crop_from_world[sample, seen, :3, :3], crop_from_world[sample, seen, :3, 3]
            origins = -np.einsum("vji,vj->vi", rotation, shift)
            tangent = pixels[sample, seen] * half_angle[sample, seen, None, None]
            rays = np.concatenate([tangent, np.ones((*tangent.shape[:-1], 1))], axis=-1) @ rotation
            rays /= np.linalg.norm(rays, axis=-1, keepdims=True)
            points = triangulate(
                np.broadcast_to(origins[:, None], rays.shape), rays, LABEL_SIGMA * half_angle[sample, seen]
            ).points
            true = joints[sample]
            pa.append(1e3 * joint_errors(procrustes_aligned(points, true), true).mean())
            root.append(1e3 * joint_errors(root_aligned(points, true, ROOT), true).mean())
    everyone = sum(len(batch.joints) for batch in hands)
    return Row(preset, views, LABELS, (NAN, NAN, mean(pa)), (NAN, NAN, mean(root)), len(pa) / everyone)


def measured(preset: Preset, views: int, method: str, checkpoint: Path, hands: Sequence[Batch]) -> Row:
    """A network on held-out hands."""
    network, config = load_network(checkpoint)
    figures = validate(network, hands, config.loss.calibrated, config.loss.weights.refine)
    pa, root = (
        [figures[f"{stage}_{kind}mpjpe_mm"] for stage in ("single", "refined", "fused")] for kind in ("pa_", "")
    )
    return Row(preset, views, method, (pa[0], pa[1], pa[2]), (root[0], root[1], root[2]))


def show(rows: Sequence[Row], folder: Path) -> None:
    """Print the tables; write them as Markdown and CSV, and a picture."""
    heads = ("single-view", "multi-view", "fused")
    parts = list(dict.fromkeys((row.preset, row.views) for row in rows))
    lines = []
    for preset, views in parts:
        title = f"{preset}, {views} views"
        table = Table("PA-MPJPE (root-relative MPJPE), mm", *heads, "hands", title=title)
        lines += [
            f"**{title}**",
            "",
            f"| PA-MPJPE (root-relative), mm | {' | '.join(heads)} | hands |",
            "|---|---|---|---|---|",
        ]
        for row in (row for row in rows if (row.preset, row.views) == (preset, views)):
            cells = [
                "" if np.isnan(pa) else f"{pa:.1f} ({root:.1f})"
                for pa, root in zip(row.pa_mm, row.root_mm, strict=True)
            ]
            cells = [row.method, *cells, f"{100 * row.share:.1f} %"]
            table.add_row(*cells)
            lines.append(f"| {' | '.join(cells)} |")
        Console(width=110).print(table)
        lines.append("")
    (folder / "table.md").write_text("\n".join(lines), encoding="utf-8")
    with (folder / "table.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(
            ["preset", "views", "method", *(f"{kind}_{head}_mm" for kind in ("pa", "root") for head in heads), "share"]
        )
        writer.writerows([row.preset, row.views, row.method, *row.pa_mm, *row.root_mm, row.share] for row in rows)
    figure = Figure(figsize=(4.0 * len(parts) + 2.0, 4.0), layout="constrained")
    for panel, (preset, views) in zip(figure.subplots(1, len(parts), sharey=True), parts, strict=True):
        own = [row for row in rows if (row.preset, row.views) == (preset, views)]
        for stage, head in enumerate(heads):
            places = np.arange(len(own)) + 0.27 * (stage - 1)
            panel.barh(places, [row.pa_mm[stage] for row in own], 0.25, label=head)
        panel.set_yticks(np.arange(len(own)), [row.method for row in own])
        panel.set_xlabel("PA-MPJPE, mm")
        panel.set_title(f"{preset}, {views} views")
        panel.spines[["top", "right"]].set_visible(False)
    panel.invert_yaxis()  # of all, since it is shared
    panel.legend(frameon=False)
    figure.savefig(folder / "table.png", dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--samples", type=int, default=12_000, help="hands to learn from")
    parser.add_argument("--validation", type=int, default=400, help="hands to measure on, of each preset")
    parser.add_argument("--views", type=int, default=4)
    parser.add_argument("--first-steps", type=int, default=8000, help="of the first stage")
    parser.add_argument("--steps", type=int, default=3000, help="of the second stage, of each variant")
    parser.add_argument("--longer-steps", type=int, default=8000, help="of the training after the second stage")
    parser.add_argument("--processes", type=int, default=1, help="that train together, of CPU cores or GPUs")
    options = parser.parse_args()
    if options.processes < 1 or BATCH % options.processes:
        parser.error(f"--processes {options.processes} does not divide the {BATCH} hands of a step")
    folder, views = options.folder, options.views
    with Progress() as progress:
        make_crops(folder, options.samples, options.validation, views, progress)
    first_stage = configuration(options, options.first_steps, VARIANTS[BASELINE])
    estimator = run_training(options, "first stage", first_stage)
    size = CONFIGS["hamuco-s"].estimator.image_size
    parts = [(preset, number) for preset in PRESETS for number in sorted({2, views}, reverse=True)]
    hands = {part: held_out(folder, part[0], size, part[1]) for part in parts}
    rows = [triangulated(*part, hands[part]) for part in parts]
    checkpoint = estimator
    for method, changes in VARIANTS.items():
        start, steps = {"estimator": str(estimator)}, options.steps
        if method in (LONGER, LONGEST):
            start = {"weights": str(checkpoint)}
            steps = options.longer_steps if method == LONGER else options.longer_steps // 2
        checkpoint = run_training(options, method, configuration(options, steps, {"start": start, **changes}))
        rows += [measured(*part, method, checkpoint, hands[part]) for part in parts]
        show(rows, folder)


if __name__ == "__main__":
    main()
