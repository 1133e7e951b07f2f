from __future__ import annotations

import logging
import threading
from pathlib import Path

import pytest
from hands_for_streaming import example_hand, example_set

from hamuco.streaming.keys import KeyFileError, create_keys
from hamuco.streaming.publisher import Publisher
from hamuco.streaming.subscriber import HamucoSubscriber

ANY_PORT = "tcp://127.0.0.1:*"


def test_only_those_with_the_public_key_read(tmp_path: Path) -> None:
    public, secret = create_keys(tmp_path, "rig")
    other, _ = create_keys(tmp_path, "other")
    with Publisher(ANY_PORT, key=secret) as publisher:
        stop = threading.Event()

        def publish() -> None:
            while not stop.wait(0.005):
                publisher.publish(example_set(0, (example_hand(1),)))

        thread = threading.Thread(target=publish)
        endpoint = publisher.endpoint
        with (
            HamucoSubscriber(endpoint, key=public) as reader,
            HamucoSubscriber(endpoint, key=other) as stranger,
            HamucoSubscriber(endpoint) as unencrypted,
        ):
            thread.start()
            try:
                assert reader.receive(10_000).track_id == 1
                for outsider in (stranger, unencrypted):
                    with pytest.raises(TimeoutError, match=r"nothing came at all.* A publisher with a key is silent"):
                        outsider.receive(300)
                assert reader.receive(10_000).track_id == 1
            finally:
                stop.set()
                thread.join()


def test_the_secret_is_for_its_owner_and_is_never_overwritten(tmp_path: Path) -> None:
    public, secret = create_keys(tmp_path, "rig")
    assert secret.stat().st_mode & 0o777 == 0o600
    assert "secret-key" not in public.read_text()
    content = secret.read_text()
    with pytest.raises(FileExistsError, match=r"rig\.key_secret"):
        create_keys(tmp_path, "rig")
    assert secret.read_text() == content


def test_unusable_key_files_are_one_clear_error(tmp_path: Path) -> None:
    public, secret = create_keys(tmp_path, "rig")
    with pytest.raises(KeyFileError, match=r"rig\.key holds a public key only.* ends in \.key_secret"):
        Publisher(ANY_PORT, key=public)
    with pytest.raises(KeyFileError, match=r"cannot read a key from .*absent\.key"):
        HamucoSubscriber(key=tmp_path / "absent.key")
    (tmp_path / "text.key").write_text("no key in here\n")
    with pytest.raises(KeyFileError, match=r"cannot read a key from .*text\.key"):
        HamucoSubscriber(key=tmp_path / "text.key")
    secret.write_text(secret.read_text().replace('secret-key = "', 'secret-key = "x'))
    with pytest.raises(KeyFileError, match="not a CURVE key"):
        Publisher(ANY_PORT, key=secret)


def test_publishing_beyond_this_computer_without_a_key_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _, secret = create_keys(tmp_path, "rig")
    with caplog.at_level(logging.WARNING):
        Publisher("tcp://127.0.0.1:*").close()
        Publisher(f"ipc://{tmp_path}/hands").close()
        Publisher("tcp://*:*", key=secret).close()
        assert not caplog.records
        Publisher("tcp://*:*").close()
    assert "without a key, everybody who reaches tcp://0.0.0.0:" in caplog.text
