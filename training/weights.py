"""Weights of networks that were trained before: of checkpoints, and of bundles, so that what a bundle has can be trained on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, from_numpy

from hamuco.engine.bundle import HAMUCO_S, Bundle, BundleError, load_bundle
from hamuco.engine.hand_model import HandModel, load_hand_model
from hamuco.training.checkpoint import CheckpointError, load_checkpoint
from hamuco.training.config import TrainConfig, config_from
from hamuco.training.networks.hamuco import HaMuCo, HaMuCoConfig
from hamuco.training.structuring import StructureError, structure

_MOST_SAID = 200  # of torch's lists, which name every weight


@dataclass(frozen=True, slots=True, eq=False)
class Weights:
    """
    Attributes:
        path: of the file or folder that they are from.
        hand_model: name of the hand that the network poses.
        values: parameters and statistics by their names in `HaMuCo`.
    """

    path: Path
    hand_model: str
    values: Mapping[str, Tensor]


def weights_of(path: Path) -> Weights:
    """Read a checkpoint, or a bundle: its folder, or `hamuco-s`.

    Raises:
        CheckpointError, BundleError: what is there is damaged or neither.
        OSError: it cannot be read.
    """
    if path.is_dir() or (path == Path(HAMUCO_S.name) and not path.exists()):
        bundle = load_bundle(path)
        return Weights(
            path, bundle.hand.name, _named_constants(bundle.estimator) | _named_constants(bundle.interaction)
        )
    checkpoint = load_checkpoint(path)
    return Weights(path, checkpoint.hand_model, checkpoint.network)


def take_weights(network: HaMuCo, weights: Weights, hand_model: HandModel, estimator_only: bool = False) -> None:
    """Give a network, or its estimator, weights. Raises CheckpointError where they do not fit."""
    path = weights.path
    if weights.hand_model != hand_model.name:
        raise CheckpointError(f"{path} was trained with the hand {weights.hand_model!r}, not {hand_model.name!r}")
    prefix, module = ("estimator.", network.estimator) if estimator_only else ("", network)
    own = {name.removeprefix(prefix): value for name, value in weights.values.items() if name.startswith(prefix)}
    # Bundles do not say how many batches statistics are of, nor does anything depend on it.
    counts = {name: value for name, value in module.state_dict().items() if name.endswith("num_batches_tracked")}
    try:
        module.load_state_dict(counts | own)
    except RuntimeError as error:
        reason = str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)
        raise CheckpointError(
            f"{path} does not fit this network, which is configured as start.network and [model] say: "
            f"{shorten(reason, _MOST_SAID, placeholder=' ...')} Take them over from the training that it is of"
        ) from error


def load_network(path: Path, hand_model: HandModel | None = None) -> tuple[HaMuCo, TrainConfig]:
    """The network of a checkpoint, on the CPU and ready for use, and how it was trained.

    Args:
        path: of the checkpoint.
        hand_model: the right hand that it was trained with; None for the one that comes with the package.

    Raises:
        CheckpointError: as `load_checkpoint`; or the checkpoint is of another hand model.
    """
    hand_model = hand_model or load_hand_model()
    checkpoint = load_checkpoint(path)
    config = config_from(checkpoint.config, f"in {path}")
    network = HaMuCo(config.model, hand_model)
    take_weights(network, Weights(path, checkpoint.hand_model, checkpoint.network), hand_model)
    return network.eval(), config


def bundle_network(bundle: Bundle) -> HaMuCo:
    """The network of a bundle, on the CPU and ready for use.

    Raises:
        BundleError: its card does not say how it is built, or its graphs do not tell their weights.
        CheckpointError: its weights are of another architecture than the card says.
    """
    try:
        config = structure(bundle.card.architecture, HaMuCoConfig)
    except StructureError as error:
        raise BundleError(f"{bundle.path} does not say how its networks are built: {error}") from error
    network = HaMuCo(config, bundle.hand)
    take_weights(network, weights_of(bundle.path), bundle.hand)
    return network.eval()


def _named_constants(path: Path) -> dict[str, Tensor]:
    import onnx  # takes a while, and only bundles need it

    graph = onnx.load(path).graph
    constants: dict[str, NDArray[np.generic]] = {one.name: onnx.numpy_helper.to_array(one) for one in graph.initializer}
    for node in graph.node:
        if node.op_type == "Cast" and node.input[0] in constants:  # of what is stored in half precision
            constants[node.output[0]] = constants.pop(node.input[0]).astype(np.float32)
    # The exporter turns matrices that are multiplied from the right and forgets their names; the bias that is added to the
    # product has kept its own.
    added = {name: node for node in graph.node if node.op_type == "Add" for name in node.input}
    for node in graph.node:
        if node.op_type != "MatMul" or node.input[1] not in constants:
            continue
        bias = (
            [name for name in added[node.output[0]].input if name.endswith(".bias")] if node.output[0] in added else []
        )
        if len(bias) != 1:
            raise BundleError(
                f"{path}: nobody knows whose weights {node.input[1]} are; train on from a checkpoint instead"
            )
        constants[bias[0].removesuffix("bias") + "weight"] = constants.pop(node.input[1]).T
    return {
        name: from_numpy(np.array(values))
        for name, values in constants.items()
        if name.startswith(("estimator.", "interaction."))
    }
