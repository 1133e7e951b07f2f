"""What is known of a synthetic recording of a ChArUco board: `board_truth.npz` beside its `rig.toml`.

Board frame: metres, origin at the corner of the first square, x along the rows of squares, y along the columns, z into
the board, as `cv2.aruco.CharucoBoard` has it. The motion is defined by poses at evenly spaced times and a cubic spline
through them, whose quaternions are then made unit. The images are rendered from the very numbers in the file. Arrays,
K times, C inner corners in the order of their ids, F frames of a camera:

    squares                    (2,) along x and along y
    square_m, marker_m         sides, m
    dictionary                 OpenCV's name, such as "DICT_4X4_50"
    t_ns                       (K,) int64, capture clock of the recording
    pose                       (K, 7) quaternion x y z w of world_from_board, and translation in m
    <camera>/t_ns              (F,) int64, true middle of the exposure; timestamps.csv has what a computer would note
    <camera>/corners           (F, C, 2) px, projected by the rig at that time; NaN behind the camera
    <camera>/visible           (F, C) bool: in the image, and the printed side faces the camera
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.interpolate import CubicSpline
from scipy.spatial.transform import Rotation

from hamuco.calibration.camera import Camera
from hamuco.training.npz_file import ArrayFileError, load_arrays
from hamuco.training.synthetic.truth import TruthError

FloatArray = NDArray[np.float64]

BOARD_TRUTH_FILE = "board_truth.npz"
_ARRAYS = {
    "squares": np.integer,
    "square_m": np.floating,
    "marker_m": np.floating,
    "dictionary": np.str_,
    "t_ns": np.integer,
    "pose": np.floating,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    """A printed board, by default on A4 paper.

    Attributes:
        squares: along x and along y.
        square_m, marker_m: sides.
        dictionary: OpenCV's name of the markers' dictionary.

    Raises:
        ValueError: on construction, where no such board can be printed.
    """

    squares: tuple[int, int] = (7, 5)
    square_m: float = 0.04
    marker_m: float = 0.03
    dictionary: str = "DICT_4X4_50"

    def __post_init__(self) -> None:
        if not hasattr(cv2.aruco, self.dictionary) or not self.dictionary.startswith("DICT_"):
            raise ValueError(f"dictionary {self.dictionary!r} is not one of OpenCV's, such as DICT_4X4_50")
        if min(self.squares) < 3 or not 0 < self.marker_m < self.square_m:
            raise ValueError(
                f"a board of {self.squares[0]}x{self.squares[1]} squares of {self.square_m:g} m with markers of "
                f"{self.marker_m:g} m: at least 3x3 are expected, and markers that are smaller than squares"
            )
        dictionary = cv2.aruco.getPredefinedDictionary(getattr(cv2.aruco, self.dictionary))
        markers, available = self.squares[0] * self.squares[1] // 2, len(dictionary.bytesList)
        if markers > available:
            raise ValueError(f"a board with {markers} markers: {self.dictionary} has only {available}")

    def opencv(self) -> cv2.aruco.CharucoBoard:
        """For OpenCV's detector."""
        dictionary = cv2.aruco.getPredefinedDictionary(getattr(cv2.aruco, self.dictionary))
        return cv2.aruco.CharucoBoard(self.squares, self.square_m, self.marker_m, dictionary)

    @property
    def corners(self) -> FloatArray:
        """(C, 3) m, board frame, of the inner corners by id."""
        x, y = np.meshgrid(np.arange(1, self.squares[0]), np.arange(1, self.squares[1]))
        return np.asarray(self.square_m * np.stack([x.ravel(), y.ravel(), 0 * x.ravel()], axis=1))

    @property
    def middle(self) -> FloatArray:
        """(3,) m, board frame."""
        return 0.5 * self.square_m * np.array([*self.squares, 0.0])


@dataclass(frozen=True, slots=True, eq=False)
class BoardMotion:
    """Where the board is: t_ns (K,) int64, evenly spaced, and pose (K, 7); see the file format."""

    t_ns: NDArray[np.int64]
    pose: FloatArray

    def world_from_board(self, t_ns: ArrayLike) -> FloatArray:
        """Poses (..., 4, 4) at times (...).

        Raises:
            TruthError: a time is outside of the motion's.
        """
        times = np.asarray(t_ns, np.int64)
        if times.size and (times.min() < self.t_ns[0] or times.max() > self.t_ns[-1]):
            raise TruthError(
                f"the board's truth is asked for {times.min()} to {times.max()} ns, but known from {self.t_ns[0]} to "
                f"{self.t_ns[-1]} ns"
            )
        spline = CubicSpline((self.t_ns - self.t_ns[0]) * 1e-9, self.pose)
        values = spline((times - self.t_ns[0]) * 1e-9)
        transform = np.zeros((*times.shape, 4, 4))
        transform[..., :3, :3] = Rotation.from_quat(values[..., :4]).as_matrix()
        transform[..., :3, 3] = values[..., 4:]
        transform[..., 3, 3] = 1
        return transform


@dataclass(frozen=True, slots=True, eq=False)
class BoardView:
    """Truth of one camera's frames: t_ns (F,), corners (F, C, 2) px and visible (F, C); see the file format."""

    t_ns: NDArray[np.int64]
    corners: FloatArray
    visible: NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class BoardTruth:
    """Truth of a board's recording; `views` has an entry for every camera of its rig."""

    board: Board
    motion: BoardMotion
    views: Mapping[str, BoardView]

    def save(self, path: Path) -> None:
        """Write a board_truth.npz."""
        arrays: dict[str, NDArray[np.generic]] = {
            "squares": np.array(self.board.squares),
            "square_m": np.array(self.board.square_m),
            "marker_m": np.array(self.board.marker_m),
            "dictionary": np.array(self.board.dictionary),
            "t_ns": self.motion.t_ns,
            "pose": self.motion.pose,
        }
        for camera, view in self.views.items():
            arrays[f"{camera}/t_ns"] = view.t_ns
            arrays[f"{camera}/corners"] = view.corners
            arrays[f"{camera}/visible"] = view.visible
        np.savez_compressed(path, allow_pickle=False, **arrays)

    @staticmethod
    def load(path: Path) -> BoardTruth:
        """Read a board_truth.npz.

        Raises:
            TruthError: the file is damaged or lacks something.
            FileNotFoundError: there is no such file.
        """
        try:
            stored = load_arrays(path, _ARRAYS, "make the recording again")
        except ArrayFileError as error:
            raise TruthError(str(error)) from error
        cameras = [key.removesuffix("/visible") for key in stored if key.endswith("/visible")]
        try:
            columns, rows = stored["squares"].tolist()
            board = Board(
                squares=(columns, rows),
                square_m=float(stored["square_m"]),
                marker_m=float(stored["marker_m"]),
                dictionary=str(stored["dictionary"]),
            )
            views = {
                camera: BoardView(*(stored[f"{camera}/{part}"] for part in ("t_ns", "corners", "visible")))
                for camera in cameras
            }
            return BoardTruth(board, BoardMotion(stored["t_ns"], stored["pose"]), views)
        except (KeyError, ValueError) as error:
            raise TruthError(f"{path} is not the truth of a board: {error}; make the recording again") from error


def project_corners(board: Board, world_from_board: FloatArray, camera: Camera) -> FloatArray:
    """Pixels (..., C, 2) of the inner corners for poses (..., 4, 4)."""
    corners = board.corners @ np.swapaxes(world_from_board[..., :3, :3], -1, -2) + world_from_board[..., None, :3, 3]
    return camera.project(corners)
