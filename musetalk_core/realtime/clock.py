"""The clock of a session: samples of sound handed out, and when the next are due."""

import time
from collections.abc import Callable

from .block import BLOCK_SAMPLES, RATE

LONGEST_STALL = 1.0  # s behind, from which the lost time is left out: the machine slept


class SessionClock:
    """Block n is due n * 640 samples after the start: whole numbers, so that nothing drifts.

    now: seconds of any steady clock. stalls: how often time was left out.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._start = now()
        self.samples = 0
        self.stalls = 0

    def take(self) -> int:
        """How many blocks are due now (0 too); they count as handed out."""
        passed = int((self._now() - self._start) * RATE)
        blocks = max((passed - self.samples) // BLOCK_SAMPLES + 1, 0)
        if blocks * BLOCK_SAMPLES > LONGEST_STALL * RATE:
            self._start = self._now() - self.samples / RATE
            self.stalls += 1
            blocks = 1
        self.samples += blocks * BLOCK_SAMPLES
        return blocks

    def until_next(self) -> float:
        """Seconds until the next block is due, 0 when it is."""
        return max(self._start + self.samples / RATE - self._now(), 0.0)

    def lateness(self) -> float:
        """Seconds since the next block was due, 0 before."""
        return max(self._now() - self._start - self.samples / RATE, 0.0)
