"""torch-tensorrt without CUDA and TensorRT: what `hamuco.training.torch_route` calls of it. It converts nothing.

It refuses names and shapes that do not fit the program, as torch-tensorrt 2.14 does, and keeps its timings like that.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from hamuco.engine.tensorrt_engine import Shape


@dataclass(frozen=True, slots=True)
class Input:
    """As it is given."""

    min_shape: Shape
    opt_shape: Shape
    max_shape: Shape
    dtype: torch.dtype
    name: str


@dataclass(frozen=True, slots=True, eq=False)
class Conversion:
    """What is to be converted, and the timings that were there before."""

    program: ExportedProgram
    inputs: list[Input]
    outputs: tuple[str, ...]
    options: Mapping[str, Any]
    timings: bytes


class FakeTorchTensorRT(ModuleType):
    """The library, as `import` gives it.

    Attributes:
        asked: every conversion that succeeded.
        error: that it raises instead of building; None for none.
    """

    def __init__(self) -> None:
        super().__init__("torch_tensorrt")
        self.__version__, self.Input = "2.14.0", Input
        self.dynamo = SimpleNamespace(convert_exported_program_to_serialized_trt_engine=self._convert)
        self.asked: list[Conversion] = []
        self.error: BaseException | None = None

    def _convert(
        self,
        program: ExportedProgram,
        arg_inputs: list[Input],
        arg_input_binding_names: tuple[str, ...],
        output_binding_names: tuple[str, ...],
        timing_cache_path: str,
        **options: Any,
    ) -> bytes:
        _check(program, arg_inputs, arg_input_binding_names, output_binding_names)
        if self.error is not None:
            logging.getLogger("torch_tensorrt.dynamo._compiler").error("at length\nand with a traceback")
            logging.getLogger("torch_tensorrt [TensorRT Conversion Context]").error(
                "IBuilder: Error Code 2:\n  no memory"
            )
            raise self.error
        timings = Path(timing_cache_path)
        before = timings.read_bytes() if timings.is_file() else b""
        self.asked.append(Conversion(program, arg_inputs, output_binding_names, options, before))
        timings.parent.mkdir(parents=True, exist_ok=True)
        timings.write_bytes(before + b"measured ")
        return f"engine {len(self.asked)}".encode()


def _check(program: ExportedProgram, given: list[Input], inputs: tuple[str, ...], outputs: tuple[str, ...]) -> None:
    signature = program.module_call_graph[0].signature
    assert signature is not None
    assert pytree.tree_structure(inputs) == signature.in_spec.child(0)
    assert pytree.tree_structure(outputs) == signature.out_spec
    assert tuple(one.name for one in given) == inputs
    assert not set(inputs) & set(outputs)
    values = {node.name: node.meta["val"] for node in program.graph.nodes if node.op == "placeholder"}
    for one, name in zip(given, program.graph_signature.user_inputs, strict=True):
        value = values[name]
        assert one.dtype == value.dtype
        for size, *wanted in zip(value.shape, one.min_shape, one.opt_shape, one.max_shape, strict=True):
            if isinstance(size, int):
                assert wanted == [size] * 3
            else:
                limits = program.range_constraints[size.node.expr]
                assert limits.lower <= wanted[0] <= wanted[1] <= wanted[2] <= limits.upper
                assert wanted[0] < wanted[2], "its converter of expand takes this size for 1"
