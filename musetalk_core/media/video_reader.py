"""Frames of a video file at a constant rate, in any order, in bounded memory."""

import logging
import os
from collections import deque
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import av
import numpy as np
import torch
from av.packet import Packet
from av.video.reformatter import VideoReformatter

from ..errors import MuseTalkError
from .container import LIBRARY_ERROR, film_tags, open_input
from .source import check_index
from .video_index import KeyFrame, index_video, stamp_of, video_stream

log = logging.getLogger(__name__)

# AVColorSpace tags (ITU-T H.273 matrix coefficients) that are followed; every other one is read as BT.601.
BT709, FCC, BT601, SMPTE240M, BT2020 = 1, 4, 5, 7, 9
FOLLOWED_TAGS = (BT709, FCC, SMPTE240M, BT2020)
LIMITED_RANGE, FULL_RANGE = 1, 2
HELD_BYTES = 256 * 2**20
# With a third of a group held, reading it backward decodes 3/3 + 2/3 + 1/3 of its pictures.
HELD_SHARE = 3
MOST_HELD = 4
FORWARD_FRAMES = 2
JUMP_FRAMES = 32


class VideoReader:
    """The first video track of a file as a FrameSource.

    Frames are laid on a constant grid at the track's average rate: frame i is the last coded picture whose stamp
    is at most i/fps after the first. Turned and mirrored as the file's display matrix says, stretched to square
    pixels, untagged colours taken as BT.601 (as ComfyUI and upstream read them). Reading forward decodes each
    picture once and holds two. Going backward decodes from the key frame before and holds the last pictures up to
    held_bytes; where that is less than a third of the group, a third, so that it is decoded twice over at most, up
    to 4 * held_bytes. A picture that cannot be decoded is replaced by the one before and logged.
    Raises MuseTalkError, naming the file, for a file that is missing, empty, no video, or truncated.

    tags: what the file says about the film. decoded: pictures decoded so far.
    """

    def __init__(self, path: str | os.PathLike[str], held_bytes: int = HELD_BYTES) -> None:
        self.path = Path(path)
        self._index = index_video(path)
        self._held_bytes = held_bytes
        self._decoder = _Decoder(self.path)
        self._converter = VideoReformatter()
        self.tags = self._decoder.tags
        self.decoded = 0
        self._held: deque[tuple[int, av.VideoFrame]] = deque()
        self._ended = False
        self._picture: tuple[int, torch.Tensor] | None = None
        first = self._coded(0)
        self._canvas = _square_pixels(first, self._decoder.pixel_aspect)
        self._matrix = _display_matrix(first)
        height, width = self._render(first).shape[:2]
        self.size = (int(height), int(width))

    @property
    def fps(self) -> Fraction:
        """Average rate in frames/s."""
        return self._index.fps

    @property
    def held_frames(self) -> int:
        """Decoded pictures held now."""
        return len(self._held)

    def __len__(self) -> int:
        return len(self._index.shown)

    def read(self, indices: Iterable[int]) -> Iterator[torch.Tensor]:
        """Yield frames (H,W,3) uint8 RGB on the CPU; see FrameSource.read."""
        for index in indices:
            check_index(index, len(self))
            coded = int(self._index.shown[index])
            if self._picture is None or self._picture[0] != coded:
                self._picture = coded, torch.from_numpy(self._render(self._coded(coded)))
            yield self._picture[1]

    def close(self) -> None:
        """Close the file and drop what is held."""
        self._held.clear()
        self._picture = None
        self._decoder.close()

    def __enter__(self) -> "VideoReader":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _coded(self, k: int) -> av.VideoFrame:
        """Coded picture k, or the good one before it."""
        target = int(self._index.times[k])
        key = self._index.key_before(target)
        if not self._reaches(k, key):
            self._restart(key, target)
        elif not self._ended and (not self._held or self._held[-1][0] < target):
            self._decode_to(target)
        while (not self._held or self._held[0][0] > target) and key > 0:
            key -= 1
            self._restart(key, target)
        return self._pick(k, target)

    def _reaches(self, k: int, key: int) -> bool:
        """Whether picture k is held or comes soon enough by decoding on."""
        if not self._held:
            return False
        oldest, newest = self._held[0][0], self._held[-1][0]
        if int(self._index.times[k]) <= newest or self._ended:
            return oldest <= int(self._index.times[k])
        reached = int(np.searchsorted(self._index.times, newest))
        skippable = int(np.searchsorted(self._index.times, self._index.keys[key].pts)) - reached
        return skippable <= JUMP_FRAMES

    def _restart(self, key: int, target: int) -> None:
        """Decode from a key frame to `target` and hold the last pictures, which a backward reader wants next."""
        self._held.clear()
        self._ended = False
        self._floor = self._index.keys[key].pts
        self._decoder.start(self._index.keys[key], from_first=key == 0)
        self._decode_to(target, self._index.group_size(key))

    def _decode_to(self, target: int, group: int = 1) -> None:
        while not self._ended and (not self._held or self._held[-1][0] < target):
            decoded = self._decoder.next()
            if decoded is None:
                self._ended = True
                return
            self.decoded += 1
            if decoded[0] >= self._floor:
                self._held.append(decoded)
                while len(self._held) > self._window(group, decoded[1]):
                    self._held.popleft()

    def _window(self, group: int, picture: av.VideoFrame) -> int:
        """How many pictures of a group of so many are held."""
        fit = self._held_bytes // _bytes(picture)
        return max(FORWARD_FRAMES, min(group, max(fit, -(-group // HELD_SHARE)), MOST_HELD * fit))

    def _pick(self, k: int, target: int) -> av.VideoFrame:
        if not self._held:
            raise MuseTalkError(f"No picture of {self.path} can be decoded; export it again as H.264.")
        stamp, frame = next((held for held in reversed(self._held) if held[0] <= target), self._held[0])
        if stamp != target:
            log.warning("%s: picture %d cannot be decoded; the nearest good one is shown.", self.path, k)
        return frame

    def _render(self, frame: av.VideoFrame) -> np.ndarray:
        """(H,W,3) uint8, upright, of the first picture's size."""
        return _upright(_rgb(frame, *self._canvas, self._converter), self._matrix)


class _Decoder:
    """One open file whose pictures come in the order they are shown, from a key frame on."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._reopen()

    def start(self, key: KeyFrame, from_first: bool) -> None:
        """Go to a key frame; a container that cannot seek there is read from its beginning."""
        if from_first or not any(self._seek(stamp, key) for stamp in (key.pts, key.dts) if stamp is not None):
            self.close()
            self._reopen()

    def next(self) -> tuple[int, av.VideoFrame] | None:
        """(stamp in ticks, picture), or None at the end. Pictures that cannot be decoded are left out."""
        while not self._ready:
            try:
                packet = next(self._packets, None)
            except (LIBRARY_ERROR, OSError):
                log.warning("%s: the file cannot be read further.", self._path)
                return None
            if packet is None:
                return None
            self._decode(packet)
        return self._ready.popleft()

    def close(self) -> None:
        self._ready.clear()
        self._container.close()

    @property
    def tags(self) -> dict[str, str]:
        """What the file says about the film."""
        return film_tags(self._container)

    @property
    def pixel_aspect(self) -> Fraction | None:
        """Width of a pixel by its height, None where the file does not say."""
        return self._stream.sample_aspect_ratio

    def _decode(self, packet: Packet) -> None:
        try:
            frames = packet.decode()
        except LIBRARY_ERROR:
            return
        for frame in frames:
            stamp = frame.dts if frame.pts is None else frame.pts
            if stamp is not None and not frame.is_corrupt:
                self._ready.append((stamp, frame))

    def _reopen(self) -> None:
        self._container = open_input(self._path)
        self._stream = video_stream(self._container, self._path)
        self._stream.thread_type = "AUTO"
        self._packets = self._container.demux(self._stream)
        self._ready: deque[tuple[int, av.VideoFrame]] = deque()

    def _seek(self, stamp: int, key: KeyFrame) -> bool:
        """True when reading goes on at a key frame shown no later than `key`."""
        try:
            self._container.seek(stamp, stream=self._stream)
            self._ready.clear()
            self._packets = self._container.demux(self._stream)
            first = next(self._packets)
        except (LIBRARY_ERROR, OSError, StopIteration):
            return False
        reached = stamp_of(first)
        if reached is None or reached > key.pts or not first.is_keyframe:
            return False
        self._decode(first)
        return True


def _rgb(frame: av.VideoFrame, width: int, height: int, converter: VideoReformatter) -> np.ndarray:
    """(height,width,3) uint8. The RGB side's matrix has no effect, but PyAV before 17 applies the picture's own
    matrix and range only where both sides are given and differ.
    """
    if frame.format.is_rgb:
        return converter.reformat(frame, width, height, "rgb24").to_ndarray()
    tag = int(frame.colorspace) if frame.colorspace in FOLLOWED_TAGS else BT601
    return converter.reformat(
        frame,
        width,
        height,
        "rgb24",
        src_colorspace=tag,
        dst_colorspace=BT709 if tag == BT601 else BT601,
        src_color_range=int(frame.color_range) or LIMITED_RANGE,
        dst_color_range=FULL_RANGE,
    ).to_ndarray()


def _bytes(frame: av.VideoFrame) -> int:
    return sum(plane.buffer_size for plane in frame.planes)


def _square_pixels(frame: av.VideoFrame, pixel_aspect: Fraction | None) -> tuple[int, int]:
    """(width, height) of the coded picture once its pixels, pixel_aspect times as wide as high, are square."""
    return max(1, round(frame.width * (pixel_aspect or 1))), frame.height


def _display_matrix(frame: av.VideoFrame) -> tuple[int, int, int, int] | None:
    """(a, b, c, d): the pixel at (x, y) is shown at (a x + c y, b x + d y); None when there is no matrix.

    Layout of AVFrame's DISPLAYMATRIX side data: nine int32, a b u c d v x y w (ISO 14496-12, 6.2.2).
    """
    matrix: Any = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return None
    m = np.frombuffer(matrix, np.int32)
    return int(m[0]), int(m[1]), int(m[3]), int(m[4])


def _upright(picture: np.ndarray, matrix: tuple[int, int, int, int] | None) -> np.ndarray:
    """The picture (h,w,3) after the quarter turn or mirroring nearest to the matrix."""
    if matrix is None:
        return picture
    a, b, c, d = matrix
    turned = abs(b) + abs(c) > abs(a) + abs(d)
    if turned:
        picture, right, down = picture.transpose(1, 0, 2), c, b
    else:
        right, down = a, d
    picture = picture[:: -1 if down < 0 else 1, :: -1 if right < 0 else 1]
    return np.ascontiguousarray(picture)
