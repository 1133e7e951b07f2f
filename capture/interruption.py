"""Ctrl-C and SIGTERM that do not interrupt what must not be left in the middle."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from types import FrameType

STOPS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))
"""Signals that the `hamuco` command takes for Ctrl-C."""


@contextmanager
def postponed_interruption(said: str | None, postpone: bool = True) -> Iterator[Callable[[], bool]]:
    """Inside, the first Ctrl-C only makes what this gives true. A second one interrupts at once.

    So do `STOPS` where they have a handler, as in the `hamuco` command. Outside the main thread, which alone is told of
    signals, nothing is postponed.

    Args:
        said: what happens now, for stderr; None for what takes no time.
        postpone: False interrupts as ever: one of several processes that wait for each other, say.
    """
    pressed = False
    usual = {number: signal.getsignal(number) for number in (signal.SIGINT, *STOPS)}
    usual = {number: handler for number, handler in usual.items() if callable(handler)}  # others end or ignore it

    def press(number: int, frame: FrameType | None) -> None:
        nonlocal pressed
        pressed = True
        if said is not None:
            os.write(2, f"\n{said}; Ctrl-C again stops at once\n".encode())  # print might be in the middle of a line
        restore()

    def restore() -> None:
        for number, handler in usual.items():
            signal.signal(number, handler)

    if not postpone or threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    for number in usual:
        signal.signal(number, press)
    try:
        yield lambda: pressed
    finally:
        restore()


@contextmanager
def starting_processes() -> Iterator[None]:
    """Spawn processes in here. Neither is one left half started, nor does it ever notice Ctrl-C, which reaches the whole group
    of processes, or `STOPS`, which may: whoever starts it ends it."""
    with postponed_interruption(None) as interrupted:
        # The tracker that spawning needs would be started with the first process, and lets SIGINT through (Python 3.11).
        resource_tracker.ensure_running()
        # For the child, which keeps it. Here it is not enough: another thread may be told of a signal in this one's place.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, *STOPS})
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
    if interrupted():
        signal.raise_signal(signal.SIGINT)
