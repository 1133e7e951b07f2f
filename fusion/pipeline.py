"""One frame set in, hands out: the estimator and the fusion wired together. No process, socket or clock but for timing."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from hamuco.calibration.camera import Rig
from hamuco.capture.frame import FrameSet
from hamuco.engine.bundle import Bundle
from hamuco.engine.gpu_runtime import open_runtime
from hamuco.engine.gpu_views import GpuHaMuCoEstimator
from hamuco.engine.hamuco import HaMuCoNetworks
from hamuco.engine.hamuco_views import HaMuCoEstimator
from hamuco.engine.hand_model import HandModel, load_hand_model
from hamuco.engine.landmarks import LandmarkEstimator, region_from_palm, regions_from_joints
from hamuco.engine.model_files import PALM_DETECTOR, model_path
from hamuco.engine.palm_detector import PalmDetector
from hamuco.engine.plans import RuntimeName
from hamuco.fusion.hand import HandSet
from hamuco.fusion.observation import Observation
from hamuco.fusion.track import HandTracker

LiveRuntime = Literal["openvino", RuntimeName]
"""What runs a bundle's networks: OpenVINO on the CPU, or one of those on GPUs."""

# While some but not all hands are followed, whole images are searched this often (capture time), after the hands of a
# set are out. 150 ms cost two cores a tenth of their time with four cameras.
_SEARCH_EVERY_NS = 150_000_000
# A hand that just got lost is searched sooner: it is still near.
_SEARCH_LOST_EVERY_NS = 60_000_000


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    """The hands of a set, and per hand what it was made from (None: extrapolated)."""

    hand_set: HandSet
    observations: tuple[Observation | None, ...]


class Pipeline:
    """Turns the frame sets of one rig into hands. Give every set once, in order, to `process` and then to `prepare`."""

    def __init__(
        self,
        rig: Rig,
        model: HandModel | None = None,
        max_hands: int = 2,
        vertices: bool = False,
        refine: bool = True,
        bundle: Bundle | None = None,
        runtime: LiveRuntime = "openvino",
    ) -> None:
        """
        Args:
            rig: calibrated cameras.
            model: right hand; None for the bundle's, or without one for the embedded one.
            max_hands: how many hands to look for.
            vertices: put the mesh into every hand.
            refine: correct the rig's extrinsics by the hands.
            bundle: trained networks that follow the hands; None for the default estimator, which finds them in any case.
            runtime: of the bundle; with another than openvino, `close` gives the GPU back. `max_hands` and the rig's cameras
                have to fit into a plan that was built.

        Raises:
            ModelFileError: the networks are not there and cannot be fetched.
            BundleError: the bundle is for other crops.
            CudaError, PlanError, EngineError: the runtime cannot be had.
            ValueError: one camera is not enough; or a runtime was given without a bundle.
        """
        if bundle is None and runtime != "openvino":
            raise ValueError(
                f"{runtime} runs the networks of a bundle: say which, the default estimator has none for it"
            )
        self.model = model or (load_hand_model() if bundle is None else bundle.hand)
        self.tracker = HandTracker(rig, self.model, max_hands, vertices, refine)
        self._landmarks = LandmarkEstimator()
        self.estimator: LandmarkEstimator | HaMuCoEstimator | GpuHaMuCoEstimator = self._landmarks
        """Of the followed hands."""
        self._gpu: GpuHaMuCoEstimator | None = None
        if bundle is not None:
            self.estimator = on_cpu = HaMuCoEstimator(rig, HaMuCoNetworks(bundle), self._landmarks)
            if runtime != "openvino":
                opened = partial(open_runtime, bundle, runtime, rig.cameras, max_hands)
                self.estimator = self._gpu = GpuHaMuCoEstimator(rig, max_hands, opened, on_cpu)
        self._detector = PalmDetector(model_path(PALM_DETECTOR))
        self._searched_ns = 0

    def process(self, frame_set: FrameSet) -> Result:
        """Hands of one set. Frames may be missing; their images are not kept."""
        t_ns = frame_set.t_capture_ns
        stage_ms: dict[str, float] = {}
        with _timed(stage_ms, "detect"):
            if not self.tracker.tracked:  # nobody waits for a followed hand
                self._acquire(frame_set)
        with _timed(stage_ms, "crop"):
            cameras = [self.tracker.rig[name] for name in frame_set.frames]
            regions = [
                replace(region, right=self.tracker.sides[region.track_id] == "right")
                for region in regions_from_joints(cameras, self.tracker.predictions(t_ns))
                if region.track_id is not None
            ]
            crops = self.estimator.crop(frame_set, regions)
        with _timed(stage_ms, "landmarks"):
            view_hands = self.estimator(frame_set, regions, crops)
        with _timed(stage_ms, "fuse"):
            fused = self.tracker.update(t_ns, view_hands)
        hand_set = HandSet(
            set_id=frame_set.set_id,
            t_capture_ns=t_ns,
            spread_ns=frame_set.spread_ns,
            cameras=tuple(frame_set.frames),
            hands=tuple(hand for hand, _ in fused),
            smoothing_delay_ns=self.tracker.smoothing_delay_ns,
            stage_ms=stage_ms,
            counters=self.tracker.counters | (self._gpu.counters if self._gpu is not None else {}),
        )
        return Result(hand_set, tuple(observation for _, observation in fused))

    def prepare(self, frame_set: FrameSet) -> None:
        """What can wait until the set's hands are out: refine the calibration, look for lost and further hands."""
        self.tracker.learn()
        if not self.tracker.tracked or len(frame_set.frames) < 2:
            return
        since_ns = frame_set.t_capture_ns - self._searched_ns
        if (self.tracker.has_lost and since_ns >= _SEARCH_LOST_EVERY_NS) or (
            self.tracker.has_room and since_ns >= _SEARCH_EVERY_NS
        ):
            self._acquire(frame_set)

    @property
    def alarms(self) -> Mapping[str, str]:
        """What somebody should look after, by what it is about: cameras that seem to have moved, and the GPU's faults."""
        found = {name: f"camera {name!r} {what}" for name, what in self.tracker.alarms.items()}
        events = self._gpu.events if self._gpu is not None else []
        return found | {f"GPU {number}": text for number, text in enumerate(events)}

    def close(self) -> None:
        """Give the GPU back, if there is one; a pipeline is of no more use then."""
        if self._gpu is not None:
            self._gpu.close()

    def _acquire(self, frame_set: FrameSet) -> None:
        """Detect hands in whole images and hand them to the tracker."""
        self._searched_ns = frame_set.t_capture_ns
        palms = self._detector([frame.image for frame in frame_set.frames.values()])
        regions = [
            region
            for name, found in zip(frame_set.frames, palms, strict=True)
            for palm in found
            if (region := region_from_palm(self.tracker.rig[name], palm)) is not None
        ]
        crops = self._landmarks.crop(frame_set, regions)
        self.tracker.take_up(frame_set.t_capture_ns, self._landmarks(frame_set, regions, crops))


@contextmanager
def _timed(stage_ms: dict[str, float], stage: str) -> Iterator[None]:
    start = time.perf_counter_ns()
    yield
    stage_ms[stage] = (time.perf_counter_ns() - start) * 1e-6
