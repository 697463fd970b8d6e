"""WS /ws and WS /humanecho: sound in, pictures out, in the messages of Real-Time-Lip-Sync."""

import asyncio
import base64
import binascii
import io
import logging
from collections import deque
from contextlib import suppress
from typing import Any

import numpy as np
from aiohttp import WSMessage, WSMsgType, web

from ..errors import MuseTalkError
from .auth import SUBPROTOCOL
from .block import BLOCK_SECONDS, Block
from .runner import LiveSession, Subscription
from .service import RealtimeService
from .webrtc import pcm16
from .wire import parse_object, session_of, text_of

log = logging.getLogger(__name__)

HEARTBEAT = 20.0
JPEG_QUALITY = 90
MOST_WAITING = 8
FORMATS = {"pcm16": "<i2", "float32": "<f4"}


async def open_socket(request: web.Request, service: RealtimeService) -> web.WebSocketResponse:
    """The accepted WebSocket; one that is silent is asked whether it lives, one that is gone is closed."""
    channel = web.WebSocketResponse(
        heartbeat=HEARTBEAT, max_msg_size=service.config.message_limit, protocols=(SUBPROTOCOL,), compress=False
    )
    await channel.prepare(request)
    service.sockets.add(channel)
    return channel


def decoded_sound(data: bytes, kind: str) -> np.ndarray:
    """(n,) float32 -1..1 of PCM16 or float32 bytes, 16 kHz mono. Raises MuseTalkError for other bytes."""
    if kind not in FORMATS:
        raise MuseTalkError(f"The format {kind!r} is unknown; choose one of {', '.join(FORMATS)}.")
    width = np.dtype(FORMATS[kind]).itemsize
    if len(data) % width:
        raise MuseTalkError(f"{len(data)} bytes are no whole number of {kind} samples of {width} bytes.")
    samples = np.frombuffer(data, FORMATS[kind])
    return samples.astype(np.float32) / (32768 if kind == "pcm16" else 1)


def jpeg(picture: np.ndarray) -> bytes:
    """A picture (H,W,3) uint8 as a JPEG file."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=JPEG_QUALITY)
    return file.getvalue()


async def humanecho(request: web.Request, service: RealtimeService) -> web.WebSocketResponse:
    """A text message is said, a binary one (PCM16, 16 kHz mono) is heard; session 0 or ?sessionid=.

    Texts are answered with the envelope, sounds only when something is wrong. What is said ends when it closes.
    """
    wanted, heard = session_of(dict(request.query)), False
    channel = await open_socket(request, service)
    async for message in channel:
        try:
            live = service.manager.get(wanted)
            if message.type == WSMsgType.TEXT:
                service.say(live, message.data, {})
                await channel.send_json({"code": 0, "msg": "ok"})
            elif message.type == WSMsgType.BINARY:
                live.session.feed(decoded_sound(message.data, "pcm16"))
                heard = True
        except MuseTalkError as error:
            await channel.send_json({"code": -1, "msg": str(error)})
        except ConnectionError:
            break
    if heard:
        with suppress(MuseTalkError):
            service.manager.get(wanted).session.finish()
    return channel


async def lockstep(request: web.Request, service: RealtimeService) -> web.WebSocketResponse:
    """WS /ws: every message with sound is answered by a picture when one is there."""
    channel = await open_socket(request, service)
    talk = _Lockstep(channel, service)
    try:
        async for message in channel:
            try:
                if not await talk.handle(message):
                    break
            except MuseTalkError as error:
                await channel.send_json({"type": "error", "message": str(error)})
    except ConnectionError:
        log.info("A client of /ws left in the middle of a message.")
    finally:
        await talk.close()
    return channel


class _Lockstep:
    """One client of /ws: the session that it drives and the newest pictures of it."""

    def __init__(self, channel: web.WebSocketResponse, service: RealtimeService) -> None:
        self.channel, self.service = channel, service
        self._live: LiveSession | None = None
        self._own = False
        self._subscription: Subscription | None = None
        self._collector: asyncio.Task[None] | None = None
        self._blocks: deque[Block] = deque(maxlen=MOST_WAITING)

    async def handle(self, message: WSMessage) -> bool:
        """Answer a message; False when it was the last. Raises MuseTalkError."""
        if message.type != WSMsgType.TEXT:
            raise MuseTalkError('A binary message came; send JSON text such as {"type": "audio", "data": base64}.')
        content = parse_object(message.data)
        kind = content.get("type")
        if kind == "session":
            await self._begin(content)
            await self.channel.send_json({"type": "session_ack", "sessionid": self._session().session.id})
        elif kind == "audio":
            await self._hear(content)
        elif kind == "end":
            self._session().session.finish()
            return False
        else:
            raise MuseTalkError(f"The type {kind!r} is unknown; send session, audio or end.")
        return True

    async def close(self) -> None:
        """Leave the session; one that was opened here is closed."""
        if self._subscription is not None:
            self._subscription.close()
        if self._collector is not None:
            self._collector.cancel()
            await asyncio.wait([self._collector])
        live, self._live = self._live, None
        if live is not None and self._own:
            await self.service.close_session(live)

    async def _begin(self, content: dict[str, Any]) -> None:
        """Join the session of that id; without one, and for 0 when there is none, open one."""
        await self.close()
        wanted = session_of(content)
        if "sessionid" not in content or (wanted == 0 and not self.service.manager.sessions()):
            avatar = text_of(content, "avatar") if "avatar" in content else None
            self._live, self._own = await self.service.manager.open(avatar), True
        else:
            self._live, self._own = self.service.manager.get(wanted), False
        self._subscription = self._live.subscribe()
        self._collector = asyncio.create_task(self._collect(self._subscription))

    async def _collect(self, subscription: Subscription) -> None:
        async for block in subscription:
            self._blocks.append(block)

    async def _hear(self, content: dict[str, Any]) -> None:
        live = self._session()
        try:
            data = base64.b64decode(text_of(content, "data"), validate=True)
        except binascii.Error as error:
            raise MuseTalkError("data is not base64; send the samples' bytes as base64.") from error
        live.session.feed(decoded_sound(data, text_of(content, "format", "pcm16")))
        if self._blocks:
            block = self._blocks.popleft()
            picture = await asyncio.to_thread(jpeg, block.picture)
            await self.channel.send_json(
                {
                    "type": "video",
                    "data": base64.b64encode(picture).decode(),
                    "audio": base64.b64encode(pcm16(block.sound).astype("<i2").tobytes()).decode(),
                    "time": block.index * BLOCK_SECONDS,
                    "speaking": block.speaking,
                }
            )

    def _session(self) -> LiveSession:
        if self._live is None:
            raise MuseTalkError('No session yet; send {"type": "session"} first.')
        return self._live
