"""H.264 videos, for recordings that travel: OpenCV's writer has no small format whose quality can be chosen."""

from __future__ import annotations

from contextlib import suppress
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

# x264's scale, lower is better: at 20 hands look as in the original, and most of the sensor noise is there.
_QUALITY = {"crf": "20", "preset": "medium"}


class H264Writer:
    """Writes one video, with the interface of OpenCV's writer."""

    def __init__(self, path: Path, fps: float, size: tuple[int, int]) -> None:
        """Raises OSError when PyAV, which brings the encoder, is not installed, or the file cannot be made."""
        try:
            import av
        except ImportError as error:
            raise OSError('H.264 needs PyAV: pip install av, or choose the codec "mjpeg"') from error

        self._av = av
        # Without a random identity and the library's version in the file, the same images make the same bytes.
        self._container = av.open(str(path), "w", options={"fflags": "+bitexact"})
        self._stream = self._container.add_stream(
            "libx264", rate=Fraction(fps).limit_denominator(1001), options=_QUALITY
        )
        self._stream.width, self._stream.height = size
        self._stream.pix_fmt = "yuv420p"
        self._stream.codec_context.thread_count = 1  # the bytes depend on the number of threads

    def write(self, image: NDArray[np.uint8]) -> bool:
        """Append an image (height, width, 3) BGR; False when the disk does not take it."""
        try:
            frame = self._av.VideoFrame.from_ndarray(image, format="bgr24")
            self._container.mux(self._stream.encode(frame))
        except self._av.FFmpegError:
            return False
        return True

    def release(self) -> None:
        """End the video. What did not reach the disk shows in its number of frames."""
        with suppress(self._av.FFmpegError):
            self._container.mux(self._stream.encode())
        with suppress(self._av.FFmpegError):
            self._container.close()
