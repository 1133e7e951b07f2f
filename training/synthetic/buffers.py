"""Vertices on the graphics side, and the shaders that read them."""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hamuco.fusion.hand import Side
from hamuco.training.synthetic.scene import SURFACE_FLOATS, Scene, SceneBuilder

if TYPE_CHECKING:
    import moderngl


class HandBuffers:
    """Vertices of one hand on the graphics side, as a right or a left one."""

    def __init__(self, context: moderngl.Context, programs: dict[str, Any], builder: SceneBuilder, slot: int) -> None:
        count = len(builder.surfaces["right"].chart)
        self._buffer = context.buffer(reserve=count * 7 * 4, dynamic=True)
        self.arrays = {}
        for side, surface in builder.surfaces.items():
            forearm = np.arange(count) >= surface.hand_count
            chart = context.buffer(np.column_stack([surface.chart, forearm]).astype(np.float32).tobytes())
            index = context.buffer(surface.faces.astype(np.int32).tobytes())
            for name, content in (
                (
                    "skin",
                    [
                        (self._buffer, "3f 3f 1f", "in_position", "in_normal", "in_openness"),
                        (chart, "4f", "in_chart"),
                    ],
                ),
                ("shadow", [(self._buffer, "3f 16x", "in_position")]),
            ):
                self.arrays[side, name] = context.vertex_array(programs[name], content, index)

    def write(self, side: Side, vertices: NDArray[np.float32]) -> None:
        self._buffer.write(vertices.tobytes())


class SurfaceBuffers:
    """Everything but skin, in one growing buffer."""

    def __init__(self, context: moderngl.Context, programs: dict[str, Any]) -> None:
        self._context, self._programs = context, programs
        self.count = self.lit = 0
        self._reserve(4096, 16384)

    def _reserve(self, vertices: int, indices: int) -> None:
        context = self._context
        self._buffer = context.buffer(reserve=vertices * SURFACE_FLOATS * 4, dynamic=True)
        self._index = context.buffer(reserve=indices * 4, dynamic=True)
        self.arrays: dict[str, Any] = {
            name: context.vertex_array(self._programs[name], [(self._buffer, *content)], self._index)
            for name, content in (
                ("surface", ("3f 3f 3f 4f 4f", "in_position", "in_normal", "in_texture", "in_low", "in_high")),
                ("backdrop", ("3f 3f 3f 4f 4f", "in_position", "in_normal", "in_texture", "in_low", "in_high")),
                ("shadow", ("3f 56x", "in_position")),
            )
        }

    def write(self, scene: Scene) -> None:
        vertices, indices = scene.surface.size // SURFACE_FLOATS, scene.surface_indices.size
        if vertices * SURFACE_FLOATS * 4 > self._buffer.size or indices * 4 > self._index.size:
            for outgrown in (*self.arrays.values(), self._buffer, self._index):
                outgrown.release()  # moderngl gives nothing back by itself
            self._reserve(2 * vertices, 2 * indices)
        self._buffer.write(scene.surface.tobytes())
        self._index.write(scene.surface_indices.tobytes())
        self.count, self.lit = indices, scene.lit


def load_program(context: moderngl.Context, vertex: str, *fragment: str) -> Any:
    def source(*names: str) -> str:
        folder = files("hamuco.training.synthetic") / "shaders"
        return "#version 330\n" + "".join((folder / f"{name}.glsl").read_text("utf-8") for name in names)

    return context.program(vertex_shader=source(vertex), fragment_shader=source(*fragment))


def set_uniforms(program: Any, **values: Any) -> None:
    """Set numbers, vectors and matrices of a program; those that its shaders do not use are not there to be set.

    A matrix (r, c) maps columns c to rows r; OpenGL keeps it column by column.
    """
    for name, value in values.items():
        uniform = program.get(name, None)
        if uniform is not None:
            uniform.write(np.ascontiguousarray(np.asarray(value, np.float32).T).tobytes())
