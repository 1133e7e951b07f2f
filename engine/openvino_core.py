"""OpenVINO, loaded when it is first used: it takes half a second, and who runs networks on a GPU need not have it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import openvino as ov


@cache
def core() -> ov.Core:
    """What reads and compiles networks. Raises OSError where OpenVINO is not installed.

    One for the process, which is never given back: of two that go in another order than they came, OpenVINO 2026.4 leaves
    the stack of signal handlers in freed memory, and Ctrl-C is a segmentation fault.
    """
    try:
        import openvino as ov
    except ModuleNotFoundError as error:
        raise OSError(
            f'networks on the CPU need {error.name}, which is not installed: pip install "openvino>=2025.0"'
        ) from error
    return ov.Core()


def compiled(model: ov.Model, precision: str) -> ov.CompiledModel:
    """For the CPU, in bf16 or f32: as many runs at a time as there is room for, each in a thread of its own."""
    config = {"PERFORMANCE_HINT": "THROUGHPUT", "INFERENCE_PRECISION_HINT": precision}
    with _waiting_threads():
        return core().compile_model(model, "CPU", config)


@contextmanager
def _waiting_threads() -> Iterator[None]:
    """Threads that are begun in here do not stop a running one when there is work for them (SCHED_BATCH of Linux).

    They are bound to cores. The first of two runs that are started would stop who starts them, on whose core it may be, and
    the second would have to wait: on two cores, eight crops of hamuco-s take 5.7 ms, and 5 to 10 ms without this.
    """
    try:
        patient = os.sched_getscheduler(0) == os.SCHED_OTHER  # who chose another has a reason
        if patient:
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    except (AttributeError, OSError):  # not on Linux; or some containers forbid it
        patient = False
    try:
        yield
    finally:
        if patient:
            os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
