"""The viewer's process: takes what the pipeline says and what it publishes, and logs it to Rerun.

It shows the newest set that is complete and skips those before it, so being slow costs the viewer sets and nobody time.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from urllib.parse import quote

import cv2
import rerun as rr
import zmq

from hamuco.app.view_link import ViewerOptions, ViewNote, decode_note
from hamuco.app.view_scene import Scene, blueprint
from hamuco.capture.grabber import SlotReference
from hamuco.capture.interruption import STOPS
from hamuco.capture.source import Image
from hamuco.capture.transport import SharedFrames
from hamuco.engine.hand_model import load_hand_model
from hamuco.streaming.header import MessageError
from hamuco.streaming.messages import MAX_PART_BYTES, HandMessage, SetMessage, decode_message

_LOOPBACK = "127.0.0.1"
_WEB_PORT, _DATA_PORT = 9090, 9876  # Rerun's own; others are taken when these are in use
_PROGRAM_START_S = 15.0
_WINDOW_MEMORY, _SERVER_MEMORY = "2GB", "500MB"  # of a few minutes; Rerun drops the oldest

_FLUSH_S = 3.0  # at the end; less than the link waits for this process
_WAIT_MS = 200  # between looks at whether the window is still there
_NOTE_WAIT_NS = 30_000_000  # a set waits this long for the word where its images are
_NOTES_KEPT = 8
_QUEUED_MESSAGES = 100


def run_viewer(options: ViewerOptions, control: Connection) -> None:
    """Body of the viewer's process: says through `control` what became of it, and runs until that closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # one may be waiting; the pipeline decides what follows
    os.setsid()  # one group with the web server, see ViewerLink.close
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, *STOPS})  # Rerun would keep what is blocked
    os.nice(10)  # tracking goes first where processor time is short
    cv2.setNumThreads(1)
    recording = rr.RecordingStream("hamuco")
    layout = blueprint(options.rig, options.with_truth)
    program: _RerunProgram | None = None
    try:
        if options.path is not None:
            recording.save(options.path, default_blueprint=layout)
            address = f"recording to {options.path}"
        else:
            program = _RerunProgram(in_window=options.where == "window")
            recording.connect_grpc(program.url, default_blueprint=layout)
            address = program.address
    except (OSError, RuntimeError) as error:
        _tell(control, f"{error}; going on without it")
        return
    with zmq.Context() as context:
        scene = Scene(recording, options.rig, options.model or load_hand_model(), options.with_truth)
        viewer = _Viewer(context, options, scene)
        _tell(control, address)
        viewer.run(control, program)
    try:
        recording.flush(timeout_sec=_FLUSH_S)
    except RuntimeError as error:
        if program is None or program.running:
            print(f"viewer: the last sets are missing ({error})", file=sys.stderr)
    if program is not None:
        program.close()


def _tell(control: Connection, words: str) -> None:
    with suppress(BrokenPipeError):  # of a run that was stopped while the viewer started
        control.send_bytes(words.encode())


class _RerunProgram:
    """Rerun's viewer in a window, or its server of web pages.

    The servers in the SDK itself listen on all network interfaces, which would show the camera images to the whole
    network; only the program that comes with the SDK can be told not to.
    """

    def __init__(self, in_window: bool) -> None:
        """Raises OSError when it does not start."""
        if in_window and sys.platform == "linux" and not (os.environ.keys() & {"DISPLAY", "WAYLAND_DISPLAY"}):
            raise OSError("no display to open a window on: use --browser, or --view-file FILE")
        data_port, web_port = _free_port(_DATA_PORT), _free_port(_WEB_PORT)
        self.url = f"rerun+http://{_LOOPBACK}:{data_port}/proxy"
        """Where to log to."""
        self.address = (
            "in its window" if in_window else f"http://{_LOOPBACK}:{web_port}/?url={quote(self.url, safe='')}"
        )
        """What to tell the user."""
        spec = importlib.util.find_spec("rerun_cli")
        program = Path(spec.origin).parent / "rerun" if spec is not None and spec.origin is not None else "rerun"
        command = [str(program), "--bind", _LOOPBACK, "--port", str(data_port), "--hide-welcome-screen"]
        command += ["--server-memory-limit", _SERVER_MEMORY, "--memory-limit", _WINDOW_MEMORY]
        if not in_window:
            command += ["--serve-web", "--web-viewer-port", str(web_port)]
        self._in_window = in_window
        # Not a pipe, which would have to be read for as long as it runs.
        self._output = tempfile.TemporaryFile()  # noqa: SIM115, closed by close
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            # What the SDK sets for viewers opened by a program, so that they do not greet the user; and its usage
            # statistics, which it would send home, are off where CI is set.
            env={name: value for name, value in os.environ.items() if name != "FORCE_RERUN_ANALYTICS"}
            | {"RERUN_APP_ONLY": "true", "CI": "1"},
            # A window outlives this process, so that the user can look back after the run.
            start_new_session=in_window,
        )
        self._wait_until_up(data_port if in_window else web_port)

    @property
    def running(self) -> bool:
        """False once the window was closed, or it failed."""
        return self._process.poll() is None

    def complain(self) -> None:
        """Say why it ended, unless the user closed the window."""
        if self._process.returncode:
            print(f"viewer: ended ({self._last_words()}); going on without it", file=sys.stderr)

    def close(self) -> None:
        """End the web server; leave a window open."""
        self._output.close()
        if not self._in_window:
            self._process.terminate()
            self._process.wait()

    def _wait_until_up(self, port: int) -> None:
        deadline_s = time.monotonic() + _PROGRAM_START_S
        while self.running and time.monotonic() < deadline_s:
            with suppress(ConnectionRefusedError), socket.create_connection((_LOOPBACK, port), timeout=1.0):
                return
            time.sleep(0.05)
        self._process.kill()
        raise OSError(f"rerun did not start within {_PROGRAM_START_S:g} s ({self._last_words()})")

    def _last_words(self) -> str:
        self._output.seek(0)
        lines = self._output.read().decode(errors="replace").splitlines()
        errors = [line.strip() for line in lines if line.startswith("Error")]
        return errors[-1] if errors else f"exit code {self._process.returncode}"


def _free_port(preferred: int) -> int:
    for port in (preferred, 0):
        with suppress(OSError), socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the servers do, against TIME_WAIT
            probe.bind((_LOOPBACK, port))
            return int(probe.getsockname()[1])
    raise OSError(f"no free port at {_LOOPBACK}")


class _Viewer:
    """Receives notes and hands, and shows them set by set."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], options: ViewerOptions, scene: Scene) -> None:
        self._scene = scene
        self._notes_socket = _subscribe(context, options.notes_endpoint, "")
        self._hands_socket = _subscribe(context, options.hands_endpoint, "hand.", "set")
        self._memories: dict[Path, SharedFrames] = {}
        self._notes: dict[int, ViewNote] = {}
        self._hands: list[HandMessage] = []  # of the set whose own message is still to come
        self._waiting: tuple[SetMessage, list[HandMessage], int] | None = None  # newest set, its hands, since when
        self._last_seq: int | None = None
        self._counters = {"viewer: sets skipped": 0, "viewer: images missed": 0, "viewer: unreadable": 0}

    def run(self, control: Connection, program: _RerunProgram | None) -> None:
        """Until `control` closes, or the program that shows it ends."""
        poller = zmq.Poller()
        for source in (self._notes_socket, self._hands_socket, control.fileno()):
            poller.register(source, zmq.POLLIN)
        stop = False
        while not stop:
            wait_ms = _WAIT_MS if self._waiting is None else _NOTE_WAIT_NS // 1_000_000
            stop = control.fileno() in dict(poller.poll(wait_ms))
            if program is not None and not program.running:
                program.complain()
                return
            self._take_notes()
            self._take_hands()
            if self._waiting is not None:
                message, hands, since_ns = self._waiting
                note = self._notes.get(message.set_id)
                if note is not None or stop or time.monotonic_ns() - since_ns > _NOTE_WAIT_NS:
                    self._waiting = None
                    self._show(message, hands, note)

    def _take_notes(self) -> None:
        while self._notes_socket.poll(0):
            topic, data = self._notes_socket.recv_multipart()
            if topic == b"text":
                self._scene.say(data.decode())
                continue
            note = decode_note(data)
            self._notes[note.set_id] = note
            if len(self._notes) > _NOTES_KEPT:
                del self._notes[min(self._notes)]

    def _take_hands(self) -> None:
        while self._hands_socket.poll(0):
            try:
                message = decode_message(self._hands_socket.recv_multipart())
            except MessageError:
                self._counters["viewer: unreadable"] += 1
                continue
            if isinstance(message, HandMessage):
                if self._hands and self._hands[0].set_id != message.set_id:
                    self._hands.clear()
                self._hands.append(message)
            elif isinstance(message, SetMessage):
                hands = [hand for hand in self._hands if hand.set_id == message.set_id]
                self._waiting = (message, hands, time.monotonic_ns())

    def _show(self, message: SetMessage, hands: list[HandMessage], note: ViewNote | None) -> None:
        if self._last_seq is not None:
            self._counters["viewer: sets skipped"] += max(0, message.seq - self._last_seq - 1)
        self._last_seq = message.seq
        images: dict[str, Image] = {}
        if note is not None:
            for camera, place in note.slots.items():
                if (image := self._read(place)) is not None:
                    images[camera] = image
        self._counters["viewer: images missed"] += len(message.cameras) - len(images)
        self._scene.show(message, hands, images, note.camera_from_world if note else {}, self._counters)
        if note is not None:
            self._scene.show_truth(note.truth)

    def _read(self, place: SlotReference) -> Image | None:
        """Copy an image; None if it is overwritten or its camera has gone."""
        if place.path not in self._memories:
            try:
                self._memories[place.path] = SharedFrames(place.path, place.size, place.slots)
            except FileNotFoundError:
                return None
        return self._memories[place.path].read_slot(place.slot, place.generation)


def _subscribe(context: zmq.Context[zmq.Socket[bytes]], endpoint: str, *topics: str) -> zmq.Socket[bytes]:
    subscriber = context.socket(zmq.SUB)
    subscriber.setsockopt(zmq.RCVHWM, _QUEUED_MESSAGES)
    subscriber.setsockopt(zmq.MAXMSGSIZE, MAX_PART_BYTES)
    subscriber.setsockopt(zmq.LINGER, 0)
    for topic in topics:
        subscriber.setsockopt_string(zmq.SUBSCRIBE, topic)
    subscriber.connect(endpoint)
    return subscriber
