"""One process per camera, so that a driver that hangs or crashes takes nothing else with it.

A grabber runs a source and writes each frame into a shared memory slot; a note over ZeroMQ says which. The receiving
process owns that slot until it releases the frame. When no slot is free, the source's stamp decides: a live frame is
dropped and counted, a replayed one waits. Grabbers end with the process that started them, however it ends.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import cv2
import zmq

from hamuco.capture.frame import Frame
from hamuco.capture.interruption import starting_processes
from hamuco.capture.source import CameraSource, SourceConfig, SourceError
from hamuco.capture.transport import FrameNote, Note, Order, SharedFrames, StateNote, decode, encode, shared_folder

_WAIT_MS = 100  # between looks at orders while waiting for a slot
_LINGER_MS = 2000  # for the last notes to reach a receiver that is busy
_JOIN_S = 1.0  # for a grabber to end when told to; then it is killed
_START_MARGIN_NS = 20_000_000  # between telling the grabbers to start and the start


@dataclass(frozen=True, slots=True)
class CameraEvent:
    """A camera will deliver no more: "ended" at the end of its footage, "lost" for the given reason."""

    camera: str
    kind: Literal["ended", "lost"]
    reason: str


@dataclass(frozen=True, slots=True)
class CameraCounters:
    """What became of one camera's frames, as of its last note."""

    received: int = 0
    dropped_no_slot: int = 0  # all slots were in use
    undecodable: int = 0
    missing: int = 0  # listed in the recording but not in its video
    discarded: int = 0  # still on the way when the camera was lost


@dataclass(frozen=True, slots=True)
class SlotReference:
    """Where a third process finds a frame's image: `SharedFrames(path, size, slots).read_slot(slot, generation)`."""

    path: Path
    size: tuple[int, int]
    slots: int
    slot: int
    generation: int


@dataclass(slots=True, eq=False)
class _Running:
    """A grabber as the receiving process sees it."""

    config: SourceConfig
    memory: SharedFrames
    process: SpawnProcess
    state: Literal["starting", "opened", "running", "over"] = "starting"
    counters: CameraCounters = CameraCounters()


class Grabbers:
    """The grabbers of a rig. A context manager: entering starts all or none, leaving ends them.

    Frames and events come from `receive`; every frame must be given back by `release`, after which its image must not
    be used any more.
    """

    def __init__(self, configs: Sequence[SourceConfig], slots: int = 8, start_timeout_s: float = 30.0) -> None:
        """
        Args:
            configs: one source per camera.
            slots: frames of one camera that may be on the way or in use at a time.
            start_timeout_s: for all cameras to open.
        """
        names = [config.camera for config in configs]
        if not names or len(set(names)) != len(names):
            raise ValueError(f"camera names must be given and unique: {', '.join(names)}")
        if slots < 2:
            raise ValueError(f"{slots} slots are too few: one is written while another is in use")
        self._configs = tuple(configs)
        self._slots = slots
        self._start_timeout_s = start_timeout_s
        self._grabbers: list[_Running] = []
        self._in_use: dict[tuple[str, int], tuple[int, int, int]] = {}  # frame -> grabber, slot, generation
        self._folder: Path | None = None
        self.epoch_ns = 0
        """Host time of the start that all sources share; replayed capture times count from it."""

    def __enter__(self) -> Self:
        """Raises SourceError with the camera's own words when one of them does not open."""
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _start(self) -> None:
        self._folder = shared_folder()
        address = f"ipc://{self._folder}/notes"
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.bind(address)
        self._poller = zmq.Poller()
        self._poller.register(self._socket, zmq.POLLIN)
        spawn = multiprocessing.get_context("spawn")
        for index, config in enumerate(self._configs):
            memory = SharedFrames.create(self._folder / f"{index}.frames", config.size, self._slots)
            process = spawn.Process(
                target=run_grabber,
                args=(index, config, memory.path, self._slots, address),
                name=f"grabber {config.camera}",
                daemon=True,
            )
            with starting_processes():
                process.start()
            self._poller.register(process.sentinel, zmq.POLLIN)
            self._grabbers.append(_Running(config, memory, process))

        deadline_s = time.monotonic() + self._start_timeout_s
        while waiting := [grabber.config.camera for grabber in self._grabbers if grabber.state == "starting"]:
            remaining_s = deadline_s - time.monotonic()
            if remaining_s <= 0:
                raise SourceError(f"no answer from camera {', '.join(waiting)} within {self._start_timeout_s:g} s")
            for item in self.receive(round(remaining_s * 1000) + 1):
                if isinstance(item, CameraEvent):
                    raise SourceError(item.reason)
        self.epoch_ns = time.monotonic_ns() + _START_MARGIN_NS
        for index, grabber in enumerate(self._grabbers):
            grabber.state = "running"
            self._tell(index, Order("start", self.epoch_ns))

    def receive(self, timeout_ms: int) -> list[Frame | CameraEvent]:
        """Frames and events that arrived, in order of arrival; waits up to `timeout_ms` for the first."""
        ready = dict(self._poller.poll(timeout_ms))
        items: list[Frame | CameraEvent] = []
        while self._socket.poll(0):
            identity, data = self._socket.recv_multipart()
            item = self._handle(int(identity), decode(data))
            if item is not None:
                items.append(item)
        for grabber in self._grabbers:
            if grabber.process.sentinel in ready:
                self._poller.unregister(grabber.process.sentinel)
                grabber.process.join()  # the sentinel can be seen before the exit code
                # A grabber that ends by itself has said why; its note may still be on the way.
                code = grabber.process.exitcode or 0
                if code != 0 and grabber.state != "over":
                    how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
                    items.append(self._over(grabber, "lost", f"the grabber of {grabber.config.camera!r} died ({how})"))
        return items

    def _handle(self, index: int, note: Note) -> Frame | CameraEvent | None:
        grabber = self._grabbers[index]
        if isinstance(note, Order):
            raise TypeError(f"a grabber sent an order: {note}")
        if grabber.state == "over":
            discarded = grabber.counters.discarded + isinstance(note, FrameNote)
            grabber.counters = replace(grabber.counters, discarded=discarded)
            return None
        grabber.counters = replace(
            grabber.counters,
            received=grabber.counters.received + isinstance(note, FrameNote),
            dropped_no_slot=note.dropped_no_slot,
            undecodable=note.undecodable,
            missing=note.missing,
        )
        if isinstance(note, FrameNote):
            self._in_use[grabber.config.camera, note.sequence] = (index, note.slot, note.generation)
            return Frame(
                camera=grabber.config.camera,
                sequence=note.sequence,
                t_capture_ns=note.t_capture_ns,
                t_uncertainty_ns=note.t_uncertainty_ns,
                t_arrival_ns=note.t_arrival_ns,
                t_device_ns=note.t_device_ns,
                image=grabber.memory.image(note.slot),
            )
        if note.state == "opened":
            grabber.state = "opened"
            return None
        return self._over(grabber, "ended" if note.state == "ended" else "lost", note.reason)

    def _over(self, grabber: _Running, kind: Literal["ended", "lost"], reason: str) -> CameraEvent:
        grabber.state = "over"
        return CameraEvent(grabber.config.camera, kind, reason)

    def release(self, frame: Frame) -> None:
        """Give a frame's slot back. Raises ValueError for a frame that is not out, such as one released before."""
        if (frame.camera, frame.sequence) not in self._in_use:
            raise ValueError(f"frame {frame.sequence} of camera {frame.camera!r} is not in use; was it released twice?")
        index, slot, _ = self._in_use.pop((frame.camera, frame.sequence))
        self._tell(index, Order("release", slot))

    def slot_of(self, frame: Frame) -> SlotReference:
        """Where a viewer finds the image of a frame that is not released yet."""
        index, slot, generation = self._in_use[frame.camera, frame.sequence]
        grabber = self._grabbers[index]
        return SlotReference(grabber.memory.path, grabber.config.size, self._slots, slot, generation)

    @property
    def active(self) -> tuple[str, ...]:
        """Cameras that have neither ended nor been lost; when empty, `receive` has nothing more to give."""
        return tuple(grabber.config.camera for grabber in self._grabbers if grabber.state != "over")

    @property
    def counters(self) -> Mapping[str, CameraCounters]:
        """Counters of each camera."""
        return {grabber.config.camera: grabber.counters for grabber in self._grabbers}

    @property
    def process_ids(self) -> Mapping[str, int]:
        """Process of each camera's grabber, for tools that watch their load."""
        return {grabber.config.camera: grabber.process.pid or 0 for grabber in self._grabbers}

    def close(self) -> None:
        """End all grabbers and remove the shared memory; images received from them stay readable until dropped."""
        if self._folder is None:
            return
        for index in range(len(self._grabbers)):
            self._tell(index, Order("stop"))
        deadline_s = time.monotonic() + _JOIN_S
        for grabber in self._grabbers:
            grabber.process.join(max(deadline_s - time.monotonic(), 0))
            if grabber.process.exitcode is None:  # it hangs in its driver
                grabber.process.kill()
                grabber.process.join()
            grabber.state = "over"
        self._context.destroy(linger=0)
        shutil.rmtree(self._folder)
        self._folder = None

    def _tell(self, index: int, order: Order) -> None:
        # A grabber that is gone has no route any more, and ROUTER lets go of what it cannot deliver.
        self._socket.send_multipart([str(index).encode(), encode(order)])


def run_grabber(index: int, config: SourceConfig, memory_path: Path, slots: int, address: str) -> None:
    """Body of a grabber process: open the source, say so, and deliver from the start order until the end."""
    cv2.setNumThreads(1)  # one camera's colour conversion is not worth a thread pool per process
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)  # its warnings repeat what the source reports
    threading.Thread(target=_end_with_parent, args=(memory_path.parent,), daemon=True).start()
    memory = SharedFrames(memory_path, config.size, slots, writable=True)
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.setsockopt(zmq.IDENTITY, str(index).encode())
        socket.setsockopt(zmq.LINGER, _LINGER_MS)
        socket.connect(address)
        _Grabber(config, memory, socket).run()


def _end_with_parent(folder: Path) -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
    # The main thread may hang in a driver, and nobody else is left to remove the shared memory.
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(1)


class _Grabber:
    def __init__(self, config: SourceConfig, memory: SharedFrames, socket: zmq.Socket[bytes]) -> None:
        self._source: CameraSource = config.create()
        self._memory = memory
        self._socket = socket
        self._free = deque(range(memory.slots))  # the longest unused first, which leaves viewers the most time
        self._dropped = 0
        self._epoch_ns: int | None = None
        self._stopped = False

    def run(self) -> None:
        try:
            self._source.open()
        except SourceError as error:
            self._say("failed", str(error))
            return
        try:
            self._say("opened")
            while self._epoch_ns is None and not self._stopped:
                self._take_orders(_WAIT_MS)
            if self._epoch_ns is not None:
                self._source.begin(self._epoch_ns)
                self._deliver()
        except SourceError as error:
            self._say("lost", str(error))
        finally:
            self._source.close()

    def _deliver(self) -> None:
        while not self._stopped:
            stamp = self._source.grab()
            if stamp is None:
                self._say("ended", "end of the footage")
                return
            slot = self._free_slot(stamp.droppable)
            if slot is None:
                self._dropped += not self._stopped
                continue
            decoded = self._source.retrieve(self._memory.begin_write(slot))
            generation = self._memory.end_write(slot)
            if not decoded:
                self._free.append(slot)
                continue
            note = FrameNote(
                slot,
                generation,
                stamp.sequence,
                stamp.t_capture_ns,
                stamp.t_uncertainty_ns,
                stamp.t_arrival_ns,
                stamp.t_device_ns,
                *self._counts(),
            )
            self._socket.send(encode(note))

    def _free_slot(self, droppable: bool) -> int | None:
        """A slot to write, waiting for one unless the frame may be dropped; None if there is none."""
        self._take_orders(0)
        while not self._free and not self._stopped and not droppable:
            self._take_orders(_WAIT_MS)
        return self._free.popleft() if self._free and not self._stopped else None

    def _take_orders(self, timeout_ms: int) -> None:
        while self._socket.poll(timeout_ms):
            timeout_ms = 0
            order = decode(self._socket.recv())
            if isinstance(order, Order):
                if order.action == "release":
                    self._free.append(order.value)
                elif order.action == "start":
                    self._epoch_ns = order.value
                else:
                    self._stopped = True

    def _say(self, state: str, reason: str = "") -> None:
        self._socket.send(encode(StateNote(state, reason, *self._counts())))

    def _counts(self) -> tuple[int, int, int]:
        return self._dropped, self._source.undecodable, self._source.missing
