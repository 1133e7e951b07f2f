"""The offline commands: what is wrong with options is said before anything that takes time is loaded."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from command_line import clean_environment, one_line

SLOW = ("torch", "openvino", "scipy")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("bench", "accuracy", "--protocol", "foo"), "'foo' is not one of 'metric', 'hamuco'"),
        (("bench", "accuracy", "--dataset", "foo", "x"), "data set 'foo' is not known; choose one of hanco, freihand"),
        (("bench", "accuracy", "--dataset", "hanco"), "--dataset hanco needs the folder that it is in"),
        (("bench", "accuracy", "--views", "4,x"), "--views '4,x' is not a list of numbers"),
        (("bench", "accuracy", "--model", "nowhere"), "nowhere is no bundle: it is not there"),
        (("evaluate", "nowhere", "rec"), "nowhere is no bundle: it is not there"),
        (("evaluate", "hamuco-s", "rec", "--views", "0"), "--views '0' is not a list of numbers from 1 up"),
        (("bench", "latency", "--views", "x"), "--views 'x' is not a list of numbers"),
        (("bench", "latency", "--hands", "1,3"), "--hands 1,3: there is no scene of 3 hands; 1 or 2 can be measured"),
        (("bench", "latency", "--runtime", "cuda"), "--runtime 'cuda' is not one of tensorrt, tensorrt-rtx"),
        (("bench", "latency", "--model", "nowhere"), "nowhere is no bundle: it is not there"),
    ],
)
def test_a_typo_is_answered_before_anything_slow_is_loaded(
    arguments: tuple[str, ...], words: str, tmp_path: Path
) -> None:
    code = (
        f"import sys; sys.argv[1:] = {arguments!r}; from hamuco.app.cli import main\n"
        f"try: main()\nfinally: print('loaded:', *(name for name in {SLOW!r} if name in sys.modules))"
    )
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=clean_environment(), cwd=tmp_path)
    assert result.returncode in (1, 2)
    assert words in one_line(result.stderr)
    assert result.stdout.split() == ["loaded:"]
    assert list(tmp_path.iterdir()) == []
