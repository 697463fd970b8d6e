"""What the routes serve: sessions, what they still have to say, recordings, avatars. One object, no globals."""

import asyncio
import logging
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any
from weakref import WeakSet

from aiohttp import web

from ..errors import MuseTalkError
from ..media.audio import AudioFile
from .avatar_shelf import AvatarShelf
from .avatar_tasks import AvatarTasks
from .config import ServerConfig
from .engine import RealtimeEngine
from .manager import SessionLimits, SessionManager
from .outbound import Push, notifier_of, push_of, voice_of
from .recording import Recordings
from .runner import LiveSession
from .speech_queue import Speech, SpeechQueue, remover, sound_pieces
from .tts import checked_text
from .webrtc import Peer, require_webrtc, set_video_bitrate
from .workshop import Workshop

log = logging.getLogger(__name__)


class RealtimeService:
    """Everything that lives as long as a server; made and closed on its event loop.

    engine: makes the mouths; started and stopped by the caller. workshop: prepares avatars and makes files. Raises
    MuseTalkError when something that the configuration wants is not installed.
    """

    def __init__(self, engine: RealtimeEngine, workshop: Workshop, config: ServerConfig) -> None:
        self.config, self.workshop, self.voice = config, workshop, voice_of(config)
        limits = SessionLimits(config.max_sessions, config.idle_timeout, config.max_queued_seconds)
        self.manager = SessionManager(engine, self.shelf.get, config.avatar or "", limits, self.shelf.clips)
        self.recordings = Recordings(config.output / "recordings")
        self.tasks = AvatarTasks(workshop, notifier_of(config))
        self.peers: set[Peer] = set()
        self.sockets: WeakSet[web.WebSocketResponse] = WeakSet()
        self.closing = asyncio.Event()
        self._utterances: dict[str, SpeechQueue] = {}
        self._push: Push | None = None

    @property
    def shelf(self) -> AvatarShelf:
        """The prepared avatars."""
        return self.workshop.shelf

    async def answer(self, sdp: str, avatar: str | None) -> tuple[str, str]:
        """Open a session and answer a WebRTC offer with it: (SDP answer, session id).

        The session's place is taken first, and given back when anything goes wrong. Raises MuseTalkError.
        """
        require_webrtc()
        set_video_bitrate(self.config.video_bitrate)
        live = await self.manager.open(avatar)
        peer = self.peer(live)
        try:
            return await peer.answer(sdp), live.session.id
        except BaseException:
            await peer.close()
            raise

    def peer(self, live: LiveSession, last: bool = True) -> Peer:
        """A WebRTC connection for a session. last: the session ends with it."""

        async def ended() -> None:
            self.peers.discard(peer)
            if last:
                await self.close_session(live)

        peer = Peer(live, self.config.ice_servers, ended)
        self.peers.add(peer)
        return peer

    async def start_push(self) -> None:
        """Open the session that the configuration wants pushed, if it wants one. Raises MuseTalkError."""
        if self.config.push_url is not None:
            require_webrtc()
            set_video_bitrate(self.config.video_bitrate)
            live = await self.manager.open(None)
            self._push = push_of(self.config, lambda: self.peer(live, last=False))

    async def close_session(self, live: LiveSession) -> None:
        """End a session, its recording and what it has to say; one that has ended is left alone."""
        name = live.session.id
        if name in self._utterances:
            await self._utterances.pop(name).clear()
        try:
            await self.manager.close(name)
        except MuseTalkError:
            log.debug("The session %s had ended.", name)

    def say(self, live: LiveSession, text: str, options: Mapping[str, Any]) -> None:
        """Let a session say a text, after what it says already. Raises MuseTalkError without a voice or text."""
        if self.voice is None:
            raise MuseTalkError("This server has no voice; start it with tts embedded or http.")
        voice = self.voice
        self._mouth(live).add(Speech(checked_text(text), lambda: voice.speak(text, options)))

    async def play(self, live: LiveSession, file: Path, name: str) -> None:
        """Let a session say an uploaded sound; the file is removed afterwards. Raises MuseTalkError for no sound."""
        done = remover(file)
        try:
            audio = await asyncio.to_thread(AudioFile, file)
        except MuseTalkError as error:
            done()
            raise MuseTalkError(str(error).replace(str(file), name)) from error
        except BaseException:
            done()
            raise
        self._mouth(live).add(Speech(name, partial(sound_pieces, audio), done))

    async def interrupt(self, live: LiveSession) -> None:
        """Be silent now: drop what waits, here and in the session."""
        if live.session.id in self._utterances:
            await self._utterances[live.session.id].clear()
        live.session.interrupt()

    def speaking(self, live: LiveSession) -> bool:
        """Whether it speaks or is about to."""
        return live.session.speaking or bool(self._utterances.get(live.session.id))

    def new_file(self, suffix: str) -> Path:
        """A new temporary file for an upload, its name of our making."""
        handle, name = tempfile.mkstemp(prefix="musetalk-", suffix=suffix)
        with open(handle, "wb"):
            return Path(name)

    async def close(self) -> None:
        """End everything: recordings are finished, streams end cleanly, sessions are closed."""
        self.closing.set()
        if self._push is not None:
            await self._push.close()
        await self.recordings.stop_all()
        for utterances in list(self._utterances.values()):
            await utterances.clear()
        await asyncio.gather(*(peer.close() for peer in list(self.peers)))
        await self.tasks.close()
        await self.manager.close_all()
        sockets = [channel.close(code=1001, message=b"server shutdown") for channel in list(self.sockets)]
        await asyncio.gather(*sockets, return_exceptions=True)

    def _mouth(self, live: LiveSession) -> SpeechQueue:
        """The utterances of a session; those of sessions that are gone are forgotten."""
        here = {other.session.id for other in self.manager.sessions()}
        self._utterances = {name: mouth for name, mouth in self._utterances.items() if name in here}
        ahead = self.config.max_queued_seconds / 2
        return self._utterances.setdefault(live.session.id, SpeechQueue(live.session, ahead))
