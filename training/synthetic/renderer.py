"""Draws hands in a scene with OpenGL, on a graphics card or in software, without a window.

A shadow map of the key light is drawn, then every camera's view as a pinhole picture with 1.5 samples per pixel each way.
Colour is averaged over them; labels and depth are those of the nearest sample, at most 1/3 px beside the pixel's centre.
Lens distortion is where the pixels look for their samples. Posing and the shadow map are shared by all cameras of a call. Images are drawn upside down in OpenGL's eyes, so
that their first row is the top row when they are read; what faces us is then clockwise.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hamuco.calibration.camera import Camera
from hamuco.engine.hand_model import HandModel
from hamuco.fusion.hand import HandParameters, Side
from hamuco.training.synthetic.buffers import HandBuffers, SurfaceBuffers, load_program, set_uniforms
from hamuco.training.synthetic.lens import Lens, lens_of
from hamuco.training.synthetic.look import Look
from hamuco.training.synthetic.scene import Scene, SceneBuilder
from hamuco.training.synthetic.skin_detail import paint_detail, skin_noise
from hamuco.training.synthetic.textures import stock

if TYPE_CHECKING:
    import moderngl

FloatArray = NDArray[np.float64]

OWN_FLESH = 0.02  # m
_DENSITY = 1.5  # samples per pixel, each way
_MAX_TARGETS = 8  # sizes whose framebuffers are kept
_NEAR, _FAR = 0.02, 30.0  # m
_SHADOW_AT, _SAMPLES_AT = 3, 4  # texture units; the first three are the textures
_SHADOW_SIZE = 512
_ATLAS_COLUMNS = 4
_ATLAS_TILES = 16
_LABEL_OBJECT = 255

_ADVICE = (
    "install a driver with EGL (Debian: apt install libegl1 libgl1-mesa-dri) and "
    'the Python package (pip install "hamuco[synth]")'
)


class GraphicsError(OSError):
    """Pictures cannot be drawn here: no OpenGL without a window, or an image beyond its limits."""


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """What a camera sees.

    Attributes:
        colour: (height, width, 3) float32 linear BGR, 0 to 1.
        depth: (height, width) float32 m along the camera's z; inf where there is nothing.
        labels: (height, width) uint8: 0 surroundings, 1 + i hand i, 16 + i forearm or sleeve of hand i, 255 held object.
    """

    colour: NDArray[np.float32]
    depth: NDArray[np.float32]
    labels: NDArray[np.uint8]

    def visible(self, camera: Camera, joints: ArrayLike) -> NDArray[np.bool_]:
        """Which joints (..., 3) m of a hand are seen: in the image, with at most own flesh (20 mm) in front of them.

        Skin within these 20 mm counts as the hand's own, a held object never does.

        Args:
            camera: the one that the picture is of.
            joints: in the world.

        Returns:
            (...) bool.
        """
        points = camera.to_camera(joints)
        pixels = camera.project_camera(points)
        height, width = self.labels.shape
        with np.errstate(invalid="ignore"):
            within = (pixels > -0.5) & (pixels < np.array([width, height]) - 0.5)  # False for NaN
        inside = np.asarray(within.all(axis=-1))
        column, row = np.rint(np.where(inside[..., None], pixels, 0)).astype(int).reshape(-1, 2).T
        depth = self.depth[row, column].reshape(inside.shape)
        flesh = np.where(self.labels[row, column] == _LABEL_OBJECT, 0.0, OWN_FLESH).reshape(inside.shape)
        return np.asarray(inside & (depth >= points[..., 2] - flesh))


@dataclass(slots=True)
class _Target:
    """Framebuffers of one size, for colour with labels, and depth: of the samples, in textures, and of the pixels."""

    textures: tuple[moderngl.Texture, moderngl.Texture]
    samples: moderngl.Framebuffer
    pixels: moderngl.Framebuffer
    lens: moderngl.Texture | None = None  # where the pixels lie, once it is needed


class Renderer:
    """Draws looks with hands. Not for use from several threads at once."""

    def __init__(self, model: HandModel) -> None:
        """
        Args:
            model: right or left; the other side is its mirror image.

        Raises:
            GraphicsError: there is no OpenGL 3.3 to be had without a window.
            ValueError: the model has no wrist end where a forearm could go on.
        """
        self._builder = SceneBuilder(model)
        self._context = _open_context()
        with self._context as context:
            context.front_face = "cw"
            self._programs = {name: load_program(context, *parts) for name, parts in _PROGRAMS.items()}
            self._load_textures(context)
            self._hands = [HandBuffers(context, self._programs, self._builder, slot) for slot in range(2)]
            self._surface = SurfaceBuffers(context, self._programs)
            self._average = context.vertex_array(self._programs["average"], [])
            self._sky = context.vertex_array(self._programs["background"], [])
            shadow = context.depth_texture((_SHADOW_SIZE, _SHADOW_SIZE))
            shadow.compare_func = "<="
            shadow.repeat_x = shadow.repeat_y = False
            self._shadow_map, self._shadow = shadow, context.framebuffer(depth_attachment=shadow)
        self._targets: dict[tuple[tuple[int, int], tuple[int, int]], _Target] = {}

    def draw(self, look: Look, hands: Sequence[tuple[Side, HandParameters]], camera: Camera) -> Picture:
        """Draw one camera's image, lens distortion and all.

        Args:
            look: of as many hands.
            hands: side and parameters of each, world frame.
            camera: where rays meet no pixel of a pinhole picture of 150 degrees, the picture is black.

        Raises:
            GraphicsError: the image is larger than OpenGL can draw.
            ValueError: another number of hands than the look has.
        """
        lens = lens_of(camera)
        with self._context:
            self._prepare(look, hands)
            return next(self._draw_tiles([(camera, lens)]))

    def draw_crops(
        self, look: Look, hands: Sequence[tuple[Side, HandParameters]], cameras: Sequence[Camera]
    ) -> list[Picture]:
        """Draw the same hands for several small cameras without distortion, all of one size; posed and lit once.

        Raises:
            GraphicsError: the images are larger than OpenGL can draw.
            ValueError: cameras of several sizes or with distortion, or another number of hands than the look has.
        """
        sizes = {camera.size for camera in cameras}
        if len(sizes) > 1:
            raise ValueError(f"crops drawn together have one size, these have {sorted(sizes)}")
        for camera in cameras:
            if camera.fisheye or camera.distortion.any():
                raise ValueError(
                    f"crops are drawn without lens distortion, camera {camera.name!r} has some: use draw()"
                )
        pictures: list[Picture] = []
        with self._context:
            self._prepare(look, hands)
            for start in range(0, len(cameras), _ATLAS_TILES):
                group = cameras[start : start + _ATLAS_TILES]
                pictures += self._draw_tiles([(camera, lens_of(camera)) for camera in group])
        return pictures

    def close(self) -> None:
        """Give the graphics memory back; the renderer cannot be used after."""
        self._context.release()

    def _prepare(self, look: Look, hands: Sequence[tuple[Side, HandParameters]]) -> None:
        """Pose the hands, send all meshes, and draw the shadow map."""
        if len(hands) != len(look.skins):
            raise ValueError(f"the look is for {len(look.skins)} hands, {len(hands)} are given")
        scene = self._builder.build(look, hands)
        for buffers, hand in zip(self._hands, scene.hands, strict=False):
            buffers.write(hand.side, hand.vertices)
        self._surface.write(scene)
        self._drawn = list(zip(self._hands, (hand.side for hand in scene.hands), look.skins, strict=False))
        self._set_scene(look, scene)

        context = self._context
        self._shadow.use()
        self._shadow.clear(depth=1.0)
        context.disable(context.CULL_FACE)
        context.enable(context.DEPTH_TEST)
        self._surface.arrays["shadow"].render(vertices=scene.casters)
        for buffers, side, _ in self._drawn:
            buffers.arrays[side, "shadow"].render()

    def _set_scene(self, look: Look, scene: Scene) -> None:
        """Uniforms that all views share."""
        lights = {field.name: getattr(look.lights, field.name) for field in fields(look.lights)}
        shadow = {"shadow_from_world": scene.shadow_from_world, "shadow_blur": scene.shadow_blur}
        for program in self._programs.values():
            set_uniforms(program, **lights, **shadow, above=look.above, below=look.below)
        # Walls all around hide the sky, which is not drawn then: filling the picture twice would cost a tenth of it.
        self._sees_sky = all(solid.shape != "room" for solid in look.solids)
        self._shadow_map.use(location=_SHADOW_AT)

    def _draw_tiles(self, views: Sequence[tuple[Camera, Lens]]) -> Iterator[Picture]:
        """Pictures of one size, drawn side by side; one with distortion is drawn alone."""
        context = self._context
        width, height = views[0][0].size
        columns = min(len(views), _ATLAS_COLUMNS)
        rows = -(-len(views) // columns)
        places = [(index % columns, index // columns) for index in range(len(views))]
        wide, high = (int(np.ceil(_DENSITY * side)) for side in views[0][1].size)
        target = self._target((columns * width, rows * height), (columns * wide, rows * high))

        target.samples.use()
        context.enable_only(context.CULL_FACE | context.DEPTH_TEST)
        target.samples.clear()
        for (x, y), (camera, lens) in zip(places, views, strict=True):
            context.viewport = (x * wide, y * high, wide, high)
            self._draw_view(_clip_from_world(lens.matrix, camera, (wide, high)), camera.centre)
        self._resolve(target, (width, height), (wide, high), views[0][1].map)

        shape = (rows * height, columns * width)
        colour = np.frombuffer(target.pixels.read(components=4, dtype="f2", alignment=1), np.float16).reshape(*shape, 4)
        depth = np.frombuffer(target.pixels.read(components=1, attachment=1, dtype="f4", alignment=1), np.float32)
        depth = np.where(depth > 0, depth, np.float32(np.inf)).reshape(shape)
        for x, y in places:
            tile = np.s_[y * height : (y + 1) * height, x * width : (x + 1) * width]
            yield Picture(
                colour[tile][..., :3].astype(np.float32), depth[tile].copy(), colour[tile][..., 3].astype(np.uint8)
            )

    def _resolve(
        self, target: _Target, tile: tuple[int, int], samples: tuple[int, int], places: NDArray[np.float32] | None
    ) -> None:
        """From samples to pixels, through the lens where there are `places` (height, width, 2) of the pixels."""
        context = self._context
        if places is not None:
            if target.lens is None:
                target.lens = context.texture(tile, 2, dtype="f4")
            target.lens.write(places.tobytes())
            target.lens.use(location=_SAMPLES_AT + 2)
        target.pixels.use()
        context.enable_only(context.NOTHING)
        for location, texture in enumerate(target.textures):
            texture.use(location=_SAMPLES_AT + location)
        average = self._programs["average"]
        set_uniforms(average, tile=tile, sample_tile=samples, density=_DENSITY, bent=float(places is not None))
        self._average.render(vertices=3)

    def _draw_view(self, clip_from_world: FloatArray, eye: FloatArray) -> None:
        view = {"clip_from_world": clip_from_world, "world_from_clip": np.linalg.inv(clip_from_world), "eye": eye}
        for name in ("skin", "surface", "backdrop", "background"):
            set_uniforms(self._programs[name], **view)
        # Hands first, which spares shading what they hide.
        for index, (buffers, side, skin) in enumerate(self._drawn):
            set_uniforms(
                self._programs["skin"],
                skin_back=skin.back,
                skin_palm=skin.palm,
                skin_nail=skin.nail,
                skin_place=skin.place,
                marks=(skin.flush, skin.blotches, skin.creases, skin.veins),
                finish=(skin.bumps, skin.roughness, skin.gloss, skin.varnish),
                labels=(index + 1, index + 16),
            )
            buffers.arrays[side, "skin"].render()
        surface = self._surface
        surface.arrays["surface"].render(vertices=surface.lit)
        surface.arrays["backdrop"].render(vertices=surface.count - surface.lit, first=surface.lit)
        if self._sees_sky:
            self._context.depth_func = "<="
            self._sky.render(vertices=3)
            self._context.depth_func = "<"

    def _load_textures(self, context: moderngl.Context) -> None:
        surface = self._builder.surfaces["right"]
        flat = surface.chart[: surface.hand_count, :2]
        detail = paint_detail(surface.fingers, surface.wrist, flat.min(axis=0), flat.max(axis=0))
        _, rows, columns, _ = detail.maps.shape
        layers, _ = stock()
        maps = context.texture_array((columns, rows, 2), 4, detail.maps.tobytes())
        maps.repeat_x = maps.repeat_y = False
        noise = skin_noise()
        noise_map = context.texture(noise.shape[1::-1], 4, noise.tobytes())
        materials = context.texture_array((layers.shape[2], layers.shape[1], len(layers)), 3, layers.tobytes())
        textures: list[Any] = [materials, maps, noise_map]
        for location, texture in enumerate(textures):
            texture.build_mipmaps()
            texture.filter = (context.LINEAR_MIPMAP_NEAREST, context.LINEAR)
            texture.use(location=location)
        skin = self._programs["skin"]
        set_uniforms(skin, detail_frame=detail.frame)
        for program, name, location in (
            (self._programs["surface"], "stock", 0),
            (skin, "detail_map", 1),
            (skin, "noise_map", 2),
            (self._programs["backdrop"], "stock", 0),
            (self._programs["surface"], "shadow_map", _SHADOW_AT),
            (skin, "shadow_map", _SHADOW_AT),
            (self._programs["average"], "samples", _SAMPLES_AT),
            (self._programs["average"], "sample_depth", _SAMPLES_AT + 1),
            (self._programs["average"], "lens", _SAMPLES_AT + 2),
        ):
            program[name] = location

    def _target(self, size: tuple[int, int], samples: tuple[int, int]) -> _Target:
        if (size, samples) in self._targets:
            return self._targets[size, samples]
        context = self._context
        limits = context.info
        limit = min(limits["GL_MAX_RENDERBUFFER_SIZE"], limits["GL_MAX_TEXTURE_SIZE"], *limits["GL_MAX_VIEWPORT_DIMS"])
        if max(samples) > limit:
            raise GraphicsError(
                f"an image of {size[0]} x {size[1]} px is to be drawn, OpenGL here takes {int(limit / _DENSITY)} px a side: "
                f"draw smaller images, or fewer crops at once"
            )
        if len(self._targets) >= _MAX_TARGETS:
            oldest = self._targets.pop(next(iter(self._targets)))
            for framebuffer in (oldest.samples, oldest.pixels):
                for attachment in (*framebuffer.color_attachments, framebuffer.depth_attachment):
                    if attachment is not None:
                        attachment.release()
                framebuffer.release()
        textures = context.texture(samples, 4, dtype="f2"), context.texture(samples, 1, dtype="f4")
        for texture in textures:
            texture.repeat_x = texture.repeat_y = False
        made = self._targets[size, samples] = _Target(
            textures,
            context.framebuffer(textures, context.depth_renderbuffer(samples)),
            context.framebuffer([context.renderbuffer(size, 4, dtype="f2"), context.renderbuffer(size, 1, dtype="f4")]),
        )
        return made


_PROGRAMS = {  # vertex shader, parts of the fragment shader
    "skin": ("skin_vertex", "shadow", "skin_fragment"),
    "surface": ("surface_vertex", "shadow", "surface_fragment"),
    "average": ("average_vertex", "average_fragment"),
    "background": ("background_vertex", "background_fragment"),
    "shadow": ("shadow_vertex", "shadow_fragment"),
    "backdrop": ("surface_vertex", "backdrop_fragment"),
}


def _open_context() -> Any:
    try:
        import moderngl
    except ImportError as error:
        raise GraphicsError(f"the Python package moderngl cannot be imported ({error}): {_ADVICE}") from error
    try:
        settings: dict[str, Any] = {"backend": "egl"}  # needs no display
        return moderngl.create_context(standalone=True, require=330, **settings)
    except Exception as error:  # the loader raises plain Exceptions
        reason = " ".join(str(error).split())
        raise GraphicsError(f"OpenGL 3.3 cannot be opened without a window ({reason}): {_ADVICE}") from error


def _clip_from_world(matrix: FloatArray, camera: Camera, samples: tuple[int, int]) -> FloatArray:
    """(4, 4) world -> clip space, in which the first row of the image is the lowest; w is z of the camera.

    Sample (0, 0) lies in the centre of the first pixel.
    """
    wide, high = samples
    clip_from_pixel = np.array(
        [[2 * _DENSITY / wide, 0, 1 / wide - 1], [0, 2 * _DENSITY / high, 1 / high - 1], [0, 0, 1]]
    )
    clip = np.zeros((4, 4))
    clip[[0, 1, 3], :3] = clip_from_pixel @ matrix
    clip[2, 2], clip[2, 3] = (_FAR + _NEAR) / (_FAR - _NEAR), -2 * _FAR * _NEAR / (_FAR - _NEAR)
    return np.asarray(clip @ camera.camera_from_world)
