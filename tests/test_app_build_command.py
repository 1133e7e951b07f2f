"""`hamuco build` as users meet it."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import hamuco, one_line
from fake_torch_tensorrt import FakeTorchTensorRT

from hamuco.app.build_command import _torch_route, demo_crops
from hamuco.engine.plans import Platform, Profile
from hamuco.engine.tensorrt_engine import load_runtime


@pytest.mark.usefixtures("own_bundle")
def test_an_engine_is_built_once(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx_bindings", exc_type=ImportError)
    arguments = ("build", "small", "--runtime", "tensorrt-rtx", "--views", "1:2:4", "--arch", "sm_89")
    first = hamuco(*arguments, folder=tmp_path)
    assert first.returncode == 0, first.stderr
    path = f"small/engines/tensorrt-rtx-{load_runtime('tensorrt-rtx').__version__}-sm_89-fp16-1.2.4x2"
    assert first.stdout.startswith(f"{path}: ")
    assert "1:2:4 views, 2 hands, built in" in first.stdout
    assert "joints not compared: no device" in first.stdout
    assert (tmp_path / path / "plan.toml").is_file()
    second = hamuco(*arguments, folder=tmp_path)
    assert (second.returncode, second.stderr) == (0, "")
    assert second.stdout == f"{path} was built already: nothing to do, or build it again with --replace\n"
    again = hamuco(*arguments, "--replace", folder=tmp_path)
    assert again.returncode == 0, again.stderr
    assert again.stdout.startswith(f"{path}: ")
    (tmp_path / path / "estimator.engine").write_bytes(b"half")
    damaged = hamuco(*arguments, folder=tmp_path)
    assert damaged.returncode == 1
    assert "estimator.engine is not the file that was built, it was cut off or changed" in one_line(damaged.stderr)
    assert damaged.stderr.endswith(" --replace\n")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("nowhere", "--runtime", "tensorrt-rtx"), 1, "nowhere is no bundle: it is not there"),
        (("hamuco-s", "--runtime", "tensorrt-rtx", "--views", "8"), 2, "--views '8' is not LEAST:USUAL:MOST, such as"),
        (("hamuco-s", "--runtime", "tensorrt-rtx", "--precision", "int8"), 2, "'int8' is not one of 'fp16', 'bf16'"),
        (("hamuco-s", "--runtime", "tensorrt-rtx", "--route", "torch"), 2, "--route torch goes with --runtime tensorrt,"),
        pytest.param(
            ("hamuco-s", "--runtime", "tensorrt", "--route", "torch"), 1,
            'torch-tensorrt is not installed: pip install "hamuco[torch-tensorrt]"',
            marks=pytest.mark.skipif(importlib.util.find_spec("torch_tensorrt") is not None, reason="it is here"),
        ),
        (("hamuco-s", "--runtime", "openvino", "--arch", "sm_89"), 2, "--arch goes with --runtime tensorrt-rtx"),
        pytest.param(
            ("hamuco-s", "--runtime", "tensorrt"), 1, 'tensorrt is not installed: pip install "hamuco[tensorrt]"',
            marks=pytest.mark.skipif(importlib.util.find_spec("tensorrt") is not None, reason="tensorrt is here"),
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_built_says_why(arguments: tuple[str, ...], code: int, words: str, tmp_path: Path) -> None:
    result = hamuco("build", *arguments, folder=tmp_path, environment={"XDG_CACHE_HOME": str(tmp_path)})
    assert result.returncode == code, result.stderr
    assert words in one_line(result.stderr)
    assert not list(tmp_path.iterdir())


def test_the_torch_route_is_for_the_platform_that_is_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch_tensorrt", FakeTorchTensorRT())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    here = Platform("tensorrt", "11.1", "Fake GPU", ("sm_90",))
    route = _torch_route()(here)
    assert (route.name, route.platform) == ("torch", here)


def test_openvino_needs_no_building(tmp_path: Path) -> None:
    result = hamuco("build", "hamuco-s", "--runtime", "openvino", folder=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("nothing to build: OpenVINO compiles a bundle when it is opened")


@pytest.mark.parametrize("profile", [Profile((1, 4, 8), 2), Profile((6, 6, 6), 1), Profile((1, 1, 2), 3)])
def test_crops_to_compare_with_are_as_many_as_engines_take(profile: Profile) -> None:
    least, _, most = profile.views
    moments = demo_crops(128, profile)
    assert len(moments) == 8
    for one in moments:
        hands, views = one.places.shape
        assert 1 <= hands <= profile.hands
        assert least <= views <= most
        seen = one.places[one.places >= 0]
        assert sorted(seen) == list(range(len(one.crops)))
        assert one.crops.shape[1:] == (128, 128, 3)
        assert np.all((one.half_angle > 0) & (one.half_angle < 1))
