"""Networks on the CPU: how images are split into batches is no business of who calls."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from hamuco.app.offline import DEMO_CLIP
from hamuco.engine.bundle import HAMUCO_S
from hamuco.engine.openvino_networks import Network

# Sums of some hundred single precision products, in another order, through some twenty layers: outputs of order 1 differ by
# 1e-6 or so, and maps that are larger by as much of their size.
_ROUNDING = 1e-4


@pytest.mark.parametrize("images", [1, 3, 8, 13])
def test_images_run_together_as_they_run_alone(images: int) -> None:
    estimator = HAMUCO_S / "estimator.onnx"
    size = 128
    crops = np.random.default_rng(images).integers(0, 256, (images, size, size, 3), np.uint8)
    together = Network(estimator, precision="f32", together=(4, 2, 1))(crops)
    alone = Network(estimator, precision="f32")(crops)
    for one, other in zip(together, alone, strict=True):
        assert len(one) == images
        np.testing.assert_allclose(one, other, rtol=_ROUNDING, atol=_ROUNDING * np.abs(other).max())
    # What came out stays as it is when the network runs again.
    network = Network(estimator, precision="f32", together=(4, 2, 1))
    kept = network(crops)
    network(crops[::-1])
    np.testing.assert_array_equal(kept[0], network(crops)[0])


_POLICIES = """
import os, sys
import numpy as np
from hamuco.engine.bundle import HAMUCO_S
from hamuco.engine.openvino_networks import Network

def refuse(*arguments):
    raise PermissionError(1, "Operation not permitted")

if sys.argv[1] == "forbidden":
    os.sched_setscheduler = refuse
Network(HAMUCO_S / "estimator.onnx")(np.zeros((2, 128, 128, 3), np.uint8))
threads = {os.sched_getscheduler(int(thread)) for thread in os.listdir("/proc/self/task")}
print(os.SCHED_BATCH in threads, os.sched_getscheduler(0) == os.SCHED_OTHER)
"""


@pytest.mark.parametrize(("what", "batch"), [("allowed", True), ("forbidden", False)])
def test_threads_wait_their_turn_where_that_is_allowed(what: str, batch: bool) -> None:
    """In a process of its own: OpenVINO lets threads of an earlier network go on with the next one."""
    result = subprocess.run([sys.executable, "-c", _POLICIES, what], capture_output=True, text=True, check=True)
    assert result.stdout.split() == [str(batch), "True"]


# Stands in every process that is started below: as if OpenVINO were not installed.
_WITHOUT = "import sys; sys.modules['openvino'] = None; "


def _run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", _WITHOUT + code], capture_output=True, text=True, cwd=Path(sys.prefix), check=False
    )


def test_who_runs_no_network_on_the_cpu_needs_no_openvino() -> None:
    modules = "hamuco.engine.hamuco, hamuco.app.chains, hamuco.engine.hamuco_views, hamuco.app.session, hamuco.app.cli"
    result = _run(f"import {modules}")
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("arguments", [["bench", "latency"], ["live", "--replay", "REC", "--model", "hamuco-s"]])
def test_a_missing_openvino_is_one_line_with_the_command_that_installs_it(arguments: list[str]) -> None:
    given = [str(DEMO_CLIP) if argument == "REC" else argument for argument in arguments]
    result = _run(f"sys.argv = ['hamuco', *{given!r}]; from hamuco.app.cli import main; main()")
    assert result.returncode == 1
    said = 'error: networks on the CPU need openvino, which is not installed: pip install "openvino>=2025.0"'
    assert result.stderr.splitlines() == [said]
