"""Batches of training crops on the fly: worker processes render them into shared memory, nothing goes to disk.

The batches do not depend on the number of workers, and a training that takes up again gets the samples that it would
have got. A batch waits in one of a few slots, each with room for all its samples; every worker draws its share of every
batch, scene by scene, and waits when all slots are full.
"""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import signal
import traceback
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnContext, SpawnProcess
from types import TracebackType
from typing import Any, Self

import cv2
import numpy as np
from numpy.typing import NDArray

from hamuco.capture.interruption import starting_processes
from hamuco.engine.hand_model import HandModel, load_hand_model
from hamuco.training.shared_memory import check_room
from hamuco.training.synthetic.crops import (
    SCENE_SAMPLES,
    CropBatch,
    CropOptions,
    CropPainter,
    batch_of,
    sample_dtype,
)

# The third lets workers go on while another finishes its part of the first.
_SLOTS = 3


class CropWorkerError(ChildProcessError):
    """A worker process failed, or ended before its time."""


class CropStream:
    """An endless iterator over batches of crops, which workers render ahead. A context manager: leaving ends them.

    The workers end too when the stream is garbage or its process is gone. Not for several threads.
    """

    def __init__(
        self,
        options: CropOptions,
        batch: int,
        workers: int = 2,
        *,
        start: int = 0,
        model: HandModel | None = None,
    ) -> None:
        """Starts the workers and waits until they can draw.

        Args:
            options: what to draw.
            batch: samples per batch.
            workers: processes that draw; 0 draws in the calling process, when a batch is asked for.
            start: number of the first sample; a training goes on with the `position` that it had reached.
            model: right hand to draw; the free hand if None.

        Raises:
            ValueError: a number that makes no sense, or a model that cannot be drawn.
            GraphicsError: there is nothing to render with.
            CropWorkerError: a worker died.
            OSError: there is too little memory to share.
        """
        for name, value, least in (("batch", batch, 1), ("workers", workers, 0), ("start", start, 0)):
            if value < least:
                raise ValueError(f"{name} is {value}, expected {least} or more")
        model = load_hand_model() if model is None else model
        if model.side != "right":
            raise ValueError("crops are of right hands, and the model is a left one: give model.mirrored()")
        self.position = start
        """Number of the next sample."""
        self._slot = 0
        self._workers: list[_Worker] = []
        self._painter: CropPainter | None = None
        self._end = weakref.finalize(self, _end, self._workers)
        spawn = multiprocessing.get_context("spawn")
        # An unlinked file that is mapped: nobody has to remove it, however the processes end.
        size = (_SLOTS if workers else 1) * batch * sample_dtype(options).itemsize
        check_room(size, "the batches that are rendered ahead", or_temporary=True)
        memory = spawn.RawArray(ctypes.c_byte, size)
        self._slots = _as_slots(memory, options, batch)
        if workers == 0:
            self._painter = CropPainter(options, model)
            return
        cores = os.cpu_count() or 1
        threads = cores // workers if cores > workers else 0  # 0: none besides the worker's own
        try:
            for number in range(workers):
                job = _Job(options, model, batch, start, number, workers, threads)
                self._workers.append(_start(job, memory, spawn))
            for worker in self._workers:
                worker.receive()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the workers and free their memory. Batches that were received stay."""
        self._end()
        self._painter = None
        self._slots = self._slots[:0].copy()

    def __iter__(self) -> Iterator[CropBatch]:
        return self

    def __next__(self) -> CropBatch:
        """The next batch, the caller's own. Raises as the constructor does; the stream is closed then."""
        if not self._end.alive:
            raise ValueError("the stream of crops is closed")
        samples = self._slots[self._slot]
        try:
            if self._painter is not None:
                for row in range(len(samples)):
                    self._painter.draw(self.position + row, samples[row])
            for worker in self._workers:
                worker.receive()
            batch = batch_of(samples)
            for worker in self._workers:
                worker.release()
        except BaseException:  # with a batch half received, the stream cannot go on after Ctrl-C either
            self.close()
            raise
        self._slot = (self._slot + 1) % len(self._slots)
        self.position += len(samples)
        return batch

    @property
    def process_ids(self) -> tuple[int, ...]:
        """Of the workers, for tools that watch their load."""
        return tuple(worker.process.pid or 0 for worker in self._workers)


@dataclass(frozen=True, slots=True, eq=False)
class _Job:
    """What a worker draws: of every batch from sample `start` on, the scenes whose number is `worker` modulo `workers`."""

    options: CropOptions
    model: HandModel
    batch: int
    start: int
    worker: int
    workers: int
    threads: int


@dataclass(frozen=True, slots=True, eq=False)
class _Worker:
    """A worker as the consuming process sees it. It says one word when it is ready, and one for each batch."""

    process: SpawnProcess
    connection: Connection

    def receive(self) -> None:
        """Wait for the next word. Raises what the worker failed with."""
        try:
            word = self.connection.recv()
        except (EOFError, ConnectionError) as error:
            self.process.join()
            code = self.process.exitcode or 0
            how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            advice = (
                "memory ran out, mostly: use fewer workers or smaller batches"
                if code == -signal.SIGKILL
                else "see what it printed, or what happens with workers=0"
            )
            raise CropWorkerError(f"{self.process.name} died ({how}): {advice}") from error
        if word is not None:
            raise word

    def release(self) -> None:
        """Tell that the batch was taken."""
        with contextlib.suppress(ConnectionError):  # a worker that is gone is told of by the next `receive`
            self.connection.send(None)


def _start(job: _Job, memory: Any, spawn: SpawnContext) -> _Worker:
    here, there = spawn.Pipe()
    name = f"crop worker {job.worker + 1} of {job.workers}"
    process = spawn.Process(target=run_worker, args=(job, memory, there), name=name, daemon=True)
    with starting_processes():
        process.start()
    there.close()  # so that the end of the worker is seen
    return _Worker(process, here)


def _end(workers: list[_Worker]) -> None:
    # A worker has nothing to save. One that draws would notice a closed connection only after its part of the batch.
    for worker in workers:
        worker.process.kill()
    for worker in workers:
        worker.process.join()
        worker.process.close()
        worker.connection.close()
    workers.clear()


def run_worker(job: _Job, memory: Any, connection: Connection) -> None:
    """Body of a worker process: draw its samples of every batch, as long as somebody takes them."""
    os.environ.setdefault("LP_NUM_THREADS", str(job.threads))  # of Mesa's software renderer, read when it starts
    cv2.setNumThreads(1)
    try:
        painter = CropPainter(job.options, job.model)
        slots = _as_slots(memory, job.options, job.batch)
        connection.send(None)
        for number in count():
            if number >= len(slots):
                connection.recv()  # the oldest batch was taken
            first = job.start + number * job.batch
            for row in range(job.batch):
                if (first + row) // SCENE_SAMPLES % job.workers == job.worker:
                    painter.draw(first + row, slots[number % len(slots), row])
            connection.send(None)
    except (EOFError, ConnectionError):
        return  # the consumer is gone
    except (OSError, ValueError) as error:  # GraphicsError is one
        error.add_note(f"in {multiprocessing.current_process().name}:\n{traceback.format_exc()}")
        connection.send(error)
    except Exception:  # noqa: BLE001, told to the consumer
        name = multiprocessing.current_process().name
        connection.send(CropWorkerError(f"{name} failed:\n{traceback.format_exc()}"))


def _as_slots(memory: Any, options: CropOptions, batch: int) -> NDArray[np.void]:
    """Samples (slots, batch) in memory that processes share."""
    return np.frombuffer(memory, sample_dtype(options)).reshape(-1, batch)
