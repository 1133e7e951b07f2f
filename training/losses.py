"""Losses of HaMuCo (Zheng et al., ICCV 2023): 2D labels, agreement of the views, and priors; no 3D labels are needed.

All are L1 means in the paper's units, so that its weights keep their meaning: image coordinates from -1 to 1, and points
in 0.2 m, half the cube around a hand. Each mean is over what is there: views that are not valid, labels without
confidence and truth that is not known neither add to it nor are counted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields

import torch
from torch import Tensor

from hamuco.engine.hamuco import ROOT
from hamuco.training.alignment import align_views, fused_points, procrustes_rotations, relative_rotations
from hamuco.training.batch import Batch
from hamuco.training.networks.prediction import HandPrediction
from hamuco.training.networks.rotations import matrix_to_axis_angle

_UNIT_M = 0.2


@dataclass(frozen=True, slots=True)
class LossWeights:
    """What each loss is multiplied with; the paper's, and none for what needs 3D truth."""

    single_pixels: float = 1.0
    """2D labels, hands by each view alone; multiplied with the confidence of the label."""
    refined_pixels: float = 1.0
    """2D labels, refined hands."""
    located_pixels: float = 1.0
    """2D labels, joints of the estimator's locator, where it has one; the paper's has none."""
    consistency: float = 1.0
    """Refined hands of several views agree with each other."""
    distillation: float = 1.0
    """Hands by each view alone agree with the fused hand."""
    shape_prior: float = 1.0
    """Shapes are average, in standard deviations."""
    single_pose_prior: float = 0.01
    """Fingers are in the hand model's mean pose, rad; hands by each view alone."""
    refined_pose_prior: float = 0.01
    """The same for refined hands."""
    true_joints: float = 0.0
    """Root-relative joints are the true ones, both hands. Where these are other points than the hand model's landmarks, as in
    HanCo and FreiHAND, the network learns what lies between them."""
    true_rotations: float = 0.0
    """Entries of the rotation matrices are the true ones, both hands."""
    true_betas: float = 0.0
    """Shapes are the true ones, in standard deviations."""

    def __post_init__(self) -> None:
        for one in fields(self):
            if not 0 <= (weight := getattr(self, one.name)) < math.inf:
                raise ValueError(f"{one.name} is {weight:g}, expected 0 or more, and finite")

    @property
    def refine(self) -> bool:
        """Whether any is about refined hands; if not, the cross-view network learns nothing and need not run."""
        names = "refined_pixels", "consistency", "distillation", "refined_pose_prior", "true_joints", "true_rotations"
        return any(getattr(self, name) for name in names)


@dataclass(frozen=True, slots=True)
class LossConfig:
    """
    Attributes:
        weights: of the losses.
        calibrated: take rotations between views from calibration where there is one; else from the hands (Procrustes).
        alternating: the two directions of the consistency loss take turns, as in the paper; else each step has the mean
            of both.
        min_confidence: labels with this confidence or less are left out.
    """

    weights: LossWeights = field(default_factory=LossWeights)
    calibrated: bool = True
    alternating: bool = True
    min_confidence: float = 0.0


def losses(
    single: HandPrediction,
    refined: HandPrediction | None,
    batch: Batch,
    step: int,
    config: LossConfig,
    pose_mean: Tensor,
    located: Tensor | None = None,
) -> dict[str, Tensor]:
    """All losses by the names of their weights, not weighted, and their weighted sum as "total".

    A loss without anything to compare is zero. To be called outside autocast: half precision is too coarse for it.

    Args:
        single: hands (B, V) by each view alone.
        refined: hands (B, V) by all views together; without them, what is about them is zero.
        batch: labels, and truth where there is any.
        step: even steps pull each view towards the other views, odd ones towards the fused hand.
        config: weights and variants.
        pose_mean: (45,) of the hand model, rad.
        located: (B, V, 21, 2) u, v of a locator.
    """
    valid = batch.views.valid
    terms = dict.fromkeys((one.name for one in fields(LossWeights)), single.pixels.new_zeros(()))
    terms |= {
        "single_pixels": _pixel_loss(single.pixels, batch, config.min_confidence),
        "shape_prior": _mean(single.betas.abs(), valid),
        "single_pose_prior": _pose_prior(single, valid, pose_mean),
        **_true_losses(single, refined, batch),
    }
    if refined is not None:
        terms |= {
            "refined_pixels": _pixel_loss(refined.pixels, batch, config.min_confidence),
            "refined_pose_prior": _pose_prior(refined, valid, pose_mean),
            **_agreement(single, refined, batch, step, config),
        }
    if located is not None:
        terms["located_pixels"] = _pixel_loss(located, batch, config.min_confidence)
    total = torch.stack([getattr(config.weights, name) * term for name, term in terms.items()]).sum()
    return {**terms, "total": total}


def _pixel_loss(pixels: Tensor, batch: Batch, min_confidence: float) -> Tensor:
    """Differences to 2D labels times their confidence; the mean is over the labels, not over their confidences."""
    labelled = batch.views.valid[..., None] & (batch.confidence > min_confidence)  # (B, V, 21)
    labels = torch.where(labelled[..., None], batch.pixels, 0.0)
    confidence = torch.where(labelled, batch.confidence, 0.0)[..., None]
    return _mean(confidence * (pixels - labels).abs(), labelled)


def _agreement(
    single: HandPrediction, refined: HandPrediction, batch: Batch, step: int, config: LossConfig
) -> dict[str, Tensor]:
    """Consistency of the refined hands, and distillation of their mean into the hands by each view alone.

    Towards the views: of every refined hand that is aligned to the view, x and y are pulled to that view's own hand, which
    stands still. Towards the fused hand: x, y, z of every view's hand are pulled to the fused hand, which stands still.
    Depth, which a single view hardly sees, is thus never pulled to what one view says.
    """
    valid = batch.views.valid
    points = _points(refined, valid)
    to_views = not config.alternating or step % 2 == 0
    moving = points if to_views else points.detach()
    similarity = align_views(moving, _view_rotations(moving, batch, config.calibrated), valid)
    aligned = similarity.apply(moving[:, None])  # (B, V, V, P, 3), of view j in the frame of view i
    fused = fused_points(aligned.detach(), valid.to(points.dtype))

    consistency = []
    if to_views:
        still = points.detach()[:, :, None, :, :2]
        # A view differs from itself by nothing, but counts, as it does in the mean of the fused hand.
        consistency.append(_mean((aligned[..., :2] - still).abs(), valid[:, :, None] & valid[:, None]))
    if not config.alternating or not to_views:
        consistency.append(_mean((points - fused).abs(), valid))
    return {
        "consistency": torch.stack(consistency).mean(),
        "distillation": _mean((_points(single, valid) - fused).abs(), valid),
    }


def _view_rotations(points: Tensor, batch: Batch, calibrated: bool) -> Tensor:
    """Rotations (B, V, V, 3, 3) between views, from calibration where it is known and wanted."""
    if not calibrated:
        return procrustes_rotations(points)
    rotations = relative_rotations(batch.crop_from_world.to(points.dtype))
    known = rotations.isfinite().all(dim=-1).all(dim=-1)
    needed = batch.views.valid[:, :, None] & batch.views.valid[:, None]
    if (known | ~needed).all():
        return rotations
    return torch.where(known[..., None, None], rotations, procrustes_rotations(points))


def _pose_prior(hands: HandPrediction, valid: Tensor, pose_mean: Tensor) -> Tensor:
    fingers = matrix_to_axis_angle(hands.rotations[..., 1:, :, :]).flatten(-2)
    return _mean((fingers - pose_mean).abs(), valid)


def _true_losses(single: HandPrediction, refined: HandPrediction | None, batch: Batch) -> dict[str, Tensor]:
    """Differences to 3D truth, which is brought into the crops' frames."""
    dtype, valid = single.joints.dtype, batch.views.valid
    crop_rotation = batch.crop_from_world[..., :3, :3].to(dtype)  # (B, V, 3, 3)
    joints = batch.joints.to(dtype)
    joints = (joints - joints[:, ROOT : ROOT + 1])[:, None] @ crop_rotation.mT / _UNIT_M  # (B, V, 21, 3)
    bones = batch.rotations.to(dtype)[:, None]  # (B, 1, 16, 3, 3)
    hand = crop_rotation[:, :, None] @ bones[:, :, :1]
    rotations = torch.cat([hand, bones[:, :, 1:].expand(-1, valid.shape[1], -1, -1, -1)], dim=2)
    betas = batch.betas.to(dtype)[:, None].expand_as(single.betas)
    hands = [single] if refined is None else [single, refined]
    return {
        "true_joints": torch.stack([_difference(one.joints / _UNIT_M, joints, valid) for one in hands]).sum(),
        "true_rotations": torch.stack([_difference(one.rotations, rotations, valid) for one in hands]).sum(),
        "true_betas": _difference(single.betas, betas, valid),
    }


def _points(hands: HandPrediction, valid: Tensor) -> Tensor:
    """What has to agree, (B, V, N + 21, 3): vertices and joints in units; zero in views that are not valid."""
    points = torch.cat([hands.vertices, hands.joints], dim=-2) / _UNIT_M
    return torch.where(valid[..., None, None], points, 0.0)


def _difference(values: Tensor, truth: Tensor, valid: Tensor) -> Tensor:
    """Mean absolute difference where the truth is a number."""
    known = truth.isfinite() & valid.reshape(*valid.shape, *(1,) * (truth.dim() - valid.dim()))
    # Left out before the difference as well: no NaN enters the graph, where 0 times NaN would be NaN.
    return _mean((values - torch.where(known, truth, 0.0)).abs(), known)


def _mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of the values where the mask, of their first dimensions, is set; zero where it is nowhere."""
    wide = mask.reshape(*mask.shape, *(1,) * (values.dim() - mask.dim())).expand_as(values)
    return torch.where(wide, values, 0.0).sum() / wide.sum().clamp_min(1)
