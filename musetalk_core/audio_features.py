"""Speech as the generator hears it: hidden states of an audio encoder, 50 rows a second, cut into tokens per frame."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Protocol

import numpy as np
import torch

from .errors import MuseTalkError
from .settings import Segmentation
from .timeline import frame_count

SAMPLE_RATE = 16000
ROWS_PER_SECOND = 50
ROW_SAMPLES = SAMPLE_RATE // ROWS_PER_SECOND
WINDOW_SAMPLES = 30 * SAMPLE_RATE
HOP_SAMPLES: dict[Segmentation, int] = {"overlap": 24 * SAMPLE_RATE, "upstream": WINDOW_SAMPLES}


class AudioEncoder(Protocol):
    """A network that hears up to 30 s at once.

    extractor: id saved with features; states: hidden states per row; width: channels of a state.
    """

    @property
    def extractor(self) -> str: ...

    @property
    def states(self) -> int: ...

    @property
    def width(self) -> int: ...

    def encode(self, samples: np.ndarray) -> torch.Tensor:
        """(n,) float32 mono samples at 16 kHz, n <= 480000 -> (1500, states, width) float32, 50 rows/s."""
        ...


class TokenSource(Protocol):
    """Audio tokens by output frame: `frames` of them at `fps`."""

    @property
    def frames(self) -> int: ...

    @property
    def fps(self) -> Fraction: ...

    def tokens(self, start: int, stop: int) -> torch.Tensor:
        """Tokens of the frames start..stop-1: (stop-start, rows * states, width) float32 on the CPU."""
        ...


class WhisperEncoder:
    """Whisper's encoder (a transformers WhisperEncoder that lies on `device` in `dtype`) as an AudioEncoder.

    A row's states are the embedding and the output of every layer, the last one layer-normed: 5 states of width
    384 for whisper-tiny. Input is Whisper's log-mel picture of 30 s with zeros behind the samples.
    """

    def __init__(self, module: Any, device: torch.device | str, dtype: torch.dtype) -> None:
        from transformers import WhisperFeatureExtractor

        self._module = module
        self._device = torch.device(device)
        self._dtype = dtype
        self._mel = WhisperFeatureExtractor()
        self.states: int = module.config.encoder_layers + 1
        self.width: int = module.config.d_model
        self.extractor = f"whisper-{self.states}x{self.width}"

    @torch.no_grad()
    def encode(self, samples: np.ndarray) -> torch.Tensor:
        """(n,) float32 mono samples at 16 kHz, n <= 480000 -> (1500, states, width) float32 on the device."""
        mel = self._mel(samples, sampling_rate=SAMPLE_RATE, return_tensors="pt").input_features
        output = self._module(mel.to(self._device, self._dtype), output_hidden_states=True)
        return torch.stack(output.hidden_states, dim=2)[0].float()


@dataclass(frozen=True)
class FrameRows:
    """Which feature rows a video frame hears, in exact arithmetic.

    Frame i takes the rows floor(i * 50 / fps) - 2 * left up to + 2 * right + 1, both included: 10 rows with the
    paddings 2 and 2. Rows outside the audio are zero.
    """

    fps: Fraction
    left: int
    right: int

    @property
    def count(self) -> int:
        """Rows per frame."""
        return 2 * (self.left + self.right + 1)

    def first(self, frame: int) -> int:
        """The first row of a frame; negative before the audio's start."""
        return frame * ROWS_PER_SECOND * self.fps.denominator // self.fps.numerator - 2 * self.left

    def span(self, start: int, stop: int) -> tuple[int, int]:
        """First row and row after the last of the frames start..stop-1 (at least one frame)."""
        return self.first(start), self.first(stop - 1) + self.count

    def tokens(self, rows: torch.Tensor, offset: int, start: int, stop: int) -> torch.Tensor:
        """Tokens (stop-start, count*S, D) of the frames start..stop-1, states running fastest within a row.

        rows: (K,S,D), row `offset` onward; all rows of the span that lie inside the audio are there.
        """
        if start == stop:
            return rows.new_zeros(0, self.count * rows.shape[1], rows.shape[2])
        low, high = self.span(start, stop)
        padded = rows.new_zeros(high - low, *rows.shape[1:])
        begin, end = max(low, offset), min(high, offset + len(rows))
        if begin < end:
            padded[begin - low : end - low] = rows[begin - offset : end - offset]
        firsts = torch.tensor([self.first(frame) - low for frame in range(start, stop)])
        return padded[firsts[:, None] + torch.arange(self.count)].flatten(1, 2)


@dataclass(frozen=True)
class AudioFeatures:
    """Hidden states of a whole audio, and the tokens of each frame at `fps`.

    hidden: (R,S,D) float32 on the CPU, 50 rows/s from the audio's start, S states of D channels (5 of 384 for
    MuseTalk). seconds: the audio's exact length. paddings: context before and after a frame in steps of two rows
    (1/25 s). extractor: the encoder's id. Raises MuseTalkError for audio shorter than a frame.
    """

    hidden: torch.Tensor
    seconds: Fraction
    fps: Fraction
    padding_left: int = 2
    padding_right: int = 2
    extractor: str = "whisper"

    def __post_init__(self) -> None:
        frame_count(self.seconds, self.fps)

    @property
    def frames(self) -> int:
        """Video frames the audio lasts: floor(seconds * fps)."""
        return frame_count(self.seconds, self.fps)

    def tokens(self, start: int, stop: int) -> torch.Tensor:
        """Tokens of the frames start..stop-1: (stop-start, 2*(left+right+1)*S, D) float32 on the CPU.

        Raises MuseTalkError for frames the audio does not have.
        """
        _check_range(start, stop, self.frames)
        return FrameRows(self.fps, self.padding_left, self.padding_right).tokens(self.hidden, 0, start, stop)


def extract_features(
    encoder: AudioEncoder,
    samples: np.ndarray,
    seconds: Fraction,
    fps: Fraction,
    padding_left: int = 2,
    padding_right: int = 2,
    segmentation: Segmentation = "overlap",
) -> AudioFeatures:
    """Encode a whole audio: samples (M,) float32 mono at 16 kHz, lasting `seconds` -> floor(M * 50 / 16000) rows.

    segmentation "upstream": 30 s pieces that do not know of one another, as MuseTalk; "overlap": 30 s windows
    every 24 s, of which rows are kept that lie 3 s or more from an inner edge. Both are the same up to 30 s.
    Non-finite samples count as silence. Raises MuseTalkError for audio that is empty or shorter than a frame.
    """
    frame_count(seconds, fps)
    _check_samples(len(samples))
    hidden = torch.zeros(len(samples) // ROW_SAMPLES, encoder.states, encoder.width)
    for window in plan_windows(len(samples), segmentation):
        hidden[window.first_row : window.stop_row] = _encode(encoder, samples[window.start : window.stop], window)
    return AudioFeatures(hidden, seconds, fps, padding_left, padding_right, encoder.extractor)


class StreamingFeatures:
    """The same tokens as extract_features, from audio that is read and encoded only as far as they are asked for.

    blocks: gives the audio from its start as (n,) float32 blocks of 16 kHz mono, `samples16k` samples together.
    Memory: at most two windows of 30 s beyond what one call of `tokens` spans. Asking for earlier frames than
    the last time is allowed and costs a restart of the stream. Raises as extract_features.
    """

    def __init__(
        self,
        encoder: AudioEncoder,
        blocks: Callable[[], Iterator[np.ndarray]],
        samples16k: int,
        seconds: Fraction,
        fps: Fraction,
        padding_left: int = 2,
        padding_right: int = 2,
        segmentation: Segmentation = "overlap",
    ) -> None:
        _check_samples(samples16k)
        self.frames = frame_count(seconds, fps)
        self.fps = fps
        self._encoder = encoder
        self._blocks = blocks
        self._rows = FrameRows(fps, padding_left, padding_right)
        self._windows = plan_windows(samples16k, segmentation)
        self._restart()

    @property
    def held_rows(self) -> int:
        """Feature rows in memory now."""
        return sum(len(rows) for _, rows in self._kept)

    def tokens(self, start: int, stop: int) -> torch.Tensor:
        """As AudioFeatures.tokens; reads on and encodes as needed.

        Raises MuseTalkError for frames the audio does not have and for a stream that ends early.
        """
        _check_range(start, stop, self.frames)
        low, high = self._rows.span(start, max(stop, start + 1))
        if max(low, 0) < self._dropped:
            self._restart()
        self._drop(low)
        while self._next < len(self._windows) and self._windows[self._next].first_row < high:
            window = self._windows[self._next]
            self._next += 1
            if window.stop_row > low:
                samples = self._samples.read(window.start, window.stop)
                self._kept.append((window.first_row, _encode(self._encoder, samples, window)))
        return self._rows.tokens(*self._between(low, high), start, stop)

    def _restart(self) -> None:
        self._samples = SampleBuffer(self._blocks())
        self._kept: deque[tuple[int, torch.Tensor]] = deque()
        self._next = 0
        self._dropped = 0

    def _drop(self, low: int) -> None:
        """Forget the windows that end before row `low`."""
        while self._kept and self._kept[0][0] + len(self._kept[0][1]) <= low:
            self._kept.popleft()
        self._dropped = self._kept[0][0] if self._kept else max(low, 0)

    def _between(self, low: int, high: int) -> tuple[torch.Tensor, int]:
        """The held rows of low..high-1 (K,S,D) and the first one's number."""
        parts = [(first, rows[max(low - first, 0) : max(high - first, 0)]) for first, rows in self._kept]
        parts = [(max(first, low), rows) for first, rows in parts if len(rows)]
        if not parts:
            return torch.zeros(0, self._encoder.states, self._encoder.width), 0
        return torch.cat([rows for _, rows in parts]), parts[0][0]


@dataclass(frozen=True)
class Window:
    """Samples start..stop-1 that are encoded together, and the rows first_row..stop_row-1 kept of them."""

    start: int
    stop: int
    first_row: int
    stop_row: int


def plan_windows(samples: int, segmentation: Segmentation) -> list[Window]:
    """The windows of an audio of `samples` at 16 kHz; their kept rows follow one another without a gap."""
    hop = HOP_SAMPLES[segmentation]
    margin = (WINDOW_SAMPLES - hop) // 2
    count = 1 + max(0, -((WINDOW_SAMPLES - samples) // hop))
    windows = []
    for k in range(count):
        start = k * hop
        first = start + margin if k else 0
        stop = start + hop + margin if k + 1 < count else samples
        windows.append(Window(start, min(start + WINDOW_SAMPLES, samples), first // ROW_SAMPLES, stop // ROW_SAMPLES))
    return [window for window in windows if window.first_row < window.stop_row]


class SampleBuffer:
    """Reads ranges of samples, each starting no earlier than the one before, from a stream of (n,) blocks."""

    def __init__(self, blocks: Iterable[np.ndarray]) -> None:
        self._blocks = iter(blocks)
        self._parts: deque[np.ndarray] = deque()
        self._first = 0
        self._end = 0

    def read(self, start: int, stop: int) -> np.ndarray:
        """Samples start..stop-1, float32; up to one feature row (20 ms) may be missing at the stream's end.

        Raises MuseTalkError when more is missing.
        """
        self._forget(start)
        while self._end < stop and (block := next(self._blocks, None)) is not None:
            self._parts.append(block)
            self._end += len(block)
            self._forget(start)
        if self._end < stop - ROW_SAMPLES:
            raise MuseTalkError(
                f"The audio ended at {self._end / SAMPLE_RATE:.2f} s instead of {stop / SAMPLE_RATE:.2f} s; "
                "the file may be damaged, save it anew."
            )
        samples = np.concatenate([np.zeros(0, np.float32), *self._parts])
        return samples[start - self._first : stop - self._first]

    def _forget(self, start: int) -> None:
        while self._parts and self._first + len(self._parts[0]) <= start:
            self._first += len(self._parts.popleft())


def _encode(encoder: AudioEncoder, samples: np.ndarray, window: Window) -> torch.Tensor:
    """The kept rows of a window: (stop_row - first_row, S, D) float32 on the CPU."""
    clean = np.nan_to_num(samples.astype(np.float32, copy=False), nan=0.0, posinf=0.0, neginf=0.0)
    offset = window.start // ROW_SAMPLES
    return encoder.encode(clean)[window.first_row - offset : window.stop_row - offset].float().cpu()


def _check_samples(samples: int) -> None:
    if samples < 1:
        raise MuseTalkError("The audio has 0 samples; give audio with sound.")


def _check_range(start: int, stop: int, frames: int) -> None:
    if not 0 <= start <= stop <= frames:
        raise MuseTalkError(f"Frames {start} to {stop} were asked of audio that lasts {frames} frames.")
