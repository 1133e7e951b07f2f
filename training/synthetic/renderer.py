"""Draws hands in a scene with OpenGL, on a graphics card or in software, without a window.

A shadow map of the key light is drawn, then every camera's view as a pinhole picture, from which its pixels are taken
through its lens (`hamuco.training.synthetic.tiles`). Posing and the shadow map are shared by all cameras of a call.
Images are drawn upside down in OpenGL's eyes, so that their first row is the top row when they are read; what faces us is
then clockwise.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, fields
from functools import cache
from types import ModuleType
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
from hamuco.training.synthetic.tiles import Tile, lay_tiles

if TYPE_CHECKING:
    import moderngl

FloatArray = NDArray[np.float64]

OWN_FLESH = 0.02  # m
_MAX_TARGETS = 8  # sizes whose framebuffers are kept
_SHADOW_AT, _SEEN_AT = 3, 4  # texture units; the first three are the textures
_SHADOW_SIZE = 384
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


@dataclass(frozen=True, slots=True)
class _Target:
    """Framebuffers of one size with a common depth.

    Attributes:
        textures: of `seen`.
        seen: what is seen of hands: normal and depth; chart, label and openness.
        picture: colour with the label.
    """

    textures: list[moderngl.Texture]
    seen: moderngl.Framebuffer
    picture: moderngl.Framebuffer


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
            self._shading = context.vertex_array(self._programs["shading"], [])
            self._sky = context.vertex_array(self._programs["background"], [])
            shadow = context.depth_texture((_SHADOW_SIZE, _SHADOW_SIZE))
            shadow.compare_func = "<="
            shadow.repeat_x = shadow.repeat_y = False
            self._shadow_map, self._shadow = shadow, context.framebuffer(depth_attachment=shadow)
        self._targets: dict[tuple[int, int], _Target] = {}

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
        context.enable_only(context.CULL_FACE | context.DEPTH_TEST)
        # This picture is not upside down: drawn is what faces away from the light. The rest shades the same places.
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
        tiles, size = lay_tiles(views)
        target = self._target(size)
        self._context.enable_only(self._context.CULL_FACE | self._context.DEPTH_TEST)
        self._draw_skin(tiles, target)
        self._shade_skin(tiles, target)
        self._draw_surroundings(tiles)

        samples = np.frombuffer(target.picture.read(components=4, dtype="f4", alignment=1), np.float32)
        depth = np.frombuffer(target.picture.read(components=1, attachment=-1, dtype="f4", alignment=1), np.float32)
        for tile in tiles:
            yield Picture(*tile.resolve(samples.reshape(*size[::-1], 4), depth.reshape(size[::-1])))

    def _draw_skin(self, tiles: list[Tile], target: _Target) -> None:
        program = self._programs["skin"]
        target.seen.clear(depth=1.0)
        target.seen.use()
        for tile in tiles:
            self._context.viewport = tile.viewport
            set_uniforms(program, clip_from_world=tile.clip_from_world)
            for index, (buffers, side, _) in enumerate(self._drawn):
                set_uniforms(program, labels=(index + 1, index + 16))
                buffers.arrays[side, "skin"].render()

    def _shade_skin(self, tiles: list[Tile], target: _Target) -> None:
        context, program = self._context, self._programs["shading"]
        for location, texture in enumerate(target.textures):
            texture.use(location=_SEEN_AT + location)
        target.picture.use()
        target.picture.depth_mask = False
        target.picture.clear()
        context.depth_func = ">"  # it is shaded from behind: the far plane lies behind skin, and not behind nothing
        for index, (_, _, skin) in enumerate(self._drawn):
            set_uniforms(
                program,
                skin_back=skin.back,
                skin_palm=skin.palm,
                skin_nail=skin.nail,
                skin_place=skin.place,
                marks=(skin.flush, skin.blotches, skin.creases, skin.veins),
                finish=(skin.bumps, skin.roughness, skin.gloss, skin.varnish),
                labels=(index + 1, index + 16),
            )
            for tile in tiles:
                context.viewport = tile.viewport
                set_uniforms(program, eye=tile.camera.centre, ray_from_sample=tile.ray_from_sample)
                self._shading.render(vertices=3)
        context.depth_func = "<"
        target.picture.depth_mask = True

    def _draw_surroundings(self, tiles: list[Tile]) -> None:
        context, surface = self._context, self._surface
        for tile in tiles:
            context.viewport = tile.viewport
            for name in ("surface", "backdrop", "background"):
                set_uniforms(self._programs[name], clip_from_world=tile.clip_from_world, eye=tile.camera.centre)
            surface.arrays["surface"].render(vertices=surface.lit)
            surface.arrays["backdrop"].render(vertices=surface.count - surface.lit, first=surface.lit)
            if self._sees_sky:
                set_uniforms(self._programs["background"], world_from_clip=np.linalg.inv(tile.clip_from_world))
                context.depth_func = "<="
                self._sky.render(vertices=3)
                context.depth_func = "<"

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
        skin = self._programs["shading"]
        set_uniforms(skin, detail_frame=detail.frame)
        for program, name, location in (
            (self._programs["surface"], "stock", 0),
            (skin, "detail_map", 1),
            (skin, "noise_map", 2),
            (self._programs["backdrop"], "stock", 0),
            (self._programs["surface"], "shadow_map", _SHADOW_AT),
            (skin, "shadow_map", _SHADOW_AT),
            (skin, "facings", _SEEN_AT),
            (skin, "sites", _SEEN_AT + 1),
        ):
            program[name] = location

    def _target(self, size: tuple[int, int]) -> _Target:
        """For so many samples."""
        if size in self._targets:
            return self._targets[size]
        context = self._context
        limits = context.info
        limit = min(limits["GL_MAX_RENDERBUFFER_SIZE"], *limits["GL_MAX_VIEWPORT_DIMS"])
        if max(size) > limit:
            raise GraphicsError(
                f"{size[0]} x {size[1]} samples are to be drawn, OpenGL here takes {limit} a side: "
                f"draw smaller images, or fewer crops at once"
            )
        if len(self._targets) >= _MAX_TARGETS:
            oldest = self._targets.pop(next(iter(self._targets)))
            for attachment in (*oldest.textures, *oldest.picture.color_attachments, oldest.picture.depth_attachment):
                attachment.release()
            oldest.seen.release()
            oldest.picture.release()
        # Single precision: half would have to be converted when it is read, which takes longer.
        textures = [context.texture(size, 4, dtype="f4") for _ in range(2)]
        picture, depth = context.renderbuffer(size, 4, dtype="f4"), context.depth_renderbuffer(size)
        target = _Target(textures, context.framebuffer(textures, depth), context.framebuffer([picture], depth))
        self._targets[size] = target
        return target


_PROGRAMS = {  # vertex shader, parts of the fragment shader
    "skin": ("skin_vertex", "skin_fragment"),
    "shading": ("skin_shading_vertex", "shadow", "skin_shading_fragment"),
    "surface": ("surface_vertex", "shadow", "surface_fragment"),
    "background": ("background_vertex", "background_fragment"),
    "shadow": ("shadow_vertex", "shadow_fragment"),
    "backdrop": ("surface_vertex", "backdrop_fragment"),
}


def check_graphics() -> None:
    """Raise GraphicsError, with what to install, where no OpenGL context can be had."""
    _moderngl()
    _try_context()


@cache
def _try_context() -> None:
    """In a process of its own: a crash of the driver, which was seen here once, must not take the training along."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as executor:
        try:
            executor.submit(_open_and_release).result()
        except BrokenProcessPool as error:
            raise GraphicsError(f"OpenGL crashes where it is opened without a window: {_ADVICE}") from error


def _open_and_release() -> None:
    _open_context().release()


def _moderngl() -> ModuleType:
    try:
        import moderngl
    except ImportError as error:
        raise GraphicsError(f"the Python package moderngl cannot be imported ({error}): {_ADVICE}") from error
    return moderngl


def _open_context() -> Any:
    moderngl = _moderngl()
    try:
        settings: dict[str, Any] = {"backend": "egl"}  # needs no display
        return moderngl.create_context(standalone=True, require=330, **settings)
    except Exception as error:  # the loader raises plain Exceptions
        reason = " ".join(str(error).split())
        raise GraphicsError(f"OpenGL 3.3 cannot be opened without a window ({reason}): {_ADVICE}") from error
