"""What leaves this machine, made from the configuration and from nothing else."""

from collections.abc import Awaitable, Callable
from functools import partial
from importlib.util import find_spec
from typing import Any, Protocol

from ..errors import MuseTalkError
from .config import ServerConfig
from .tts import EmbeddedVoice, Voice
from .webrtc import Peer

Notifier = Callable[[dict[str, Any]], Awaitable[None]]


class Push(Protocol):
    """A session on its way to a media server."""

    async def close(self) -> None:
        """End it."""
        ...


def voice_of(config: ServerConfig) -> Voice | None:
    """Who says texts, None when nobody. Raises MuseTalkError when it is not installed."""
    if config.tts == "none":
        return None
    if config.tts == "embedded":
        return EmbeddedVoice(config.tts_voice)
    _need_remote("tts http")
    from ..remote.http_tts import HttpVoice

    return HttpVoice(config.tts_url or "", config.tts_token, config.tts_text_field, config.tts_options, config.tts_rate)


def notifier_of(config: ServerConfig) -> Notifier | None:
    """Who is told of avatar tasks, None when nobody. Raises MuseTalkError when it is not installed."""
    if config.notify_url is None:
        return None
    _need_remote("notify_url")
    from ..remote.notify import post_notice

    return partial(post_notice, config.notify_url)


def push_of(config: ServerConfig, peer: Callable[[], Peer]) -> Push:
    """A running push to the configuration's push_url. Raises MuseTalkError when it is not installed."""
    _need_remote("push_url")
    from ..remote.whip import WhipPush

    return WhipPush(config.push_url or "", config.push_token, peer)


def _need_remote(setting: str) -> None:
    if find_spec("..remote", __package__) is None:
        raise MuseTalkError(
            f"The setting {setting} calls another machine; this copy of the pack is the registry's, which leaves that "
            "out: use a git clone of the repository that the registry's page links to."
        )
