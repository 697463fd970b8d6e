"""The live avatar below /musetalk on ComfyUI's own server: its page, and its routes once a session was prepared."""

import sys
from typing import Any

from aiohttp import web

from ..musetalk_core.realtime.routes_page import page_definitions

PREFIX = "/musetalk"
NOT_PREPARED = (
    "No live avatar is prepared: run a workflow with Realtime Session (MuseTalk), for example the template "
    "musetalk_realtime, then load this page again."
)


class LiveRoutes:
    """What answers below /musetalk: a sentence at first, then the service of the last Realtime Session that ran."""

    def __init__(self) -> None:
        self._service: Any = None
        self._router = web.UrlDispatcher()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """The answer of the service's route of this path."""
        if self._service is None:
            raise web.HTTPServiceUnavailable(text=NOT_PREPARED)
        found = await self._router.resolve(request)
        if found.http_exception is not None:
            raise found.http_exception
        request.match_info.update(found)
        return await found.handler(request)

    def serve(self, service: Any, definitions: list[web.RouteDef]) -> None:
        """Answer with the routes of a service, which can be closed, from now on."""
        self._router = web.UrlDispatcher()
        self._router.add_routes(definitions)
        self._service = service

    async def close(self, _: web.Application | None = None) -> None:
        """End the sessions of the service there is."""
        service, self._service = self._service, None
        if service is not None:
            await service.close()


LIVE_ROUTES = web.AppKey("musetalk_live_routes", LiveRoutes)


def register_routes() -> None:
    """Put /musetalk on ComfyUI's application before it starts."""
    # Who only reads the nodes has no server, and importing it would bring half of ComfyUI.
    if "server" not in sys.modules:
        return
    from server import PromptServer

    app = PromptServer.instance.app
    app[LIVE_ROUTES] = routes = LiveRoutes()
    app.router.add_get(PREFIX, _to_page)
    app.router.add_routes(page_definitions(PREFIX))
    app.router.add_route("*", PREFIX + "/{path:.*}", routes.answer)
    app.on_shutdown.append(routes.close)


async def _to_page(_: web.Request) -> web.StreamResponse:
    # Relative: ComfyUI may lie below another path of a proxy.
    raise web.HTTPFound("musetalk/")
