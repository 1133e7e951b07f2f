"""Ctrl-C that does not interrupt what must not be left in the middle."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def postponed_interruption(said: str, postpone: bool = True) -> Iterator[Callable[[], bool]]:
    """Inside, the first Ctrl-C only makes what this gives true, and says so on stderr. A second one interrupts at once.

    Outside the main thread, which alone is told of signals, nothing is postponed.

    Args:
        said: what happens now.
        postpone: False interrupts as ever: one of several processes that wait for each other, say.
    """
    pressed = False
    usual = signal.getsignal(signal.SIGINT)

    def press(number: int, frame: FrameType | None) -> None:
        nonlocal pressed
        pressed = True
        os.write(2, f"\n{said}; Ctrl-C again stops at once\n".encode())  # print might be in the middle of a line
        signal.signal(signal.SIGINT, usual)

    if not postpone or not callable(usual) or threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    signal.signal(signal.SIGINT, press)
    try:
        yield lambda: pressed
    finally:
        signal.signal(signal.SIGINT, usual)
