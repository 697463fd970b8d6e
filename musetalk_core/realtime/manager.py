"""All open sessions, and how many there may be."""

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ..avatars.avatar import Avatar
from ..errors import MuseTalkError
from .actions import ActionClip
from .engine import RealtimeEngine
from .runner import LiveSession

LOOKED_AFTER = 1.0  # s between two looks for sessions that nobody uses


class SessionLimitError(MuseTalkError):
    """As many sessions are open as there may be."""


@dataclass(frozen=True)
class SessionLimits:
    """sessions: at most open at a time. idle_timeout: seconds after which a session without listeners and sound is
    closed, 0 never. queued_seconds: fed sound that may wait in a session."""

    sessions: int = 4
    idle_timeout: float = 300.0
    queued_seconds: float = 600.0


class SessionManager:
    """Opens, finds and closes sessions; lives on one event loop.

    avatars, actions: an avatar, and its action clips, by name; called in a thread. They must give the same objects
    while these are in use, so that sessions share pictures. default_avatar: the name when none is asked for.
    """

    def __init__(
        self,
        engine: RealtimeEngine,
        avatars: Callable[[str], Avatar],
        default_avatar: str = "",
        limits: SessionLimits = SessionLimits(),
        actions: Callable[[str], Mapping[int, ActionClip]] = lambda name: {},
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.limits = limits
        self._engine = engine
        self._avatars, self._actions = avatars, actions
        self._default = default_avatar
        self._now = now
        self._sessions: dict[str, LiveSession] = {}
        self._opening = 0
        self._closing = False
        self._keeper: asyncio.Task[None] | None = None

    async def open(self, avatar: str | None = None) -> LiveSession:
        """A new session of the avatar of a name; its place is taken before anything is loaded.

        Raises SessionLimitError "Maximum session limit reached (a/b)", and what `avatars` raises.
        """
        taken = len(self._sessions) + self._opening
        if taken >= self.limits.sessions:
            raise SessionLimitError(f"Maximum session limit reached ({taken}/{self.limits.sessions})")
        name = avatar or self._default
        self._opening += 1
        try:
            loaded, actions = await asyncio.to_thread(lambda: (self._avatars(name), self._actions(name)))
            if self._closing:
                raise MuseTalkError("The server is shutting down; open a session when it is up again.")
            live = LiveSession(self._engine.session(loaded, actions, self.limits.queued_seconds), self._now)
            self._sessions[live.id] = live
        finally:
            self._opening -= 1
        if self._keeper is None and self.limits.idle_timeout:
            self._keeper = asyncio.create_task(self._keep(), name="musetalk-sessions")
        return live

    def get(self, sessionid: str | int) -> LiveSession:
        """The session of an id, or with int 0 the oldest. Raises MuseTalkError "session not found"."""
        if sessionid == 0 and self._sessions:
            return next(iter(self._sessions.values()))
        if isinstance(sessionid, str) and sessionid in self._sessions:
            return self._sessions[sessionid]
        raise MuseTalkError("session not found")

    def sessions(self) -> list[LiveSession]:
        """All open sessions, oldest first."""
        return list(self._sessions.values())

    async def close(self, sessionid: str | int) -> None:
        """Close one session. Raises as get."""
        live = self.get(sessionid)
        del self._sessions[live.id]
        await live.close()

    async def close_all(self) -> None:
        """Close every session; none can be opened afterwards."""
        self._closing = True
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait([self._keeper])
            self._keeper = None
        while self._sessions:
            await self.close(next(iter(self._sessions)))

    async def close_unused(self) -> None:
        """Close the sessions that had neither listeners nor sound for idle_timeout."""
        for live in self.sessions():
            unused = self._now() - live.used >= self.limits.idle_timeout
            if unused and live.id in self._sessions:
                await self.close(live.id)

    def metrics(self) -> dict[str, dict[str, float]]:
        """The numbers of every session by its id."""
        return {name: live.metrics.snapshot() for name, live in self._sessions.items()}

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(LOOKED_AFTER)
            await self.close_unused()
