"""Bodies and answers: LiveTalking's envelope, JSON within limits, uploads that never fill the memory."""

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import BodyPartReader, web

from ..errors import MuseTalkError

PIECE = 2**16
MAX_FIELDS = 32
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True)
class Route:
    """A route as the server registers it. changes: whether it changes anything, which needs a token beyond loopback."""

    method: str
    path: str
    handler: Handler
    changes: bool = True


class BadRequest(MuseTalkError):
    """A request that cannot be understood: answered as HTTP 400 with its sentence as plain text."""


def ok(data: Any = None) -> web.Response:
    """{"code":0,"msg":"ok"} with `data` when there is some."""
    return web.json_response({"code": 0, "msg": "ok"} | ({} if data is None else {"data": data}))


def refused(message: str) -> web.Response:
    """{"code":-1,"msg":message}: understood, but it cannot be done."""
    return web.json_response({"code": -1, "msg": message})


async def read_json(request: web.Request, limit: int) -> dict[str, Any]:
    """The body as a JSON object. Raises HTTPRequestEntityTooLarge above `limit` bytes, BadRequest for other content."""
    return parse_object(await _body(request, limit))


def parse_object(text: bytes | str) -> dict[str, Any]:
    """A JSON object. Raises BadRequest."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadRequest("The body is not JSON; send an object such as {}.") from error
    if not isinstance(content, dict):
        raise BadRequest(f"The body is {type(content).__name__}; send a JSON object.")
    return content


def text_of(body: dict[str, Any], name: str, default: str | None = None) -> str:
    """A text field. Raises BadRequest when it is missing (without a default) or no text."""
    value = body.get(name, default)
    if not isinstance(value, str):
        raise BadRequest(f"{name} is {'missing' if value is None else repr(value)}; give a text.")
    return value


def int_of(body: dict[str, Any], name: str, default: int | None = None) -> int:
    """A whole number, also written as a text. Raises BadRequest."""
    value = body.get(name, default)
    try:
        if isinstance(value, bool) or not isinstance(value, int | str):
            raise ValueError
        return int(value)
    except ValueError:
        raise BadRequest(f"{name} is {'missing' if value is None else repr(value)}; give a whole number.") from None


def session_of(body: dict[str, Any]) -> str | int:
    """sessionid: 0 (also as text, or left out) for the first session, else the id it was given. Raises BadRequest."""
    value = body.get("sessionid", 0)
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise BadRequest(f"sessionid is {value!r}; give the id that /offer gave, or 0 for the first session.")
    return int(value) if isinstance(value, str) and value.isdecimal() and len(value) < 6 else value


@dataclass
class Form:
    """A multipart body: its text fields, and the uploaded file as it was called, None without one."""

    fields: dict[str, Any] = field(default_factory=dict)
    filename: str | None = None


async def read_form(request: web.Request, file: Path, file_field: str, limit: int) -> Form:
    """Read a multipart body; the part `file_field` goes to `file` piece by piece.

    Raises BadRequest for another body, HTTPRequestEntityTooLarge above `limit` bytes.
    """
    _check_length(request, limit)
    if not request.content_type.startswith("multipart/"):
        raise BadRequest(f"The body is {request.content_type}; send multipart/form-data.")
    form, left = Form(), limit
    try:
        reader = await request.multipart()
        while (part := await reader.next()) is not None:
            if not isinstance(part, BodyPartReader) or len(form.fields) >= MAX_FIELDS:
                raise BadRequest("The form has parts inside parts or too many; send plain fields and one file.")
            if part.name == file_field:
                form.filename = Path(part.filename or "file").name
                left -= await _save(part, file, left, limit)
            else:
                left -= await _keep(part, form, min(left, PIECE), limit)
    except (ValueError, AssertionError) as error:
        if isinstance(error, MuseTalkError):
            raise
        raise BadRequest("The multipart body is damaged.") from error
    return form


async def _save(part: BodyPartReader, file: Path, left: int, limit: int) -> int:
    size = 0
    with file.open("wb") as target:
        while piece := await part.read_chunk(PIECE):
            size += len(piece)
            if size > left:
                raise web.HTTPRequestEntityTooLarge(limit, size)
            target.write(piece)
    return size


async def _keep(part: BodyPartReader, form: Form, left: int, limit: int) -> int:
    content = bytearray()
    while piece := await part.read_chunk(PIECE):
        content += piece
        if len(content) > left:
            raise web.HTTPRequestEntityTooLarge(limit, len(content))
    form.fields[part.name or ""] = content.decode("utf-8", "replace")
    return len(content)


async def _body(request: web.Request, limit: int) -> bytes:
    _check_length(request, limit)
    body = bytearray()
    async for piece in request.content.iter_chunked(PIECE):
        body += piece
        if len(body) > limit:
            raise web.HTTPRequestEntityTooLarge(limit, len(body))
    return bytes(body)


def _check_length(request: web.Request, limit: int) -> None:
    if request.content_length is not None and request.content_length > limit:
        raise web.HTTPRequestEntityTooLarge(limit, request.content_length)
