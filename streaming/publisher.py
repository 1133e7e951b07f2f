"""Sends hands to any number of subscribers, none of which can hold it up."""

from __future__ import annotations

import logging
import re
import socket
import time
from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import zmq
from numpy.typing import NDArray

from hamuco.fusion.hand import HandSet
from hamuco.streaming.keys import KeyFileError, use_secret_key
from hamuco.streaming.messages import Schema, encode_hand, encode_schema, encode_set

_log = logging.getLogger(__name__)

DEFAULT_ENDPOINT = "tcp://127.0.0.1:5570"
# Per subscriber: about half a second of two hands at 30 sets/s. Beyond that the newest messages are dropped; the
# subscriber sees the gap in `seq`.
_QUEUED_MESSAGES = 50
# The kernel's own buffers would otherwise grow to several megabytes, that is minutes, of stale hands.
_KERNEL_BUFFER_BYTES = 131_072
_SUBSCRIPTIONS_PER_SET = 100
_LOCAL = re.compile(r"ipc://|tcp://(127\.|localhost:|\[::1\])")


class EndpointError(OSError):
    """An address that cannot be used, with what to do about it."""


class Publisher:
    """Publishes frame sets in the format of `hamuco.streaming.messages`. For use from one thread.

    A subscriber that is slow, stopped or gone costs at most `_QUEUED_MESSAGES` messages of memory. `publish` never waits.

    Args:
        endpoint: "tcp://host:port" or "ipc:///path". 127.0.0.1 serves programs on this computer; another host's
            programs are served by the address of a network interface, or by * for all of them. Port * takes any free one.
        name: of this program or rig, told to subscribers.
        faces: (F, 3) triangles of the mesh where hands come with vertices.
        key: secret key file, see `hamuco.streaming.keys`. Without one whoever reaches the address can read the hands.

    Raises:
        KeyFileError: the key cannot be used.
        EndpointError: the address is malformed, in use, or not one of this computer's.
    """

    def __init__(
        self,
        endpoint: str = DEFAULT_ENDPOINT,
        name: str = "hamuco",
        faces: NDArray[np.int32] | None = None,
        key: Path | None = None,
    ) -> None:
        self._schema = Schema(publisher=name, unix_offset_ns=time.time_ns() - time.monotonic_ns(), faces=faces)
        self._sent: Counter[str] = Counter()  # topic -> messages
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.XPUB)
        # Report every subscription, not only the first one to a topic: each newcomer gets the schema.
        self._socket.setsockopt(zmq.XPUB_VERBOSE, 1)
        self._socket.setsockopt(zmq.SNDHWM, _QUEUED_MESSAGES)
        self._socket.setsockopt(zmq.SNDBUF, _KERNEL_BUFFER_BYTES)
        self._socket.setsockopt(zmq.LINGER, 0)
        try:
            if key is not None:
                use_secret_key(self._socket, key)
            if _ipc_in_use(endpoint):
                raise zmq.ZMQError(zmq.EADDRINUSE)
            self._socket.bind(endpoint)
        except KeyFileError:
            self.close()
            raise
        except zmq.ZMQError as error:
            self.close()
            if error.errno == zmq.EADDRINUSE:
                advice = "another program publishes there: stop it, or choose another port or path"
            else:
                advice = (
                    "expected tcp://HOST:PORT with an address of this computer, or ipc:///PATH in a folder that exists"
                )
            reason = zmq.strerror(error.errno or 0)
            raise EndpointError(f"cannot publish at {endpoint} ({reason}); {advice}") from error
        if key is None and not _LOCAL.match(endpoint):
            _log.warning("without a key, everybody who reaches %s can read the hands", self.endpoint)

    @property
    def endpoint(self) -> str:
        """The address in use, with the port that was taken for *."""
        return self._socket.getsockopt_string(zmq.LAST_ENDPOINT)

    def publish(self, hand_set: HandSet) -> None:
        """Send the hands of a set, then the set. Subscribers that came since the last call get the schema first.

        Raises:
            MessageError: a hand has an array of a wrong shape or with numbers that are not finite; nothing was sent.
        """
        self._answer_subscriptions()
        now = time.monotonic_ns()
        sent = self._sent.copy()  # a set that cannot be encoded must not look like lost messages
        messages = []
        for hand in hand_set.hands:
            messages.append(encode_hand(hand, hand_set, _count(sent, f"hand.{hand.side}"), now))
        messages.append(encode_set(hand_set, _count(sent, "set"), now, self._schema.unix_offset_ns))
        self._sent = sent
        for message in messages:
            self._socket.send_multipart(message, zmq.NOBLOCK)

    def close(self) -> None:
        """Stop at once, without waiting for what has not been sent. Closing twice is fine."""
        self._socket.close(linger=0)
        self._context.term()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _answer_subscriptions(self) -> None:
        wanted = False
        for _ in range(_SUBSCRIPTIONS_PER_SET):
            try:
                request = self._socket.recv(zmq.NOBLOCK)
            except zmq.Again:
                break
            wanted = wanted or (request[:1] == b"\x01" and b"schema".startswith(request[1:]))
        if wanted:
            schema = encode_schema(self._schema, _count(self._sent, "schema"), time.monotonic_ns())
            self._socket.send_multipart(schema, zmq.NOBLOCK)


def _count(sent: Counter[str], topic: str) -> int:
    """Number of this message among those of its topic."""
    sent[topic] += 1
    return sent[topic] - 1


def _ipc_in_use(endpoint: str) -> bool:
    """Whether somebody listens at an ipc address: binding there would silently take it away from them."""
    if not endpoint.startswith("ipc://"):
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(endpoint.removeprefix("ipc://"))
        except OSError:
            return False
    return True
