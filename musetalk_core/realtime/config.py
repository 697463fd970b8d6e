"""What the real-time server is told: its address, limits, folders, voice and the addresses that it calls itself."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ..errors import MuseTalkError

TTS_KINDS = ("embedded", "http", "none")
# Told by GET /api/admin/config; nothing that is a secret, a path or an address that the server calls.
PUBLIC_FIELDS = (
    "host",
    "port",
    "avatar",
    "max_sessions",
    "idle_timeout",
    "max_queued_seconds",
    "upload_limit",
    "message_limit",
    "tts",
    "tts_voice",
    "video_bitrate",
)


@dataclass(frozen=True)
class ServerConfig:
    """Settings of the server; a file's keys have these names.

    host, port: where it listens. token: bearer token of every route, None for none. avatar: the one a session without
    a wish gets. max_sessions: sessions at once. idle_timeout: seconds after which a session that nobody watches or
    feeds is closed. max_queued_seconds: sound that may wait in a session. upload_limit, message_limit: bytes of an
    uploaded file, and of any other body or WebSocket message. ice_servers: STUN and TURN servers of WebRTC, each
    {"urls", "username"?, "credential"?}. video_bitrate: bits/s of WebRTC video. cors_origin: the one foreign origin
    whose pages may call, None for none. tts: who speaks texts (embedded, http, none); tts_voice its voice; the other
    tts_* fields see remote/http_tts.py. push_url, push_token: WHIP endpoint that session 0 is sent to. notify_url:
    told when an avatar task ends. avatars: folder of prepared avatars; input: the only folder that names of videos
    and sounds are looked up in; output: folder of recordings and results.
    """

    host: str = "127.0.0.1"
    port: int = 8010
    token: str | None = None
    avatar: str | None = None
    max_sessions: int = 5
    idle_timeout: float = 120.0
    max_queued_seconds: float = 30.0
    upload_limit: int = 100 * 2**20
    message_limit: int = 2**20
    ice_servers: tuple[Mapping[str, Any], ...] = ()
    video_bitrate: int = 2_000_000
    cors_origin: str | None = None
    tts: str = "embedded"
    tts_voice: str = "en-US"
    tts_url: str | None = None
    tts_token: str | None = None
    tts_text_field: str = "text"
    tts_options: Mapping[str, Any] = field(default_factory=dict)
    tts_rate: int = 24000
    push_url: str | None = None
    push_token: str | None = None
    notify_url: str | None = None
    avatars: Path = Path("avatars")
    input: Path = Path("input")
    output: Path = Path("output")

    def __post_init__(self) -> None:
        _between("port", self.port, 0, 65535)
        _between("max_sessions", self.max_sessions, 1, 1000)
        _between("idle_timeout", self.idle_timeout, 1, 86400)
        _between("max_queued_seconds", self.max_queued_seconds, 1, 3600)
        _between("upload_limit", self.upload_limit, 1024, 2**40)
        _between("message_limit", self.message_limit, 1024, 2**30)
        _between("video_bitrate", self.video_bitrate, 100_000, 100_000_000)
        _between("tts_rate", self.tts_rate, 8000, 192_000)
        if self.tts not in TTS_KINDS:
            raise MuseTalkError(f"tts is {self.tts!r}; choose one of {', '.join(TTS_KINDS)}.")
        if self.tts == "http" and not self.tts_url:
            raise MuseTalkError("tts is http, but there is no tts_url; give the address of the speech server.")
        if self.token is not None and (not self.token or not self.token.isascii() or not self.token.isprintable()):
            raise MuseTalkError("The token is empty or has odd characters; use letters and digits.")
        for name in ("tts_url", "push_url", "notify_url", "cors_origin"):
            _check_url(name, getattr(self, name))

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach the server."""
        return is_loopback(self.host)

    def public(self) -> dict[str, Any]:
        """What a client may know."""
        told = {name: getattr(self, name) for name in PUBLIC_FIELDS}
        # Clients ask the same STUN and TURN servers, whose passwords are made for them.
        return {"fps": 25, "ice_servers": list(self.ice_servers), **told}


def is_loopback(host: str) -> bool:
    """Whether a host name or address (IPv6 also in brackets) means this machine alone."""
    if host == "localhost":
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def read_config(path: Path | None, changes: Mapping[str, Any]) -> ServerConfig:
    """The defaults, then a YAML or JSON file's values, then `changes`; None there means not given.

    Raises MuseTalkError for a file that cannot be read, an unknown key and a value that is no good.
    """
    values = {} if path is None else _read(path)
    values |= {name: value for name, value in changes.items() if value is not None}
    kinds = {entry.name: getattr(ServerConfig(), entry.name) for entry in fields(ServerConfig)}
    for name, value in values.items():
        if name not in kinds:
            raise MuseTalkError(f"{name!r} is no setting of the server; known are {', '.join(sorted(kinds))}.")
        values[name] = _converted(name, value, kinds[name])
    return replace(ServerConfig(), **values)


def _read(path: Path) -> dict[str, Any]:
    import yaml

    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise MuseTalkError(f"The config file {path} cannot be read: {error}.") from error
    if not isinstance(content, dict):
        raise MuseTalkError(f"The config file {path} holds no settings; write lines such as `port: 8010`.")
    return {str(name): value for name, value in content.items()}


def _converted(name: str, value: Any, default: Any) -> Any:
    """A value as its field has it; raises MuseTalkError for one of another kind."""
    if isinstance(default, Path) and isinstance(value, str | Path):
        return Path(value)
    if isinstance(default, tuple) and isinstance(value, list | tuple) and all(isinstance(v, Mapping) for v in value):
        return tuple(value)
    if isinstance(default, float) and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if default is None and (value is None or isinstance(value, str)):
        return value
    if isinstance(value, type(default)) and not isinstance(value, bool) and default is not None:
        return value
    raise MuseTalkError(
        f"{name} is {value!r}; write it as {default!r} is written."
        if default is not None
        else f"{name} is {value!r}; give a text."
    )


def _between(name: str, value: float, low: float, high: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise MuseTalkError(f"{name} is {value!r}; give a number from {low} to {high}.")


def _check_url(name: str, url: str | None) -> None:
    if url is not None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise MuseTalkError(f"{name} is {url!r}; write it as https://host/path.")
