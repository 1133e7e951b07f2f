from __future__ import annotations

import numpy as np
import rigs

from hamuco.engine.view_hand import ViewHand
from hamuco.fusion.association import group_views


def _cameras(groups: list[list[ViewHand]]) -> list[list[str]]:
    return [sorted(hand.camera.name for hand in group) for group in groups]


def test_two_hands_in_four_views_become_two_groups() -> None:
    rig = rigs.ring_rig(4)
    one, other = rigs.hand_joints((-0.15, 0, 0)), rigs.hand_joints((0.15, 0.05, 0.02), side="left")
    hands = [rigs.view_hand(c, one, noise_px=3, seed=i) for i, c in enumerate(rig)]
    hands += [rigs.view_hand(c, other, noise_px=3, seed=9 + i, right=0.05) for i, c in enumerate(rig)]
    mixed = [hands[i] for i in np.random.default_rng(0).permutation(8)]
    groups = group_views(mixed)
    assert _cameras(groups) == [list(rig.names)] * 2
    assert all(len({hand.right > 0.5 for hand in group}) == 1 for group in groups)


def test_a_hand_in_one_view_only_is_left_out() -> None:
    rig = rigs.ring_rig(3)
    assert group_views([rigs.view_hand(rig.cameras[0], rigs.hand_joints())]) == []


def test_different_hands_in_two_views_are_not_paired() -> None:
    rig = rigs.ring_rig(2, arc=np.pi)
    hands = [
        rigs.view_hand(rig.cameras[0], rigs.hand_joints((0.1, 0, 0))),
        rigs.view_hand(rig.cameras[1], rigs.hand_joints((-0.1, 0, 0.1), orient=(1.0, 0, 0))),
    ]
    assert group_views(hands) == []


def test_views_that_disagree_about_the_side_are_still_one_hand() -> None:
    rig = rigs.ring_rig(3)
    hands = [rigs.view_hand(c, rigs.hand_joints(), right=r) for c, r in zip(rig, (0.9, 0.9, 0.1), strict=True)]
    assert _cameras(group_views(hands)) == [list(rig.names)]


def test_a_doll_sized_hand_is_not_a_hand() -> None:
    rig = rigs.ring_rig(3)
    assert group_views([rigs.view_hand(camera, 0.3 * rigs.hand_joints()) for camera in rig]) == []
