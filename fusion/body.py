"""The hand model with the shape of one person's hand, which is measured while the hand is seen."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hamuco.engine.hand_model import HandModel
from hamuco.fusion.kinematics import Skeleton
from hamuco.fusion.shape import ShapeEstimator
from hamuco.fusion.triangulate import Triangulation

FloatArray = NDArray[np.float64]

# Good sets after which the shape is locked, and after which it is first and then again guessed.
_SHAPE_SETS, _SHAPE_STEP = 20, 5


class Body:
    """A hand model with a shape: the mean one, then what the first good sets say, then locked.

    Attributes:
        model: of one side.
        betas: (10,) shape as it is known now.
        skeleton: of the model with this shape.
    """

    def __init__(self, model: HandModel) -> None:
        self.model = model
        self._estimator = ShapeEstimator(model, _SHAPE_SETS)
        self._set_shape(np.zeros(10))

    def measure(self, triangulation: Triangulation) -> None:
        """Take in one observed hand as long as the shape is not locked."""
        used = self._estimator.used
        self._estimator.add(triangulation.points, triangulation.sigma)
        # A first guess is far better than the mean shape; a new one with every set would only make the hand breathe.
        if self._estimator.used > used and self._estimator.used % _SHAPE_STEP == 0:
            self._set_shape(self._estimator.betas())

    def _set_shape(self, betas: FloatArray) -> None:
        self.betas = betas
        self.skeleton = Skeleton.of(self.model, betas)
