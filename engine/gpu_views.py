"""HaMuCo on a GPU in place of that on the CPU, which stands by and goes on where the GPU fails.

The two work at the same time: while the GPU follows the hands, the CPU checks that some of them are there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from hamuco.calibration.camera import Rig
from hamuco.capture.frame import FrameSet
from hamuco.engine.crops import CropCamera
from hamuco.engine.cuda_driver import CudaError
from hamuco.engine.gpu_runtime import GpuRuntime
from hamuco.engine.hamuco_views import MIN_PRESENCE, HaMuCoEstimator, view_hands
from hamuco.engine.hand_model import LANDMARKS
from hamuco.engine.landmarks import CROP_SIZE
from hamuco.engine.plans import PlanError
from hamuco.engine.tensorrt_engine import EngineError
from hamuco.engine.view_hand import Region, ViewHand

FloatArray = NDArray[np.float64]

GPU_COUNTERS = ("gpu_faults", "cpu_fallback")
"""Running totals: faults of the GPU, and sets that the CPU answered in its place."""

# With this one the GPU is given up for the rest of the run. What works in between does not count: whoever tracks for a
# week may want to start it again after three faults, but never to see it fail and recover for ever.
_MOST_FAULTS = 3
# After any other one it is tried again so much later (capture time): time for another program to give memory back, or for
# the device to be reset. After a kernel's fault CUDA promises nothing to a process but its end; then all tries fail.
_PAUSE_NS = 5_000_000_000
# What a GPU does that worked before. The last two come of opening it again.
_FAULTS = (CudaError, EngineError, PlanError)


class GpuHaMuCoEstimator:
    """Runs a bundle's networks on the followed hands of one rig, on a GPU.

    Attributes:
        name: of the bundle.
        runtime: that ran last.
        counters: `GPU_COUNTERS`.
        events: what happened to the GPU so far, for people.
    """

    def __init__(self, rig: Rig, hands: int, open_runtime: Callable[[], GpuRuntime], cpu: HaMuCoEstimator) -> None:
        """
        Args:
            rig: whose cameras the runtime has, in this order.
            hands: how many there are at most.
            open_runtime: is called now and after faults. Whatever can go wrong the first time does so here.
            cpu: for the sets that the GPU fails in. It is made before the run, and kept: to compile its networks takes a
                second, in which a moving hand would be lost.

        Raises:
            CudaError, PlanError, EngineError: the GPU cannot be had. There is no fallback to what was not asked for.
        """
        self._columns = {name: column for column, name in enumerate(rig.names)}
        self._rig, self._hands, self._open, self._cpu = rig, hands, open_runtime, cpu
        self._gpu: GpuRuntime | None = self._opened()
        self.name, self.runtime = cpu.name, self._gpu.name
        self.counters = dict.fromkeys(GPU_COUNTERS, 0)
        self.events: list[str] = []
        self._again_ns = 0

    def crop(self, frame_set: FrameSet, regions: Sequence[Region]) -> NDArray[np.uint8]:
        """No crops, (0, 0, 0, 3): the GPU cuts its own."""
        return np.empty((0, 0, 0, 3), np.uint8)

    def __call__(self, frame_set: FrameSet, regions: Sequence[Region], crops: NDArray[np.uint8]) -> list[ViewHand]:
        """Joints in the order of `regions`, whose hands are followed, refined by all views of a hand."""
        if not regions:
            return []
        if self.counters["gpu_faults"] < _MOST_FAULTS and frame_set.t_capture_ns >= self._again_ns:
            try:
                return self._on_gpu(frame_set, regions)
            except _FAULTS as error:
                self._fail(error, frame_set.t_capture_ns)
        self.counters["cpu_fallback"] += 1
        return self._cpu(frame_set, regions, self._cpu.crop(frame_set, regions))

    def close(self) -> None:
        """Give the GPU back."""
        if self._gpu is not None:
            self._gpu.close()
            self._gpu = None

    def _opened(self) -> GpuRuntime:
        """A runtime that has run once with every number of hands: the first time takes seconds, and may prove it broken."""
        gpu = self._open()
        try:
            black = {camera.name: np.zeros((*camera.size[::-1], 3), np.uint8) for camera in self._rig}
            ahead = [
                Region(camera, CropCamera(np.eye(3), camera.matrix[0, 0], CROP_SIZE), None, True)
                for camera in self._rig
            ]
            for hands in range(1, self._hands + 1):
                gpu.start(black, hands * [ahead])
                gpu.finish()
        except BaseException:
            gpu.close()
            raise
        return gpu

    def _on_gpu(self, frame_set: FrameSet, regions: Sequence[Region]) -> list[ViewHand]:
        if self._gpu is None:
            self._gpu = self._opened()
            self.runtime = self._gpu.name
            self.events.append(f"the GPU is back: {self._gpu.name}")
        # The GPU starts before the checks, so that nobody waits for both: a view whose hand has gone is shown to the
        # others in the set in which that is found out. It was in up to three sets before, since checks go by turns.
        before = self._cpu.checks.known(regions)
        hands: dict[int | None, list[Region]] = {}
        for region, known in zip(regions, before, strict=True):
            if known >= MIN_PRESENCE:
                hands.setdefault(region.track_id, []).append(region)
        if hands:
            cameras = {region.camera.name for shown in hands.values() for region in shown}
            self._gpu.start({name: frame_set.frames[name].image for name in cameras}, list(hands.values()))
        now, right = self._cpu.checks(frame_set, regions)
        seen = self._gpu.finish().pixels.astype(np.float64) if hands else np.empty((0, 0, LANDMARKS, 2))
        rows = {track: row for row, track in enumerate(hands)}
        pixels, presence = [], []
        for region, known, checked in zip(regions, before, now, strict=True):
            own = np.full((LANDMARKS, 2), np.nan)
            if known >= MIN_PRESENCE:
                own = seen[rows[region.track_id], self._columns[region.camera.name]]
            if np.isfinite(own).all():
                pixels.append(own)
                presence.append(checked)
            else:  # not shown, even if it proves to be there now; or beyond half precision
                pixels.append(np.zeros((LANDMARKS, 2)))
                presence.append(0.0)
        return view_hands(frame_set, regions, pixels, presence, right)

    def _fail(self, error: Exception, t_ns: int) -> None:
        self.close()
        self.runtime = self._cpu.runtime
        self.counters["gpu_faults"] += 1
        self._again_ns = t_ns + _PAUSE_NS
        number = self.counters["gpu_faults"]
        if number < _MOST_FAULTS:
            then = f"the CPU takes over, in {_PAUSE_NS / 1e9:.0f} s the GPU is tried again"
        else:
            then = "the CPU tracks for the rest of the run"
        self.events.append(f"GPU fault {number} of {_MOST_FAULTS}, {then}: {error}")
