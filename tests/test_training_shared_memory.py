"""Room in shared memory, in a mount namespace of its own where a small /dev/shm can be had."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from command_line import clean_environment
from small_training import small_config, write_drawn_hands

from hamuco.training import shared_memory
from hamuco.training.config import config_text
from hamuco.training.shared_memory import SHARED, check_room

SMALL = ("unshare", "--mount", "sh", "-c", f'mount -t tmpfs -o size=256k tmpfs {SHARED} && exec "$@"', "sh")
"""Runs what follows with 256 KB of shared memory; others on the machine keep theirs."""


def _can_have_its_own() -> bool:
    if shutil.which("unshare") is None:
        return False
    return subprocess.run([*SMALL, "true"], capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(not _can_have_its_own(), reason="a /dev/shm of its own needs to be root")
def test_workers_without_room_are_refused_in_one_line(tmp_path: Path) -> None:
    write_drawn_hands(tmp_path / "hands", 4)
    config = small_config(Path("hands"), validation={"sources": []}, run={"workers": 2})
    (tmp_path / "mine.toml").write_text(config_text(config))
    result = subprocess.run(
        [*SMALL, sys.executable, "-m", "hamuco.app.cli", "train", "mine.toml"],
        cwd=tmp_path,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert result.returncode == 1
    # Two workers, two batches each, of 4 hands in 2 views of 64 px.
    assert result.stderr.startswith(
        "error: the 4 batches that 2 workers read ahead need 0.4 MB of shared memory, and /dev/shm has 0.3 of its 0.3 MB "
        "free: enlarge it"
    )
    assert "run.workers=0" in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.skipif(not SHARED.is_dir(), reason="there is no /dev/shm")
def test_what_may_lie_on_the_disk_needs_room_in_one_of_both(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(SHARED)
    check_room(0, "nothings")
    with pytest.raises(OSError, match=rf"batches need \d+\.\d MB of shared memory, and {SHARED} has"):
        check_room(usage.total + 1, "batches")
    both = max(usage.total, shutil.disk_usage(tempfile.gettempdir()).total)
    with pytest.raises(OSError, match="batches need"):
        check_room(both + 1, "batches", or_temporary=True)
    # A shared memory of nothing, beside a disk with room.
    monkeypatch.setattr(shared_memory, "SHARED", Path("/proc/self"))
    check_room(1, "batches", or_temporary=True)
    with pytest.raises(OSError, match="batches need"):
        check_room(1, "batches")
