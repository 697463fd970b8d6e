"""When a video's coded pictures are shown: time stamps, key frames and the constant grid laid over them."""

import os
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.video.stream import VideoStream

from ..errors import MuseTalkError
from .container import LIBRARY_ERROR, check_whole, is_cover, open_input

SANE_RATES = (1, 120)
LONE_PICTURE_RATE = Fraction(25)
RATE_SLACK = Fraction(1, 4)
RATE_ROUNDING = Fraction(1, 10000)


@dataclass(frozen=True)
class KeyFrame:
    """A picture that decoding can start from: presentation stamp and decoding stamp (ticks)."""

    pts: int
    dts: int | None


@dataclass(frozen=True)
class VideoIndex:
    """The pictures of a video track.

    times: (K,) int64 presentation stamps in ticks, rising; keys: in rising order; fps: the average rate;
    shown: (K,) int64, the coded picture that frame i of the constant grid shows.
    """

    times: np.ndarray
    keys: tuple[KeyFrame, ...]
    fps: Fraction
    shown: np.ndarray

    def key_before(self, stamp: int) -> int:
        """Ordinal of the last key frame shown at or before `stamp` (ticks); 0 when there is none."""
        return max(0, bisect_right(self.keys, stamp, key=lambda key: key.pts) - 1)

    def group_size(self, key: int) -> int:
        """Pictures from key frame `key` (its ordinal) up to the next one."""
        stop = self.keys[key + 1].pts if key + 1 < len(self.keys) else int(self.times[-1]) + 1
        first, last = np.searchsorted(self.times, [self.keys[key].pts, stop])
        return int(last - first)


def video_stream(container: InputContainer, path: str | os.PathLike[str]) -> VideoStream:
    """The first moving video track; raises MuseTalkError when there is none."""
    for stream in container.streams.video:
        if not is_cover(stream):
            return stream
    raise MuseTalkError(f"{Path(path)} has no video track; give a video or image file.")


def stamp_of(packet: Packet) -> int | None:
    """Presentation stamp in ticks, or the decoding stamp where the container has no other."""
    return packet.dts if packet.pts is None else packet.pts


def index_video(path: str | os.PathLike[str]) -> VideoIndex:
    """Read the packets of the first video track without decoding them.

    Raises MuseTalkError, naming the file, when it is no video, truncated, or has no pictures or time stamps.
    """
    times: list[int] = []
    keys: dict[int, KeyFrame] = {}
    packets, end = 0, 0
    with open_input(path) as container:
        stream = video_stream(container, path)
        tick = Fraction(stream.time_base or 1)
        for packet in _packets(container, stream, path):
            stamp = stamp_of(packet)
            if stamp is None:
                raise MuseTalkError(f"{Path(path)} has no time stamps; convert it to MP4 first.")
            packets += 1
            if packet.is_keyframe:
                keys.setdefault(stamp, KeyFrame(stamp, packet.dts))
            if not packet.is_discard:
                times.append(stamp)
                end = max(end, stamp + (packet.duration or 0))
        if not times:
            raise MuseTalkError(f"{Path(path)} has a video track without a single picture; give another video.")
        check_whole(path, stream, packets, end * tick)
        declared = [Fraction(rate) for rate in (stream.average_rate, stream.guessed_rate) if rate]
    stamps = np.unique(np.array(times, np.int64))
    fps = _rate(stamps, end, tick, declared)
    first = KeyFrame(int(stamps[0]), None)
    ordered = tuple(keys[stamp] for stamp in sorted(keys)) or (first,)
    return VideoIndex(stamps, ordered, fps, _grid(stamps, tick, fps))


def _packets(container: InputContainer, stream: VideoStream, path: str | os.PathLike[str]) -> Iterator[Packet]:
    try:
        for packet in container.demux(stream):
            if packet.size:
                yield packet
    except (LIBRARY_ERROR, OSError) as error:
        raise MuseTalkError(f"{Path(path)} is damaged and cannot be read to its end; export it again.") from error


def _rate(stamps: np.ndarray, end: int, tick: Fraction, declared: list[Fraction]) -> Fraction:
    """The declared rate, as a standard one if it is near, that fits the stamps within a quarter of a frame (containers
    round both); else pictures by total duration.
    """
    steps = len(stamps) - 1
    span = int(stamps[-1] - stamps[0]) * tick
    if steps == 0:
        sane = [rate for rate in declared if SANE_RATES[0] <= rate <= SANE_RATES[1]]
        return sane[0] if sane else LONE_PICTURE_RATE
    for rate in [*filter(None, map(_standard, declared)), *declared]:
        if abs(span * rate - steps) <= RATE_SLACK:
            return rate
    last = (end - int(stamps[-1])) * tick
    return (steps + 1) / (span + (last if last > 0 else span / steps))


def _standard(rate: Fraction) -> Fraction | None:
    """The whole or NTSC (n * 1000/1001) rate that `rate` is a rounding of."""
    for standard in (Fraction(round(rate)), Fraction(1000 * round(rate * Fraction(1001, 1000)), 1001)):
        if standard and abs(rate / standard - 1) < RATE_ROUNDING:
            return standard
    return None


def _grid(stamps: np.ndarray, tick: Fraction, fps: Fraction) -> np.ndarray:
    """Per grid frame i the last picture with stamp <= i/fps.

    A picture may be late by one tick, the rounding of the container, but by no more than 1/8 of a frame.
    """
    frame_ticks = float(1 / (fps * tick))
    limits = np.arange(len(stamps)) * frame_ticks + min(1.0, frame_ticks / 8)
    return np.searchsorted(stamps - stamps[0], limits, side="right") - 1
