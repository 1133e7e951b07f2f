"""Methods and figures on views whose hands are known exactly."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hands_in_the_air import HandsInTheAir, exact, places, true_hand
from numpy.typing import NDArray
from rigs import RAY_SIGMA, hand_joints, ring_rig, view_hand

from hamuco.engine.hand_model import load_hand_model
from hamuco.engine.view_hand import ViewHand
from hamuco.training.datasets.sample import Sample, TrueHand
from hamuco.training.evaluation import Evaluation, EvaluationError, LandmarkObserver, evaluate, view_subsets
from hamuco.training.methods import DLT, ConfidenceWeightedDLT, HandViews, Method, Ransac, TriangulationAndFit
from hamuco.training.tally import HAMUCO, METRIC, Estimate, Scores

FloatArray = NDArray[np.float64]

# OpenCV projects and undistorts to 1e-8 px, at a focal length of 900 px and a distance of 0.9 m 1e-11 m; rays that meet
# at an angle multiply it by less than ten.
EXACT_MM = 1e-6


def with_outlier(sample: Sample, number: int) -> list[list[ViewHand]]:
    """The last camera sees everything 5 cm beside."""
    *good, bad = sample.cameras
    (hand,) = sample.hands
    return [[*(view_hand(camera, hand.joints) for camera in good), view_hand(bad, hand.joints + (0.05, 0.0, 0.0))]]


def all_methods() -> list[Method]:
    return [DLT(), ConfidenceWeightedDLT(), Ransac(), TriangulationAndFit(load_hand_model())]


def test_exact_views_make_exact_joints_with_every_method_and_number_of_views() -> None:
    evaluation = evaluate(HandsInTheAir(ring_rig(8), places(3)), exact)
    assert evaluation.methods == ["DLT", "confidence weighted", "RANSAC", "triangulation + fit"]
    assert sorted(evaluation.subsets) == [2, 3, 4, 8]
    for (method, views), scores in evaluation.scores.items():
        assert scores.hands == scores.estimated == 3 * len(evaluation.subsets[views])
        assert scores.joints_missing == 0
        figures = (scores.mpjpe, scores.root_mpjpe, scores.n_mpjpe, scores.pa_mpjpe)
        if method in ("DLT", "confidence weighted"):
            assert max(figures) < EXACT_MM
        elif method == "RANSAC":
            # It holds points within ten metres of the cameras' middle with 0.01 / m^2, against 2 / (0.9 m * sigma)^2 =
            # 2e5 / m^2 from two views, and the middle is 0.6 m away at most.
            assert max(figures) < 0.01 / 2e5 * 600 * 5
        else:
            # The mean pose is also what anatomy prefers but for the fingers' bend; the fit stops a third of a
            # standard deviation short, which is 2 mm for its model and 0.9 m * sigma = 3 mm for two views.
            assert max(figures) < 2
            assert scores.pa_mpvpe < 2
            assert scores.f15 == 1.0


def test_a_wrong_view_hurts_the_linear_methods_and_not_the_robust_ones() -> None:
    evaluation = evaluate(HandsInTheAir(ring_rig(4), places(5)), with_outlier)
    errors = {method: evaluation.scores[method, 4].mpjpe for method in evaluation.methods}
    # One view of four pulls a point by some quarter of its 50 mm, partly along its own line of sight, for nothing.
    assert errors["DLT"] > 5
    assert errors["confidence weighted"] > 5
    # 50 mm are 17 standard deviations, and reweighting leaves 1 / (1 + (17 / 5)^2)^2 < 1 % of its pull.
    assert errors["RANSAC"] < 0.3
    assert errors["triangulation + fit"] < 2


def test_weights_follow_the_certainty_of_the_views() -> None:
    def doubtful(sample: Sample, number: int) -> list[list[ViewHand]]:
        views = with_outlier(sample, number)[0]
        return [[*views[:-1], replace(views[-1], ray_sigma=10 * RAY_SIGMA)]]

    evaluation = evaluate(HandsInTheAir(ring_rig(4), places(5)), doubtful)
    # A tenth of the weight is a hundredth of the pull.
    assert evaluation.scores["confidence weighted", 4].mpjpe < 0.1 * evaluation.scores["DLT", 4].mpjpe


def test_views_without_a_hand_cost_coverage_and_nothing_else() -> None:
    def one_view_every_other_time(sample: Sample, number: int) -> list[list[ViewHand]]:
        (views,) = exact(sample, number)
        presence = 0.99 if number % 2 else 0.3
        return [[views[0], *(replace(view, presence=presence) for view in views[1:])]]

    scores = evaluate(HandsInTheAir(ring_rig(2), places(6)), one_view_every_other_time).scores["DLT", 2]
    assert (scores.hands, scores.estimated, scores.coverage) == (6, 3, 0.5)
    assert scores.mpjpe < EXACT_MM


def test_joints_that_are_not_annotated_are_not_counted_against_anybody() -> None:
    joints = hand_joints()
    joints[8] = np.nan
    hand = TrueHand("right", joints, None, None, {})

    def complete(sample: Sample, number: int) -> list[list[ViewHand]]:
        return [[view_hand(camera, hand_joints()) for camera in sample.cameras]]

    scores = evaluate(HandsInTheAir(ring_rig(2), [hand]), complete).scores["DLT", 2]
    assert scores.mpjpe < EXACT_MM
    assert scores.joints_missing == 0
    assert np.flatnonzero(np.isnan(scores.by_joint)).tolist() == [8]
    assert np.isnan(scores.pa_mpvpe)


def test_errors_are_told_apart_by_how_many_views_see_a_joint() -> None:
    rig = ring_rig(4)
    visible = {camera.name: np.ones(21, np.bool_) for camera in rig}
    visible["cam_3"][:4] = visible["cam_2"][:2] = False
    hand = replace(true_hand(), visible=visible)

    class Wrong:
        """2 mm where fewer than four views see a joint, else 1 mm."""

        name, min_views = "wrong", 2

        def __call__(self, hand_views: HandViews) -> Estimate | None:
            offset = np.where(np.arange(21) < 4, 0.002, 0.001)[:, None] * (0.0, 0.0, 1.0)
            return Estimate(hand.joints + offset)

    evaluation = evaluate(HandsInTheAir(rig, [hand]), exact, lambda: [Wrong()])
    scores = evaluation.scores["wrong", 4]
    assert scores.joints_by_views.tolist() == [0, 0, 2, 2, 17]
    np.testing.assert_allclose(scores.by_views, [np.nan, np.nan, 2, 2, 1])
    assert scores.mpjpe == pytest.approx((4 * 2 + 17) / 21)


def test_the_protocol_says_by_what_estimates_are_aligned() -> None:
    hand = true_hand()

    class Larger:
        name, min_views = "larger", 2

        def __call__(self, hand_views: HandViews) -> Estimate | None:
            # Ten per cent larger about the middle MCP, and the wrist another 10 mm farther along its bone.
            joints = hand.joints[9] + 1.1 * (hand.joints - hand.joints[9])
            bone = joints[0] - joints[9]
            joints[0] += 0.010 * bone / np.linalg.norm(bone)
            return Estimate(joints)

    def scores(evaluation: Evaluation) -> Scores:
        return evaluation.scores["larger", 2]

    dataset = HandsInTheAir(ring_rig(2), [hand])
    metric = scores(evaluate(dataset, exact, lambda: [Larger()], METRIC))
    hamuco = scores(evaluate(dataset, exact, lambda: [Larger()], HAMUCO))
    spread = 1e3 * np.linalg.norm(hand.joints - hand.joints[9], axis=1)
    length = float(spread[0])
    assert hamuco.mpjpe == metric.mpjpe == pytest.approx((0.1 * spread.sum() + 10) / 21)
    assert hamuco.root_mpjpe == pytest.approx(hamuco.mpjpe)  # the root is where it was
    # The bone is scaled back to its length, which makes the rest smaller by the same factor.
    factor = 1.1 * length / (1.1 * length + 10)
    assert hamuco.n_mpjpe == pytest.approx((1 - factor) * spread[1:].sum() / 21)
    assert metric.n_mpjpe != pytest.approx(hamuco.n_mpjpe, rel=0.1)
    assert metric.pa_mpjpe == hamuco.pa_mpjpe


def test_jitter_is_measured_at_rest_and_in_motion() -> None:
    still = true_hand()
    rng = np.random.default_rng(0)

    class Shaky:
        """Two millimetres in every direction."""

        name, min_views = "shaky", 2

        def __call__(self, hand_views: HandViews) -> Estimate | None:
            return Estimate(still.joints + rng.normal(0, 0.002, (21, 3)))

    count = 60
    scores = evaluate(HandsInTheAir(ring_rig(2), [still] * count), exact, lambda: [Shaky()]).scores["shaky", 2]
    # 59 samples (rest is known from the second on) of 63 coordinates: the deviation is good to 1 / sqrt(2 * 59 * 63) =
    # 1.2 %, and 5 % are four of that.
    assert scores.rest == pytest.approx(2 * np.sqrt(3), rel=0.05)
    # A second difference x1 - 2 x2 + x3 has 6 times the variance; the mean norm of three normal numbers is sqrt(8 / pi).
    expected = np.sqrt(6) * 0.002 * np.sqrt(8 / np.pi) / 0.033**2
    assert scores.acceleration == pytest.approx(expected, rel=0.05)
    moving = [true_hand((0.002 * k, 0.0, 0.0)) for k in range(20)]  # 60 mm/s
    assert np.isnan(evaluate(HandsInTheAir(ring_rig(2), moving), exact).scores["DLT", 2].rest)


def test_subsets_are_spread_and_deterministic() -> None:
    subsets = view_subsets(ring_rig(8).cameras, np.zeros(3))
    assert sorted(subsets) == [2, 3, 4, 8]
    for first, second in subsets[2]:  # a right angle, not opposite and not side by side
        assert (int(second[-1]) - int(first[-1])) % 8 in (2, 6)
    assert ("cam_0", "cam_2", "cam_4", "cam_6") in subsets[4]
    assert subsets[8] == (tuple(f"cam_{k}" for k in range(8)),)
    assert subsets == view_subsets(ring_rig(8).cameras, np.zeros(3))
    assert sorted(view_subsets(ring_rig(6).cameras, np.zeros(3))) == [2, 3, 4, 6]
    assert [len(names) for names in view_subsets(ring_rig(40).cameras, np.zeros(3))[40]] == [40]


def test_a_data_set_that_cannot_be_measured_says_why() -> None:
    single = HandsInTheAir(ring_rig(1), [true_hand()], "FreiHAND")
    with pytest.raises(EvaluationError, match="FreiHAND has 1 camera a sample, and every method needs 2 or more"):
        evaluate(single, exact)
    with pytest.raises(EvaluationError, match="air has no truth"):
        evaluate(HandsInTheAir(ring_rig(2), places(1), has_truth=False), exact)
    with pytest.raises(EvaluationError, match="air has no hand in 0 samples"):
        evaluate(HandsInTheAir(ring_rig(2), []), exact)


def test_only_the_wanted_numbers_of_views_are_measured() -> None:
    dataset = HandsInTheAir(ring_rig(4), places(3))
    everything, chosen = evaluate(dataset, exact), evaluate(dataset, exact, views=[4, 2, 7])
    assert set(everything.subsets) == {2, 3, 4}
    assert chosen.subsets == {views: everything.subsets[views] for views in (2, 4)}
    assert chosen.methods == everything.methods
    with pytest.raises(
        EvaluationError, match="air is not measured with 5 or 8 views: of its 4 cameras, choose 2, 3, 4"
    ):
        evaluate(dataset, exact, views=[5, 8])


def test_another_definition_of_the_joints_is_noticed_and_progress_is_told() -> None:
    told: list[tuple[int, int]] = []
    dataset = HandsInTheAir(ring_rig(2), places(4), joint_definition="MANO joints")
    evaluation = evaluate(dataset, exact, limit=3, progress=lambda done, total: told.append((done, total)))
    assert not evaluation.same_joints
    assert told == [(1, 3), (2, 3), (3, 3)]
    assert evaluation.samples == 3


def test_the_network_looks_where_the_hand_is_about_and_the_same_twice() -> None:
    rig = ring_rig(3)
    grey = {camera.name: np.full((720, 1280, 3), 128, np.uint8) for camera in rig}
    sample = Sample("0", "s", None, rig.cameras, grey, (true_hand(), true_hand((0.1, 0.0, 0.0))))
    one, other = LandmarkObserver()(sample, 5), LandmarkObserver()(sample, 5)
    assert [len(views) for views in one] == [3, 3]
    for hand, views, again in zip(sample.hands, one, other, strict=True):
        for view, twin in zip(views, again, strict=True):
            np.testing.assert_array_equal(view.rays, twin.rays)
            inside = view.region.crop.project(view.camera.to_camera(hand.joints))
            # Disturbed by a few per cent of the crop, the hand is still well inside.
            assert ((inside > 0) & (inside < 224)).all()
            assert view.presence < 0.5  # there is nothing in a grey image
