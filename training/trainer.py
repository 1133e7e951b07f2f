"""Training: the loop, and what is written while it runs.

A training is a folder with log.csv, curves.png, last.pt (from which it goes on), best.pt (the smallest validation figure)
and config.toml. Everything random in a step is a function of the seed, the process and the step: so a training that was
interrupted goes on as it would have. On a CPU that is so bit for bit, on the same machine and with the same number of
threads; on a GPU some gradients are summed up in any order.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Mapping
from contextlib import ExitStack, closing
from pathlib import Path

import numpy as np
import torch
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grad_norm_

from hamuco.capture.interruption import postponed_interruption
from hamuco.engine.hand_model import load_hand_model
from hamuco.training.batch import Batch, tensors, to_device
from hamuco.training.checkpoint import (
    Checkpoint,
    check_same_training,
    load_checkpoint,
    save,
    written_by,
)
from hamuco.training.config import Precision, TrainConfig, config_values
from hamuco.training.curves import LOG
from hamuco.training.keeper import BEST, LAST, Keeper, Tell
from hamuco.training.loader import LoaderOptions, batches
from hamuco.training.losses import losses
from hamuco.training.networks import backbones
from hamuco.training.networks.hamuco import HaMuCo
from hamuco.training.processes import Process, this_process
from hamuco.training.sources import Progress, check, prepare
from hamuco.training.synthetic.crop_stream import CropWorkerError
from hamuco.training.weights import Weights, take_weights, weights_of

BAD_BATCH = "bad_batch-{}.pt"
"""Of the process with this number: with several, all stop at once."""

_PER_CORE = 8  # threads or workers that may be wanted; more than one or two gain nothing
_MOST_SKIPPED = 50  # the scale of half precision, 2^16 at first, is halved with each; it is not so large for so long
_BYTES_PER_PIXEL = 3 + 3 * 4  # as they come, and normalized, which the gradient of the first layer needs

_DTYPES: Mapping[Precision, torch.dtype] = {"f32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class TrainingError(ValueError):
    """A training that cannot start, or that has gone wrong."""


def train(
    config: TrainConfig,
    out: Path,
    resume: bool = False,
    progress: Progress = lambda what, done, total: None,
    tell: Tell = lambda line: None,
) -> None:
    """Train a network. Under torchrun, every process calls this; of one, Ctrl-C saves after the step that is being made.

    Args:
        config: what to do.
        out: folder of the training; is made.
        resume: go on from the last checkpoint in `out`, where there is one.
        progress: of the steps, and of what comes before them.
        tell: told what was reached, now and then.

    Raises:
        TrainingError: there is a training in `out` and it is not to be resumed; or more threads or workers are wanted
            than the processor can have; or a loss is not finite.
        MemoryError: a batch is larger than the memory.
        CheckpointError: the checkpoint is damaged, or of another training.
        ValueError, OSError: a source cannot be read, or something cannot be written.
        KeyboardInterrupt: Ctrl-C was pressed.
    """
    hand_model = load_hand_model()
    _check_processor(config)
    if config.run.threads:
        torch.set_num_threads(config.run.threads)
    with this_process(config.run.device) as here, ExitStack() as stack:
        with here.before_the_others():
            checkpoint = _begin(config, out, resume, here, tell)
        if checkpoint is not None and checkpoint.step == config.steps:
            return
        if checkpoint is None:
            _check_what_decides(config)
        size, views = config.model.estimator.image_size, config.views
        for validation, given in ((False, config.sources), (True, config.validation.sources)):
            for source in given:
                check(source, size, views, out, validation)
        if here.first:
            _warn_of_other_joints(config, tell)
        _check_memory(config, here.device)
        torch.manual_seed(config.seed)
        network = HaMuCo(config.model, hand_model).to(here.device)
        optimizer = torch.optim.AdamW(
            network.parameters(), config.learning_rate, weight_decay=config.weight_decay, fused=True
        )
        scaler = torch.amp.GradScaler(here.device.type, enabled=config.precision == "fp16")
        if checkpoint is not None:
            take_weights(network, Weights(out / LAST, checkpoint.hand_model, checkpoint.network), hand_model)
            optimizer.load_state_dict(checkpoint.optimizer)
            scaler.load_state_dict(checkpoint.scaler)
        elif config.start.weights is not None:
            take_weights(network, weights_of(config.start.weights), hand_model)
        elif config.start.estimator is not None:
            take_weights(network, weights_of(config.start.estimator), hand_model, estimator_only=True)
        elif config.start.backbone is not None:
            backbones.load_weights(network.estimator.backbone, config.start.backbone)
        with here.before_the_others():  # after all that can fail at once, as it may take hours
            _make_folder(out)
            sources = [prepare(one, size, views, out, False, progress) for one in config.sources]

        network.train()
        refine = config.loss.weights.refine
        network.interaction.requires_grad_(refine)  # processes wait for the gradient of every weight that wants one
        # It is about kernels of 1 x 1, whose strides may be named in two ways.
        warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
        parallel = network if here.ranks == 1 else DistributedDataParallel(network)
        first = 0 if checkpoint is None else checkpoint.step

        def state() -> Checkpoint:
            parts = (network.state_dict(), optimizer.state_dict(), scaler.state_dict())
            return Checkpoint(
                step + 1, here.ranks, config_values(config), *parts, math.inf, hand_model.name, written_by()
            )

        keeper = stack.enter_context(closing(Keeper(config, out, network, progress, tell))) if here.first else None
        if keeper:
            keeper.begin(checkpoint)
        feed = stack.enter_context(closing(batches(sources, _loader_options(config, here), config.augmentation, first)))
        bad_batch = out / BAD_BATCH.format(here.rank)
        interrupted = stack.enter_context(postponed_interruption("saving after this step", here.ranks == 1))
        skipped = 0
        for step in range(first, config.steps):
            try:
                batch = to_device(next(feed), here.device)
            except CropWorkerError:
                if interrupted():  # Ctrl-C reaches workers, too, and ends one that has not begun yet
                    raise KeyboardInterrupt from None
                raise
            torch.manual_seed(_seed(config.seed, here.rank, step))
            for group in optimizer.param_groups:
                group["lr"] = config.rate(step)
            with torch.autocast(here.device.type, _DTYPES[config.precision], enabled=config.precision != "f32"):
                hands = parallel(batch.views, refine)
            terms = losses(hands.single, hands.refined, batch, step, config.loss, network.hand.pose_mean, hands.located)
            numbers = dict(zip(terms, torch.stack(list(terms.values())).tolist(), strict=True))
            if wrong := [name for name, number in numbers.items() if not math.isfinite(number)]:
                raise _gone_wrong(f"the loss {wrong[0]} is {numbers[wrong[0]]}", bad_batch, step, batch, network)
            optimizer.zero_grad()
            scaler.scale(terms["total"]).backward()
            scaler.unscale_(optimizer)
            length = float(clip_grad_norm_(network.parameters(), config.gradient_norm))
            skipped = 0 if math.isfinite(length) else skipped + 1
            if skipped > (_MOST_SKIPPED if scaler.is_enabled() else 0):  # a scaler leaves such steps out by itself
                again = f", as in the {skipped - 1} steps before" if skipped > 1 else ""
                raise _gone_wrong(
                    f"the gradient is {length} of losses {numbers}{again}", bad_batch, step, batch, network
                )
            scaler.step(optimizer)
            scaler.update()
            crops = here.ranks * int(batch.views.valid.sum())
            if keeper and keeper.after_step(step + 1, numbers, crops, state, interrupted):
                raise KeyboardInterrupt
        if keeper and refine:
            tell(f"{config.steps} steps done. {_next(config, out)}")


def _begin(config: TrainConfig, out: Path, resume: bool, here: Process, tell: Tell) -> Checkpoint | None:
    """The checkpoint to go on from, if there is one."""
    if not (out / LAST).is_file():
        if resume and here.first:
            tell(f"{out} has no checkpoint yet: the training begins anew")
        return None
    if not resume:
        raise TrainingError(f"{out} has a training already: go on with --resume, or choose another folder with --out")
    checkpoint = load_checkpoint(out / LAST)
    check_same_training(out / LAST, checkpoint, config_values(config), here.ranks)
    if here.first and checkpoint.step == config.steps:
        tell(f"{out} has all of its {config.steps} steps already: nothing to do")
    elif here.first:
        tell(f"going on after step {checkpoint.step} of {config.steps}")
    return checkpoint


def _next(config: TrainConfig, out: Path) -> str:
    if (out / BEST).is_file() or not config.validation.sources:
        return f"Next: hamuco export {out / (BEST if (out / BEST).is_file() else LAST)} BUNDLE"
    return (
        f"None was better than the start by {config.validation.best}, see {out / LOG}: there is no {BEST}, and {out / LAST} is "
        "worse than what was there before. Train for longer, or on more"
    )


def _check_what_decides(config: TrainConfig) -> None:
    """Said at once: before the first validation, crops may be cut for hours."""
    best = config.validation.best
    known = "refined_2d" if config.loss.weights.refine else "single_2d"
    if (
        best.endswith("_mm")
        and config.validation.sources
        and all(source.recording and not source.truth for source in config.validation.sources)
    ):
        raise TrainingError(
            f'validation.best is "{best}", which needs truth, and the validation has recordings without: choose "{known}", '
            "with --set validation.best=..., or take their truth along with truth=true"
        )
    if config.validation.sources and not config.loss.weights.refine and best.startswith(("refined", "fused")):
        raise TrainingError(
            f'validation.best is "{best}", but with these loss.weights the cross-view network learns nothing: choose '
            f'"{best.replace("refined", "single").replace("fused", "single")}", with --set validation.best=...'
        )


def _warn_of_other_joints(config: TrainConfig, tell: Tell) -> None:
    for number, source in enumerate(config.sources):
        if config.loss.weights.true_joints and (source.hanco or source.freihand):
            tell(
                f"warning: loss.weights.true_joints is {config.loss.weights.true_joints:g}, and the true joints of "
                f"sources.{number} are not the hand model's landmarks: the network learns the mm between them, too"
            )


def _check_processor(config: TrainConfig) -> None:
    """Of a few hundred threads or processes too many, the system stops one without a word."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    most = _PER_CORE * cores
    for name, what in (("threads", "0 takes one for each core"), ("workers", "as many as there are cores will do")):
        if (wanted := getattr(config.run, name)) > most:
            raise TrainingError(f"run.{name} is {wanted}, which is too many for {cores} cores, at most {most}: {what}")


def _check_memory(config: TrainConfig, device: torch.device) -> None:
    """The system lets a process reserve what there is not, and stops it without a word when it is used.

    Raises:
        MemoryError: the images of a step are larger than all of the memory.
    """
    size = config.model.estimator.image_size
    needed = config.batch * config.views * size * size * _BYTES_PER_PIXEL
    if device.type == "cuda":
        memory, where = torch.cuda.mem_get_info(device)[1], "the GPU"
    else:
        memory, where = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), "this machine"
    if needed > memory:
        raise MemoryError(f"their images alone take {needed / 1e9:.1f} GB, {where} has {memory / 1e9:.1f} GB")


def _make_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f"folder {out} cannot be made ({error.strerror}): choose another with --out") from error


def _loader_options(config: TrainConfig, here: Process) -> LoaderOptions:
    return LoaderOptions(
        batch=config.batch,
        views=config.views,
        size=config.model.estimator.image_size,
        seed=config.seed,
        workers=config.run.workers,
        rank=here.rank,
        ranks=here.ranks,
    )


def _seed(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])


def _gone_wrong(what: str, file: Path, step: int, batch: Batch, network: HaMuCo) -> TrainingError:
    """Keeps what is needed to see it happen again, if there is room for it."""
    values = tensors(batch)
    try:
        save(file, {"step": step, "batch": values, "network": network.state_dict()})
        kept = f"The batch and the weights are in {file}"
    except OSError as error:
        kept = f"The batch and the weights are lost: {error}"
    # Elsewhere NaN stands for what is not known.
    strange = [name for name in ("half_angle", "pixels", "confidence") if not values[name].isfinite().all()]
    reason = (
        f"not finite in it: {', '.join(strange)}" if strange else "usual reasons are a large learning rate and fp16"
    )
    return TrainingError(f"{what} at step {step}: the training stopped. {kept}; {reason}")
