"""How far the joints of built networks are from those of their bundle, which OpenVINO runs in single precision."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hamuco.engine.builders import Run
from hamuco.engine.bundle import Bundle
from hamuco.engine.gpu_networks import SAMPLED_MAPS
from hamuco.engine.hamuco import DEPTH_UNIT, IMAGE_DEVIATION, IMAGE_MEAN, CropHands, HaMuCoNetworks, decoded
from hamuco.engine.plans import Parity

FloatMap = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class HandCrops:
    """Crops (n, S, S, 3) uint8 BGR with half_angle (n,), and places (B, V) of hand b in view v among them."""

    crops: NDArray[np.uint8]
    half_angle: NDArray[np.float64]
    places: NDArray[np.int64]


def measure_parity(bundle: Bundle, estimator: Run, interaction: Run, moments: Sequence[HandCrops]) -> Parity:
    """Compare all joints of single-view and of refined hands, relative to the root.

    Args:
        bundle: to compare with.
        estimator, interaction: run the graphs of `hamuco.engine.device_graphs`; they convert to the types of these.
        moments: what to look at, one by one.
    """
    networks, errors = HaMuCoNetworks(bundle, "f32"), []
    for given in moments:
        looks = networks.look(given.crops, given.half_angle)
        refined = networks.refine(looks, given.places)
        pairs = zip(run_networks(bundle, estimator, interaction, given), (looks.hands, refined), strict=True)
        errors += [np.linalg.norm(one.joints - other.joints, axis=-1).ravel() for one, other in pairs]
    millimetres = 1000 * np.concatenate(errors)
    crops = sum(len(given.crops) for given in moments)
    return Parity(round(float(np.percentile(millimetres, 99)), 4), round(float(millimetres.max()), 4), crops)


def run_networks(bundle: Bundle, estimator: Run, interaction: Run, given: HandCrops) -> tuple[CropHands, CropHands]:
    """Hands (n,) of each crop alone, and (B, V) of all views, with what lies between the networks done here."""
    looks = estimator({"images": normalized(given.crops)})
    single = decoded(bundle.hand, looks["pose"], looks["betas"], looks["camera"], given.half_angle)
    depth = single.joints[..., 2:] / DEPTH_UNIT
    inputs: dict[str, NDArray[Any]] = {
        "map_32": looks["map_32"],
        "location": np.concatenate([single.pixels, depth], axis=-1).astype(np.float32),
        "single_pose": looks["pose"],
        "half_angle": given.half_angle.astype(np.float32),
        "places": given.places,
        "sampled": sampled([looks[name] for name in SAMPLED_MAPS], single.pixels),
    }
    refined = interaction(inputs)
    places = given.places
    return single, decoded(
        bundle.hand, refined["pose"], single.betas[places], refined["camera"], given.half_angle[places]
    )


def normalized(crops: NDArray[np.uint8]) -> FloatMap:
    """(n, 3, S, S) RGB of mean 0 and deviation 1 over ImageNet."""
    rgb = (crops[..., ::-1] / 255 - IMAGE_MEAN) / IMAGE_DEVIATION
    return rgb.transpose(0, 3, 1, 2).astype(np.float32)


def sampled(maps: list[NDArray[Any]], pixels: NDArray[np.float64]) -> FloatMap:
    """What maps (n, channels, size, size) have at u, v (n, 21, 2): (n, 21, all channels), bilinear, 0 outside."""
    features = []
    for level in maps:
        size = level.shape[-1]
        padded = np.pad(level.astype(np.float32), ((0, 0), (0, 0), (1, 1), (1, 1)))
        at = np.clip(((pixels + 1) * size - 1) / 2, -1, size)
        low = np.minimum(np.floor(at), size - 1).astype(np.int64)
        crop = np.arange(len(level))[:, None]
        found = np.zeros((*pixels.shape[:2], level.shape[1]), np.float32)
        for corner in ((0, 0), (0, 1), (1, 0), (1, 1)):
            column, row = np.moveaxis(low + corner, -1, 0)
            weight = np.where(corner, at - low, 1 - (at - low)).prod(axis=-1)
            found += weight[..., None].astype(np.float32) * padded[crop, :, row + 1, column + 1]
        features.append(found)
    return np.concatenate(features, axis=-1)
