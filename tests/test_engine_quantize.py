from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import openvino as ov
import pytest
from numpy.typing import NDArray

from hamuco.engine.landmarks import LandmarkEstimator
from hamuco.engine.model_files import HAND_LANDMARK, PALM_DETECTOR, model_path
from hamuco.engine.openvino_core import core
from hamuco.engine.palm_detector import PalmDetector
from hamuco.engine.quantize import full_convolutions, hand_landmark_ranges, int8_is_exact, quantized
from hamuco.training.calibrate_int8 import crops_of, measure


@pytest.fixture(scope="module")
def network() -> ov.Model:
    return core().read_model(model_path(HAND_LANDMARK))


@pytest.fixture(scope="module")
def crops(data_dir: Path) -> list[NDArray[np.uint8]]:
    image = cv2.imread(str(data_dir / "tfjs-hands/hands.jpg"))
    assert image is not None
    detector = PalmDetector(model_path(PALM_DETECTOR))
    return list(crops_of(image.astype(np.uint8), detector, LandmarkEstimator()))


def _run(model: ov.Model, crops: list[NDArray[np.uint8]]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Landmarks (n, 21, 2) px and presence (n,)."""
    compiled = core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    inputs = np.stack(crops)[:, None, :, :, ::-1].astype(np.float32) / 255
    outputs = [[np.array(values) for values in compiled([one]).values()] for one in inputs]
    landmarks = np.concatenate([one[0] for one in outputs]).reshape(-1, 21, 3)[..., :2]
    return landmarks, np.concatenate([one[1][:, 0] for one in outputs])


def _precisions(model: ov.Model) -> Counter[str]:
    """What the convolutions, depthwise ones among them, are computed in."""
    compiled = core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    layers = [node.get_rt_info() for node in compiled.get_runtime_model().get_ordered_ops()]
    return Counter(str(one["runtimePrecision"].value) for one in layers if one["layerType"].value == "Convolution")


def test_every_full_convolution_has_a_measured_range_and_runs_in_8_bits(network: ov.Model) -> None:
    ranges = hand_landmark_ranges()
    assert ranges.keys() == full_convolutions(network).keys()
    assert len(ranges) == 31
    assert _precisions(quantized(network, ranges)) == {"u8": 31, "f32": 16}  # depthwise ones are left alone
    assert "u8" not in _precisions(network)  # and so is the model that was given


@pytest.mark.skipif(not int8_is_exact(), reason="this processor cuts off sums of 8-bit products")
def test_landmarks_hardly_move(network: ov.Model, crops: list[NDArray[np.uint8]]) -> None:
    landmarks, presence = _run(network, crops)
    moved, presence_after = _run(quantized(network, hand_landmark_ranges()), crops)
    assert len(crops) == 4
    # On 9000 landmarks of real hands the median was 0.23 px, the 99th percentile 1.2 px.
    distance = np.linalg.norm(moved - landmarks, axis=-1)
    assert np.median(distance) < 0.5
    assert distance.max() < 2.5
    np.testing.assert_allclose(presence_after, presence, atol=0.02)


def test_without_ranges_nothing_changes(network: ov.Model, crops: list[NDArray[np.uint8]]) -> None:
    np.testing.assert_array_equal(_run(quantized(network, {}), crops)[0], _run(network, crops)[0])


def test_measured_ranges_hold_what_the_hands_of_a_photograph_need(
    network: ov.Model, crops: list[NDArray[np.uint8]]
) -> None:
    shipped, measured = hand_landmark_ranges(), measure(network, crops)
    assert measured.keys() == shipped.keys()
    for name, (low, high) in measured.items():
        # It is among those that the shipped ranges were measured on; 10 % for crops that are laid a little differently.
        assert 1.1 * shipped[name][0] <= low <= high <= 1.1 * shipped[name][1], name


def test_ranges_of_another_network_are_refused(network: ov.Model) -> None:
    other = core().read_model(model_path(PALM_DETECTOR))
    with pytest.raises(ValueError, match=r"1 of 1 ranges belong to no convolution of the network \(conv_x"):
        quantized(network, {"conv_x": (0.0, 1.0)})
    with pytest.raises(ValueError, match="Measure them again"):
        quantized(other, hand_landmark_ranges())


@pytest.mark.parametrize("bad", [(1.0, 6.0), (-1.0, 0.0), (2.0, -2.0), (float("nan"), 1.0), (0.0, float("inf"))])
def test_a_range_that_is_none_is_refused(network: ov.Model, bad: tuple[float, float]) -> None:
    name = next(iter(full_convolutions(network)))
    with pytest.raises(ValueError, match=r"cannot range from .*: expected low <= 0 < high"):
        quantized(network, {name: bad})


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="about instructions of x86 processors")
def test_a_processor_without_exact_8_bit_sums_is_recognized() -> None:
    command = "from hamuco.engine.quantize import int8_is_exact; print(int8_is_exact())"
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2"}  # OpenVINO then leaves VNNI alone
    output = subprocess.check_output([sys.executable, "-c", command], env=environment, text=True)
    assert output.strip() == "False"
