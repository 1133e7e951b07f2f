"""Ctrl-C while a training makes its steps."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def postponed_interruption(postpone: bool) -> Iterator[Callable[[], bool]]:
    """Inside, the first Ctrl-C interrupts nothing: what this gives is true from then on. A second one does, at once.

    Args:
        postpone: False for one of several processes, which wait for each other in the middle of a step: it is interrupted
            as ever. Threads are too, as signals reach the main one only.
    """
    pressed = False
    usual = signal.getsignal(signal.SIGINT)

    def press(number: int, frame: FrameType | None) -> None:
        nonlocal pressed
        pressed = True
        signal.signal(signal.SIGINT, usual)

    if not postpone or not callable(usual) or threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    signal.signal(signal.SIGINT, press)
    try:
        yield lambda: pressed
    finally:
        signal.signal(signal.SIGINT, usual)
