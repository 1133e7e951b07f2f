"""Augmentation: what a network is shown of a stored crop. The camera is moved first, then the picture is spoiled.

Turning, shifting and scaling are changes of the virtual camera: one homography, exact also for what is known in 3D.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

from hamuco.engine.crops import CropCamera
from hamuco.engine.skinning import axis_angle_to_matrix
from hamuco.training.crop_set import CropView

FloatArray = NDArray[np.float64]
Image = NDArray[np.uint8]

_STOCK, _STOCK_SEED = 1 << 20, 20250207  # of noise: drawing it anew takes longer than all the rest


@dataclass(frozen=True, slots=True, kw_only=True)
class Augmentation:
    """Ranges that are drawn from uniformly, anew for every crop, and how often the costlier things happen.

    Attributes:
        rotation: largest turn in the image plane, rad.
        shift: largest shift along each side, in crop sizes.
        scale: largest factor by which a crop is too large or too small.
        brightness: largest change, as a share of white.
        contrast: largest factor of contrast, up or down.
        colour: largest factor of each colour channel, up or down.
        blur: share of blurred crops.
        blur_px: largest standard deviation of the blur.
        noise: largest standard deviation of the noise, as a share of white.
        occluder: share of crops with something in front of the hand.
        occluder_size: its largest side, in crop sizes.
        background: share of the crops with a mask whose background is replaced.

    Raises:
        ValueError: a value that makes no sense, naming it.
    """

    rotation: float = float(np.radians(45.0))
    shift: float = 0.1
    scale: float = 1.25
    brightness: float = 0.15
    contrast: float = 1.3
    colour: float = 1.15
    blur: float = 0.2
    blur_px: float = 1.5
    noise: float = 0.04
    occluder: float = 0.3
    occluder_size: float = 0.4
    background: float = 0.3

    def __post_init__(self) -> None:
        limits: dict[str, tuple[float, float]] = {
            "rotation": (0, np.pi),
            "scale": (1, 2),
            "contrast": (1, 4),
            "colour": (1, 4),
            "blur_px": (0, 10),
        }
        for name in self.__dataclass_fields__:
            low, high = limits.get(name, (0, 1))
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name} is {getattr(self, name):g}, expected {low:g} to {high:g}")


PLAIN = Augmentation(
    rotation=0, shift=0, scale=1, brightness=0, contrast=1, colour=1, blur=0, noise=0, occluder=0, background=0
)
"""None: the crop as a tracker lays it, for evaluation."""


def move(view: CropView, margin: float, size: int, options: Augmentation, rng: np.random.Generator) -> CropView:
    """Lay a network's crop within a stored one.

    Args:
        view: the stored crop.
        margin: how much wider it is.
        size: of the new crop, px.
        options: how unevenly it may lie.
        rng: for that.

    Returns:
        The new crop. Where it reaches beyond the stored one, the border is repeated. Where the camera is not known, the
        stored crop is taken for one of a long focal length, whose camera stays unknown.
    """
    roll = rng.uniform(-options.rotation, options.rotation)
    shift = rng.uniform(-options.shift, options.shift, 2)
    larger = options.scale ** rng.uniform(-1.0, 1.0)
    stored_size = view.image.shape[0]
    focal = view.focal if np.isfinite(view.focal) else 1e4 * stored_size
    stored = CropCamera(np.eye(3), focal, stored_size)
    half = stored_size / 2 / focal / margin  # tangent of half of the network's crop
    turns = np.array([[0.0, 0.0, roll], [-2 * half * shift[1], 2 * half * shift[0], 0.0]])
    rolled, tilted = axis_angle_to_matrix(turns)
    moved = CropCamera(rolled @ tilted, size / 2 / half / larger, size)
    stored_from_moved = _matrix(stored) @ moved.crop_from_camera.T @ np.linalg.inv(_matrix(moved))
    crop_from_world = view.crop_from_world.copy()
    crop_from_world[:3] = moved.crop_from_camera @ view.crop_from_world[:3]
    return CropView(
        _warp(view.image, stored_from_moved, size, cv2.INTER_LINEAR),
        moved.focal if np.isfinite(view.focal) else np.nan,
        crop_from_world,
        moved.project(stored.directions(view.pixels)),
        view.confidence,
        None
        if view.mask is None
        else _warp(view.mask.astype(np.uint8), stored_from_moved, size, cv2.INTER_NEAREST) > 0,
    )


def spoil(view: CropView, options: Augmentation, rng: np.random.Generator) -> CropView:
    """Another background, something in front, other colours, blur and noise. What is known of the hand stays."""
    image = view.image.copy()
    if view.mask is not None and rng.random() < options.background:
        image = _replace_background(image, view.mask, rng)
    if rng.random() < options.occluder:
        _draw_occluder(image, options.occluder_size, rng)
    image = _recolour(image, options, rng)
    if rng.random() < options.blur:
        sigma = rng.uniform(0.3, max(options.blur_px, 0.3))
        image = np.asarray(cv2.GaussianBlur(image, (0, 0), sigma), np.uint8)
    if options.noise > 0:
        image = _add_noise(image, 255 * rng.uniform(0, options.noise), rng)
    return replace(view, image=image)


def _matrix(crop: CropCamera) -> FloatArray:
    middle = (crop.size - 1) / 2
    return np.array([[crop.focal, 0, middle], [0, crop.focal, middle], [0, 0, 1]])


def _warp(image: Image, image_from_crop: FloatArray, size: int, interpolation: int) -> Image:
    flags = interpolation | cv2.WARP_INVERSE_MAP
    return np.asarray(
        cv2.warpPerspective(image, image_from_crop, (size, size), flags=flags, borderMode=cv2.BORDER_REPLICATE),
        np.uint8,
    )


def _recolour(image: Image, options: Augmentation, rng: np.random.Generator) -> Image:
    """Brightness, contrast around the middle grey, and the channels' gains, in one table."""
    contrast = options.contrast ** rng.uniform(-1.0, 1.0)
    brightness = 255 * rng.uniform(-options.brightness, options.brightness)
    gains = options.colour ** rng.uniform(-1.0, 1.0, 3)
    if contrast == 1 and brightness == 0 and (gains == 1).all():
        return image
    levels = (np.arange(256.0) - 127.5) * contrast + 127.5 + brightness
    table = np.clip(levels[:, None] * gains + 0.5, 0, 255).astype(np.uint8)
    return np.asarray(cv2.LUT(image, table[None]), np.uint8)


def _add_noise(image: Image, sigma: float, rng: np.random.Generator) -> Image:
    start = int(rng.integers(_STOCK - image.size))
    noise = _stock()[start : start + image.size].reshape(image.shape)
    # OpenCV rounds and clips in the same pass; numpy would make four.
    return np.asarray(cv2.addWeighted(image, 1.0, noise, sigma, 0.0, dtype=cv2.CV_8U), np.uint8)


@cache
def _stock() -> NDArray[np.float32]:
    return np.random.default_rng(_STOCK_SEED).standard_normal(_STOCK, np.float32)


def _texture(size: int, rng: np.random.Generator) -> Image:
    """(size, size, 3): a colour with soft and fine patches of others."""
    texture = np.zeros((size, size, 3), np.float32)
    for cells, strength in ((2, 60.0), (6, 40.0), (24, 20.0)):
        patches = rng.standard_normal((cells, cells, 3), np.float32) * np.float32(rng.uniform(0, strength))
        texture += cv2.resize(patches, (size, size), interpolation=cv2.INTER_LINEAR)
    texture += rng.uniform(0, 255, 3).astype(np.float32)
    return np.clip(texture, 0, 255).astype(np.uint8)


def _replace_background(image: Image, mask: NDArray[np.bool_], rng: np.random.Generator) -> Image:
    soft = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), 0.8)[..., None]  # no edge is sharper than a camera's
    return np.asarray(soft * image + (1 - soft) * _texture(image.shape[0], rng), np.float32).astype(np.uint8)


def _draw_occluder(image: Image, largest: float, rng: np.random.Generator) -> None:
    """A turned rectangle or an ellipse, anywhere on the crop."""
    size = image.shape[0]
    centre, sides = rng.uniform(0, size, 2), size * rng.uniform(0.25, 1.0, 2) * largest
    box = (centre.tolist(), sides.tolist(), float(rng.uniform(0, 180)))
    shape = np.zeros((size, size), np.uint8)
    if rng.random() < 0.5:
        cv2.ellipse(shape, box, 255, -1)
    else:
        cv2.fillConvexPoly(shape, cv2.boxPoints(box).round().astype(np.int32), 255)
    cv2.copyTo(_texture(size, rng), shape, image)
