"""A session in real time on an event loop, for any number of listeners."""

from collections.abc import AsyncIterator

from .block import Block
from .metrics import SessionMetrics
from .session import Session


class Subscription:
    """The blocks of a live session for one listener: `async for block in subscription`; ends with the session.

    dropped: blocks lost because the listener was slow; the oldest go first.
    """

    dropped: int

    def __aiter__(self) -> AsyncIterator[Block]:
        raise NotImplementedError

    async def __anext__(self) -> Block:
        raise NotImplementedError

    def close(self) -> None:
        """No blocks any more."""
        raise NotImplementedError


class LiveSession:
    """A session that is paced by the clock from its start to its close."""

    session: Session
    metrics: SessionMetrics

    def subscribe(self, limit: int = 8) -> Subscription:
        """A new listener, of whose blocks at most `limit` wait."""
        raise NotImplementedError

    async def close(self) -> None:
        """End the session and its subscriptions."""
        raise NotImplementedError
