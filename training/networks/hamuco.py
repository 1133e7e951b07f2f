"""HaMuCo (Zheng et al., ICCV 2023): a hand from each view, and a better one from all views together."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from hamuco.engine.hamuco import DEPTH_UNIT, ROOT
from hamuco.engine.hand_model import HandModel
from hamuco.training.batch import Views
from hamuco.training.networks.estimator import Estimator, EstimatorConfig
from hamuco.training.networks.hand_layer import HandLayer
from hamuco.training.networks.interaction import Interaction, InteractionConfig
from hamuco.training.networks.parameters import HandParameters, project
from hamuco.training.networks.prediction import HandPrediction
from hamuco.training.networks.rotations import matrix_to_6d, rotation_6d_to_matrix


@dataclass(frozen=True, slots=True)
class HaMuCoConfig:
    """Both networks; defaults are the paper's, with the backbone that its code trains."""

    estimator: EstimatorConfig = field(default_factory=EstimatorConfig)
    interaction: InteractionConfig = field(default_factory=InteractionConfig)


CONFIGS = {
    "hamuco-s": HaMuCoConfig(
        EstimatorConfig(backbone="mobile", image_size=128, head_width=192, locator=(48, 16)),
        InteractionConfig(location_width=16, map_size=4, width=192, readout_width=16),
    ),
    "hamuco-r18": HaMuCoConfig(),
    "hamuco-r50": HaMuCoConfig(EstimatorConfig(backbone="resnet50")),
}


def default_config(name: str) -> HaMuCoConfig:
    """The configuration `hamuco-s` (for live use on a CPU), `hamuco-r18` or `hamuco-r50` (the paper's).

    Raises:
        ValueError: there is no such one.
    """
    if name not in CONFIGS:
        raise ValueError(f"there is no configuration {name!r}; known are {', '.join(CONFIGS)}")
    return CONFIGS[name]


@dataclass(frozen=True, slots=True, eq=False)
class HaMuCoOutput:
    """Leading dimensions are (samples B, views V); what is said of views that are not valid is finite, and no more.

    Attributes:
        single: by each view alone.
        refined: by all views; its shapes are the single view's, without gradients. None where it was not asked for.
        located: (B, V, 21, 2) u, v of the joints, by the estimator's locator, if it has one.
    """

    single: HandPrediction
    refined: HandPrediction | None
    located: Tensor | None = None


class HaMuCo(nn.Module):
    """Right hands in crops, seen by any number of cameras in any order.

    Attributes:
        config, hand_model: that it was built with.
    """

    def __init__(self, config: HaMuCoConfig, hand_model: HandModel) -> None:
        super().__init__()
        self.config, self.hand_model = config, hand_model
        self.hand = HandLayer(hand_model)
        mean_pose = matrix_to_6d(self.hand.mean_rotations)
        self.estimator = Estimator(config.estimator, mean_pose)
        self.interaction = Interaction(config.interaction, self.estimator.backbone.channels, mean_pose)

    def forward(self, views: Views, refine: bool = True) -> HaMuCoOutput:
        """Views that are not valid are left out before the first layer: not even batch statistics know them.

        Args:
            views: of B hands.
            refine: else the cross-view network does not run.
        """
        valid = views.valid
        half_angle = torch.where(valid, views.half_angle, 0.0)
        raw, located, maps = self.estimator.regress(views.images[valid])
        parameters = self.estimator.readout(spread(raw, valid))
        single = self.decode(parameters, half_angle)
        places = None if located is None else spread(located, valid)
        if not refine:
            return HaMuCoOutput(single, None, places)
        nodes = self.interaction.nodes(maps, location(single)[valid], parameters.pose[valid], half_angle[valid])
        better = self.interaction.refine(spread(nodes, valid), valid)
        better = replace(better, betas=parameters.betas.detach())
        return HaMuCoOutput(single, self.decode(better, half_angle), places)

    def decode(self, parameters: HandParameters, half_angle: Tensor) -> HandPrediction:
        """Hands (...) from parameters (...) and `half_angle` (...), in float32 whatever the networks computed in."""
        rotations = rotation_6d_to_matrix(parameters.pose)
        vertices, _, landmarks = self.hand(rotations, parameters.betas)
        root = landmarks[..., ROOT : ROOT + 1, :]
        joints = landmarks - root
        return HandPrediction(
            rotations=rotations,
            betas=parameters.betas,
            camera=parameters.camera,
            vertices=vertices - root,
            joints=joints,
            pixels=project(joints, parameters.camera, half_angle),
        )


def location(hands: HandPrediction) -> Tensor:
    """Where the joints are, (..., 21, 3): u, v, and the depth behind the root in units of 0.2 m."""
    return torch.cat([hands.pixels, hands.joints[..., 2:] / DEPTH_UNIT], dim=-1)


def spread(values: Tensor, valid: Tensor) -> Tensor:
    """Puts values (n, ...) of the n valid views into their places (B, V, ...); the others are zero."""
    places = values.new_zeros(*valid.shape, *values.shape[1:])
    places[valid] = values
    return places
