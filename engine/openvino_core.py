"""OpenVINO, loaded when it is first used: it takes half a second, and who runs networks on a GPU need not have it."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import openvino as ov


@cache
def core() -> ov.Core:
    """What reads and compiles networks, one for the process. Raises OSError where OpenVINO is not installed."""
    try:
        import openvino as ov
    except ModuleNotFoundError as error:
        raise OSError(
            f'networks on the CPU need {error.name}, which is not installed: pip install "openvino>=2025.0"'
        ) from error
    return ov.Core()
