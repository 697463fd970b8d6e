"""A WebRTC client as a browser would be one: receives picture and sound, and remembers when and what."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import MediaStreamError


@dataclass
class Seen:
    """A frame: when it came (s of the local clock), its time stamp (s), and what `look` made of it."""

    came: float
    time: float
    what: Any


def local_connection() -> RTCPeerConnection:
    """A connection that asks no server outside for its address, as aiortc's own default does."""
    return RTCPeerConnection(RTCConfiguration(iceServers=[]))


class Viewer:
    """One connection. look: called with each picture (H,W,3) uint8; of the sound the loudness of each 20 ms is kept."""

    def __init__(self, look: Callable[[np.ndarray], Any] = lambda picture: picture.shape) -> None:
        self.connection = local_connection()
        self.pictures: list[Seen] = []
        self.sounds: list[Seen] = []
        self.sessionid = ""
        self.codecs: list[str] = []
        self._look = look
        self._tasks: list[asyncio.Task] = []
        self.connection.add_listener("track", self._take)

    async def connect(self, offer: Callable, avatar: str | None = None) -> "Viewer":
        """offer: POSTs a body to /offer, gives (status, answer)."""
        for kind in ("video", "audio"):
            self.connection.addTransceiver(kind, direction="recvonly")
        await self.connection.setLocalDescription(await self.connection.createOffer())
        body = {"sdp": self.connection.localDescription.sdp, "type": "offer"}
        status, answer = await offer(body | ({"avatar": avatar} if avatar else {}))
        assert status == 200 and answer["type"] == "answer", answer
        self.sessionid, self.answer = answer["sessionid"], answer["sdp"]
        await self.connection.setRemoteDescription(RTCSessionDescription(answer["sdp"], "answer"))
        return self

    async def received(self, count: int, seconds: float = 60.0) -> None:
        """Wait for so many pictures, and some sound."""
        for _ in range(round(seconds / 0.05)):
            if len(self.pictures) >= count and self.sounds:
                return
            await asyncio.sleep(0.05)
        raise AssertionError(f"{len(self.pictures)} pictures, {len(self.sounds)} sounds")

    async def close(self) -> None:
        await self.connection.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _take(self, track: Any) -> None:
        self._tasks.append(asyncio.ensure_future(self._read(track)))

    async def _read(self, track: Any) -> None:
        while True:
            try:
                frame = await track.recv()
            except MediaStreamError:
                return
            if track.kind == "video":
                seen = Seen(time.monotonic(), frame.time, self._look(frame.to_ndarray(format="rgb24")))
                self.pictures.append(seen)
            else:
                assert frame.sample_rate == 48000
                loudness = float(np.sqrt(np.mean(np.square(frame.to_ndarray() / 32768))))
                self.sounds.append(Seen(time.monotonic(), frame.time, loudness))


def onsets(seen: list[Seen], on: Callable[[Any], bool], apart: float = 0.5) -> list[float]:
    """Time stamps at which something begins, at least `apart` seconds after it was last there."""
    times, last = [], float("-inf")
    for entry in seen:
        if on(entry.what):
            if entry.time - last > apart:
                times.append(entry.time)
            last = entry.time
    return times
