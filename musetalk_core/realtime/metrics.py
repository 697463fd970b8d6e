"""What a session did, in numbers."""

from collections import Counter, deque
from threading import Lock

import numpy as np

KEPT = 256  # measurements that a median is taken of
STAGES = ("audio_in", "features", "batch_wait", "generation", "compositing")


class SessionMetrics:
    """Counters and times of one session; thread-safe, of bounded size."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._counts: Counter[str] = Counter()
        self._values: dict[str, float] = {}
        self._times: dict[str, deque[float]] = {}

    def count(self, name: str, more: int = 1) -> None:
        """Add to a counter."""
        with self._lock:
            self._counts[name] += more

    def set(self, name: str, value: float) -> None:
        """A value as it is now."""
        with self._lock:
            self._values[name] = value

    def time(self, name: str, seconds: float) -> None:
        """One measurement of a time."""
        with self._lock:
            self._times.setdefault(name, deque(maxlen=KEPT)).append(seconds)

    def snapshot(self) -> dict[str, float]:
        """All numbers by name.

        Of times: the median `<name>_ms` and the 99th percentile `<name>_p99_ms` of the last 256. Counters: blocks,
        generated, underruns (blocks in which sound was due and not there), duplicated_frames and dropped_frames
        (pictures shown twice, and made too late), failed_frames (source frames shown because a network failed).
        Values: first_frame_ms, fps_infer, fps_final, av_skew_ms (of the last block), ready_frames,
        queued_seconds, subscribers.
        """
        with self._lock:
            numbers = {name: 0.0 for name in ("blocks", "generated", "underruns", "duplicated_frames")}
            numbers |= {name: 0.0 for name in ("dropped_frames", "failed_frames")}
            numbers |= {name: float(count) for name, count in self._counts.items()}
            numbers |= self._values
            for name, times in self._times.items():
                numbers[f"{name}_ms"] = float(np.median(times)) * 1000
                numbers[f"{name}_p99_ms"] = float(np.percentile(times, 99)) * 1000
        return numbers
