"""Which sessions' frames are made next, how many together, and when."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from .block import BLOCK_SECONDS
from .session import Need, Session

MARGIN = 0.02  # s that a batch is started before it has to be
CAUTION = 2.0  # times as long as expected a batch may take without being late
LATEST = 0.2  # share of a new measurement in the expected time of a batch
FIRST_PATIENCE = 0.2  # s that a first frame waits for a second one
FIRST_GUESS = 0.03  # s for a frame, before anything was measured


@dataclass
class Scheduler:
    """Deadlines first. ladder: frames of a session's first, second ... batch, so that its first one is early.

    The most urgent session decides: as many frames as it may have on its rung, of it and of those that are next, and
    as often that number as sessions stand on the same rung, up to the ladder's top. A batch that is not full waits for
    more sound as long as its deadline allows.
    """

    ladder: tuple[int, ...] = (2, 4, 8)
    _seconds: dict[int, float] = field(default_factory=dict)  # of a batch, by its frames

    def expected(self, frames: int) -> float:
        """Seconds that a batch of `frames` will take, as far as is known."""
        known = sorted(self._seconds)
        if not known:
            return frames * FIRST_GUESS
        size = next((size for size in known if size >= frames), known[-1])
        return self._seconds[size] * max(frames / size, 1.0)

    def measured(self, frames: int, seconds: float) -> None:
        """A batch of `frames` took so long."""
        before = self._seconds.get(frames, seconds)
        self._seconds[frames] = before + (seconds - before) * (LATEST if frames in self._seconds else 1.0)

    @property
    def lead(self) -> int:
        """Blocks from the planning of a first frame to its being there, and one for the next batch."""
        return math.ceil((self.expected(self.ladder[0]) + MARGIN) / BLOCK_SECONDS) + 1

    def stride(self, frames: int, sessions: int) -> int:
        """2 when so many sessions cannot have every frame: then each picture shows twice. Else 1."""
        return 2 if self._seconds and self.expected(frames) / frames * sessions > BLOCK_SECONDS else 1

    def next(self, sessions: Sequence[Session], now: float) -> tuple[list[tuple[Session, int]], float | None]:
        """How many frames of which sessions to make now; if none, the seconds to wait, None for until more is fed."""
        needs = []
        for session in sessions:
            session.lead = self.lead
            need = session.plan()
            if need is not None and self._worth_it(need, now):
                needs.append(need)
        if not needs:
            return [], None
        needs.sort(key=lambda need: need.deadline)
        rung = self._rung(needs[0])
        alike = sum(self._rung(need) == rung for need in needs)
        room = limit = min(self.ladder[rung] * alike, self.ladder[-1])
        chosen = []
        for need in needs:
            part = min(need.frames, self.ladder[self._rung(need)], room)
            if part:
                chosen.append((need.session, part))
                room -= part
        slack = needs[0].deadline - now - CAUTION * self.expected(limit - room) - MARGIN
        started = rung > 0 or needs[0].playing
        if room and started and slack > 0 and not any(need.last for need in needs):
            return [], slack
        return chosen, 0.0

    def _rung(self, need: Need) -> int:
        return min(need.batches, len(self.ladder) - 1)

    def _worth_it(self, need: Need, now: float) -> bool:
        """Whether there is enough for a first batch, so that the second is made while the first is shown."""
        return need.playing or need.last or need.frames >= self.ladder[0] or now - need.planned > FIRST_PATIENCE
