"""An utterance: sound that belongs together, cut into frames of 40 ms."""

from collections import deque

import numpy as np

from ..settings import LipSyncSettings
from ..speech import HOPS_PER_SECOND, SpeechDetector
from .block import BLOCK_SAMPLES, FPS, RATE, SpeechEvent
from .features import KEPT_SAMPLES, LiveFeatures, SampleRing

HOPS = int(HOPS_PER_SECOND / FPS)
HOP_SAMPLES = RATE // HOPS_PER_SECOND


class Utterance:
    """What is said between two ends, as far as it is known. Not thread-safe, but for its features.

    began: when its first samples were fed, in seconds of the session's clock.
    """

    def __init__(self, settings: LipSyncSettings, began: float) -> None:
        self.began = began
        self._ring = SampleRing()
        self.features = LiveFeatures(self._ring, settings.audio_padding_left, settings.audio_padding_right)
        self.planned = 0  # frames that left by `next_frame`
        self._detector = SpeechDetector(settings.silence.silence_level, live=True)
        self._heard = 0  # samples the detector knows
        self._spoken: deque[bool] = deque()  # its decisions from hop planned * HOPS on
        self._events: deque[tuple[int, SpeechEvent]] = deque()

    @property
    def finished(self) -> bool:
        """Whether nothing more is fed."""
        return self._ring.finished

    @property
    def waiting(self) -> int:
        """Samples that were fed and not planned."""
        return max(self._ring.end - self.planned * BLOCK_SAMPLES, 0)

    @property
    def plannable(self) -> int:
        """Frames that `next_frame` can give now."""
        if self._ring.finished and self._ring.end == 0:
            return 1 if self._events else 0  # events without any sound
        return max(self.features.frames - self.planned, 0)

    @property
    def done(self) -> bool:
        """Whether every frame was planned and none will come."""
        return self.finished and not self.plannable

    def feed(self, samples: np.ndarray, event: SpeechEvent | None) -> None:
        """Add (n,) float32 samples, any n; the event belongs to the first of them, one of an end to the last."""
        first = self._ring.end
        self._ring.append(samples)
        if event is not None:
            self._events.append((first if event.status == "start" else max(self._ring.end - 1, 0), event))

    def finish(self) -> None:
        """Nothing more is fed."""
        self._ring.finish()

    def next_frame(self) -> tuple[np.ndarray, tuple[SpeechEvent, ...], bool]:
        """Sound (640,), events and whether it speaks, of the next frame; `plannable` must not be 0.

        A frame speaks when there is a voice in it or in what was waited for behind it, so that the mouth opens in time.
        """
        start, stop = self.planned * BLOCK_SAMPLES, (self.planned + 1) * BLOCK_SAMPLES
        speaks = self._speaks(self.planned * HOPS)
        self.planned += 1
        last = self.finished and stop >= self._ring.end
        events = []
        while self._events and (last or self._events[0][0] < stop):
            events.append(self._events.popleft()[1])
        sound = self._ring.read(start, stop)
        sound.flags.writeable = False
        self._ring.forget(stop - KEPT_SAMPLES)
        return sound, tuple(events), speaks

    def tail_frame(self) -> None:
        """One more frame of silence behind the end, in which the mouth closes."""
        self.planned += 1

    def _speaks(self, hop: int) -> bool:
        ahead = self.features.needed - BLOCK_SAMPLES
        known = min(hop * HOP_SAMPLES + BLOCK_SAMPLES + ahead, self._ring.end)
        if known > self._heard:
            self._spoken.extend(self._detector.feed(self._ring.read(self._heard, known)).tolist())
            self._heard = known
        speaks = any(self._spoken)
        for _ in range(min(HOPS, len(self._spoken))):
            self._spoken.popleft()
        return speaks
