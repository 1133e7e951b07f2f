"""Signals while something must not be left in the middle."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator

import pytest

from hamuco.capture.interruption import postponed_interruption, starting_processes


@pytest.fixture(autouse=True)
def as_in_the_command() -> Iterator[None]:
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    yield
    signal.signal(signal.SIGTERM, before)


def _send(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_is_noted_and_the_second_interrupts(
    number: signal.Signals, capfd: pytest.CaptureFixture[str]
) -> None:
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), postponed_interruption("saving") as interrupted:  # noqa: PT012
        assert not interrupted()
        _send(number)
        assert interrupted()
        _send(number)
    assert capfd.readouterr().err == "\nsaving; Ctrl-C again stops at once\n"
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers


def test_what_is_not_to_be_postponed_interrupts_at_once() -> None:
    with pytest.raises(KeyboardInterrupt), postponed_interruption("saving", postpone=False):
        _send(signal.SIGINT)


def test_other_threads_are_not_told_of_signals() -> None:
    said: list[bool] = []

    def work() -> None:
        with postponed_interruption("saving") as interrupted:
            said.append(interrupted())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert said == [False]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("thread", [False, True])
def test_a_start_is_not_interrupted_half_way(number: signal.Signals, thread: bool) -> None:
    """Also where another thread, which blocks nothing, is told of the signal."""
    over, steps = threading.Event(), []
    other = threading.Thread(target=over.wait)
    if thread:
        other.start()
    try:
        with pytest.raises(KeyboardInterrupt):  # noqa: PT012
            with starting_processes():
                _send(number)
                steps.append("started")
            steps.append("went on")
    finally:
        over.set()
    assert steps == ["started"]


def _sleeps(said: Callable[[bytes], None]) -> None:
    said(b"up")
    threading.Event().wait()


def test_processes_do_not_notice_signals() -> None:
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    process = spawn.Process(target=_sleeps, args=(theirs.send_bytes,), daemon=True)
    with starting_processes():
        process.start()
    try:
        assert ours.recv_bytes() == b"up"
        for number in (signal.SIGINT, signal.SIGTERM):
            os.kill(process.pid or 0, number)
        process.join(0.2)
        assert process.is_alive()
    finally:
        process.kill()
        process.join()
