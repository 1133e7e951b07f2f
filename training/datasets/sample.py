"""One moment of a data set: calibrated images and the hands that are in them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from hamuco.calibration.camera import Camera
from hamuco.fusion.hand import HandParameters, Side

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class TrueHand:
    """A hand as the data set knows it.

    Attributes:
        side: anatomical.
        joints: (21, 3) m, world, in `hamuco.fusion.hand.JOINT_NAMES` order; NaN where a joint is not annotated. Which
            points of the hand they are is the data set's `joint_definition`.
        vertices: (N, 3) m, or None where there is no mesh.
        parameters: of the data set's hand model, or None.
        visible: camera name -> (21,) bool; a camera without an entry, or an empty mapping, means: not known.
    """

    side: Side
    joints: FloatArray
    vertices: FloatArray | None
    parameters: HandParameters | None
    visible: Mapping[str, NDArray[np.bool_]]


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """One moment.

    Attributes:
        name: of the moment in its data set, for messages.
        sequence: samples of one sequence follow each other in time.
        t_ns: capture time; None where the data set has none.
        cameras: calibrated for this moment, one world frame; a single view has its camera frame as the world.
        images: camera name -> (height, width, 3) uint8 BGR; views may be missing.
        hands: what is in the images.
    """

    name: str
    sequence: str
    t_ns: int | None
    cameras: tuple[Camera, ...]
    images: Mapping[str, NDArray[np.uint8]]
    hands: tuple[TrueHand, ...]


class Dataset(Protocol):
    """Samples in order; reading one reads its images."""

    @property
    def name(self) -> str:
        """For tables, with the split: "HanCo test"."""
        ...

    @property
    def joint_definition(self) -> str:
        """Which points the 21 joints are: "free hand landmarks", "MANO joints and tips 744, 320, 443, 555, 672"."""
        ...

    @property
    def has_truth(self) -> bool:
        """False where the hands are not known: only reprojection and leave-one-out can be measured."""
        ...

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Sample]: ...
