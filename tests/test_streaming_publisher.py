from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zmq
from hands_for_streaming import example_hand, example_set

from hamuco.streaming.header import MessageError
from hamuco.streaming.messages import HandMessage, Message, Schema, SetMessage, decode_message
from hamuco.streaming.publisher import EndpointError, Publisher

ANY_PORT = "tcp://127.0.0.1:*"
# Long enough for a loaded machine; only a failing test waits for it.
PATIENCE_MS = 10_000


@pytest.fixture
def sockets() -> Iterator[Sockets]:
    sockets = Sockets()
    yield sockets
    sockets.close()


class Sockets:
    """Makes plain SUB sockets and closes what a test left open."""

    def __init__(self) -> None:
        self._context = zmq.Context()
        self._sockets: list[zmq.Socket[bytes]] = []

    def subscribe(self, publisher: Publisher, *topics: str, queue: int = 1000) -> zmq.Socket[bytes]:
        socket = self._context.socket(zmq.SUB)
        self._sockets.append(socket)
        socket.setsockopt(zmq.RCVHWM, queue)
        socket.connect(publisher.endpoint)
        for topic in topics:
            socket.subscribe(topic)
        return socket

    def subscribe_and_wait(self, publisher: Publisher, *topics: str) -> zmq.Socket[bytes]:
        """A socket that is known to be connected: the schema has arrived, and all before it is read."""
        socket = self.subscribe(publisher, *topics, "schema")
        while not isinstance(first_message(socket, publisher), Schema):
            pass
        return socket

    def close(self) -> None:
        for socket in self._sockets:
            socket.close(linger=0)
        self._context.term()


def first_message(socket: zmq.Socket[bytes], publisher: Publisher) -> Message:
    """What comes first while empty sets are published."""
    while not socket.poll(10):
        publisher.publish(example_set(0, ()))
    return receive(socket)


def receive(socket: zmq.Socket[bytes]) -> Message:
    assert socket.poll(PATIENCE_MS)
    return decode_message(socket.recv_multipart())


def test_hands_come_before_their_set_and_are_numbered_by_topic(sockets: Sockets) -> None:
    left = replace(example_hand(1), side="left")
    with Publisher(ANY_PORT) as publisher:
        socket = sockets.subscribe_and_wait(publisher, "hand.", "set")
        for set_id in (1000, 1001):
            publisher.publish(example_set(set_id, (left, example_hand(2), example_hand(3))))
        messages: list[Message] = []
        while len(messages) < 8:
            message = receive(socket)
            if not isinstance(message, Schema) and not (isinstance(message, SetMessage) and message.hands == 0):
                messages.append(message)
    hands = [message for message in messages if isinstance(message, HandMessage)]
    assert [type(message) for message in messages] == [*([HandMessage] * 3), SetMessage] * 2
    assert [(hand.set_id, hand.track_id, hand.side, hand.seq) for hand in hands] == [
        (1000, 1, "left", 0),
        (1000, 2, "right", 0),
        (1000, 3, "right", 1),
        (1001, 1, "left", 1),
        (1001, 2, "right", 2),
        (1001, 3, "right", 3),
    ]
    assert all(hand.t_publish_ns > 0 for hand in hands)


def test_every_newcomer_gets_the_schema(sockets: Sockets) -> None:
    faces = np.array([[0, 1, 2]], np.int32)
    with Publisher(ANY_PORT, name="rig", faces=faces) as publisher:
        first = sockets.subscribe_and_wait(publisher)
        sockets.subscribe_and_wait(
            publisher, "set"
        )  # returns when its schema has come, which the first one gets as well
        schema = receive(first)
        assert isinstance(schema, Schema)
        assert schema.publisher == "rig"
        np.testing.assert_array_equal(schema.faces, faces)
        publisher.publish(example_set(0, ()))
        assert not first.poll(50)  # nobody came, no schema


def test_a_subscription_to_other_topics_sends_no_schema(sockets: Sockets) -> None:
    with Publisher(ANY_PORT) as publisher:
        witness = sockets.subscribe_and_wait(publisher)
        assert isinstance(first_message(sockets.subscribe(publisher, "set"), publisher), SetMessage)
        assert not witness.poll(50)


def test_a_subscriber_that_never_reads_holds_nothing_up(sockets: Sockets) -> None:
    """20 MB of meshes for somebody who does not read: more than all buffers on the way take, so most is dropped."""
    mesh = replace(example_hand(1), vertices=np.zeros((800, 3)))
    with Publisher(ANY_PORT) as publisher:
        socket = sockets.subscribe(publisher, "", queue=10)
        first_message(socket, publisher)
        for set_id in range(2000):
            publisher.publish(example_set(set_id, (mesh,)))
        received = 0
        while socket.poll(200):
            socket.recv_multipart()
            received += 1
        assert 0 < received < 2000


def test_a_dead_subscriber_is_forgotten(sockets: Sockets) -> None:
    with Publisher(ANY_PORT) as publisher:
        survivor = sockets.subscribe_and_wait(publisher, "set")
        dead = sockets.subscribe_and_wait(publisher, "")
        dead.close(linger=0)
        for _ in range(200):
            publisher.publish(example_set(1, (example_hand(1),)))
        while True:  # a burst may be more than the survivor's queue takes, but it goes on
            publisher.publish(example_set(2, ()))
            message = first_message(survivor, publisher)
            if isinstance(message, SetMessage) and message.set_id == 2:
                break


def test_sets_without_subscribers_and_closing_twice_are_fine() -> None:
    publisher = Publisher(ANY_PORT)
    for set_id in range(100):
        publisher.publish(example_set(set_id, (example_hand(1),)))
    publisher.close()
    publisher.close()


def test_a_hand_that_is_not_finite_stops_here_and_not_at_the_subscribers() -> None:
    with Publisher(ANY_PORT) as publisher:
        broken = replace(example_hand(1), joints=np.full((21, 3), np.nan))
        with pytest.raises(MessageError, match="hand 1"):
            publisher.publish(example_set(0, (broken,)))


def test_ipc_works(sockets: Sockets, tmp_path: Path) -> None:
    with Publisher(f"ipc://{tmp_path}/hands") as publisher:
        assert isinstance(first_message(sockets.subscribe_and_wait(publisher, "set"), publisher), SetMessage)


def test_an_address_in_use_is_one_clear_error(tmp_path: Path) -> None:
    for endpoint in (ANY_PORT, f"ipc://{tmp_path}/hands"):
        with Publisher(endpoint) as publisher:
            place = re.escape(publisher.endpoint)
            with pytest.raises(
                EndpointError, match=rf"cannot publish at {place} \(Address already in use\).* choose another"
            ):
                Publisher(publisher.endpoint)


def test_an_ipc_path_left_behind_is_used_again(tmp_path: Path) -> None:
    (tmp_path / "hands").touch()
    Publisher(f"ipc://{tmp_path}/hands").close()


@pytest.mark.parametrize(
    "endpoint",
    ["tcp://203.0.113.1:5570", "tcp://127.0.0.1", "127.0.0.1:5570", "http://127.0.0.1:80", "ipc:///nonexistent/a", ""],
)
def test_an_address_that_cannot_be_used_is_one_clear_error(endpoint: str) -> None:
    with pytest.raises(EndpointError, match=rf"cannot publish at {endpoint} .*; expected tcp://HOST:PORT"):
        Publisher(endpoint)
