"""Frames and sound into one H.264/AAC file, which appears only when it is whole."""

import os
import uuid
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from types import TracebackType

import av
import numpy as np
import torch
from av.container import OutputContainer
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter
from av.video.stream import VideoStream

from ..errors import MuseTalkError
from .audio import AudioSource
from .container import LIBRARY_ERROR
from .encoding import Encoding
from .sound_track import SoundTrack

FORMATS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska"}
HD_HEIGHT = 720
BT709_TAG, SMPTE170M_TAG, LIMITED_RANGE_TAG = 1, 6, 1
HEADER_TICKS = 10000


class VideoWriter:
    """Write frames, and sound beside them, as H.264 and AAC; use it in a `with` block.

    path: .mp4, .m4v, .mov or .mkv in an existing folder. fps: exact frames/s, size: (H,W) of the frames; an odd
    side gets one more row or column, a copy of the last. audio: resampled only where AAC lacks its rate, mixed to
    stereo above two channels; audio_seconds cuts it. Frames have 8 bits whatever the encoding's pixel format has.
    Height 720 and more is written and tagged as BT.709, less as BT.601, both in limited range. Memory does not grow
    with length.

    The file is written under a temporary name in its folder and gets its own name at the end of the `with` block;
    after any error nothing is left. Raises MuseTalkError for a path that cannot be written or exists already
    (unless overwrite), an encoder that this machine does not have, a frame of another size, and a video without frames.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        fps: Fraction,
        size: tuple[int, int],
        audio: AudioSource | None = None,
        audio_seconds: Fraction | None = None,
        encoding: Encoding = Encoding(),  # noqa: B008 (frozen)
        metadata: dict[str, str] | None = None,
        overwrite: bool = False,
    ) -> None:
        self.path = Path(path)
        self.fps, self.size, self.frames = fps, size, 0
        self._overwrite, self._encoding = overwrite, encoding
        refuse_existing(self.path, overwrite)
        self._converter = VideoReformatter()
        self._part = _reserve(self.path)
        try:
            self._container = open_output(self._part, self.fps, metadata or {})
            self._video = self._add_video()
            self._sound = None if audio is None else SoundTrack(self._container, audio, audio_seconds)
            self._container.start_encoding()
        except (LIBRARY_ERROR, ValueError, OSError) as error:
            self._discard()
            raise self._refused(error) from error

    def write(self, frame: torch.Tensor) -> None:
        """Append a frame (H,W,3) RGB, uint8 or floating 0..1 (rounded to 8 bits, NaN is 0), and its share of sound."""
        if tuple(frame.shape) != (*self.size, 3):
            raise MuseTalkError(
                f"Frame {self.frames} has the shape {tuple(frame.shape)}; {self.path.name} takes {(*self.size, 3)}."
            )
        picture = av.VideoFrame.from_ndarray(_even(frame_bytes(frame)), format="rgb24")
        matrix = Colorspace.ITU709 if self.size[0] >= HD_HEIGHT else Colorspace.ITU601
        picture = self._converter.reformat(
            picture, format=self._encoding.pixel_format, dst_colorspace=matrix, dst_color_range=ColorRange.MPEG
        )
        picture.pts, picture.time_base = self.frames, 1 / self.fps
        self.frames += 1
        try:
            self._container.mux(self._video.encode(picture))
            if self._sound is not None:
                self._container.mux(self._sound.encode(self.frames / self.fps))
        except (LIBRARY_ERROR, OSError) as error:
            raise self._failure(error) from error

    def __enter__(self) -> "VideoWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._discard()
            return
        try:
            self._finish()
        except BaseException:
            self._discard()
            raise

    def _add_video(self) -> VideoStream:
        height, width = self.size
        stream = self._container.add_stream(self._encoding.encoder, rate=self.fps, options=self._encoding.options)
        assert isinstance(stream, VideoStream)
        stream.width, stream.height = width + width % 2, height + height % 2
        stream.pix_fmt = self._encoding.pixel_format
        stream.time_base = stream.codec_context.time_base = 1 / self.fps
        tag = BT709_TAG if height >= HD_HEIGHT else SMPTE170M_TAG
        context = stream.codec_context
        context.colorspace = context.color_primaries = context.color_trc = tag
        context.color_range = LIMITED_RANGE_TAG
        return stream

    def _finish(self) -> None:
        if not self.frames:
            raise MuseTalkError(f"{self.path} would have 0 frames; nothing was written.")
        try:
            self._container.mux(self._video.encode(None))
            if self._sound is not None:
                self._container.mux(self._sound.finish())
            self._container.close()
            refuse_existing(self.path, self._overwrite)
            os.replace(self._part, self.path)
        except (LIBRARY_ERROR, OSError) as error:
            raise self._failure(error) from error

    def _discard(self) -> None:
        """Close and remove the temporary file."""
        container = getattr(self, "_container", None)
        if container is not None:
            with suppress(LIBRARY_ERROR, OSError):
                container.close()
        self._part.unlink(missing_ok=True)

    def _refused(self, error: Exception) -> MuseTalkError:
        """Why nothing can be written at all."""
        if self._encoding.encoder == "libx264":
            return self._failure(error)
        reason = getattr(error, "strerror", None) or error
        return MuseTalkError(
            f"The encoder {self._encoding.encoder} cannot be used for {self.size[1]}x{self.size[0]} here: {reason}; it "
            "needs an NVIDIA card that encodes and its driver, or choose the encoder libx264."
        )

    def _failure(self, error: Exception) -> MuseTalkError:
        if isinstance(error, MuseTalkError):
            return error
        return MuseTalkError(f"{self.path} cannot be written: {error}.")


def refuse_existing(path: Path, overwrite: bool) -> None:
    """Raise MuseTalkError for a file that is there already and must not be replaced."""
    if path.exists() and not overwrite:
        raise MuseTalkError(f"{path} exists already; choose another name or allow overwriting.")


def check_place(path: Path) -> None:
    """Raise MuseTalkError for a suffix that no container has, and for a folder that is not there."""
    if path.suffix.lower() not in FORMATS:
        raise MuseTalkError(f"{path} does not end in {', '.join(FORMATS)}; choose one of them.")
    if not path.parent.is_dir():
        raise MuseTalkError(f"There is no folder {path.parent}; create it first.")


def open_output(path: Path, fps: Fraction, metadata: dict[str, str]) -> OutputContainer:
    """A container to write, of the format that the suffix says, whose header has exact times for fps frames/s."""
    file_format = FORMATS[path.suffix.lower()]
    options: dict[str, str] = {}
    if file_format != "matroska":
        options = {"movflags": "use_metadata_tags+faststart", "movie_timescale": str(_timescale(fps))}
    container = av.open(str(path.absolute()), "w", format=file_format, options=options)
    container.metadata.update(metadata)
    return container


def _reserve(path: Path) -> Path:
    """An empty file of a new name beside `path`; proves that the folder can be written to."""
    check_place(path)
    part = path.parent / f".{uuid.uuid4().hex[:12]}.part{path.suffix}"
    try:
        part.touch(exist_ok=False)
    except OSError as error:
        raise MuseTalkError(f"{path} cannot be written: {error.strerror}; choose another folder.") from error
    return part


def _timescale(fps: Fraction) -> int:
    """Ticks a second for the header, fine enough for sound and a whole number of them for every frame."""
    return fps.numerator * -(-HEADER_TICKS // fps.numerator)


def frame_bytes(frame: torch.Tensor) -> np.ndarray:
    """A frame (H,W,3), uint8 or floating 0..1 (NaN is 0), as uint8 on the CPU."""
    if frame.is_floating_point():
        frame = (torch.nan_to_num(frame.float()) * 255).round().clamp(0, 255)
    return frame.to("cpu", torch.uint8).numpy()


def _even(picture: np.ndarray) -> np.ndarray:
    """The picture with even sides: the last row or column repeated where needed."""
    height, width = picture.shape[:2]
    if height % 2 == width % 2 == 0:
        return np.ascontiguousarray(picture)
    return np.pad(picture, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
