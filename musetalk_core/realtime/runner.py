"""A session in real time on an event loop, for any number of listeners."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable

from .block import Block
from .clock import SessionClock
from .metrics import SessionMetrics
from .session import Session

RATE_WINDOW = 250  # blocks over which fps_final is measured


class Subscription:
    """The blocks of a live session for one listener: `async for block in subscription`; ends with the session.

    dropped: blocks lost because the listener was slow; the oldest go first. Used on the session's event loop.
    """

    def __init__(self, limit: int, forget: Callable[["Subscription"], None]) -> None:
        self._blocks: deque[Block] = deque()
        self._limit = limit
        self._forget = forget
        self._there = asyncio.Event()
        self._closed = False
        self.dropped = 0

    def __aiter__(self) -> AsyncIterator[Block]:
        return self

    async def __anext__(self) -> Block:
        while not self._blocks:
            if self._closed:
                raise StopAsyncIteration
            self._there.clear()
            await self._there.wait()
        return self._blocks.popleft()

    def close(self) -> None:
        """No blocks any more, but those that wait."""
        self._closed = True
        self._there.set()
        self._forget(self)

    def put(self, block: Block) -> bool:
        """Give a block; False when an older one was lost for it."""
        fits = len(self._blocks) < self._limit
        if not fits:
            self._blocks.popleft()
            self.dropped += 1
        self._blocks.append(block)
        self._there.set()
        return fits


class LiveSession:
    """A session that is paced by the clock from its start to its close; made on a running event loop.

    sleep: as asyncio.sleep. used: when it last had listeners or said something, in seconds of `now`.
    """

    def __init__(
        self,
        session: Session,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.session = session
        self.metrics: SessionMetrics = session.metrics
        self.clock = SessionClock(now)
        self.used = now()
        self._now, self._sleep = now, sleep
        self._subscriptions: list[Subscription] = []
        self._times: deque[float] = deque(maxlen=RATE_WINDOW)
        self._task = asyncio.get_running_loop().create_task(self._run(), name=f"musetalk-session-{session.id}")

    @property
    def id(self) -> str:
        """The session's."""
        return self.session.id

    def subscribe(self, limit: int = 8) -> Subscription:
        """A new listener, of whose blocks at most `limit` wait."""
        subscription = Subscription(limit, self._forget)
        if self.session.closed:
            subscription.close()
        else:
            self._subscriptions.append(subscription)
        self._count_listeners()
        return subscription

    @property
    def subscribers(self) -> int:
        """Listeners now."""
        return len(self._subscriptions)

    async def close(self) -> None:
        """End the session and its subscriptions."""
        self.session.close()
        if not self._task.done():
            self._task.cancel()
            await asyncio.wait([self._task])
        for subscription in list(self._subscriptions):
            subscription.close()

    async def _run(self) -> None:
        while not self.session.closed:
            await self._sleep(self.clock.until_next())
            self.metrics.time("lateness", self.clock.lateness())
            for _ in range(self.clock.take()):
                self._hand_out()

    def _hand_out(self) -> None:
        if self.session.closed:
            return
        block = self.session.next_block()
        self._times.append(self._now())
        if self._times[-1] > self._times[0]:
            self.metrics.set("fps_final", (len(self._times) - 1) / (self._times[-1] - self._times[0]))
        if self._subscriptions or block.kind != "idle":
            self.used = self._times[-1]
        for subscription in self._subscriptions:
            if not subscription.put(block):
                self.metrics.count("lost_by_listeners")

    def _forget(self, subscription: Subscription) -> None:
        if subscription in self._subscriptions:
            self._subscriptions.remove(subscription)
        self._count_listeners()

    def _count_listeners(self) -> None:
        self.metrics.set("subscribers", len(self._subscriptions))
