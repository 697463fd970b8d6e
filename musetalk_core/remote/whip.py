"""WHIP: sends a session to a media server (RFC 9725), to the address of the configuration alone."""

import asyncio
import logging
from collections.abc import Callable
from urllib.parse import urljoin, urlsplit

import aiohttp

from ..errors import MuseTalkError
from ..realtime.webrtc import Peer

log = logging.getLogger(__name__)

SECONDS = 10.0
PAUSE = 5.0
LONGEST_ANSWER = 2**18


class WhipPush:
    """Pushes what `peer()` gives to `url`, again after a pause when the connection is lost, until `close`.

    token: bearer token of the media server. peer: opens a new connection for the pushed session.
    """

    def __init__(self, url: str, token: str | None, peer: Callable[[], Peer]) -> None:
        self.url, self._peer = url, peer
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """End the stream at the media server and here."""
        self._task.cancel()
        await asyncio.wait([self._task])

    async def _run(self) -> None:
        while True:
            try:
                await self._push()
            except MuseTalkError as error:
                log.warning("%s", error)
            await asyncio.sleep(PAUSE)

    async def _push(self) -> None:
        """One connection from its beginning to its end. Raises MuseTalkError."""
        peer = self._peer()
        resource: str | None = None
        try:
            answer, resource = await self._exchange(await peer.offer())
            await peer.accept(answer)
            log.info("The session is pushed to %s.", self.url)
            await peer.closed.wait()
        finally:
            await asyncio.shield(self._end(peer, resource))

    async def _exchange(self, offer: str) -> tuple[str, str | None]:
        """The SDP answer and the address of the stream, which is told to be ended there."""
        headers = {**self._headers, "Content-Type": "application/sdp", "Accept": "application/sdp"}
        try:
            async with self._session() as session:
                reply = await session.post(self.url, data=offer, headers=headers, allow_redirects=False)
                answer = (await reply.content.read(LONGEST_ANSWER)).decode("utf-8", "replace")
                if reply.status != 201:
                    raise MuseTalkError(f"The WHIP server {self.url} answers {reply.status}: {answer[:200]!r}.")
                return answer, self._resource(reply.headers.get("Location"))
        except (aiohttp.ClientError, asyncio.TimeoutError) as error:
            reason = str(error) or type(error).__name__
            raise MuseTalkError(f"The WHIP server {self.url} cannot be reached: {reason}.") from error

    async def _end(self, peer: Peer, resource: str | None) -> None:
        await peer.close()
        if resource is None:
            return
        try:
            async with self._session() as session:
                await session.delete(resource, headers=self._headers, allow_redirects=False)
        except (aiohttp.ClientError, asyncio.TimeoutError) as error:
            log.warning("The WHIP server %s was not told of the end: %s", self.url, error or type(error).__name__)

    def _session(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(SECONDS))

    def _resource(self, location: str | None) -> str | None:
        """The stream's address when it is on the same server; an answer may not send us elsewhere."""
        if location is None:
            return None
        address = urljoin(self.url, location)
        return address if urlsplit(address)[:2] == urlsplit(self.url)[:2] else None
