"""From trained networks to a bundle: two ONNX graphs that give the same hands without torch."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hamuco.capture.recording import partial_folder
from hamuco.engine.bundle import ESTIMATOR, HAND, INTERACTION, Bundle, Card, load_bundle, write_card
from hamuco.engine.hamuco import CropHands, HaMuCoNetworks
from hamuco.engine.hand_model import HandModel, load_hand_model, save_hand_model
from hamuco.engine.landmarks import HAND_RULE
from hamuco.training.batch import Views
from hamuco.training.card import accuracy, training_data
from hamuco.training.checkpoint import load_checkpoint
from hamuco.training.networks.estimator import Estimator
from hamuco.training.networks.hamuco import HaMuCo
from hamuco.training.networks.interaction import Interaction
from hamuco.training.networks.prediction import HandPrediction
from hamuco.training.structuring import unstructure, without_none
from hamuco.training.weights import load_network

PARITY = 1e-4
"""Largest difference between the networks and their graphs, in m and half crops, and of numbers beyond 1 relative to them.
Single precision leaves 3e-5."""

_OPSET = 17  # the first with layer normalization
# Hands and views, and a view that is missing where there is room for one: more and fewer than the graphs were traced with.
_CASES = ((1, 1), (1, 2), (2, 4), (3, 8))
_MAPS = ("map_4", "map_8", "map_16", "map_32")


class ExportError(ValueError):
    """The graphs do not give what the networks give, or one of the networks was never trained."""


def write_bundle(network: HaMuCo, hand: HandModel, card: Card, out: Path, half: bool = True) -> Bundle:
    """Write a bundle and compare it with the networks; nothing is left of one that differs.

    Args:
        network: trained; it is not changed.
        hand: the model that it was built with.
        card: what to say of it.
        out: folder to make.
        half: store weights in half precision, in half the space. They are computed with in single precision.

    Raises:
        ExportError: the graphs differ from the networks, whose weights are rounded first if `half`.
        RecordingError: `out` is there already.
        OSError: it cannot be written.
    """
    network = deepcopy(network).cpu().eval()
    if half:
        _round_weights(network)
    with partial_folder(out) as folder:
        try:
            _write_graphs(network, card.image_size, folder, half)
            save_hand_model(hand, folder / HAND)
            write_card(card, folder)
            _compare(network, load_bundle(folder))
        except BaseException as error:
            shutil.rmtree(folder)
            if isinstance(error, OSError):
                raise OSError(
                    f"{out} cannot be written ({error.strerror or error}): nothing is left of it; make room on the disk, "
                    "or choose another place"
                ) from error
            raise
    return load_bundle(out)


def export_checkpoint(checkpoint: Path, out: Path, name: str, licence: str, half: bool = True) -> Bundle:
    """`write_bundle` of a checkpoint, with a card that says how it was trained.

    Raises:
        CheckpointError: the file is no checkpoint, is damaged, or of another hand model.
        ExportError, RecordingError, OSError: as for `write_bundle`.
    """
    hand = load_hand_model()
    network, config = load_network(checkpoint, hand)
    if not config.loss.weights.refine and config.start.weights is None:
        raise ExportError(
            f"{checkpoint} is of a first stage: its cross-view network has learnt nothing, and would make up hands. Train "
            f"that too, in another folder, with --set start.estimator={checkpoint}"
        )
    stored = load_checkpoint(checkpoint)
    card = Card(
        name=name,
        image_size=config.model.estimator.image_size,
        box_rule=HAND_RULE,
        training_data=training_data(stored, config),
        accuracy=accuracy(checkpoint, stored, config),
        licence=licence,
        architecture=without_none(unstructure(config.model)),
    )
    return write_bundle(network, hand, card, out, half)


class _EstimatorGraph(nn.Module):
    def __init__(self, estimator: Estimator) -> None:
        super().__init__()
        self.estimator = estimator

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        hands, maps = self.estimator(images)
        return hands.pose, hands.betas, hands.camera, *maps


class _InteractionGraph(nn.Module):
    """As `Interaction`, but the views of a hand are found by their places among the crops; -1 for none."""

    def __init__(self, interaction: Interaction) -> None:
        super().__init__()
        self.interaction = interaction

    def forward(
        self, m4: Tensor, m8: Tensor, m16: Tensor, m32: Tensor, location: Tensor, pose: Tensor, half_angle: Tensor,
        places: Tensor,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        nodes = self.interaction.nodes((m4, m8, m16, m32), location, pose, half_angle)
        hands = self.interaction.refine(nodes[places.clamp(min=0)], places >= 0)
        return hands.pose, hands.camera


def _write_graphs(network: HaMuCo, size: int, folder: Path, half: bool) -> None:
    images = torch.randint(0, 256, (3, size, size, 3), dtype=torch.uint8)
    with torch.no_grad():
        pose, _, _, *maps = _EstimatorGraph(network.estimator)(images)
    places = torch.tensor([[0, 1, -1], [2, -1, 0]])
    known = (*maps, torch.zeros(3, 21, 3), pose, torch.full((3,), 0.2), places)
    many = {0: "crops"}
    _write_graph(
        _EstimatorGraph(network.estimator),
        (images,),
        {"images": many},
        {name: many for name in ("pose", "betas", "camera", *_MAPS)},
        folder / ESTIMATOR,
    )
    sets = {0: "hands", 1: "views"}
    _write_graph(
        _InteractionGraph(network.interaction),
        known,
        {name: many for name in (*_MAPS, "location", "single_pose", "half_angle")} | {"places": sets},
        {"pose": sets, "camera": sets},
        folder / INTERACTION,
    )
    if half:
        for name in (ESTIMATOR, INTERACTION):
            _store_half(folder / name)


def _write_graph(
    graph: nn.Module,
    example: tuple[Tensor, ...],
    inputs: Mapping[str, Mapping[int, str]],
    outputs: Mapping[str, Mapping[int, str]],
    path: Path,
) -> None:
    """Inputs and outputs: names, with the dimensions that are not fixed."""
    with warnings.catch_warnings():
        # The checks of shapes in Python are traced as they came out, as is meant; and the exporter that follows the
        # program instead of tracing it fixes the number of views.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            graph.eval(),  # the exporter puts the mode back in which it found the outermost module
            example,
            str(path),
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_axes={name: dict(axes) for name, axes in {**inputs, **outputs}.items()},
            opset_version=_OPSET,
            # As they are: batch normalization folded into convolutions would no longer be of rounded weights.
            training=torch.onnx.TrainingMode.PRESERVE,
            dynamo=False,
        )


def _round_weights(network: nn.Module) -> None:
    """Matrices and kernels to half precision; vectors, which take no space, stay."""
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.dim() > 1:
                parameter.copy_(parameter.half())


def _store_half(path: Path) -> None:
    """Store the constants of a graph that half precision holds exactly in half precision."""
    model = onnx.load(path)
    casts = []
    for constant in model.graph.initializer:
        values = onnx.numpy_helper.to_array(constant)
        if values.dtype != np.float32 or values.size < 256:
            continue
        with np.errstate(over="ignore"):
            half = values.astype(np.float16)
        if np.array_equal(half, values):
            name = constant.name
            constant.CopyFrom(onnx.numpy_helper.from_array(half, f"{name}_half"))
            casts.append(onnx.helper.make_node("Cast", [f"{name}_half"], [name], to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.checker.check_model(model)
    onnx.save(model, path)


def _compare(network: HaMuCo, bundle: Bundle) -> None:
    """Both on the same crops of noise, with and without missing views."""
    networks = HaMuCoNetworks(bundle, "f32")
    for number, (hands, views) in enumerate(_CASES):
        generator = torch.Generator().manual_seed(number)
        size = bundle.card.image_size
        images = torch.randint(0, 256, (hands, views, size, size, 3), dtype=torch.uint8, generator=generator)
        valid = torch.ones(hands, views, dtype=torch.bool)
        valid[0, 1:2] = False
        half_angle = 0.1 + 0.2 * torch.rand(hands, views, generator=generator)
        with torch.no_grad():
            expected = network(Views(images, valid, half_angle))
        places = np.where(valid.numpy(), valid.numpy().ravel().cumsum().reshape(valid.shape) - 1, -1)
        looks = networks.look(images[valid].numpy(), half_angle[valid].numpy().astype(np.float64))
        refined = networks.refine(looks, places)
        alone = _difference(expected.single, looks.hands, valid, slice(None))
        together = _difference(expected.refined, refined, valid, valid.numpy())
        for graph, (difference, what) in ((ESTIMATOR, alone), (INTERACTION, together)):
            if not difference <= PARITY:
                raise ExportError(
                    f"{graph} differs from its network by {difference:.2g} in {what}, {PARITY:g} is allowed ({hands} "
                    f"hands, {views} views): report this with the versions of torch and openvino"
                )


def _difference(
    expected: HandPrediction, given: CropHands, valid: Tensor, where: slice | NDArray[np.bool_]
) -> tuple[float, str]:
    """The largest difference, and of what."""
    worst = (0.0, "nothing")
    # Not the rotations: where a network's six numbers hardly say one, they magnify the last digits.
    for name in ("betas", "camera", "joints", "pixels"):
        one, other = getattr(expected, name)[valid].numpy(), getattr(given, name)[where]
        difference = float((np.abs(one - other) / np.maximum(np.abs(one), 1)).max())
        if not difference <= worst[0]:  # also if not a number
            worst = (difference, name)
    return worst
