"""One process, or several that torchrun started, each with a GPU of its own where there are some."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

import torch
from torch import distributed

# Others wait for the first one while it cuts crops and validates.
_PATIENCE = timedelta(hours=6)


@dataclass(frozen=True, slots=True)
class Process:
    """
    Attributes:
        rank, ranks: number of this process, from 0, and how many there are.
        device: that it computes on.
    """

    rank: int
    ranks: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this one writes files and speaks."""
        return self.rank == 0

    @contextmanager
    def before_the_others(self) -> Iterator[None]:
        """The first process does this before the others, which find what it made."""
        if self.ranks > 1 and not self.first:
            distributed.barrier()
        yield
        if self.ranks > 1 and self.first:
            distributed.barrier()


@contextmanager
def this_process(device: Literal["auto", "cpu", "cuda"]) -> Iterator[Process]:
    """Meet the other processes, if there are any. Within another such block, they have met.

    Raises:
        ValueError: a GPU is wanted and there is none.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError('run.device is "cuda", but torch finds no GPU: see `nvidia-smi`, or say "auto"')
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    on_gpu = device != "cpu" and torch.cuda.is_available()
    own = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if on_gpu else torch.device("cpu")
    if on_gpu:
        torch.cuda.set_device(own)
    if ranks == 1:
        yield Process(0, 1, own)
        return
    if distributed.is_initialized():  # by who has called this one
        yield Process(distributed.get_rank(), ranks, own)
        return
    distributed.init_process_group("nccl" if on_gpu else "gloo", timeout=_PATIENCE)
    yield Process(distributed.get_rank(), ranks, own)
    distributed.destroy_process_group()  # not after an error: it would wait for the others, which torchrun ends
