"""Self-training in rounds: a network that has learned from 2D labels makes better ones, from which the next one learns.

After a round, every stored hand that two calibrated views see is estimated, fused and placed. Seen by each view again, its
joints replace the labels that they are surer of. How sure they are is how well the single views, which do not know of each
other, agree with them.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hamuco.engine.hamuco import ROOT
from hamuco.training.alignment import fused_points_in_world, ransac_centre
from hamuco.training.augment import PLAIN, move
from hamuco.training.batch import Batch, to_device
from hamuco.training.checkpoint import RESUME
from hamuco.training.config import StartConfig, TrainConfig, config_text
from hamuco.training.crop_set import CropSet, copy_with_labels
from hamuco.training.keeper import CONFIG, LAST, Tell
from hamuco.training.loader import stack_samples
from hamuco.training.networks.hamuco import HaMuCoOutput
from hamuco.training.processes import this_process
from hamuco.training.sources import Progress, SourceConfig, prepare
from hamuco.training.trainer import TrainingError, train
from hamuco.training.validation import fused_joints
from hamuco.training.weights import load_network
from hamuco.training.whole_file import write_whole

FloatArray = NDArray[np.float64]

_BATCH = 32
# A view that sees a joint so far away, as a share of the crop's width, agrees by a quarter.
_TOLERANCE = 0.03


def train_rounds(
    config: TrainConfig,
    out: Path,
    resume: bool = False,
    progress: Progress = lambda what, done, total: None,
    tell: Tell = lambda line: None,
) -> None:
    """Train as `train` does, which says more; several rounds in folders OUT/round-1 and so on, each with all steps.

    OUT/config.toml is of all rounds.

    Raises:
        TrainingError: OUT has a training of one round; and see `train`.
    """
    if config.rounds == 1:
        train(config, out, resume, progress, tell)
        return
    if (out / LAST).is_file():
        raise TrainingError(f"{out} has a training of one round: choose another folder with --out")
    with this_process(config.run.device) as here:
        own = config
        for number in range(1, config.rounds + 1):
            folder = out / f"round-{number}"
            if here.first:
                tell(f"round {number} of {config.rounds}")
                if number > 1 or not (folder / LAST).is_file():  # else `train` has to see first that this is the same
                    _make_folder(folder)
                    write_whole(out / CONFIG, config_text(config).encode(), RESUME)
            train(own, folder, resume, progress, tell)
            if number < config.rounds:
                with here.before_the_others():
                    sources = _relabelled(own, folder, here.device, progress, tell)
                    measured_on = tuple(_stored(one, own, folder, progress) for one in own.validation.sources)
                start = StartConfig(network=config.start.network, weights=folder / LAST)
                own = replace(
                    config, sources=sources, start=start, validation=replace(config.validation, sources=measured_on)
                )


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f"folder {path} cannot be made ({error.strerror}): choose another with --out") from error


def _stored(source: SourceConfig, config: TrainConfig, folder: Path, progress: Progress) -> SourceConfig:
    """A source of the validation as the crops that a round has cut of it, so that the next one need not."""
    crops = prepare(source, config.model.estimator.image_size, config.views, folder, True, progress).crops
    return SourceConfig(crops=crops, share=source.share) if isinstance(crops, Path) else source


def _relabelled(
    config: TrainConfig, folder: Path, device: torch.device, progress: Progress, tell: Tell
) -> tuple[SourceConfig, ...]:
    """The sources of a round with its own labels; rendered ones whose labels are true as they are."""
    sources = []
    network = load_network(folder / LAST)[0].to(device)
    for number, source in enumerate(config.sources):
        stored = prepare(source, config.model.estimator.image_size, config.views, folder, False, progress).crops
        if not isinstance(stored, Path):
            sources.append(source)
            continue
        if source.synthetic is not None and source.labels != "network":
            sources.append(SourceConfig(crops=stored, share=source.share))
            continue
        path = folder / "relabelled" / str(number)
        if not path.exists():  # else it is of this very round, which was interrupted after that
            crops = CropSet(stored)
            pixels, confidence, better = relabel(network, crops, config, progress)
            copy_with_labels(crops, path, pixels, confidence, f"{crops.made_from}, labels of {folder}")
            tell(f"{stored}: {better:.1%} of the labels were replaced")
        sources.append(SourceConfig(crops=path, share=source.share))
    return tuple(sources)


@torch.no_grad()
def relabel(
    network: nn.Module, crops: CropSet, config: TrainConfig, progress: Progress = lambda what, done, total: None
) -> tuple[FloatArray, FloatArray, float]:
    """Better labels for a crop set.

    Args:
        network: trained, in use; `HaMuCo`, or what gives a `HaMuCoOutput` of views as it does.
        crops: what is to be labelled.
        config: of the training.
        progress: of the samples.

    Returns:
        pixels (N, 21, 2) and confidence (N, 21) of its N crops, where they have not changed as they were, and the share
        of labels that have.
    """
    device = next(network.parameters()).device
    size = config.model.estimator.image_size
    pixels, confidence = np.empty((crops.view_count, 21, 2)), np.empty((crops.view_count, 21))
    replaced, rng = 0, np.random.default_rng(0)  # which PLAIN leaves no room
    for first in range(0, len(crops), _BATCH):
        numbers = [crops.views_of(sample) for sample in range(first, min(first + _BATCH, len(crops)))]
        stored = [[crops.view(view) for view in views] for views in numbers]
        moved = [[move(view, crops.margin, size, PLAIN, rng) for view in views] for views in stored]
        batch = stack_samples(
            [(views, crops.truth(first + row)) for row, views in enumerate(moved)], max(map(len, numbers)), size
        )
        world, sure = (
            part.cpu().numpy() for part in _placed(network, to_device(batch, device), config.loss.calibrated)
        )
        for row, views in enumerate(numbers):
            for number, view in zip(views, stored[row], strict=True):
                points = world[row] @ view.crop_from_world[:3, :3].T + view.crop_from_world[:3, 3]
                seen = (points[:, 2] > 0) & (sure[row] > view.confidence)  # neither of NaN
                divided = points[:, :2] / np.where(seen, points[:, 2], 1.0)[:, None]
                pixels[number] = np.where(seen[:, None], view.focal * divided + (crops.size - 1) / 2, view.pixels)
                confidence[number] = np.where(seen, sure[row], view.confidence)
                replaced += int(seen.sum())
        progress("relabelling", min(first + _BATCH, len(crops)), len(crops))
    return pixels, confidence, replaced / max(confidence.size, 1)


def _placed(network: nn.Module, batch: Batch, calibrated: bool) -> tuple[Tensor, Tensor]:
    """Fused joints (B, 21, 3) m, world, NaN where they are not known, and how sure they are, (B, 21); 0 by one view."""
    output: HaMuCoOutput = network(batch.views)
    assert output.refined is not None
    pose = batch.crop_from_world.to(output.refined.joints.dtype)
    known = pose.isfinite().all(dim=-1).all(dim=-1) & batch.views.valid & (batch.views.half_angle > 0)  # (B, V)
    weights = known.to(pose.dtype)
    fused = fused_points_in_world(fused_joints(output.refined, batch, calibrated), pose, weights)
    joints = fused - fused[:, ROOT : ROOT + 1]
    normalized = output.single.pixels * batch.views.half_angle[..., None, None]
    place = ransac_centre(joints, normalized, pose, weights[..., None].expand(-1, -1, joints.shape[1]), with_scale=True)
    world = place.centre[:, None] + place.scale[:, None, None] * joints

    points = world[:, None] @ pose[..., :3, :3].mT.double() + pose[..., None, :3, 3]  # (B, V, 21, 3)
    offset = torch.linalg.vector_norm(points[..., :2] / points[..., 2:] - normalized, dim=-1)
    offset = offset / batch.views.half_angle[..., None] / 2  # of the crop's width
    agreement = torch.where(known[..., None], 1 / (1 + (offset / _TOLERANCE) ** 2) ** 2, 0.0)
    views = known.sum(dim=1)[:, None]
    return world, torch.where(views > 1, agreement.sum(dim=1) / views.clamp_min(1), 0.0)
