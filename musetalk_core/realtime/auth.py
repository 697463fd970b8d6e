"""Who may call: the bearer token, the origin of a page, and what a server without a token may do."""

import hmac
from urllib.parse import urlsplit

from aiohttp import web

from .config import ServerConfig, is_loopback

SUBPROTOCOL = "musetalk"
BEARER = "bearer."


class Guard:
    """Lets a request through or raises the HTTP error that answers it; the same for every route and WebSocket."""

    def __init__(self, config: ServerConfig) -> None:
        self.config = config

    def check(self, request: web.Request, changes: bool) -> None:
        """changes: whether the route changes anything. Raises HTTPForbidden or HTTPUnauthorized."""
        self._check_origin(request)
        token = self.config.token
        if token is None:
            if changes and not self.config.loopback:
                raise web.HTTPForbidden(
                    text=f"This server listens on {self.config.host} without a token; set one to allow changes."
                )
            return
        given = bearer_token(request)
        if given is None or not hmac.compare_digest(given.encode(), token.encode()):
            raise web.HTTPUnauthorized(
                text="The bearer token is missing or wrong.", headers={"WWW-Authenticate": "Bearer"}
            )

    def _check_origin(self, request: web.Request) -> None:
        """Pages of other sites may not call: a browser sends simple requests and opens WebSockets without asking.

        Without a token the name in Host must be this machine's too, or a foreign name that is made to point here
        (DNS rebinding) would pass for the same origin.
        """
        host = request.headers.get("Host", "")
        origin = request.headers.get("Origin")
        if self.config.token is None and self.config.loopback and not is_loopback(_name(host)):
            raise web.HTTPForbidden(
                text=f"The host {host!r} is not this machine's; a server behind a proxy needs a token."
            )
        if origin is None or origin == self.config.cors_origin:
            return
        if urlsplit(origin).netloc != host:
            raise web.HTTPForbidden(text=f"Pages of {origin} may not call this server; see cors_origin.")


def bearer_token(request: web.Request) -> str | None:
    """The token of the Authorization header or, for a WebSocket, of the subprotocol `bearer.<token>`."""
    kind, _, value = request.headers.get("Authorization", "").partition(" ")
    if kind.lower() == "bearer" and value:
        return value.strip()
    for protocol in request.headers.get("Sec-WebSocket-Protocol", "").split(","):
        if protocol.strip().startswith(BEARER):
            return protocol.strip().removeprefix(BEARER)
    return None


def cors_headers(request: web.Request, config: ServerConfig) -> dict[str, str]:
    """What lets the pages of cors_origin read an answer; nothing for others."""
    if config.cors_origin is None or request.headers.get("Origin") != config.cors_origin:
        return {}
    return {"Access-Control-Allow-Origin": config.cors_origin, "Vary": "Origin"}


def _name(host: str) -> str:
    """The host name of a Host header."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""
