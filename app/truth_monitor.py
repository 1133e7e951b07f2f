"""How far the tracked hands are from the truth, while a recording plays that has one. It looks on and changes nothing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hamuco.engine.hand_model import HandModel
from hamuco.fusion.hand import Hand, HandSet, Side
from hamuco.training.metrics import joint_errors, mean, procrustes_aligned
from hamuco.training.synthetic.truth import Truth, TruthError

FloatArray = NDArray[np.float64]

# A tracked hand whose joints are farther than this from a true hand's on average, m, is not an estimate of that hand:
# half a hand's length away, it has no finger in common with it.
FARTHEST = 0.1


@dataclass(frozen=True, slots=True, eq=False)
class TruthMatch:
    """One true hand at one moment and the tracked hand that stands for it, if any does.

    Attributes:
        side: of the true hand.
        joints: (21, 3) m, world, of the true hand.
        hand: the tracked hand, also an extrapolated one; None when no tracked hand is near.
        mpjpe_mm: mean distance of the 21 joints in the world, nothing aligned; NaN without a tracked hand.
        pa_mpjpe_mm: the same after the similarity transform that fits the tracked joints best to the true ones.
    """

    side: Side
    joints: FloatArray
    hand: Hand | None
    mpjpe_mm: float
    pa_mpjpe_mm: float

    @property
    def wrong_side(self) -> bool:
        """The tracked hand is taken for the other side's."""
        return self.hand is not None and self.hand.side != self.side


class TruthMonitor:
    """Compares sets of hands with the truth of the recording that they come from."""

    def __init__(self, truth: Truth, model: HandModel, first_ns: int) -> None:
        """
        Args:
            truth: of the recording.
            model: right hand that the hands are tracked with.
            first_ns: earliest capture time of the recording, which a replay moves to the epoch of the run.

        Raises:
            TruthError: the recording was made with another hand, whose joints are other points of the hand.
        """
        if model.name != truth.model:
            raise TruthError(
                f"the truth of this recording is for the hand {truth.model!r}, tracked is {model.name!r}: nothing to "
                "compare; track with that hand, or move truth.npz out of the recording"
            )
        mirrored = model.mirrored()
        self._hands = [
            (trajectory, model if trajectory.side == model.side else mirrored) for trajectory in truth.trajectories
        ]
        self._truth = truth
        self._first_ns = first_ns

    def compare(self, hand_set: HandSet, epoch_ns: int) -> tuple[TruthMatch, ...] | None:
        """Every true hand at the capture time of the set, in the order of the truth; None where there is no truth.

        Pairs are made by distance alone, nearest first and each hand once, so that a hand tracked with the wrong side
        is found, and its side can be seen to be wrong.

        Args:
            hand_set: tracked hands.
            epoch_ns: when the replay began, on the clock of the set.
        """
        t_ns = hand_set.t_capture_ns - epoch_ns + self._first_ns
        if not self._truth.covers(t_ns):
            return None
        true = np.array([trajectory.landmarks_at(t_ns, model) for trajectory, model in self._hands])
        distances = np.full((len(true), len(hand_set.hands)), np.inf)
        for column, hand in enumerate(hand_set.hands):
            distances[:, column] = joint_errors(hand.joints, true).mean(axis=-1)
        pairs = _nearest_first(distances)
        return tuple(
            _match(trajectory.side, true[row], hand_set.hands[pairs[row]] if row in pairs else None)
            for row, (trajectory, _) in enumerate(self._hands)
        )


def _nearest_first(distances: FloatArray) -> dict[int, int]:
    """Row -> column; pairs beyond `FARTHEST` are not made."""
    pairs: dict[int, int] = {}
    for index in np.argsort(distances, axis=None):
        row, column = divmod(int(index), distances.shape[1])
        if not distances[row, column] <= FARTHEST:  # NaN too
            break
        if row not in pairs and column not in pairs.values():
            pairs[row] = column
    return pairs


def _match(side: Side, true: FloatArray, hand: Hand | None) -> TruthMatch:
    if hand is None:
        return TruthMatch(side, true, None, np.nan, np.nan)
    error_m = mean(joint_errors(hand.joints, true))
    aligned_m = mean(joint_errors(procrustes_aligned(hand.joints, true), true))
    return TruthMatch(side, true, hand, 1e3 * error_m, 1e3 * aligned_m)
