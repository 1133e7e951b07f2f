"""Exact batches of hands in crops, and predictions that are right or wrong about them."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor
from views_of_a_hand import views_of_a_hand

from hamuco.engine.hamuco import ROOT
from hamuco.engine.hand_model import load_hand_model
from hamuco.training.batch import Batch, Views
from hamuco.training.networks.hand_layer import HandLayer
from hamuco.training.networks.prediction import HandPrediction
from hamuco.training.networks.rotations import axis_angle_to_matrix

LAYER = HandLayer(load_hand_model()).double()
_HALF_ANGLE = 0.25


def true_batch(samples: int = 2, views: int = 3, seed: int = 0) -> Batch:
    """Random hands with exact truth and exact labels of confidence 1; every crop is rolled by its own angle."""
    rng = np.random.default_rng(seed)
    fingers = LAYER.pose_mean.numpy().reshape(15, 3) + rng.normal(0, 0.2, (samples, 15, 3))
    hand = Rotation.random(samples, rng=rng).as_rotvec()[:, None]
    rotations = axis_angle_to_matrix(torch.tensor(np.concatenate([hand, fingers], axis=1)))
    betas = torch.tensor(rng.normal(0, 0.5, (samples, 10)))
    joints = LAYER(rotations, betas)[2] + torch.tensor(rng.uniform(-0.2, 0.2, (samples, 1, 3)))
    crop_from_world = np.stack([views_of_a_hand(views, seed=seed + i).crop_from_world for i in range(samples)])
    batch = Batch(
        views=Views(
            images=torch.zeros(samples, views, 1, 1, 3, dtype=torch.uint8),
            valid=torch.ones(samples, views, dtype=torch.bool),
            half_angle=torch.full((samples, views), _HALF_ANGLE, dtype=torch.float64),
        ),
        crop_from_world=torch.tensor(crop_from_world),
        pixels=torch.zeros(samples, views, 21, 2),
        confidence=torch.ones(samples, views, 21, dtype=torch.float64),
        joints=joints,
        rotations=rotations,
        betas=betas,
    )
    return replace(batch, pixels=true_hands(batch).pixels)


def true_hands(batch: Batch) -> HandPrediction:
    crop_rotation = batch.crop_from_world[..., :3, :3]
    rotations = batch.rotations[:, None].expand(-1, crop_rotation.shape[1], -1, -1, -1).clone()
    rotations[:, :, 0] = crop_rotation @ rotations[:, :, 0]
    return predicted(rotations, batch.betas[:, None].expand(-1, crop_rotation.shape[1], -1))


def predicted(rotations: Tensor, betas: Tensor) -> HandPrediction:
    vertices, _, landmarks = LAYER(rotations, betas)
    root = landmarks[..., ROOT : ROOT + 1, :]
    joints = landmarks - root
    camera = torch.tensor([5.0, 0.1, -0.2], dtype=rotations.dtype).expand(*betas.shape[:-1], 3)
    s, t = camera[..., None, :1], camera[..., None, 1:]
    pixels = (s * joints[..., :2] + t) / (1 + _HALF_ANGLE * s * joints[..., 2:])
    return HandPrediction(rotations, betas, camera, vertices - root, joints, pixels)


LEAVES = ("rotations", "betas", "vertices", "joints", "pixels")


def noisy_hands(batch: Batch, seed: int, noise: float = 0.3) -> HandPrediction:
    """Predictions that are wrong in everything; each of their parts is a leaf that collects its own gradient."""
    generator = torch.Generator().manual_seed(seed)

    def noisy(values: Tensor) -> Tensor:
        return values + noise * torch.randn(values.shape, dtype=values.dtype, generator=generator)

    exact = true_hands(batch)
    turned = exact.rotations @ axis_angle_to_matrix(
        noisy(torch.zeros(*exact.rotations.shape[:-1], dtype=torch.float64))
    )
    hands = predicted(turned, noisy(exact.betas))
    return replace(hands, **{name: getattr(hands, name).detach().requires_grad_() for name in LEAVES})


def gradients(loss: Tensor, hands: HandPrediction) -> dict[str, Tensor]:
    """Of a loss by each part of the hands; zeros where it does not reach."""
    leaves = [getattr(hands, name) for name in LEAVES]
    found = torch.autograd.grad(loss, leaves, retain_graph=True, allow_unused=True)
    pairs = zip(LEAVES, found, leaves, strict=True)
    return {name: torch.zeros_like(leaf) if gradient is None else gradient for name, gradient, leaf in pairs}


def picked(hands: HandPrediction, index: list[int]) -> HandPrediction:
    """Hands of some of the views."""
    return replace(hands, **{field.name: getattr(hands, field.name)[:, index] for field in fields(hands)})


def picked_views(batch: Batch, index: list[int]) -> Batch:
    """Some of the views."""
    views = replace(batch.views, **{field.name: getattr(batch.views, field.name)[:, index] for field in fields(Views)})
    parts = {name: getattr(batch, name)[:, index] for name in ("crop_from_world", "pixels", "confidence")}
    return replace(batch, views=views, **parts)


def slow_agreement(
    single: HandPrediction, refined: HandPrediction, batch: Batch, step: int, calibrated: bool
) -> tuple[Tensor, Tensor]:
    """Consistency and distillation losses of one sample, view by view as the paper's formulas have them."""
    points = torch.cat([refined.vertices, refined.joints], dim=-2)[0] / 0.2
    alone = torch.cat([single.vertices, single.joints], dim=-2)[0] / 0.2
    rotation = batch.crop_from_world[0, :, :3, :3]
    views = len(points)
    consistency, distillation = [], []
    for i in range(views):
        aligned = []
        for j in range(views):
            mu_i, mu_j = points[i].mean(dim=0), points[j].mean(dim=0)
            k = (points[j] - mu_j).T @ (points[i] - mu_i)
            if calibrated:
                r = rotation[i] @ rotation[j].T
            else:
                u, _, vh = torch.linalg.svd(k)
                sign = torch.sign(torch.linalg.det(u @ vh)).detach()
                r = vh.T @ torch.diag(torch.stack([torch.ones_like(sign), torch.ones_like(sign), sign])) @ u.T
            s = torch.trace(r @ k) / (points[j] - mu_j).square().sum()
            aligned.append(points[j] if i == j else s * points[j] @ r.T + mu_i - s * r @ mu_j)
        fused = torch.stack(aligned).mean(dim=0).detach()
        if step % 2 == 0:
            consistency += [(view - points[i].detach())[:, :2].abs().mean() for view in aligned]
        else:
            consistency.append((fused - points[i]).abs().mean())
        distillation.append((alone[i] - fused).abs().mean())
    return torch.stack(consistency).mean(), torch.stack(distillation).mean()
