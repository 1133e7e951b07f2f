"""A built plan's engines as the networks of the GPU runtime."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hamuco.engine.bundle import Bundle
from hamuco.engine.cuda import Device, Graph, Stream
from hamuco.engine.gpu_networks import SAMPLED_MAPS, EstimatorOutputs, InteractionOutputs, NetworkInputs
from hamuco.engine.hand_model import JOINTS, LANDMARKS
from hamuco.engine.kernel_structs import FeatureMap
from hamuco.engine.plans import Plan, Profile, build_command
from hamuco.engine.tensorrt_engine import Context, Engine, EngineError, Shape, TensorRT

# Inputs, then outputs, as hamuco.engine.device_graphs has them; reading that takes onnx.
_LOOKED = ("pose", "betas", "camera", *SAMPLED_MAPS, "map_32")
_KNOWN = ("location", "half_angle", "places", "sampled")
_REFINED = ("pose", "camera")


class TensorRTNetworks:
    """See `GpuNetworks`. Every preparation has contexts and memory of its own, which live until the device is closed."""

    def __init__(self, bundle: Bundle, plan: Plan, device: Device) -> None:
        """
        Args:
            bundle: that the plan was built of.
            plan: that fits the device, with the files that were built, as `find_plan` gives it.
            device: to load it on.

        Raises:
            EngineError: the runtime is not installed, or an engine does not load, or has not the tensors of such a plan.
            OSError: a file cannot be read.
        """
        self._bundle, self._card, self._device = bundle, plan.card, device
        library = TensorRT(plan.card.platform.runtime)
        self._estimator: Engine | None = self._loaded(library, plan.estimator, ("images", *_LOOKED))
        self._interaction: Engine | None = self._loaded(
            library, plan.interaction, ("map_32", "single_pose", *_KNOWN, *_REFINED)
        )
        self._prepared: list[_Prepared] = []
        self.name = f"{library.name} {plan.card.precision}"
        self.dtype, self.image_size = self._estimator.types["images"], bundle.card.image_size
        self.sampled = sum(self._estimator.shapes[name][1] for name in SAMPLED_MAPS)

    def prepare(self, hands: int, views: int, inputs: NetworkInputs) -> _Prepared:
        """See `GpuNetworks`."""
        self._check_fits(hands, views)
        assert self._estimator is not None, "closed"
        assert self._interaction is not None, "closed"
        count = hands * views
        estimator = self._estimator.context({"images": (count, 3, self.image_size, self.image_size)})
        interaction = self._interaction.context(
            {
                "map_32": estimator.shape("map_32"),
                "location": (count, LANDMARKS, 3),
                "single_pose": (count, JOINTS, 6),
                "half_angle": (count,),
                "places": (hands, views),
                "sampled": (count, LANDMARKS, self.sampled),
            }
        )
        looked, refined = self._room(estimator, _LOOKED), self._room(interaction, _REFINED)
        known = {name: getattr(inputs, name) for name in _KNOWN}
        estimator.set_addresses({"images": inputs.images, **looked})
        interaction.set_addresses({"map_32": looked["map_32"], "single_pose": looked["pose"], **known, **refined})
        maps = tuple(_feature_map(looked[name], estimator.shape(name)) for name in SAMPLED_MAPS)
        prepared = _Prepared(
            estimator,
            interaction,
            EstimatorOutputs(looked["pose"], looked["betas"], looked["camera"], maps),
            InteractionOutputs(refined["pose"], refined["camera"]),
        )
        self._prepared.append(prepared)
        return prepared

    def capture(self, stream: Stream, work: Callable[[], None]) -> Graph:
        """See `GpuNetworks`."""
        if not all(one.capturable(stream) for one in self._prepared):
            raise EngineError(
                f"a CUDA graph cannot hold the engines of {self._bundle.card.name}, which allocate when they run. Build "
                f"them again: {build_command(self._bundle, self._card)}"
            )
        return self._device.capture(stream, work)

    def close(self) -> None:
        """See `GpuNetworks`."""
        self._prepared.clear()  # contexts go before their engines
        self._estimator = self._interaction = None

    def _loaded(self, library: TensorRT, path: Path, names: Sequence[str]) -> Engine:
        try:
            engine = library.engine(path.read_bytes(), self._device)
        except EngineError as error:
            raise EngineError(f"{path}: {error}. Build it again: {build_command(self._bundle, self._card)}") from None
        if missing := sorted(set(names) ^ engine.types.keys()):
            raise EngineError(
                f"{path} should have the tensors {', '.join(names)}; {', '.join(missing)} differ. Build it again: "
                f"{build_command(self._bundle, self._card)}"
            )
        return engine

    def _check_fits(self, hands: int, views: int) -> None:
        profile = self._card.profile
        least, usual, most = profile.views
        if least <= views <= most and hands <= profile.hands:
            return
        wider = Profile((min(least, views), max(usual, views), max(most, views)), max(hands, profile.hands))
        raise EngineError(
            f"{hands} hands in {views} views are more or less than the engine takes, {profile}. Build one that does: "
            f"{build_command(self._bundle, self._card, wider)}"
        )

    def _room(self, context: Context, names: Sequence[str]) -> dict[str, int]:
        return {name: self._device.memory(context.size(name)) for name in names}


@dataclass(slots=True, eq=False)
class _Prepared:
    """See `PreparedNetworks`."""

    estimator: Context
    interaction: Context
    looked: EstimatorOutputs
    refined: InteractionOutputs

    def look(self, stream: Stream) -> EstimatorOutputs:
        self.estimator.run(stream.handle)
        return self.looked

    def refine(self, stream: Stream) -> InteractionOutputs:
        self.interaction.run(stream.handle)
        return self.refined

    def capturable(self, stream: Stream) -> bool:
        return self.estimator.capturable(stream.handle) and self.interaction.capturable(stream.handle)


def _feature_map(address: int, shape: Shape) -> FeatureMap:
    """Maps (n, C, S, S), which engines give as NCHW."""
    _, channels, _, size = shape
    return FeatureMap(address, channels, size, size * size, 1)
