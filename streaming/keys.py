"""CURVE keys: encryption for hands that leave the computer (rfc.zeromq.org/spec/26).

A publisher with a secret key is read only by programs that have its public key file, so give that file to those who may
read and to nobody else. The two files are in the format of `zmq.auth`.
"""

from __future__ import annotations

from pathlib import Path

import zmq
from zmq.auth import create_certificates, load_certificate


class KeyFileError(OSError):
    """A key file that cannot be used, with what to do about it."""


def create_keys(folder: Path, name: str) -> tuple[Path, Path]:
    """Make `<name>.key` for subscribers and `<name>.key_secret`, readable by its owner only, for the publisher.

    Raises:
        OSError: the folder cannot be written, or has keys of that name, which are never overwritten.
    """
    secret = folder / f"{name}.key_secret"
    secret.touch(0o600, exist_ok=False)
    public, _ = create_certificates(folder, name)
    return Path(public), secret


def use_secret_key(socket: zmq.Socket[bytes], path: Path) -> None:
    """Make a publisher's socket accept only peers that know its public key. Before `bind`."""
    public_key, secret_key = _load(path)
    if secret_key is None:
        raise KeyFileError(f"{path} holds a public key only; a publisher needs the file that ends in .key_secret")
    _apply(socket, path, {zmq.CURVE_PUBLICKEY: public_key, zmq.CURVE_SECRETKEY: secret_key, zmq.CURVE_SERVER: 1})


def use_public_key(socket: zmq.Socket[bytes], path: Path) -> None:
    """Make a subscriber's socket talk only to the publisher whose public key this is. Before `connect`."""
    own_public_key, own_secret_key = zmq.curve_keypair()
    options: dict[int, bytes | int] = {zmq.CURVE_PUBLICKEY: own_public_key, zmq.CURVE_SECRETKEY: own_secret_key}
    _apply(socket, path, options | {zmq.CURVE_SERVERKEY: _load(path)[0]})


def _load(path: Path) -> tuple[bytes, bytes | None]:
    try:
        return load_certificate(path)
    except (OSError, ValueError) as error:
        raise KeyFileError(f"cannot read a key from {path}: {error}; keys are made by `create_keys`") from error


def _apply(socket: zmq.Socket[bytes], path: Path, options: dict[int, bytes | int]) -> None:
    try:
        for option, value in options.items():
            socket.setsockopt(option, value)
    except zmq.ZMQError as error:
        raise KeyFileError(f"{path} holds something that is not a CURVE key: it was cut off or edited") from error
