"""Blocks of arrays. What is copied with them: tests/test_engine_gpu_runtime.py."""

from __future__ import annotations

import numpy as np

from hamuco.engine.gpu_memory import Block


def test_arrays_in_a_block_share_its_memory() -> None:
    block = Block({"small": (np.uint8, (3,)), "none": (np.float32, (0, 4)), "last": (np.float32, (2, 70))})
    assert block.offsets == {"small": 0, "none": 256, "last": 256}
    assert block.size == 256 + 768
    memory = np.zeros(block.size, np.uint8)
    views = block.views(memory)
    views["small"][:], views["last"][:] = 9, 2.5
    assert views["none"].shape == (0, 4)
    np.testing.assert_array_equal(memory[:4], [9, 9, 9, 0])
    np.testing.assert_array_equal(memory[256 : 256 + 560].view(np.float32), 2.5)
    assert block.addresses(0x1000) == {"small": 0x1000, "none": 0x1100, "last": 0x1100}
