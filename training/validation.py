"""How good a network is on hands that it does not learn from."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hamuco.engine.hamuco import ROOT
from hamuco.training.alignment import align_views, fused_points, procrustes_rotations, relative_rotations
from hamuco.training.batch import Batch
from hamuco.training.metrics import joint_errors, mean, procrustes_aligned, root_aligned
from hamuco.training.networks.hamuco import HaMuCoOutput
from hamuco.training.networks.prediction import HandPrediction

Figure = Literal[
    "single_mpjpe_mm",
    "refined_mpjpe_mm",
    "fused_mpjpe_mm",
    "single_pa_mpjpe_mm",
    "refined_pa_mpjpe_mm",
    "fused_pa_mpjpe_mm",
    "single_2d",
    "refined_2d",
    "located_2d",
]
"""Of hands by each view alone, refined by all views, and fused: root-relative MPJPE and PA-MPJPE, which need 3D truth; and
distances from 2D labels as a share of the crop's width, each label counted by its confidence."""

FIGURES: tuple[Figure, ...] = get_args(Figure)


@torch.no_grad()
def validate(network: nn.Module, batches: Iterable[Batch], calibrated: bool, refine: bool = True) -> dict[str, float]:
    """All figures; smaller is better, NaN where nothing is known to compare with.

    Args:
        network: `HaMuCo`, or what gives a `HaMuCoOutput` of views as it does; left in the mode in which it was.
        batches: on the network's device.
        calibrated: fuse by the cameras' rotations where they are known; else by Procrustes.
        refine: whether the cross-view network was trained; if not, refined and fused hands have no figures.
    """
    training = network.training
    network.eval()
    errors: defaultdict[str, list[NDArray[np.float64]]] = defaultdict(list)
    distances: defaultdict[str, float] = defaultdict(float)
    confidences = 0.0
    for batch in batches:
        output: HaMuCoOutput = network(batch.views, refine)
        valid = batch.views.valid[..., None, None]
        # (B, V, 21, 3) in the crops' axes; what is NaN is left out by the metrics.
        turned = (batch.joints - batch.joints[:, ROOT : ROOT + 1])[:, None] @ batch.crop_from_world[..., :3, :3].mT
        true = _numpy(torch.where(valid, turned, torch.nan))
        points, pixels = {"single": output.single.joints}, {"single": output.single.pixels}
        if output.refined is not None:
            points |= {"refined": output.refined.joints, "fused": fused_joints(output.refined, batch, calibrated)}
            pixels["refined"] = output.refined.pixels
        if output.located is not None:
            pixels["located"] = output.located
        for name, joints in points.items():
            estimate = _numpy(joints)
            errors[f"{name}_mpjpe_mm"].append(1000 * joint_errors(root_aligned(estimate, true, ROOT), true))
            errors[f"{name}_pa_mpjpe_mm"].append(1000 * joint_errors(procrustes_aligned(estimate, true), true))
        confidence = torch.where(batch.views.valid[..., None], batch.confidence, 0.0).double()
        confidences += float(confidence.sum())
        for name, places in pixels.items():
            # The crop is 2 wide in u and v.
            distance = torch.linalg.vector_norm(places - batch.pixels, dim=-1) / 2
            distances[f"{name}_2d"] += float((confidence * distance).sum())
    network.train(training)
    figures = {name: mean([error for part in errors[name] for error in part.ravel()]) for name in FIGURES}
    return figures | {name: total / confidences for name, total in distances.items() if confidences}


def fused_joints(refined: HandPrediction, batch: Batch, calibrated: bool) -> Tensor:
    """Fused joints (B, V, 21, 3) m in the axes of every view; the root is not exactly at zero."""
    valid = batch.views.valid
    points = torch.cat([refined.vertices, refined.joints], dim=-2)
    points = torch.where(valid[..., None, None], points, 0.0)
    rotations = procrustes_rotations(points)
    if calibrated:
        known = relative_rotations(batch.crop_from_world.to(points.dtype))
        rotations = torch.where(known.isfinite(), known, rotations)
    aligned = align_views(points, rotations, valid).apply(points[:, None])
    return fused_points(aligned, valid.to(points.dtype))[..., refined.vertices.shape[-2] :, :]


def _numpy(values: Tensor) -> NDArray[np.float64]:
    return np.asarray(values.double().cpu().numpy())
