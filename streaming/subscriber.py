"""Receives hands. In five lines:

from hamuco.streaming.subscriber import HamucoSubscriber

with HamucoSubscriber("tcp://127.0.0.1:5570") as subscriber:
    for hand in subscriber:
        print(hand.side, hand.joints[0])
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import zmq

from hamuco.fusion.hand import Side
from hamuco.streaming.header import MessageError
from hamuco.streaming.keys import KeyFileError, use_public_key
from hamuco.streaming.messages import (
    MAX_PART_BYTES,
    HandMessage,
    Schema,
    SetMessage,
    decode_message,
)
from hamuco.streaming.publisher import DEFAULT_ENDPOINT, EndpointError

_log = logging.getLogger(__name__)
T = TypeVar("T")

_QUEUED_MESSAGES = 1000
# Together with the publisher's: stale hands that the kernel can hold back from a program that stopped reading.
_KERNEL_BUFFER_BYTES = 131_072


class HamucoSubscriber:
    """Hands from one publisher. For use from one thread. Connects when the publisher appears, and again when it returns.

    Args:
        endpoint: address of the publisher, for example "tcp://192.168.1.20:5570".
        side: only this side's hands; None for both.
        latest: skip to the newest frame set whenever the caller was too slow for all of them; False delivers every
            message that arrived, in order, however old.
        timeout_ms: how long to wait for the next hand or set before `TimeoutError`; None waits for ever.
        key: public key file of a publisher that has a key, see `hamuco.streaming.keys`.

    Attributes:
        schema: joint names, parameter layout and mesh triangles; None until the publisher has sent it.
        skipped: messages passed over because the caller was slow.
        lost: messages that never arrived, by the gaps in their numbers.
        malformed: messages that could not be read.

    Raises:
        EndpointError: the address is malformed.
        KeyFileError: the key cannot be used.
    """

    def __init__(
        self,
        endpoint: str = DEFAULT_ENDPOINT,
        side: Side | None = None,
        latest: bool = True,
        timeout_ms: int | None = None,
        key: Path | None = None,
    ) -> None:
        self.schema: Schema | None = None
        self.skipped = 0
        self.lost = 0
        self.malformed = 0
        self._endpoint = endpoint
        self._latest = latest
        self._timeout_ms = timeout_ms
        self._hands: list[HandMessage] = []
        self._sets: list[SetMessage] = []
        self._next_seq: dict[str, int] = {}
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.SUB)
        self._socket.setsockopt(zmq.RCVHWM, _QUEUED_MESSAGES)
        self._socket.setsockopt(zmq.RCVBUF, _KERNEL_BUFFER_BYTES)
        self._socket.setsockopt(zmq.MAXMSGSIZE, MAX_PART_BYTES)
        self._socket.setsockopt(zmq.LINGER, 0)
        for topic in ("schema", f"hand.{side or ''}"):
            self._socket.setsockopt_string(zmq.SUBSCRIBE, topic)
        try:
            if key is not None:
                use_public_key(self._socket, key)
            self._socket.connect(endpoint)
        except KeyFileError:
            self.close()
            raise
        except zmq.ZMQError as error:
            self.close()
            reason = zmq.strerror(error.errno or 0)
            raise EndpointError(
                f"cannot connect to {endpoint!r} ({reason}); expected tcp://HOST:PORT or ipc:///PATH"
            ) from error

    def __iter__(self) -> Iterator[HandMessage]:
        """Hands as they come, without end; `TimeoutError` after a silence of `timeout_ms`."""
        while True:
            yield self.receive()

    def receive(self, timeout_ms: int | None = None) -> HandMessage:
        """The next hand; waits `timeout_ms`, or what the constructor was given.

        Raises:
            TimeoutError: no hand came in time.
        """
        self._wait_for(self._hands, timeout_ms)
        return self._hands.pop(0)

    def sets(self) -> Iterator[SetMessage]:
        """Frame sets as they come, those without hands too; `TimeoutError` after a silence of `timeout_ms`.

        From the first use on, hands and sets are both received; each waits for its own reader.
        """
        self._socket.setsockopt_string(zmq.SUBSCRIBE, "set")
        while True:
            self._wait_for(self._sets, None)
            yield self._sets.pop(0)

    def close(self) -> None:
        """Disconnect. Closing twice is fine."""
        self._socket.close(linger=0)
        self._context.term()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _wait_for(self, queue: list[HandMessage] | list[SetMessage], timeout_ms: int | None) -> None:
        """Receive until `queue` has something."""
        timeout_ms = self._timeout_ms if timeout_ms is None else timeout_ms
        deadline_ns = None if timeout_ms is None else time.monotonic_ns() + timeout_ms * 1_000_000
        if self._latest:
            # A caller that keeps up finds one message here; one that fell behind, all that came meanwhile.
            for _ in range(_QUEUED_MESSAGES):
                if not self._receive_one(0):
                    break
        while not queue:
            remaining_ms = None
            if deadline_ns is not None:
                remaining_ms = max(0, -(-(deadline_ns - time.monotonic_ns()) // 1_000_000))
            self._receive_one(remaining_ms)
            if remaining_ms == 0 and not queue:
                raise TimeoutError(self._silence(timeout_ms))

    def _receive_one(self, timeout_ms: int | None) -> bool:
        """Receive one message and put it where it belongs; False if none came in time."""
        if not self._socket.poll(timeout_ms):
            return False
        try:
            message = decode_message(self._socket.recv_multipart())
        except MessageError as error:
            self.malformed += 1
            if self.malformed == 1:
                _log.warning("skipping a message from %s, and counting any others: %s", self._endpoint, error)
            return True
        if isinstance(message, Schema):
            self.schema = message
        elif isinstance(message, HandMessage):
            self._count_losses(message.side, message.seq)
            if self._latest:
                kept = [hand for hand in self._hands if hand.set_id == message.set_id]
                self.skipped += len(self._hands) - len(kept)
                self._hands[:] = kept
            self._append(self._hands, message)
        else:
            self._count_losses("set", message.seq)
            if self._latest:
                self.skipped += len(self._sets)
                self._sets.clear()
            self._append(self._sets, message)
        return True

    def _append(self, queue: list[T], message: T) -> None:
        """Bounded, because hands wait here while the caller reads sets, and the other way round."""
        if len(queue) == _QUEUED_MESSAGES:
            del queue[0]
            self.skipped += 1
        queue.append(message)

    def _count_losses(self, topic: str, seq: int) -> None:
        # A lower number than expected is a publisher that was started again.
        self.lost += max(0, seq - self._next_seq.get(topic, seq))
        self._next_seq[topic] = seq + 1

    def _silence(self, timeout_ms: int | None) -> str:
        if self.schema is not None:
            reason = f"{self.schema.publisher} is connected but tracks no hand that was asked for, or has stopped"
        elif self.malformed:
            reason = f"{self.malformed} messages came that are not in this format: is another program at this address?"
        else:
            reason = "nothing came at all: is `hamuco live` running, and is this the address it publishes at? A publisher with a key is silent to those without."
        return f"nothing to deliver from {self._endpoint} for {timeout_ms} ms; {reason}"
