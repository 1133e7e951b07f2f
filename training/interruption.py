"""Ctrl-C while a training makes its steps."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def postponed_interruption(postpone: bool) -> Iterator[Callable[[], bool]]:
    """Inside, the first Ctrl-C only makes what this gives true, and says so on stderr. A second one interrupts at once.

    Outside the main thread, which alone is told of signals, nothing is postponed.

    Args:
        postpone: False for one of several processes, which wait for each other in the middle of a step: it is interrupted
            as ever.
    """
    pressed = False
    usual = signal.getsignal(signal.SIGINT)

    def press(number: int, frame: FrameType | None) -> None:
        nonlocal pressed
        pressed = True
        os.write(2, b"\nsaving after this step; Ctrl-C again stops at once\n")  # print might be in the middle of a line
        signal.signal(signal.SIGINT, usual)

    if not postpone or not callable(usual) or threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    signal.signal(signal.SIGINT, press)
    try:
        yield lambda: pressed
    finally:
        signal.signal(signal.SIGINT, usual)
