"""Networks of the full architecture, small and untrained, and a bundle of them."""

from __future__ import annotations

from pathlib import Path

import torch

from hamuco.engine.bundle import Bundle, Card
from hamuco.engine.hand_model import load_hand_model
from hamuco.engine.landmarks import HAND_RULE
from hamuco.training.export import write_bundle
from hamuco.training.networks.estimator import EstimatorConfig
from hamuco.training.networks.hamuco import HaMuCo, HaMuCoConfig
from hamuco.training.networks.interaction import InteractionConfig
from hamuco.training.structuring import unstructure

CONFIG = HaMuCoConfig(
    EstimatorConfig("mobile", 64, head_width=32, locator=(8, 4)),
    InteractionConfig(location_width=4, joint_maps=2, map_size=2, width=32, readout_width=8),
)
CARD = Card("small", 64, HAND_RULE, "nothing", "not measured", "Apache-2.0", unstructure(CONFIG))


def small_network() -> HaMuCo:
    """Hands differ visibly from crop to crop and from view to view, and batch statistics are those of noise."""
    torch.manual_seed(0)
    network = HaMuCo(CONFIG, load_hand_model())
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.ones_(module.weight)
            module.momentum = 1.0
        if isinstance(module, torch.nn.Linear):
            torch.nn.init.xavier_uniform_(module.weight)
    with torch.no_grad():
        network.estimator.regress(torch.randint(0, 256, (8, 64, 64, 3), dtype=torch.uint8))
    return network.eval()


def small_bundle(folder: Path) -> Bundle:
    return write_bundle(small_network(), load_hand_model(), CARD, folder / "small")
