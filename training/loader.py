"""Batches for training, from a mixture of crop sets and the live synthetic stream.

The batch of a step is a function of the seed, the step and the sources alone: a training that takes up again at a step
gets the batches that it would have got, with any number of workers.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from itertools import count
from multiprocessing import parent_process
from pathlib import Path
from threading import Thread
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from hamuco.engine.hand_model import load_hand_model
from hamuco.engine.skinning import axis_angle_to_matrix
from hamuco.fusion.hand import HandParameters
from hamuco.training.augment import Augmentation, move, spoil
from hamuco.training.batch import Batch, Views
from hamuco.training.crop_set import CropSet, CropView, HandTruth
from hamuco.training.shared_memory import check_room, full
from hamuco.training.synthetic.crop_stream import CropStream, CropWorkerError
from hamuco.training.synthetic.crops import CropBatch, CropOptions

_PREFETCH = 2  # batches that every worker makes ahead
_SAMPLES_PER_PROCESS = 2**40  # of a stream: more than anybody renders, so that no two processes render the same


@dataclass(frozen=True, slots=True)
class Source:
    """Where a share of every batch comes from.

    Attributes:
        crops: folder of a crop set, or what to render on the fly; of the latter, `views` and `size` are the loader's,
            and `seed` is that of the rendered samples.
        share: of the batch, relative to the other sources'.
    """

    crops: Path | CropOptions
    share: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LoaderOptions:
    """What batches are like.

    Attributes:
        batch: samples per batch, of one process.
        views: crops per sample; of samples with more, some are drawn, and those with fewer have invalid ones.
        size: of the crops, px.
        seed: of all that is random, not negative.
        workers: processes that read, and as many that render; 0 does it in the calling process.
        rank, ranks: number of this process and of all that train together; each gets samples of its own.

    Raises:
        ValueError: a value that makes no sense, naming it.
    """

    batch: int = 32
    views: int = 4
    size: int = 128
    seed: int = 0
    workers: int = 1
    rank: int = 0
    ranks: int = 1

    def __post_init__(self) -> None:
        least = {"batch": 1, "views": 1, "size": 16, "ranks": 1}
        for name in self.__dataclass_fields__:
            if getattr(self, name) < least.get(name, 0):
                raise ValueError(f"{name} is {getattr(self, name)}, expected {least.get(name, 0)} or more")
        if self.rank >= self.ranks:
            raise ValueError(f"rank is {self.rank}, but there are {self.ranks} processes, counted from 0")


def batches(
    sources: Sequence[Source], options: LoaderOptions, augmentation: Augmentation, start: int = 0
) -> Generator[Batch, None, None]:
    """Batches without end, from step `start` on. Close the iterator (`contextlib.closing`) to end its workers.

    Raises:
        ValueError: no source, or a share that is none; a batch too small for every source to be in it.
        CropSetError: a crop set is damaged, or has no sample.
        OSError: there is too little shared memory for what workers read ahead.
        CropWorkerError: a worker died.
        GraphicsError: see `CropStream`.
    """
    counts = samples_per_source([source.share for source in sources], options.batch)
    stored = [
        (source.crops, number) for source, number in zip(sources, counts, strict=True) if isinstance(source.crops, Path)
    ]
    rendered = [
        (source.crops, number)
        for source, number in zip(sources, counts, strict=True)
        if isinstance(source.crops, CropOptions)
    ]
    return _batches(StoredBatches(stored, options, augmentation), rendered, options, augmentation, start)


def _batches(
    stored: StoredBatches,
    rendered: Sequence[tuple[CropOptions, int]],
    options: LoaderOptions,
    augmentation: Augmentation,
    start: int,
) -> Generator[Batch, None, None]:
    with contextlib.ExitStack() as stack:
        streams = [
            stack.enter_context(
                CropStream(
                    replace(crops, views=options.views, size=options.size),
                    number,
                    options.workers,
                    start=options.rank * _SAMPLES_PER_PROCESS + start * number,
                )
            )
            for crops, number in rendered
        ]
        reader = _reader(stored, options, start) if stored.count else None
        for step in count(start):
            parts = [] if reader is None else [_next(reader)]
            for number, stream in enumerate(streams):
                rng = np.random.default_rng((options.seed, options.rank, step, 1, number))
                parts.append(_rendered(next(stream), augmentation, rng))
            yield _join(parts)


def _reader(stored: StoredBatches, options: LoaderOptions, start: int) -> Iterator[Batch | Exception]:
    workers = options.workers
    if workers == 0:
        return (stored[step] for step in count(start))
    ahead = workers * _PREFETCH
    images = stored.count * options.views * options.size**2 * 3
    # A worker whose batch finds no room prints a traceback and goes on, and the training waits for ever.
    check_room(ahead * images, f"the {ahead} batches that {workers} workers read ahead")
    loader = DataLoader(
        _Told(stored),
        batch_size=None,
        sampler=count(start),
        num_workers=workers,
        collate_fn=_as_it_is,
        generator=torch.Generator(),  # or it would draw from the training's own
        prefetch_factor=_PREFETCH,
        # Forking a process that has threads, as torch makes them, can lock up; spawned workers of torch 2.13 abort now and
        # then at their end, in destructors that processes of the fork server leave out.
        multiprocessing_context="forkserver",
        worker_init_fn=_begin_worker,
    )
    return iter(loader)


def _next(reader: Iterator[Batch | Exception]) -> Batch:
    try:
        found = next(reader)
    except (RuntimeError, ConnectionError, EOFError) as error:  # the last two: it died while its batch was taken over
        if "shared memory" in str(error) or "bus error" in str(error).lower():
            raise full("a worker has found no room for its batch") from error
        if isinstance(error, RuntimeError) and "DataLoader worker" not in str(error):
            raise
        raise CropWorkerError(
            f"a worker that reads crops died ({' '.join(str(error).split())}): memory ran out, mostly: use fewer workers or "
            "smaller batches"
        ) from error
    if isinstance(found, Exception):
        raise found
    return found


class _Told(Dataset[Batch | Exception]):
    """Errors as values: of those that a worker raises, torch makes texts with tracebacks."""

    def __init__(self, stored: StoredBatches) -> None:
        self._stored = stored

    def __getitem__(self, step: int) -> Batch | Exception:
        try:
            return self._stored[step]
        except (ValueError, OSError) as error:  # CropSetError is one
            return error


def _as_it_is(batch: Any) -> Any:
    return batch


def _begin_worker(number: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes, and is for the training to handle
    cv2.setNumThreads(1)
    Thread(target=_end_with_the_training, daemon=True).start()


def _end_with_the_training() -> None:
    """A worker's own watch is over the fork server, which ends only after the workers."""
    training = parent_process()
    assert training is not None
    training.join()
    os._exit(1)


class StoredBatches(Dataset[Batch]):
    """The part of every batch that comes from crop sets, by step."""

    def __init__(self, sources: Sequence[tuple[Path, int]], options: LoaderOptions, augmentation: Augmentation) -> None:
        """
        Args:
            sources: crop sets, and how many samples of a batch are from each.
            options, augmentation: of the batches.

        Raises:
            CropSetError: a crop set is damaged, or has no sample.
        """
        for path, _ in sources:
            if not len(_open(path)):
                raise ValueError(f"crop set {path} has no sample: was a hand found in what it was made from?")
        self._sources, self._options, self._augmentation = tuple(sources), options, augmentation
        self.count = sum(number for _, number in sources)
        """Samples per batch."""

    def __getitem__(self, step: int) -> Batch:
        options = self._options
        samples = []
        for source, (path, number) in enumerate(self._sources):
            crops = _open(path)
            first = (step * options.ranks + options.rank) * number
            for place in range(number):
                epoch, row = divmod(first + place, len(crops))
                sample = int(_order(len(crops), options.seed, source, epoch)[row])
                rng = np.random.default_rng((options.seed, options.rank, step, 0, source, place))
                views = rng.permutation(crops.views_of(sample))[: options.views]
                moved = [
                    spoil(
                        move(crops.view(int(view)), crops.margin, options.size, self._augmentation, rng),
                        self._augmentation,
                        rng,
                    )
                    for view in views
                ]
                samples.append((moved, crops.truth(sample)))
        return stack_samples(samples, options.views, options.size)


@cache
def _open(path: Path) -> CropSet:
    """Once per process: what workers are given is the path."""
    return CropSet(path)


@lru_cache(maxsize=16)
def _order(samples: int, seed: int, source: int, epoch: int) -> NDArray[np.int64]:
    """Every sample once, in the order of an epoch."""
    return np.random.default_rng((seed, source, epoch)).permutation(samples)


def stack_samples(samples: Sequence[tuple[Sequence[CropView], HandTruth]], views: int, size: int) -> Batch:
    """A batch of samples with up to `views` crops of `size` px."""
    shape = (len(samples), views)
    images = np.zeros((*shape, size, size, 3), np.uint8)
    valid, half_angle = np.zeros(shape, np.bool_), np.zeros(shape, np.float32)
    crop_from_world = np.full((*shape, 4, 4), np.nan, np.float32)
    pixels, confidence = np.zeros((*shape, 21, 2), np.float32), np.zeros((*shape, 21), np.float32)
    for row, (crops, _) in enumerate(samples):
        for column, crop in enumerate(crops):
            where = row, column
            images[where], valid[where] = crop.image, True
            half_angle[where] = size / 2 / crop.focal if np.isfinite(crop.focal) else 0.0
            crop_from_world[where] = crop.crop_from_world
            pixels[where] = (2 * crop.pixels + 1) / size - 1
            confidence[where] = crop.confidence
    truths = [truth for _, truth in samples]
    own = [truth.parameters for truth in truths]
    return Batch(
        Views(torch.from_numpy(images), torch.from_numpy(valid), torch.from_numpy(half_angle)),
        torch.from_numpy(crop_from_world),
        torch.from_numpy(pixels),
        torch.from_numpy(confidence),
        torch.from_numpy(np.array([truth.joints for truth in truths], np.float32)),
        torch.from_numpy(_rotations(own).astype(np.float32)),
        torch.from_numpy(np.array([one.betas for one in own], np.float32)),
    )


def _rotations(parameters: Sequence[HandParameters]) -> NDArray[np.float64]:
    """(B, 16, 3, 3): the first in the world, the others in their parents' frames with the mean pose in them."""
    root = np.array([one.global_orient for one in parameters], np.float64)
    fingers = np.array([one.hand_pose for one in parameters], np.float64) + _pose_mean()
    return axis_angle_to_matrix(np.concatenate([root, fingers], axis=1).reshape(-1, 16, 3))


@cache
def _pose_mean() -> NDArray[np.float64]:
    return load_hand_model().pose_mean


def _rendered(batch: CropBatch, augmentation: Augmentation, rng: np.random.Generator) -> Batch:
    """A batch of the stream, whose crops lie unevenly already; its truth are its labels."""
    samples = []
    own = batch.parameters
    for row, images in enumerate(batch.images):
        crops = [
            CropView(
                image,
                float(batch.matrix[row, view, 0, 0]),
                batch.camera_from_world[row, view].astype(np.float64),
                batch.pixels[row, view].astype(np.float64),
                np.ones(21),
                batch.masks[row, view],
            )
            for view, image in enumerate(images)
        ]
        parameters = HandParameters(own.global_orient[row], own.hand_pose[row], own.betas[row], own.transl[row])
        truth = HandTruth(batch.joints[row].astype(np.float64), parameters)
        samples.append(([spoil(crop, augmentation, rng) for crop in crops], truth))
    return stack_samples(samples, batch.images.shape[1], batch.images.shape[2])


def _join(parts: Sequence[Batch]) -> Batch:
    if len(parts) == 1:
        return parts[0]
    views = [part.views for part in parts]
    names = ("crop_from_world", "pixels", "confidence", "joints", "rotations", "betas")
    return Batch(
        Views(*(torch.cat([getattr(one, name) for one in views]) for name in ("images", "valid", "half_angle"))),
        *(torch.cat([getattr(part, name) for part in parts]) for name in names),
    )


def samples_per_source(wanted: Sequence[float], batch: int) -> list[int]:
    """How many samples of a batch are of each source: as their shares say, those that lose most by rounding first.

    Raises:
        ValueError: no source, or a share that is none; a batch too small for every source to be in it.
    """
    shares = np.array(wanted, np.float64)
    if not len(shares) or not (shares > 0).all() or not np.isfinite(shares).all():
        raise ValueError(f"shares of the sources are {shares.tolist()}, expected one source or more, all above 0")
    exact = shares / shares.sum() * batch
    counts = np.floor(exact).astype(int)
    for index in np.argsort(counts - exact, kind="stable")[: batch - counts.sum()]:
        counts[index] += 1
    if (counts == 0).any():
        raise ValueError(
            f"a batch of {batch} has no sample of source {int(np.argmin(counts))} with its share of "
            f"{shares[np.argmin(counts)] / shares.sum():.3g}: raise the batch or the share"
        )
    return [int(number) for number in counts]
