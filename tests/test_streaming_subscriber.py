from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace

import msgpack
import numpy as np
import pytest
import zmq
from hands_for_streaming import example_hand, example_set

from hamuco.fusion.hand import JOINT_NAMES, HandSet
from hamuco.streaming.messages import encode_hand
from hamuco.streaming.publisher import EndpointError, Publisher
from hamuco.streaming.subscriber import HamucoSubscriber

ANY_PORT = "tcp://127.0.0.1:*"
# Long enough for a loaded machine; only a failing test waits for it.
PATIENCE_MS = 10_000


def pair_set(set_id: int) -> HandSet:
    return example_set(set_id, (replace(example_hand(1), side="left"), example_hand(2)))


@contextmanager
def repeated(action: Callable[[], None]) -> Iterator[None]:
    """Runs `action` every few milliseconds in a thread meanwhile."""
    stop = threading.Event()

    def run() -> None:
        while not stop.wait(0.005):
            action()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def connect(subscriber: HamucoSubscriber, publisher: Publisher) -> None:
    """Publish sets 0 without pause until the subscriber has the first hand, then take what has come."""
    with repeated(lambda: publisher.publish(pair_set(0))):
        subscriber.receive(PATIENCE_MS)
    with suppress(TimeoutError):
        while True:
            subscriber.receive(100)
    subscriber.skipped = subscriber.lost = 0


def test_five_lines_are_enough_in_a_program_of_its_own() -> None:
    code = (
        "import sys\n"
        "from hamuco.streaming.subscriber import HamucoSubscriber\n"
        "for hand in HamucoSubscriber(sys.argv[1]):\n"
        "    print(hand.side, hand.joints[0], flush=True)\n"
    )
    # A shell starts background jobs with Ctrl-C ignored, and they pass that on.
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n" + code
    with Publisher(ANY_PORT) as publisher, repeated(lambda: publisher.publish(pair_set(0))):
        endpoint = publisher.endpoint
        program = subprocess.Popen(
            [sys.executable, "-c", code, endpoint], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        try:
            assert program.stdout is not None
            lines = [program.stdout.readline().strip() for _ in range(4)]
            program.send_signal(signal.SIGINT)
            _, errors = program.communicate(timeout=PATIENCE_MS / 1000)
        finally:
            program.kill()
    assert set(lines) == {
        f"{side} {example_hand(track).joints[0].astype(np.float32)}" for side, track in (("left", 1), ("right", 2))
    }
    # Ctrl-C ends the program as it ends any other, without hanging in the network library.
    assert program.returncode == -signal.SIGINT
    assert errors.strip().splitlines()[-1] == "KeyboardInterrupt"


def test_a_slow_subscriber_goes_on_with_the_latest_set() -> None:
    with Publisher(ANY_PORT) as publisher, HamucoSubscriber(publisher.endpoint) as subscriber:
        connect(subscriber, publisher)
        for set_id in range(1, 2001):
            publisher.publish(pair_set(set_id))
        with repeated(lambda: publisher.publish(pair_set(2001))):
            seen = [subscriber.receive(PATIENCE_MS)]
            # A gap is noticed with the next message of the same side, so both sides must have come.
            while {hand.side for hand in seen if hand.set_id == 2001} != {"left", "right"}:
                seen.append(subscriber.receive(PATIENCE_MS))
        assert subscriber.skipped > 0
        # Two hands in each of 2,000 sets: every one was delivered, skipped or lost in a full queue, none twice.
        before_the_last = [hand for hand in seen if hand.set_id <= 2000]
        assert len(before_the_last) + subscriber.skipped + subscriber.lost >= 4000
        assert [hand.set_id for hand in seen] == sorted(hand.set_id for hand in seen)
        assert len(before_the_last) < 2000


def test_a_subscriber_that_keeps_up_skips_nothing() -> None:
    with Publisher(ANY_PORT) as publisher, HamucoSubscriber(publisher.endpoint) as subscriber:
        connect(subscriber, publisher)
        for set_id in range(1, 51):
            publisher.publish(pair_set(set_id))
            hands = [subscriber.receive(PATIENCE_MS) for _ in range(2)]
            assert [(hand.set_id, hand.side) for hand in hands] == [(set_id, "left"), (set_id, "right")]
        assert (subscriber.skipped, subscriber.lost, subscriber.malformed) == (0, 0, 0)


def test_only_the_hands_of_the_newest_set_are_kept() -> None:
    with Publisher(ANY_PORT) as publisher, HamucoSubscriber(publisher.endpoint) as subscriber:
        connect(subscriber, publisher)
        sets = subscriber.sets()
        with repeated(lambda: publisher.publish(example_set(0, ()))):
            next(sets)
        for set_id in range(1, 6):
            publisher.publish(pair_set(set_id))
        publisher.publish(example_set(6, (example_hand(2), example_hand(3))))  # two right hands, no left one
        while next(sets).set_id != 6:  # comes after all of these hands
            pass
        hands = [subscriber.receive(0) for _ in range(2)]
        assert [(hand.set_id, hand.side, hand.track_id) for hand in hands] == [
            (6, "right", 2),
            (6, "right", 3),
        ]
        assert subscriber.skipped >= 5 + 5  # and some of the sets


def test_without_latest_every_message_comes_in_order() -> None:
    with Publisher(ANY_PORT) as publisher, HamucoSubscriber(publisher.endpoint, latest=False) as subscriber:
        connect(subscriber, publisher)
        for set_id in range(1, 21):  # 60 messages would not fit the sender's queue if the network thread were stopped
            publisher.publish(example_set(set_id, (example_hand(2),)))
        assert [subscriber.receive(PATIENCE_MS).set_id for _ in range(20)] == list(range(1, 21))
        assert (subscriber.skipped, subscriber.lost) == (0, 0)


def test_one_side_can_be_chosen() -> None:
    with Publisher(ANY_PORT) as publisher, HamucoSubscriber(publisher.endpoint, side="left") as subscriber:
        connect(subscriber, publisher)
        for set_id in range(1, 4):
            publisher.publish(pair_set(set_id))
            assert subscriber.receive(PATIENCE_MS).side == "left"
        with pytest.raises(TimeoutError):
            subscriber.receive(50)


def test_the_schema_comes_to_those_who_are_late() -> None:
    with Publisher(ANY_PORT, name="bench 3") as publisher:
        for set_id in range(10):
            publisher.publish(pair_set(set_id))
        for _ in range(2):
            with HamucoSubscriber(publisher.endpoint) as subscriber:
                assert subscriber.schema is None
                connect(subscriber, publisher)
                assert subscriber.schema is not None
                assert subscriber.schema.publisher == "bench 3"
                assert subscriber.schema.joint_names == JOINT_NAMES


def test_sets_come_also_without_hands() -> None:
    with (
        Publisher(ANY_PORT) as publisher,
        HamucoSubscriber(publisher.endpoint, timeout_ms=PATIENCE_MS) as subscriber,
        repeated(lambda: publisher.publish(example_set(3, ()))),
    ):
        for _, frame_set in zip(range(3), subscriber.sets(), strict=False):
            assert (frame_set.set_id, frame_set.hands, frame_set.counters) == (3, 0, {"late frames": 4})


def test_hands_wait_while_sets_are_read_but_not_without_bound() -> None:
    with Publisher(ANY_PORT) as publisher, HamucoSubscriber(publisher.endpoint, latest=False) as subscriber:
        connect(subscriber, publisher)
        sets = subscriber.sets()
        with repeated(lambda: publisher.publish(example_set(0, ()))):
            next(sets)
        for set_id in range(1, 1502):
            publisher.publish(example_set(set_id, (example_hand(2),)))
            while next(sets).set_id != set_id:
                pass
        assert subscriber.skipped == 501
        assert [subscriber.receive(0).set_id for _ in range(1000)] == list(range(502, 1502))


def test_silence_is_a_timeout_that_says_what_to_look_at() -> None:
    with Publisher(ANY_PORT) as publisher:
        endpoint = publisher.endpoint
        with HamucoSubscriber(endpoint, timeout_ms=20) as subscriber:
            with pytest.raises(
                TimeoutError, match=rf"from {endpoint} for 20 ms; nothing came at all: is `hamuco live`"
            ):
                next(iter(subscriber))
            with pytest.raises(TimeoutError, match="20 ms"):
                next(subscriber.sets())
            connect(subscriber, publisher)
            with pytest.raises(TimeoutError, match="for 5 ms; hamuco is connected but tracks no hand"):
                subscriber.receive(5)


def test_a_publisher_that_starts_later_or_again_is_found() -> None:
    with Publisher(ANY_PORT) as publisher:
        endpoint = publisher.endpoint
    with HamucoSubscriber(endpoint) as subscriber:
        for _ in range(2):
            with Publisher(endpoint) as publisher:
                connect(subscriber, publisher)
        assert subscriber.lost == 0


def test_gaps_in_the_numbers_are_counted_as_lost() -> None:
    hand = example_hand(2)
    hand_set = example_set(0, (hand,))
    context = zmq.Context()
    with context.socket(zmq.XPUB) as sender:
        sender.bind(ANY_PORT)
        with HamucoSubscriber(sender.getsockopt_string(zmq.LAST_ENDPOINT), latest=False) as subscriber:
            sender.recv(), sender.recv()  # both subscriptions have arrived
            for seq in (7, 8, 11, 12, 2, 4):  # 2: started again
                sender.send_multipart(encode_hand(hand, hand_set, seq, 0))
            assert [subscriber.receive(PATIENCE_MS).seq for _ in range(6)] == [7, 8, 11, 12, 2, 4]
            assert subscriber.lost == 2 + 1
    context.term()


def test_malformed_messages_are_counted_and_one_line_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    hand = example_hand(2)
    good = encode_hand(hand, example_set(0, (hand,)), 0, 0)
    rubbish: list[list[bytes]] = [
        [b"hand.right"],
        [b"schema", b"\xff"],
        [b"hand.right", os.urandom(30), b"", b""],
        [b"hand.right", msgpack.packb({"v": 99}), *good[2:]],
        [*good[:2], good[2][:-1], good[3]],
        [b"hand.sideways", *good[1:]],
    ]
    context = zmq.Context()
    with context.socket(zmq.XPUB) as rogue:
        rogue.bind(ANY_PORT)
        endpoint = rogue.getsockopt_string(zmq.LAST_ENDPOINT)
        with HamucoSubscriber(endpoint) as subscriber, caplog.at_level(logging.WARNING):
            rogue.recv(), rogue.recv()
            for parts in rubbish:
                rogue.send_multipart(parts)
            with pytest.raises(TimeoutError, match=r"\d messages came that are not in this format"):
                subscriber.receive(500)
            rogue.send_multipart(good)
            assert subscriber.receive(PATIENCE_MS).track_id == 2
            assert subscriber.malformed == len(rubbish)
    context.term()
    assert [record.getMessage() for record in caplog.records] == [
        f"skipping a message from {endpoint}, and counting any others: a message has at least 2 parts, got 1"
    ]


@pytest.mark.parametrize("endpoint", ["127.0.0.1:5570", "tcp://127.0.0.1", "http://127.0.0.1:80", ""])
def test_an_address_that_is_none_is_one_clear_error(endpoint: str) -> None:
    with pytest.raises(EndpointError, match=rf"cannot connect to '{endpoint}'.*; expected tcp://HOST:PORT"):
        HamucoSubscriber(endpoint)


def test_closing_twice_is_fine() -> None:
    subscriber = HamucoSubscriber("tcp://127.0.0.1:9")
    subscriber.close()
    subscriber.close()
