"""TensorRT and TensorRT for RTX without a GPU: what `hamuco.engine.tensorrt_engine` calls of them, beside the driver's stand-in.

The bytes of an engine are an ONNX graph and what it may take. OpenVINO runs it in single precision, on the addresses that a
context was given, when the turn of the stream comes. As the libraries do, it returns False or None where it refuses, and
logs why.
"""

from __future__ import annotations

import ctypes
import enum
import json
import math
from collections.abc import Mapping
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np
import onnx
from fake_driver import FakeLibrary
from graph_runs import single_run
from onnx import ModelProto
from onnx.helper import tensor_dtype_to_np_dtype

from hamuco.engine.build import shapes
from hamuco.engine.builders import Run
from hamuco.engine.bundle import Bundle
from hamuco.engine.device_graphs import GraphPrecision, estimator_graph, interaction_graph
from hamuco.engine.plans import (
    ESTIMATOR,
    INTERACTION,
    NOT_COMPARED,
    Plan,
    PlanCard,
    Platform,
    Profile,
    RuntimeName,
    engines_folder,
    model_hash,
    new_plan,
    read_plan,
    write_plan,
)
from hamuco.engine.tensorrt_engine import Shape

VERSION = "10.13"
PROFILE = Profile((1, 4, 4), 2)


def engine_of(graph: ModelProto, profile: Profile) -> bytes:
    """An engine that the stand-ins load."""
    made = ModelProto()
    made.CopyFrom(graph)
    onnx.helper.set_model_props(made, {"profile": json.dumps(shapes(graph, profile))})
    return bytes(made.SerializeToString())


def fake_plan(
    bundle: Bundle, runtime: RuntimeName, precision: GraphPrecision = "fp16", profile: Profile = PROFILE
) -> Plan:
    """Written where `hamuco build` writes; f32, which it does not build, says that it is fp16."""
    platform = Platform(runtime, VERSION, "" if runtime == "tensorrt-rtx" else "Fake GPU", ("sm_90",))
    card = PlanCard(
        bundle.card.name,
        model_hash(bundle),
        platform,
        "fp16" if precision == "f32" else precision,
        profile,
        0.0,
        NOT_COMPARED,
    )
    path = engines_folder(bundle) / card.folder_name
    with new_plan(path, replace=True) as folder:
        (folder / ESTIMATOR).write_bytes(engine_of(estimator_graph(bundle.estimator, precision), profile))
        (folder / INTERACTION).write_bytes(engine_of(interaction_graph(bundle.interaction, precision), profile))
        write_plan(card, folder)
    return read_plan(path)


class FakeTensorRT(ModuleType):
    """The library, as `import` gives it.

    Attributes:
        refused: names of functions that refuse.
    """

    def __init__(self, runtime: RuntimeName, driver: FakeLibrary) -> None:
        super().__init__(runtime.replace("-", "_"))
        self.__version__ = VERSION
        self.rtx, self.driver = runtime == "tensorrt-rtx", driver
        self.refused: set[str] = set()
        self.ILogger, self.nptype = _Logger, np.dtype
        self.ExecutionContextAllocationStrategy = _Allocation
        self.DynamicShapesKernelSpecializationStrategy = _Specialization

    def Runtime(self, log: _Logger) -> _Runtime:
        return _Runtime(self, log)

    def refuses(self, name: str, log: _Logger) -> bool:
        if name in self.refused:
            log.log(_Severity.ERROR, f"IRuntime::{name}: Error Code 2:\n  refused")
        return name in self.refused


class _Severity(enum.IntEnum):
    INTERNAL_ERROR, ERROR, WARNING = range(3)


class _Logger:
    ERROR = _Severity.ERROR

    def log(self, severity: _Severity, message: str) -> None:
        raise NotImplementedError


class _Allocation(enum.Enum):
    STATIC, USER_MANAGED = range(2)


class _Specialization(enum.Enum):
    LAZY, EAGER = range(2)


class _Runtime:
    def __init__(self, library: FakeTensorRT, log: _Logger) -> None:
        self._library, self._log = library, log

    def deserialize_cuda_engine(self, engine: bytes) -> _Engine | None:
        if self._library.refuses("deserialize_cuda_engine", self._log):
            return None
        return _Engine(self._library, self._log, engine)


class _Engine:
    def __init__(self, library: FakeTensorRT, log: _Logger, engine: bytes) -> None:
        self.library, self.log = library, log
        self.model = onnx.load_from_string(engine)
        self.run = _run(engine)
        (profile,) = [one.value for one in self.model.metadata_props if one.key == "profile"]
        self.profile: dict[str, list[list[int]]] = json.loads(profile)
        self._values = {one.name: one.type.tensor_type for one in (*self.model.graph.input, *self.model.graph.output)}
        self._names: list[str] = list(self._values)
        self.num_io_tensors = len(self._names)
        if library.rtx:
            self.create_runtime_config = _RuntimeConfig

    def get_tensor_name(self, number: int) -> str:
        return self._names[number]

    def get_tensor_dtype(self, name: str) -> np.dtype[Any]:
        return np.dtype(tensor_dtype_to_np_dtype(self._values[name].elem_type))

    def dimensions(self, name: str) -> list[str | int]:
        return [one.dim_param or one.dim_value for one in self._values[name].shape.dim]

    def get_tensor_shape(self, name: str) -> Shape:
        return tuple(one if isinstance(one, int) else -1 for one in self.dimensions(name))

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[list[int]]:
        assert profile == 0
        return self.profile[name]

    def create_execution_context(self, how: _Allocation | _RuntimeConfig) -> _Context | None:
        if self.library.refuses("create_execution_context", self.log):
            return None
        assert isinstance(how, _RuntimeConfig) == self.library.rtx
        return _Context(self, how)


class _RuntimeConfig:
    def __init__(self) -> None:
        self.allocation = _Allocation.STATIC
        self.dynamic_shapes_kernel_specialization_strategy = _Specialization.LAZY

    def set_execution_context_allocation_strategy(self, strategy: _Allocation) -> None:
        self.allocation = strategy


class _Context:
    """Shapes and memory come first; a capture comes after a run that was not captured."""

    def __init__(self, engine: _Engine, how: _Allocation | _RuntimeConfig) -> None:
        self._engine, self._how = engine, how
        self._shapes: dict[str, Shape] = {}
        self._sizes: dict[str, int] = {}
        self._addresses: dict[str, int] = {}
        self._memory = self._runs = 0

    def set_input_shape(self, name: str, shape: Shape) -> bool:
        least, _, most = self._engine.profile[name]
        if len(shape) != len(least) or not all(
            low <= one <= high for low, one, high in zip(least, shape, most, strict=True)
        ):
            self._engine.log.log(_Severity.ERROR, f"IExecutionContext::setInputShape: {name} is out of range")
            return False
        self._shapes[name] = tuple(shape)
        for given, size in zip(self._engine.dimensions(name), shape, strict=True):
            if isinstance(given, str):
                assert self._sizes.setdefault(given, size) == size
        return True

    def get_tensor_shape(self, name: str) -> Shape:
        return tuple(one if isinstance(one, int) else self._sizes.get(one, -1) for one in self._engine.dimensions(name))

    def update_device_memory_size_for_shapes(self) -> int:
        assert self._shapes.keys() == self._engine.profile.keys()
        return 512

    def set_device_memory(self, address: int, size: int) -> None:
        assert size >= 512
        ctypes.memset(address, 0, size)
        self._memory = address

    def set_tensor_address(self, name: str, address: int) -> bool:
        self._addresses[name] = address
        return not self._engine.library.refuses("set_tensor_address", self._engine.log) and address % 256 == 0

    def is_stream_capturable(self, stream: int) -> bool:
        assert self._engine.library.rtx
        return not self._engine.library.refuses("is_stream_capturable", self._engine.log)

    def execute_async_v3(self, stream: int) -> bool:
        engine, how = self._engine, self._how
        names = [engine.get_tensor_name(number) for number in range(engine.num_io_tensors)]
        assert self._addresses.keys() == set(names)
        assert self._memory
        if engine.library.refuses("execute_async_v3", engine.log):
            return False
        if engine.library.driver.captures(stream):
            assert self._runs
            assert not isinstance(how, _RuntimeConfig) or (
                how.allocation,
                how.dynamic_shapes_kernel_specialization_strategy,
            ) == (
                _Allocation.USER_MANAGED,
                _Specialization.EAGER,
            )
        self._runs += 1
        arrays = {name: self._array(name) for name in names}
        engine.library.driver.queue(stream, lambda: self._compute(arrays))
        return True

    def _compute(self, arrays: Mapping[str, np.ndarray[Any, Any]]) -> None:
        given = {name: arrays[name].copy() for name in self._shapes}
        for name, values in self._engine.run(given).items():
            arrays[name][...] = values

    def _array(self, name: str) -> np.ndarray[Any, Any]:
        shape, kind = self.get_tensor_shape(name), self._engine.get_tensor_dtype(name)
        memory = (ctypes.c_uint8 * (math.prod(shape) * kind.itemsize)).from_address(self._addresses[name])
        return np.ctypeslib.as_array(memory).view(kind).reshape(shape)


@cache
def _run(engine: bytes) -> Run:
    return single_run(onnx.load_from_string(engine))
