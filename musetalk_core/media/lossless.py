"""Frames into a video file that gives them back bit for bit."""

import os
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from types import TracebackType

import av
import torch
from av.video.stream import VideoStream

from ..errors import MuseTalkError
from .container import LIBRARY_ERROR
from .video_writer import frame_bytes

# FFV1 version 3: a checksum in each of four slices, so that damage is seen. A key frame every second, so that reading
# backward decodes little.
CODEC, STORED_AS = "ffv1", "bgr0"
OPTIONS = {"level": "3", "slices": "4", "slicecrc": "1", "g": "25"}


class LosslessWriter:
    """Write frames as FFV1 in Matroska, in 8-bit RGB; use it in a `with` block.

    path: a new .mkv file. fps: frames/s; size: (height, width), odd ones too. Memory does not grow. The file is whole
    at the end of the block; after an error what is there is of no use. Raises MuseTalkError when it cannot be written.
    """

    def __init__(self, path: str | os.PathLike[str], fps: Fraction, size: tuple[int, int]) -> None:
        self.path, self.fps, self.size, self.frames = Path(path), fps, size, 0
        try:
            self._container = av.open(str(self.path.absolute()), "w", format="matroska")
            stream = self._container.add_stream(CODEC, rate=fps, options=dict(OPTIONS))
        except (LIBRARY_ERROR, OSError) as error:
            raise self._failure(error) from error
        assert isinstance(stream, VideoStream)
        stream.height, stream.width = size
        stream.pix_fmt = STORED_AS
        self._video = stream

    def write(self, frame: torch.Tensor) -> None:
        """Append a frame (H,W,3) RGB, uint8, or floating 0..1, which is rounded to 8 bits."""
        if tuple(frame.shape) != (*self.size, 3):
            raise MuseTalkError(
                f"Frame {self.frames} has the shape {tuple(frame.shape)}; {self.path.name} takes {(*self.size, 3)}."
            )
        picture = av.VideoFrame.from_ndarray(frame_bytes(frame), format="rgb24")
        picture.pts, picture.time_base = self.frames, 1 / self.fps
        self.frames += 1
        self._mux(picture)

    def __enter__(self) -> "LosslessWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            with suppress(LIBRARY_ERROR, OSError):
                self._container.close()
            return
        self._mux(None)
        try:
            self._container.close()
        except (LIBRARY_ERROR, OSError) as failure:
            raise self._failure(failure) from failure

    def _mux(self, picture: av.VideoFrame | None) -> None:
        try:
            self._container.mux(self._video.encode(picture))
        except (LIBRARY_ERROR, OSError) as error:
            raise self._failure(error) from error

    def _failure(self, error: Exception) -> MuseTalkError:
        return MuseTalkError(f"{self.path} cannot be written: {error}.")
