"""Routes that look at the server: sessions, configuration, metrics, health."""

import re
from collections.abc import Mapping
from functools import partial

from aiohttp import web

from .service import RealtimeService
from .wire import Route, ok


def routes(service: RealtimeService) -> list[Route]:
    """The routes that change nothing."""
    return [
        Route("GET", "/api/admin/sessions", partial(sessions, service=service), changes=False),
        Route("GET", "/api/admin/config", partial(config, service=service), changes=False),
        Route("GET", "/metrics", partial(metrics, service=service), changes=False),
        Route("GET", "/healthz", healthz, changes=False),
        Route("GET", "/readyz", partial(readyz, service=service), changes=False),
    ]


async def sessions(request: web.Request, service: RealtimeService) -> web.Response:
    """GET /api/admin/sessions."""
    told = []
    for live in service.manager.sessions():
        session = live.session
        told.append(
            {
                "sessionid": session.id,
                "speaking": service.speaking(live),
                "recording": service.recordings.recording(session.id),
                "model": "musetalk",
                "avatar_id": session.avatar.name,
                "size": list(session.avatar.frames.size),
                "queued_seconds": session.queued_seconds,
            }
        )
    return ok(told)


async def config(request: web.Request, service: RealtimeService) -> web.Response:
    """GET /api/admin/config: what a client may know."""
    return ok({"config": service.config.public()})


async def metrics(request: web.Request, service: RealtimeService) -> web.Response:
    """GET /metrics in the text format of Prometheus, version 0.0.4."""
    content = prometheus_text(
        {"sessions": len(service.manager.sessions()), "sessions_max": service.config.max_sessions},
        service.manager.metrics(),
    )
    return web.Response(text=content, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})


async def healthz(request: web.Request) -> web.Response:
    """GET /healthz: the server answers."""
    return web.Response(text="ok")


async def readyz(request: web.Request, service: RealtimeService) -> web.Response:
    """GET /readyz: 200 when a session can be opened now, else 503 with the reason."""
    limit = service.config.max_sessions
    if service.closing.is_set():
        raise web.HTTPServiceUnavailable(text="The server is closing.")
    if not service.shelf.names():
        raise web.HTTPServiceUnavailable(text="No avatar is prepared yet.")
    if len(service.manager.sessions()) >= limit:
        raise web.HTTPServiceUnavailable(text=f"All {limit} sessions are taken.")
    return web.Response(text="ready")


def prometheus_text(server: Mapping[str, float], sessions: Mapping[str, Mapping[str, float]]) -> str:
    """Gauges of the server, then those of each session with its id as the label `session`."""
    lines: list[str] = []
    for name, value in server.items():
        lines += [f"# TYPE musetalk_{name} gauge", f"musetalk_{name} {value:g}"]
    for name in sorted({name for numbers in sessions.values() for name in numbers}):
        metric = "musetalk_session_" + re.sub(r"\W", "_", name, flags=re.ASCII)
        lines.append(f"# TYPE {metric} gauge")
        for session, numbers in sessions.items():
            if name in numbers:
                lines.append(f'{metric}{{session="{session}"}} {numbers[name]:.10g}')
    return "\n".join(lines) + "\n"
