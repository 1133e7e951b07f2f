from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import minimize

from hamuco.engine.hand_model import HandModel, load_hand_model
from hamuco.engine.skinning import forward
from hamuco.fusion.hand import HandParameters
from hamuco.training.synthetic.contact import capsules, flesh_of, mutual_penetration, segment_distance, separation

FloatArray = NDArray[np.float64]


@cache
def model() -> HandModel:
    return load_hand_model()


def moments(seed: int, count: int) -> HandParameters:
    rng = np.random.default_rng(seed)
    return HandParameters(
        rng.normal(size=(count, 3)), rng.normal(0, 0.3, (count, 45)), rng.normal(size=10), rng.normal(size=(count, 3))
    )


def test_segment_distance_is_the_least_one() -> None:
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(2, 10, 2, 3))
    other[:5] = one[:5] + rng.normal(size=(5, 1, 3))  # parallel
    for a, b, distance in zip(one, other, segment_distance(one, other), strict=True):

        def between(shares: FloatArray, a: FloatArray = a, b: FloatArray = b) -> float:
            return float(np.linalg.norm(a[0] + shares[0] * (a[1] - a[0]) - b[0] - shares[1] * (b[1] - b[0])))

        least = min(
            minimize(between, start, bounds=[(0, 1), (0, 1)]).fun for start in ((0.5, 0.5), (0, 0), (1, 1), (0, 1))
        )
        assert distance == pytest.approx(least, abs=1e-4)  # m; what the minimizer reaches


@pytest.mark.parametrize("seed", range(3))
def test_capsules_follow_the_mesh_in_any_shape_and_pose(seed: int) -> None:
    hand = moments(seed, 1)
    vertices = forward(model(), hand.global_orient, hand.hand_pose, hand.betas, hand.transl).vertices
    assert vertices is not None
    body = capsules(model(), hand)
    flesh = flesh_of(model())
    for bone in range(1, 16):
        points = vertices[0][model().weights[:, bone] > 0.5]
        index = int(np.flatnonzero(flesh.bone == bone)[0])
        segment = np.broadcast_to(body.ends[0, index], (len(points), 2, 3))
        specks = np.stack([points, points + 1e-6], axis=1)  # a segment needs some length
        outside = segment_distance(specks, segment) - body.radius[index]
        # Three quarters are within the radius by construction; joints that bend and blunt ends cost some, in any shape.
        assert np.mean(outside < 0.001) > 0.6
        # Webs between fingers stand out by a centimetre; they are few.
        assert np.percentile(outside, 90) < (0.011 if bone == 13 else 0.006)


def test_hands_are_moved_just_apart() -> None:
    hand = capsules(model(), moments(0, 4))
    away = np.tile((0.0, 0.6, 0.8), (4, 1))
    way = separation(hand, hand, away, np.zeros(4))
    moved = type(hand)(hand.ends + (way[:, None] * away)[:, None, None], hand.radius)
    depth = mutual_penetration(moved, hand)
    assert (way > 0.02).all()
    assert (depth < 0.0006).all()  # what counts as touching is 0.5 mm
    assert (depth > -0.02).all()
    np.testing.assert_array_equal(separation(hand, hand, away, np.full(4, 9.0)), 9.0)


def test_mirror_images_of_a_hand_are_as_deep_in_each_other() -> None:
    one, other = capsules(model(), moments(1, 3)), capsules(model(), moments(2, 3))
    np.testing.assert_allclose(
        mutual_penetration(one, other), mutual_penetration(other.mirrored(), one.mirrored()), atol=1e-12
    )
