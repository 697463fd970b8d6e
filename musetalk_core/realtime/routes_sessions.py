"""Routes that drive sessions: connect, say, play, act, ask, and hear of speech."""

import json
from collections.abc import Mapping
from functools import partial

from aiohttp import web

from . import websocket
from .auth import cors_headers
from .service import RealtimeService
from .wire import BadRequest, Route, int_of, ok, read_form, read_json, refused, session_of, text_of

HEARTBEAT_BLOCKS = 250  # 10 s
INTERRUPTING = (True, 1, "true", "1")


def routes(service: RealtimeService) -> list[Route]:
    """The routes of sessions."""
    return [
        Route("GET", "/digital_human/check", check, changes=False),
        Route("POST", "/offer", partial(offer, service=service)),
        Route("POST", "/human", partial(human, service=service)),
        Route("POST", "/humanaudio", partial(humanaudio, service=service)),
        Route("POST", "/interrupt_talk", partial(interrupt_talk, service=service)),
        Route("POST", "/is_speaking", partial(is_speaking, service=service), changes=False),
        Route("POST", "/set_audiotype", partial(set_audiotype, service=service)),
        Route("GET", "/sse", partial(sse, service=service), changes=False),
        Route("GET", "/ws", partial(websocket.lockstep, service=service)),
        Route("GET", "/humanecho", partial(websocket.humanecho, service=service)),
    ]


async def check(request: web.Request) -> web.Response:
    """GET /digital_human/check: both keys, that of the README and that of the code."""
    return web.json_response({"message": "server enabled", "status": "Server is running"})


async def offer(request: web.Request, service: RealtimeService) -> web.Response:
    """POST /offer {sdp, type, avatar?} -> {sdp, type, sessionid}."""
    body = await read_json(request, service.config.message_limit)
    if text_of(body, "type") != "offer":
        raise BadRequest(f"type is {body['type']!r}; send an offer.")
    avatar = text_of(body, "avatar", "") or None
    sdp, sessionid = await service.answer(text_of(body, "sdp"), avatar)
    return web.json_response({"sdp": sdp, "type": "answer", "sessionid": sessionid})


async def human(request: web.Request, service: RealtimeService) -> web.Response:
    """POST /human {sessionid, text, type echo|chat, interrupt?, tts?}."""
    body = await read_json(request, service.config.message_limit)
    text, kind, options = text_of(body, "text"), text_of(body, "type", "echo"), body.get("tts") or {}
    if kind not in ("echo", "chat"):
        raise BadRequest(f"type is {kind!r}; give echo.")
    if not isinstance(options, Mapping):
        raise BadRequest('tts is no object; give one such as {"voice": "en-GB"}.')
    live = service.manager.get(session_of(body))
    if kind == "chat":
        return refused("chat is not available: this server has no language model; send the answer's text as echo.")
    if body.get("interrupt") in INTERRUPTING:
        await service.interrupt(live)
    service.say(live, text, options)
    return ok()


async def humanaudio(request: web.Request, service: RealtimeService) -> web.Response:
    """POST /humanaudio, multipart: sessionid, file (any format, all channels averaged, to the last sample)."""
    file = service.new_file(".upload")
    try:
        form = await read_form(request, file, "file", service.config.upload_limit)
        if form.filename is None:
            raise BadRequest("file is missing; send the sound as the multipart field file.")
        live = service.manager.get(session_of(form.fields))
        if form.fields.get("interrupt") in INTERRUPTING:
            await service.interrupt(live)
    except BaseException:
        file.unlink(missing_ok=True)
        raise
    await service.play(live, file, form.filename)
    return ok()


async def interrupt_talk(request: web.Request, service: RealtimeService) -> web.Response:
    """POST /interrupt_talk {sessionid}."""
    body = await read_json(request, service.config.message_limit)
    await service.interrupt(service.manager.get(session_of(body)))
    return ok()


async def is_speaking(request: web.Request, service: RealtimeService) -> web.Response:
    """POST /is_speaking {sessionid} -> data: bool."""
    body = await read_json(request, service.config.message_limit)
    return ok(service.speaking(service.manager.get(session_of(body))))


async def set_audiotype(request: web.Request, service: RealtimeService) -> web.Response:
    """POST /set_audiotype {sessionid, audiotype: int or text}."""
    body = await read_json(request, service.config.message_limit)
    kind = int_of(body, "audiotype")
    service.manager.get(session_of(body)).session.set_action(kind)
    return ok("ok")


async def sse(request: web.Request, service: RealtimeService) -> web.StreamResponse:
    """GET /sse?sessionid=: what is said, when its sound is sent; a comment every 10 s keeps the line open."""
    live = service.manager.get(session_of(dict(request.query)))
    reply = web.StreamResponse(headers={**cors_headers(request, service.config), "Content-Type": "text/event-stream"})
    reply.headers["Cache-Control"] = "no-cache"
    subscription = live.subscribe(64)
    try:
        await reply.prepare(request)
        await reply.write(b": connected\n\n")
        async for block in subscription:
            for event in block.events:
                content = json.dumps({"status": event.status, "text": event.text}, ensure_ascii=False)
                await reply.write(f"data: {content}\n\n".encode())
            if block.index % HEARTBEAT_BLOCKS == 0:
                await reply.write(b": heartbeat\n\n")
    except ConnectionError:
        pass
    finally:
        subscription.close()
    return reply
