"""The routes together, each behind the guard, on a server of their own or on somebody else's."""

from functools import partial

from aiohttp import web

from ..errors import MuseTalkError
from . import routes_admin, routes_files, routes_sessions
from .auth import Guard, cors_headers
from .config import ServerConfig
from .routes_page import page_definitions
from .service import RealtimeService
from .wire import BadRequest, Handler, Route, refused


def create_app(service: RealtimeService, config: ServerConfig) -> web.Application:
    """The server's application. On its shutdown streams end, recordings are finished and sessions closed."""
    app = web.Application(client_max_size=config.upload_limit)
    add_routes(app, service, config)

    async def close(_: web.Application) -> None:
        await service.close()

    app.on_shutdown.append(close)
    return app


def add_routes(
    target: web.Application | web.RouteTableDef, service: RealtimeService, config: ServerConfig, prefix: str = ""
) -> None:
    """Register every route, below `prefix` ("/musetalk" on ComfyUI's server)."""
    definitions = route_definitions(service, config, prefix)
    if isinstance(target, web.Application):
        target.add_routes(definitions)
        return
    for route in definitions:
        target.route(route.method, route.path, **route.kwargs)(route.handler)


def route_definitions(service: RealtimeService, config: ServerConfig, prefix: str = "") -> list[web.RouteDef]:
    """Every route behind the guard; with a cors_origin also the answers to its preflight requests."""
    guard = Guard(config)
    every = [*routes_sessions.routes(service), *routes_files.routes(service), *routes_admin.routes(service)]
    definitions = [*page_definitions(prefix), *(_definition(route, guard, prefix) for route in every)]
    if config.cors_origin is not None:
        for path in dict.fromkeys(definition.path for definition in definitions):
            definitions.append(web.options(path, partial(_preflight, guard=guard)))
    return definitions


def _definition(route: Route, guard: Guard, prefix: str) -> web.RouteDef:
    handler = partial(_guarded, handler=route.handler, guard=guard, changes=route.changes)
    kwargs = {"allow_head": False} if route.method == "GET" else {}
    return web.RouteDef(route.method, prefix + route.path, handler, kwargs)


async def _guarded(request: web.Request, handler: Handler, guard: Guard, changes: bool) -> web.StreamResponse:
    """Check, call, and turn a problem into its answer: 400 as text for what cannot be understood, else the envelope."""
    foreign = cors_headers(request, guard.config)
    try:
        guard.check(request, changes)
        reply = await handler(request)
    except web.HTTPException as error:
        error.headers.update(foreign)
        raise
    except BadRequest as error:
        reply = web.Response(status=400, text=str(error))
    except MuseTalkError as error:
        reply = refused(str(error))
    if not reply.prepared:
        reply.headers.update(foreign)
    return reply


async def _preflight(request: web.Request, guard: Guard) -> web.Response:
    """OPTIONS of the one foreign origin: it cannot carry the token, and does nothing."""
    allowed = {
        "Access-Control-Allow-Methods": "GET, POST, DELETE",
        "Access-Control-Allow-Headers": "Authorization, Content-Type",
    }
    return web.Response(status=204, headers=cors_headers(request, guard.config) | allowed)
