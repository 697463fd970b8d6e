"""Sound from files and arrays, streamed, and its 16 kHz mono form that the networks hear."""

import logging
import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Protocol

import av
import numpy as np
from av.audio.stream import AudioStream
from av.container import InputContainer

from ..errors import MuseTalkError
from .container import LIBRARY_ERROR, check_whole, is_cover, open_input

log = logging.getLogger(__name__)

MONO_RATE = 16000
ARRAY_BLOCK = 65536
LEAD_SLACK = Fraction(1, 100)
GAP_SLACK = Fraction(1, 50)
LONGEST_GAP = Fraction(600)


class AudioSource(Protocol):
    """Sound of known length that can be streamed any number of times.

    sample_rate: Hz; channels: C; samples: exact count in each channel; seconds: samples / sample_rate.
    """

    @property
    def sample_rate(self) -> int: ...

    @property
    def channels(self) -> int: ...

    @property
    def samples(self) -> int: ...

    @property
    def seconds(self) -> Fraction: ...

    def blocks(self) -> Iterator[np.ndarray]:
        """Yield the sound from its beginning in blocks (C,n) float32, nominally -1..1, n > 0."""
        ...


class AudioFile:
    """An audio file, or the first audio track of a video.

    The whole file is decoded once to count its samples; no sound is kept. Integer samples are divided by 2^(bits-1)
    as libsndfile does, encoder priming is left out, NaN and infinities become 0. A track that starts later or
    earlier than the video's pictures is filled with silence or cut at its start, a hole in the time stamps is
    filled with silence. Raises MuseTalkError, naming the file, when it is missing, empty, damaged, truncated or
    has no audio track.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.sample_rate, self.channels, self.samples = 0, 0, 0
        for block, rate in _sound(self.path):
            self.sample_rate, self.channels = rate, block.shape[0]
            self.samples += block.shape[1]
        if not self.samples:
            raise MuseTalkError(f"{self.path} has an audio track without a single sample; give audio that plays.")

    @property
    def seconds(self) -> Fraction:
        """Exact length."""
        return Fraction(self.samples, self.sample_rate)

    def blocks(self) -> Iterator[np.ndarray]:
        """Yield the sound from its beginning in blocks (C,n) float32."""
        return (block for block, _ in _sound(self.path))


def has_sound(path: str | os.PathLike[str]) -> bool:
    """Whether a media file has an audio track; raises MuseTalkError, naming the file, when it cannot be read."""
    with open_input(path) as container:
        return bool(container.streams.audio)


class AudioArray:
    """Sound in memory: waveform (C,N) float32 -1..1 (NaN and infinities become 0), sample_rate in Hz."""

    def __init__(self, waveform: np.ndarray, sample_rate: int) -> None:
        if waveform.ndim != 2 or 0 in waveform.shape or sample_rate < 1:
            raise MuseTalkError(
                f"The audio has the shape {waveform.shape} at {sample_rate} Hz; give (channels, samples), not empty."
            )
        self.waveform = waveform
        self.sample_rate = int(sample_rate)
        self.channels, self.samples = waveform.shape

    @property
    def seconds(self) -> Fraction:
        """Exact length."""
        return Fraction(self.samples, self.sample_rate)

    def blocks(self) -> Iterator[np.ndarray]:
        """Yield the sound from its beginning in blocks (C,n) float32."""
        for start in range(0, self.samples, ARRAY_BLOCK):
            yield _finite(self.waveform[:, start : start + ARRAY_BLOCK].astype(np.float32))


def mono16k_blocks(source: AudioSource) -> Iterator[np.ndarray]:
    """Yield the sound as blocks (n,) float32 at 16 kHz: channels averaged, soxr's "HQ" stream.

    The blocks add up to ceil(samples * 16000 / sample_rate) samples and agree with mono16k to 1e-6 of full
    scale (a stream rounds differently).
    """
    import soxr

    wanted = -(-source.samples * MONO_RATE // source.sample_rate)
    if source.sample_rate == MONO_RATE:
        yield from (_mono(block) for block in source.blocks())
        return
    stream = soxr.ResampleStream(source.sample_rate, MONO_RATE, 1, dtype="float32", quality="HQ")
    for block in source.blocks():
        resampled = stream.resample_chunk(_mono(block))[:wanted]
        wanted -= len(resampled)
        if len(resampled):
            yield resampled
    tail = stream.resample_chunk(np.zeros(0, np.float32), last=True)[:wanted]
    if wanted:
        yield np.pad(tail, (0, wanted - len(tail)))


def mono16k(source: AudioSource) -> np.ndarray:
    """The whole sound (M,) float32 at 16 kHz, equal to librosa.load(file, sr=16000): channels averaged, then
    librosa.resample with "soxr_hq"; M = ceil(samples * 16000 / sample_rate). Holds all of it in memory.
    """
    import librosa

    mono = np.concatenate([_mono(block) for block in source.blocks()])
    return librosa.resample(mono, orig_sr=source.sample_rate, target_sr=MONO_RATE, res_type="soxr_hq")


def _mono(block: np.ndarray) -> np.ndarray:
    return block.mean(axis=0, dtype=np.float32)


def _finite(block: np.ndarray) -> np.ndarray:
    return np.nan_to_num(block, copy=False, nan=0.0, posinf=0.0, neginf=0.0)


def _sound(path: Path) -> Iterator[tuple[np.ndarray, int]]:
    """Blocks (C,n) float32 with their rate in Hz, in step with the time stamps."""
    with open_input(path) as container:
        stream = _audio_stream(container, path)
        rate, channels, position = 0, 0, 0
        for frame, surplus in _frames(container, stream, path):
            block = _floats(frame)
            block = block[:, : block.shape[1] - surplus]
            if not rate:
                rate, channels = frame.sample_rate, block.shape[0]
                origin = _origin(container, frame)
            if (frame.sample_rate, block.shape[0]) != (rate, channels):
                raise MuseTalkError(
                    f"{path} changes its sample rate or channels after {position / rate:.2f} s; convert it first."
                )
            shift = _shift(frame, origin, position, rate)
            if shift > 0:
                yield np.zeros((channels, shift), np.float32), rate
            elif shift < 0:
                block = block[:, -shift:]
            position += max(shift, 0) + block.shape[1]
            if block.shape[1]:
                yield block, rate


def _audio_stream(container: InputContainer, path: Path) -> AudioStream:
    if not container.streams.audio:
        raise MuseTalkError(f"{path} has no audio track; give an audio file or a video with sound.")
    return container.streams.audio[0]


def _frames(container: InputContainer, stream: AudioStream, path: Path) -> Iterator[tuple[av.AudioFrame, int]]:
    """Decoded frames, each with the number of samples at its end that are padding.

    Packets that cannot be decoded are left out unless they are most of the file.
    """
    packets, good, bad, end = 0, 0, 0, 0
    try:
        for packet in container.demux(stream):
            packets += packet.size > 0
            end = max(end, (packet.pts or 0) + (packet.duration or 0))
            try:
                frames = packet.decode()
            except LIBRARY_ERROR:
                bad += 1
                continue
            good += len(frames)
            yield from ((frame, _padding(container, frame, end)) for frame in frames if frame.samples)
    except (LIBRARY_ERROR, OSError) as error:
        raise MuseTalkError(f"{path} is damaged and cannot be read to its end; export it again.") from error
    if bad > good:
        raise MuseTalkError(f"{path} is damaged: its sound cannot be decoded; export it again.")
    if bad:
        log.warning("%s: %d audio packets cannot be decoded; silence takes their place.", path, bad)
    check_whole(path, stream, packets, end * Fraction(stream.time_base or 0))


def _padding(container: InputContainer, frame: av.AudioFrame, end: int) -> int:
    """Samples of the frame after `end` (ticks), the end of its packet.

    Only MP4 and MOV need it: there the last packet's duration is the only word on the encoder's padding.
    """
    exact = frame.time_base is not None and frame.time_base * frame.sample_rate == 1
    if not exact or frame.pts is None or "mp4" not in container.format.name.split(","):
        return 0
    return min(max(frame.pts + frame.samples - end, 0), frame.samples)


def _floats(frame: av.AudioFrame) -> np.ndarray:
    """(C,n) float32 of a decoded frame: integers by their full scale, 8 bits unsigned around 128."""
    values = frame.to_ndarray()
    if not frame.format.is_planar:
        values = values.reshape(frame.samples, -1).T
    if values.dtype == np.uint8:
        return (values.astype(np.float32) - 128) / 128
    if np.issubdtype(values.dtype, np.integer):
        return (values / float(1 << (8 * values.dtype.itemsize - 1))).astype(np.float32)
    return _finite(values.astype(np.float32))


def _origin(container: InputContainer, first: av.AudioFrame) -> Fraction | None:
    """The time in the container that is sample 0: the video's start, or the sound's own without a video.

    What lies before time 0 is the encoder's priming.
    """
    if first.pts is None or first.time_base is None:
        return None
    start = max(first.pts * Fraction(first.time_base), Fraction(0))
    for stream in container.streams.video:
        if not is_cover(stream) and stream.start_time is not None and stream.time_base is not None:
            video = stream.start_time * Fraction(stream.time_base)
            return video if LEAD_SLACK < abs(video - start) < LONGEST_GAP else start
    return start


def _shift(frame: av.AudioFrame, origin: Fraction | None, position: int, rate: int) -> int:
    """Samples of silence that belong before the frame; negative: samples of it that lie before sample 0."""
    if origin is None or frame.pts is None or frame.time_base is None:
        return 0
    lag = frame.pts * Fraction(frame.time_base) - origin - Fraction(position, rate)
    if position == 0 and lag < 0:
        return max(round(lag * rate), -frame.samples)
    return round(lag * rate) if GAP_SLACK < lag < LONGEST_GAP or position == 0 else 0
