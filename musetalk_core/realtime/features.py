"""The sound of an utterance as it comes in, and the tokens of its frames."""

from threading import Lock
from typing import Protocol, runtime_checkable

import numpy as np
import torch

from ..audio_features import HOP_SAMPLES, ROW_SAMPLES, WINDOW_SAMPLES, AudioEncoder, FrameRows
from .block import BLOCK_SAMPLES, FPS, RATE

# Rows that a frame waits for beyond those it hears, so that its encoder has something to its right. Each is 20 ms of
# latency; benchmarks/results/realtime.json says what they are worth.
LOOKAHEAD_ROWS = 4
INNER_SAMPLES = (WINDOW_SAMPLES - HOP_SAMPLES["overlap"]) // 2  # what extract_features leaves out at an inner edge
# Before a planned frame: an encoder's window begins at most 27 s before it.
KEPT_SAMPLES = WINDOW_SAMPLES


@runtime_checkable
class LocalEncoder(Protocol):
    """An AudioEncoder whose rows depend on the sound near them only.

    reach: how many rows (20 ms) of sound to each side a row depends on.
    """

    @property
    def reach(self) -> int: ...

    def encode_part(self, samples: np.ndarray) -> torch.Tensor:
        """(n,) float32 samples at 16 kHz -> (n // 320, states, width) float32: those rows alone, without padding."""
        ...


class SampleRing:
    """Sound (n,) float32 at 16 kHz by sample number from its start; thread-safe.

    Only what was not forgotten is in memory. Non-finite samples count as silence.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._buffer = np.zeros(RATE, np.float32)
        self._first = 0  # number of _buffer[0]
        self._end = 0
        self._forgotten = 0
        self._finished = False

    @property
    def end(self) -> int:
        """Samples fed so far."""
        return self._end

    @property
    def finished(self) -> bool:
        """Whether no more will come."""
        return self._finished

    @property
    def held(self) -> int:
        """Samples there is memory for."""
        return len(self._buffer)

    def append(self, samples: np.ndarray) -> None:
        """Add (n,) float32 samples, any n."""
        with self._lock:
            if self._end + len(samples) - self._first > len(self._buffer):
                self._make_room(len(samples))
            start = self._end - self._first
            self._buffer[start : start + len(samples)] = np.nan_to_num(samples, nan=0.0, posinf=0.0, neginf=0.0)
            self._end += len(samples)

    def finish(self) -> None:
        """No more will come."""
        self._finished = True

    def read(self, start: int, stop: int) -> np.ndarray:
        """A copy of the samples start..stop-1, zeros after the end; nothing before `start` was forgotten."""
        part = np.zeros(stop - start, np.float32)
        with self._lock:
            known = self._buffer[start - self._first : max(min(stop, self._end) - self._first, 0)]
            part[: len(known)] = known
        return part

    def forget(self, before: int) -> None:
        """Samples before this one are not read any more."""
        self._forgotten = max(self._forgotten, before)

    def _make_room(self, count: int) -> None:
        kept = self._buffer[max(self._forgotten - self._first, 0) : self._end - self._first]
        larger = np.zeros(max(2 * (len(kept) + count), RATE), np.float32)
        larger[: len(kept)] = kept
        self._first = self._end - len(kept)
        self._buffer = larger


class LiveFeatures:
    """Tokens of an utterance's frames at 25 fps, from sound that still comes in.

    A frame can be made when its own rows and `lookahead` more were fed, or the sound has ended. Encoded is what is
    known by then: of an encoder that hears 30 s the window that extract_features would take, which holds 2.5 s or
    more before the frame unless the sound is younger; of a LocalEncoder its reach to both sides. Rows are kept and
    used again once `lookahead` rows right of them were known. Used by one thread, except `frames`.
    """

    def __init__(self, ring: SampleRing, left: int, right: int, lookahead: int = LOOKAHEAD_ROWS) -> None:
        self._ring = ring
        self._rows = FrameRows(FPS, left, right)
        self._lookahead = lookahead
        self._kept = torch.zeros(0)
        self._first = 0  # row of _kept[0]
        self._good = 0  # the row from which on _kept is not good enough

    @property
    def frames(self) -> int:
        """Frames that can be made now; of an ended sound all, the last begun one included."""
        if self._ring.finished:
            return -(-self._ring.end // BLOCK_SAMPLES)
        per_frame = BLOCK_SAMPLES // ROW_SAMPLES
        rows = self._ring.end // ROW_SAMPLES - self._lookahead - (self._rows.first(0) + self._rows.count)
        return max(rows // per_frame + 1, 0)

    @property
    def needed(self) -> int:
        """Samples that have to be fed before the first frame can be made."""
        return (self._rows.first(0) + self._rows.count + self._lookahead) * ROW_SAMPLES

    def tokens(self, encoder: AudioEncoder, start: int, stop: int) -> torch.Tensor:
        """(stop-start, n, width) float32 on the CPU, of frames that can be made or come after an ended sound."""
        low, high = self._rows.span(start, stop)
        low, high = max(low, 0), min(high, self._ring.end // ROW_SAMPLES)
        if low < high and not (self._first <= low and high <= self._good):
            self._encode(encoder, low, high)
        if low >= high:
            empty = torch.zeros(0, encoder.states, encoder.width)
            return self._rows.tokens(empty, 0, start, stop)
        return self._rows.tokens(self._kept[: high - self._first], self._first, start, stop)

    def _encode(self, encoder: AudioEncoder, low: int, high: int) -> None:
        """Rows from `low` to `high` at least, with all that is known to the right as far as it matters."""
        finished, end = self._ring.finished, self._ring.end
        if isinstance(encoder, LocalEncoder):
            first = max(low - encoder.reach, 0)
            stop = min(end // ROW_SAMPLES, high + encoder.reach)
            # Behind an ended sound is silence, as extract_features has it there.
            behind = encoder.reach if finished else 0
            samples = self._ring.read(first * ROW_SAMPLES, (stop + behind) * ROW_SAMPLES)
            self._kept = encoder.encode_part(samples)[: stop - first].float().cpu()
        else:
            hop, margin = HOP_SAMPLES["overlap"], INNER_SAMPLES
            window = max((high * ROW_SAMPLES - 1 - margin) // hop, 0) * hop
            first, edge = window // ROW_SAMPLES, (window + WINDOW_SAMPLES) // ROW_SAMPLES
            stop = min(end // ROW_SAMPLES, edge)
            samples = self._ring.read(window, min(end, window + WINDOW_SAMPLES))
            self._kept = encoder.encode(samples)[: stop - first].float().cpu()
            if stop == edge:
                stop -= margin // ROW_SAMPLES
        complete = finished and stop == end // ROW_SAMPLES
        self._first, self._good = first, stop if complete else max(stop - self._lookahead, high)
