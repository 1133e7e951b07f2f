"""Pictures of evaluations: which are made, and that what was measured is in them."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hands_in_the_air import HandsInTheAir, exact, places
from rigs import ring_rig

from hamuco.engine.view_hand import ViewHand
from hamuco.training import accuracy_plots
from hamuco.training.accuracy_plots import PlotError, draw_plots
from hamuco.training.datasets.sample import Sample
from hamuco.training.evaluation import Evaluation, evaluate

RIG = ring_rig(3)
# The colour of the last of four methods, BGR, whose curve lies over the others'.
LAST = (0xA7, 0x79, 0xCC)


def evaluation(*, visibility: bool) -> Evaluation:
    visible = {name: np.arange(21) > index for index, name in enumerate(RIG.names)} if visibility else {}
    hands = [replace(hand, visible=visible) for hand in places(2)]
    return evaluate(HandsInTheAir(RIG, hands, "a rig / a hand"), slightly_wrong)


def slightly_wrong(sample: Sample, number: int) -> list[list[ViewHand]]:
    moved = [replace(hand, joints=hand.joints + (0.01, 0.0, 0.0)) for hand in sample.hands]
    return exact(replace(sample, hands=tuple(moved)), number)


def test_three_pictures_with_bars_and_curves(tmp_path: Path) -> None:
    written = draw_plots(evaluation(visibility=True), tmp_path)
    assert [path.name for path in written] == [f"a-rig-a-hand-{name}.png" for name in ("joints", "pck", "occlusion")]
    for path in written:
        image = cv2.imread(str(path))
        assert image is not None
        assert image.shape[1] > 1000
        # A swatch of the legend is some 400 pixels of the colour; bars or a curve are more.
        assert (image == LAST).all(axis=-1).sum() > 1000


def test_no_picture_of_occlusion_where_it_is_not_known(tmp_path: Path) -> None:
    written = draw_plots(evaluation(visibility=False), tmp_path)
    assert [path.name for path in written] == ["a-rig-a-hand-joints.png", "a-rig-a-hand-pck.png"]


def test_nothing_to_draw_makes_no_picture(tmp_path: Path) -> None:
    nothing = evaluate(HandsInTheAir(RIG, places(2)), lambda sample, number: [[]])
    assert draw_plots(nothing, tmp_path) == []


def test_methods_that_leave_hands_out_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def one_of_three(sample: Sample, number: int) -> list[list[ViewHand]]:
        return exact(sample, number) if number == 0 else [[]]

    labels: list[str] = []
    draw = accuracy_plots._bars

    def bars(axes: Any, places: np.ndarray, values: Mapping[str, np.ndarray]) -> None:
        labels.extend(values)
        draw(axes, places, values)

    monkeypatch.setattr(accuracy_plots, "_bars", bars)
    draw_plots(evaluate(HandsInTheAir(RIG, places(3)), one_of_three), tmp_path)
    assert labels[0] == "DLT, 33.3 % of hands"
    labels.clear()
    draw_plots(evaluate(HandsInTheAir(RIG, places(3)), exact), tmp_path)
    assert labels[0] == "DLT"


def test_without_matplotlib_the_error_names_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(PlotError, match=r'pip install "hamuco\[bench\]"'):
        draw_plots(evaluation(visibility=False), tmp_path)
