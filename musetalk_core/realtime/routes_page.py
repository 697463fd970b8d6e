"""The live page's files: served without a token, for it is the page that asks people for it."""

from pathlib import Path

from aiohttp import web

PAGE = Path(__file__).parent / "page"
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
NO_PAGE = "The live page is not part of the registry's archive; install MuseTalk Suite from its repository."
# No address but the server's own, and in nobody's frame.
POLICY = "default-src 'self'; img-src 'self' data: blob:; media-src 'self' blob:; frame-ancestors 'none'"


def page_definitions(prefix: str = "") -> list[web.RouteDef]:
    """GET `prefix`/ and the files beside it."""
    return [web.get(prefix + "/", page_file), web.get(prefix + "/{file:[a-z_]+\\.(?:css|js)}", page_file)]


async def page_file(request: web.Request) -> web.StreamResponse:
    """A file of the page. Raises HTTPNotFound with a sentence where it was left out of an installation."""
    path = PAGE / request.match_info.get("file", "index.html")
    if not path.is_file():
        raise web.HTTPNotFound(text=NO_PAGE if path.name == "index.html" else "There is no such file.")
    headers = {"Content-Type": f"{TYPES[path.suffix]}; charset=utf-8", "Cache-Control": "no-cache"}
    return web.FileResponse(path, headers={**headers, "Content-Security-Policy": POLICY})
