"""The pipeline's end of the live viewer: starts the viewer's process and tells it where the images are.

Nothing in here waits for the viewer while tracking runs: what it cannot take at once is dropped. The viewer gets the
hands from the publisher like any other subscriber and copies the images from shared memory itself.
"""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import msgpack
import numpy as np
import zmq
from numpy.typing import NDArray

from hamuco.app.truth_monitor import TruthMatch
from hamuco.calibration.camera import Rig
from hamuco.capture.frame import FrameSet
from hamuco.capture.grabber import SlotReference
from hamuco.capture.interruption import starting_processes
from hamuco.engine.hand_model import HandModel
from hamuco.fusion.hand import Side

Where = Literal["window", "browser", "file"]

# Notes on the way to the viewer; it only ever wants the newest.
_QUEUED_NOTES = 16
_START_S = 30.0  # for the viewer to come up; afterwards tracking begins without it
_CONNECT_S = 1.0  # for it to subscribe after that
_STOP_S = 5.0  # for the viewer to finish what it has; then it is killed


class ViewerError(ValueError):
    """The viewer cannot be had as asked for."""


@dataclass(frozen=True, slots=True, eq=False)
class TrueSkeleton:
    """A hand as it truly is: 21 joints (21, 3) m in the world; `mpjpe_mm` is NaN where it is not tracked."""

    side: Side
    joints: NDArray[np.float32]
    mpjpe_mm: float


@dataclass(frozen=True, slots=True, eq=False)
class ViewNote:
    """Where the images of one frame set are, where its cameras are, and what is true of it.

    Attributes:
        set_id: id of the frame set.
        slots: camera name -> slot; valid until the grabber writes the slot again.
        camera_from_world: camera name -> 4x4, as refined so far; of all cameras of the rig.
        truth: the true hands of the set; empty where they are not known.
    """

    set_id: int
    slots: Mapping[str, SlotReference]
    camera_from_world: Mapping[str, NDArray[np.float64]]
    truth: tuple[TrueSkeleton, ...] = ()


@dataclass(frozen=True, slots=True)
class ViewerOptions:
    """What a viewer process is started with; `path` is the file of where="file", `with_truth` leaves room for errors."""

    rig: Rig
    model: HandModel | None
    hands_endpoint: str
    notes_endpoint: str
    where: Where
    path: Path | None
    with_truth: bool


class ViewerLink:
    """A live viewer in a process of its own. A context manager: entering waits for the viewer, leaving ends it.

    Whatever becomes of the viewer, no method fails or waits for it between entering and leaving.

    Attributes:
        hands_endpoint: where the viewer subscribes; the publisher of the hands has to bind it.
    """

    def __init__(
        self,
        rig: Rig,
        hands_endpoint: str,
        where: Where,
        path: Path | None = None,
        model: HandModel | None = None,
        with_truth: bool = False,
    ) -> None:
        """
        Args:
            rig: cameras with the calibration that the run starts with.
            hands_endpoint: "ipc:///path" or "tcp://host:port".
            where: a window on this computer, a web page served to this computer's browsers, or a Rerun recording.
            path: of the recording, for where="file".
            model: right hand that the hands are tracked with; None for the embedded one.
            with_truth: `show` will be given the truth, for which the window has a panel then.

        Raises:
            ViewerError: rerun is not installed, or there is no usable path for a recording.
        """
        if importlib.util.find_spec("rerun") is None:
            raise ViewerError("the viewer needs rerun, which is not installed: pip install 'hamuco[view]'")
        if (where == "file") != (path is not None):
            raise ViewerError("a path is needed for where='file', and only there")
        if path is not None and not path.parent.is_dir():
            raise ViewerError(f"cannot record the view to {path}: there is no folder {path.parent}")
        self.hands_endpoint = hands_endpoint
        self._folder = Path(tempfile.mkdtemp(prefix="hamuco-view-"))
        notes_endpoint = f"ipc://{self._folder}/notes"
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.XPUB)  # as PUB, and tells when the viewer is connected
        self._socket.setsockopt(zmq.SNDHWM, _QUEUED_NOTES)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.bind(notes_endpoint)
        spawn = multiprocessing.get_context("spawn")
        # The viewer says through it that it is up, and ends when it closes: also when this process is killed.
        self._control, theirs = spawn.Pipe()
        options = ViewerOptions(rig, model, hands_endpoint, notes_endpoint, where, path, with_truth)
        self._process = spawn.Process(target=_run, args=(options, theirs), name="viewer", daemon=True)
        with starting_processes():
            self._process.start()
        theirs.close()

    def __enter__(self) -> Self:
        """Wait until the viewer is up and print where it is; when it does not come up, print why and go on."""
        words = f"did not come up within {_START_S:g} s"
        try:
            if self._control.poll(_START_S):
                words = self._control.recv_bytes().decode()
                self._socket.poll(round(_CONNECT_S * 1000))
        except (EOFError, OSError):
            self._process.join(_STOP_S)
            words = f"ended while it started (exit code {self._process.exitcode})"
        except BaseException:  # else nobody would end what it has started
            self.close()
            raise
        print(f"viewer: {words}", file=sys.stderr)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def alive(self) -> bool:
        """False once the viewer has ended: its window was closed, it could not start, or it was killed."""
        return self._process.is_alive()

    @property
    def process_id(self) -> int:
        """Of the viewer's process, for tools that watch its load."""
        return self._process.pid or 0

    def show(
        self,
        frame_set: FrameSet,
        slots: Mapping[str, SlotReference],
        rig: Rig,
        truth: Sequence[TruthMatch] = (),
    ) -> None:
        """Tell the viewer where the images of a set are. Call it before the frames are released.

        Args:
            frame_set: the set; its hands are published with the same id, before or after.
            slots: camera name -> place of its image in shared memory.
            rig: the cameras where the refined calibration has them by now.
            truth: the true hands of the set, where they are known.
        """
        poses = {camera.name: camera.camera_from_world for camera in rig}
        true = tuple(TrueSkeleton(match.side, match.joints.astype(np.float32), match.mpjpe_mm) for match in truth)
        self._send(b"images", encode_note(ViewNote(frame_set.set_id, slots, poses, true)))

    def say(self, text: str) -> None:
        """Put a line into the viewer's log, such as the reason why a camera was lost."""
        self._send(b"text", text.encode())

    def close(self) -> None:
        """End the viewer; a window stays open, with all that was shown, until the user closes it."""
        if self._context.closed:
            return
        self._control.close()
        self._process.join(_STOP_S)
        if self._process.exitcode is None:
            self._process.kill()
            self._process.join()
        if self._process.exitcode != 0:
            # A viewer that was killed leaves its web server behind, in the process group that it made for both.
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process_id, signal.SIGKILL)
        self._context.destroy(linger=0)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _send(self, topic: bytes, data: bytes) -> None:
        # XPUB drops what a slow viewer has no room for; it never says Again.
        self._socket.send_multipart([topic, data], zmq.NOBLOCK)


def encode_note(note: ViewNote) -> bytes:
    """A note as MessagePack; both ends run the same version."""
    slots = [
        (camera, str(place.path), place.size, place.slots, place.slot, place.generation)
        for camera, place in note.slots.items()
    ]
    poses = {camera: pose.tobytes() for camera, pose in note.camera_from_world.items()}
    truth = [(true.side, true.joints.tobytes(), true.mpjpe_mm) for true in note.truth]
    return msgpack.packb((note.set_id, slots, poses, truth))  # type: ignore[no-any-return]


def decode_note(data: bytes) -> ViewNote:
    """The inverse of `encode_note`."""
    set_id, slots, poses, truth = msgpack.unpackb(data)
    return ViewNote(
        set_id,
        {
            camera: SlotReference(Path(path), (width, height), count, slot, generation)
            for camera, path, (width, height), count, slot, generation in slots
        },
        {camera: np.frombuffer(pose).reshape(4, 4) for camera, pose in poses.items()},
        tuple(
            TrueSkeleton(side, np.frombuffer(joints, np.float32).reshape(21, 3), error) for side, joints, error in truth
        ),
    )


def _run(options: ViewerOptions, control: Connection) -> None:
    # Or Rerun reports on the terminal when its window is closed. Has to be set before the import.
    os.environ.setdefault("RUST_LOG", "off")
    # Imported in the viewer's process only: the pipeline has no use for rerun, whose import takes a second.
    from hamuco.app.viewer import run_viewer

    try:
        run_viewer(options, control)
    finally:
        # Here too, for when the pipeline was killed and nobody else is left to do it.
        shutil.rmtree(Path(options.notes_endpoint.removeprefix("ipc://")).parent, ignore_errors=True)
