"""All open sessions, and how many there may be."""

from collections.abc import Callable
from dataclasses import dataclass

from ..avatars.avatar import Avatar
from ..errors import MuseTalkError
from .engine import RealtimeEngine
from .runner import LiveSession


class SessionLimitError(MuseTalkError):
    """As many sessions are open as there may be."""


@dataclass(frozen=True)
class SessionLimits:
    """sessions: at most open at a time. idle_timeout: seconds after which a session without listeners and sound is
    closed, 0 never. queued_seconds: fed sound that may wait."""

    sessions: int = 4
    idle_timeout: float = 300.0
    queued_seconds: float = 600.0


class SessionManager:
    """Opens, finds and closes sessions; lives on one event loop.

    avatars: an avatar by name, called in a thread; must give the same object while one is in use, so that sessions
    share its pictures. default_avatar: the name when none is asked for.
    """

    def __init__(
        self,
        engine: RealtimeEngine,
        avatars: Callable[[str], Avatar],
        default_avatar: str = "",
        limits: SessionLimits = SessionLimits(),
    ) -> None:
        raise NotImplementedError

    async def open(self, avatar: str | None = None) -> LiveSession:
        """A new session; its place is taken first. Raises SessionLimitError "Maximum session limit reached (a/b)"."""
        raise NotImplementedError

    def get(self, sessionid: str | int) -> LiveSession:
        """The session of an id, or with int 0 the oldest. Raises MuseTalkError "session not found"."""
        raise NotImplementedError

    def sessions(self) -> list[LiveSession]:
        """All open sessions, oldest first."""
        raise NotImplementedError

    async def close(self, sessionid: str | int) -> None:
        """Close one session. Raises as get."""
        raise NotImplementedError

    async def close_all(self) -> None:
        """Close every session and refuse none afterwards."""
        raise NotImplementedError

    def metrics(self) -> dict[str, dict[str, float]]:
        """The numbers of every session by its id."""
        raise NotImplementedError
