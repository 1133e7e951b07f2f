"""Where things lie in the GPU runtime: camera images, and all that belongs to sets of so many hands.

What is copied from here or to here is pinned, and there is one of it for each of two slots: while a set is computed, the next
is uploaded from the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from hamuco.calibration.camera import Camera
from hamuco.engine.cuda import Device, Stream
from hamuco.engine.gpu_networks import GpuNetworks
from hamuco.engine.hand_arrays import HandArrays
from hamuco.engine.hand_model import JOINTS, LANDMARKS, SHAPES
from hamuco.engine.kernel_structs import CAMERA_FRAME, CROP_VIEW, SkinningModel, camera_frame

SLOTS = 2

_ALIGNMENT = 256  # what the driver gives to each of its own; kernels need 16


class Block:
    """Arrays with names in one block of memory, so that one copy moves them all.

    Attributes:
        size: bytes.
        offsets: of each array, bytes.
    """

    def __init__(self, arrays: Mapping[str, tuple[DTypeLike, tuple[int, ...]]]) -> None:
        """`arrays`: name -> type and shape."""
        self._arrays = {name: (np.dtype(kind), shape) for name, (kind, shape) in arrays.items()}
        self.size, self.offsets = 0, {}
        for name, (kind, shape) in self._arrays.items():
            self.offsets[name] = self.size
            self.size += -(-kind.itemsize * int(np.prod(shape)) // _ALIGNMENT) * _ALIGNMENT

    def views(self, memory: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
        """The arrays in memory (size,), which they share."""
        return {
            name: np.ndarray(shape, kind, memory.data, self.offsets[name])
            for name, (kind, shape) in self._arrays.items()
        }

    def addresses(self, start: int) -> dict[str, int]:
        """Of the arrays in memory that starts there."""
        return {name: start + offset for name, offset in self.offsets.items()}


class FrameMemory:
    """Room for an image of every camera, in each slot."""

    def __init__(self, device: Device, cameras: Sequence[Camera]) -> None:
        """`cameras`: as they are numbered."""
        self._device, self._cameras = device, list(cameras)
        self._block = Block({camera.name: (np.uint8, (camera.size[1] * camera.size[0] * 3,)) for camera in cameras})
        self._here = [device.pinned(self._block.size) for _ in range(SLOTS)]
        self._there = [device.memory(self._block.size) for _ in range(SLOTS)]

    def upload(self, images: Mapping[str, NDArray[np.uint8]], slot: int, stream: Stream) -> NDArray[np.void]:
        """Queue copies of images, and tell the crop kernel where they will be, (C,) `CAMERA_FRAME`.

        Each is on its way while the next is copied to where the device can fetch it. A camera without an image keeps the
        pixels of an earlier set, which no region reads.

        Raises:
            ValueError: an image is not of its camera's size.
        """
        places = self._block.views(self._here[slot])
        addresses = self._block.addresses(self._there[slot])
        packed = np.zeros(len(self._cameras), CAMERA_FRAME)
        for index, camera in enumerate(self._cameras):
            image = images.get(camera.name)
            shape = (*camera.size[::-1], 3) if image is None else image.shape
            packed[index] = camera_frame(
                camera, shape, shape[1] * (3 if len(shape) == 3 else 1), addresses[camera.name]
            )
            if image is not None:
                place = places[camera.name][: image.size]
                place.reshape(shape)[:] = image
                self._device.upload(addresses[camera.name], place, stream.handle)
        return packed


@dataclass(frozen=True, slots=True, eq=False)
class SetMemory:
    """For sets of H hands in V views: addresses on the device by name, and arrays here, by slot and name.

    Attributes:
        device: that has it.
        inputs, outputs: blocks that are copied as a whole.
        device_inputs, device_outputs: where they begin there.
        host_inputs, host_outputs: pinned, for each slot.
        between: addresses of what kernels and networks hand to each other.
    """

    device: Device
    inputs: Block
    outputs: Block
    device_inputs: int
    device_outputs: int
    host_inputs: Sequence[NDArray[np.uint8]]
    host_outputs: Sequence[NDArray[np.uint8]]
    between: Mapping[str, int]

    @property
    def given(self) -> dict[str, int]:
        """Addresses of the inputs."""
        return self.inputs.addresses(self.device_inputs)

    @property
    def out(self) -> dict[str, int]:
        """Addresses of the outputs."""
        return self.outputs.addresses(self.device_outputs)

    def upload(self, slot: int, stream: Stream) -> None:
        """Queue the copy of a slot's inputs."""
        self.device.upload(self.device_inputs, self.host_inputs[slot], stream.handle)

    def download(self, slot: int, stream: Stream) -> None:
        """Queue the copy of the outputs to a slot."""
        self.device.download(self.host_outputs[slot], self.device_outputs, stream.handle)

    def inputs_at(self, slot: int) -> dict[str, NDArray[Any]]:
        """Arrays to write to."""
        return self.inputs.views(self.host_inputs[slot])

    def outputs_at(self, slot: int) -> dict[str, NDArray[Any]]:
        """Arrays to read from."""
        return self.outputs.views(self.host_outputs[slot])


def set_memory(device: Device, shape: tuple[int, int], networks: GpuNetworks, vertices: int) -> SetMemory:
    """Allocate it.

    Args:
        device: to allocate on.
        shape: H, V.
        networks: that the memory is for.
        vertices: N of the hand model.
    """
    (hands, views), single, seam = shape, np.float32, networks.dtype
    count, size = hands * views, networks.image_size
    inputs = Block(
        {
            "cameras": (CAMERA_FRAME, (views,)),
            "crops": (CROP_VIEW, shape),
            "half_angle": (single, shape),
            "places": (np.int64, shape),
            "weights": (single, shape),
            "crop_from_world": (single, (*shape, 4, 4)),
            "landmark_weights": (single, (*shape, LANDMARKS)),
        }
    )
    between = Block(
        {
            "images": (seam, (count, 3, size, size)),
            "joints": (single, (count, JOINTS, 3)),
            "landmarks": (single, (count, LANDMARKS, 3)),
            "rotations": (single, (count, JOINTS, 3, 3)),
            "location": (single, (count, LANDMARKS, 3)),
            "sampled": (seam, (count, LANDMARKS, networks.sampled)),
            "vertices": (seam, (count, vertices, 3)),
        }
    )
    outputs = Block(
        {
            "vertices": (seam, (hands, vertices, 3)),
            "landmarks": (single, (hands, LANDMARKS, 3)),
            "rotations": (single, (hands, JOINTS, 3, 3)),
            "betas": (single, (hands, SHAPES)),
            "root": (single, (hands, 3)),
            "location": (single, (*shape, LANDMARKS, 3)),
        }
    )
    return SetMemory(
        device,
        inputs,
        outputs,
        device_inputs=device.memory(inputs.size),
        device_outputs=device.memory(outputs.size),
        host_inputs=[device.pinned(inputs.size) for _ in range(SLOTS)],
        host_outputs=[device.pinned(outputs.size) for _ in range(SLOTS)],
        between=between.addresses(device.memory(between.size)),
    )


def hand_on_device(device: Device, arrays: HandArrays, stream: Stream) -> SkinningModel:
    """Upload a hand model, and wait until it is there."""
    block = Block({str(number): (array.dtype, array.shape) for number, array in enumerate(arrays.arrays())})
    packed = np.zeros(block.size, np.uint8)
    for place, array in zip(block.views(packed).values(), arrays.arrays(), strict=True):
        place[...] = array
    start = device.memory(block.size)
    device.upload(start, packed, stream.handle)
    stream.synchronize()
    return arrays.skinning_model(list(block.addresses(start).values()))
