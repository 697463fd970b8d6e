"""WebRTC by aiortc: the picture and sound of a session as two tracks of one row of blocks."""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from fractions import Fraction
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import MuseTalkError
from .block import BLOCK_SAMPLES, FPS, RATE, Block
from .runner import LiveSession

if TYPE_CHECKING:
    from aiortc import RTCPeerConnection

log = logging.getLogger(__name__)

VIDEO_CLOCK = 90000
VIDEO_TICKS = VIDEO_CLOCK // int(FPS)
PACKET_SAMPLES = 320  # 20 ms: one Opus packet
MOST_PICTURES = 8  # that wait for the encoder; a burst after a pause fits in
MOST_BLOCKS = 25
CODECS = ("video/h264", "video/vp8")


class BlockTracks:
    """Both tracks of a session for one peer. They read one subscription, and time stamps come from the block's index:
    picture and sound of a block have one time whatever is late or lost.

    They begin when the connection asks for the first frame, so that nothing old waits then. An encoder that falls
    MOST_PICTURES behind goes on with the newest one; lost sound becomes silence.
    """

    def __init__(self, live: LiveSession) -> None:
        self.audio, self.video = _track_pair()
        self._subscription = live.subscribe(MOST_BLOCKS)
        self._pump = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Stop both tracks; waits for the task between."""
        self._subscription.close()
        self._pump.cancel()
        await asyncio.wait([self._pump])

    async def _run(self) -> None:
        try:
            first = -1
            async for block in self._subscription:
                wanted = [track for track in (self.audio, self.video) if track.wanted]
                if wanted and first < 0:
                    first = block.index
                for track in wanted:
                    track.put(block, block.index - first)
        finally:
            self.audio.stop()
            self.video.stop()


def _track_pair() -> tuple[Any, Any]:
    """An audio and a video track; made here because aiortc is imported when it is first needed."""
    from aiortc import MediaStreamTrack
    from aiortc.mediastreams import MediaStreamError
    from av import AudioFrame, VideoFrame

    class BlockTrack(MediaStreamTrack):
        def __init__(self, most: int) -> None:
            super().__init__()
            self._held: deque[Any] = deque(maxlen=most)
            self._filled = asyncio.Event()
            self.wanted = False

        async def next(self) -> Any:
            self.wanted = True
            while not self._held:
                if self.readyState != "live":
                    raise MediaStreamError
                self._filled.clear()
                await self._filled.wait()
            return self._held.popleft()

        def stop(self) -> None:
            super().stop()
            self._filled.set()

    class VideoTrack(BlockTrack):
        kind = "video"

        def put(self, block: Block, place: int) -> None:
            if len(self._held) == MOST_PICTURES:
                self._held.clear()
            self._held.append((place, block.picture))
            self._filled.set()

        async def recv(self) -> VideoFrame:
            place, picture = await self.next()
            frame = VideoFrame.from_ndarray(even(picture), format="rgb24")
            frame.pts, frame.time_base = place * VIDEO_TICKS, Fraction(1, VIDEO_CLOCK)
            return frame

    class AudioTrack(BlockTrack):
        kind = "audio"

        def __init__(self, most: int) -> None:
            super().__init__(most)
            self._sent = 0

        def put(self, block: Block, place: int) -> None:
            start = place * BLOCK_SAMPLES
            samples = pcm16(block.sound)
            for offset in range(0, BLOCK_SAMPLES, PACKET_SAMPLES):
                self._held.append((start + offset, samples[offset : offset + PACKET_SAMPLES]))
            self._filled.set()

        async def recv(self) -> AudioFrame:
            start, samples = await self.next()
            if self._sent < start:  # lost before: the encoder takes no gaps
                self._held.appendleft((start, samples))
                start, samples = self._sent, np.zeros(PACKET_SAMPLES, np.int16)
            self._sent = start + PACKET_SAMPLES
            frame = AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = RATE, start, Fraction(1, RATE)
            return frame

    return AudioTrack(MOST_BLOCKS * BLOCK_SAMPLES // PACKET_SAMPLES), VideoTrack(MOST_PICTURES)


def pcm16(sound: np.ndarray) -> np.ndarray:
    """float32 -1..1 as int16, clipped."""
    return (np.clip(sound, -1, 1) * 32767).round().astype(np.int16)


def even(picture: np.ndarray) -> np.ndarray:
    """The picture with even sides, the last row or column repeated; 4:2:0 needs them."""
    height, width = picture.shape[:2]
    if height % 2 == 0 and width % 2 == 0:
        return picture
    return np.pad(picture, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")


class Peer:
    """One WebRTC connection that is sent a session.

    ended: awaited once when the connection or the session has ended; `closed` is set after it.
    """

    def __init__(
        self, live: LiveSession, ice_servers: Sequence[Mapping[str, Any]], ended: Callable[[], Awaitable[None]]
    ) -> None:
        self.connection = _connection(ice_servers)
        self.tracks = BlockTracks(live)
        self.closed = asyncio.Event()
        self._ended = ended
        self._closing: asyncio.Task[None] | None = None
        self.connection.add_listener("connectionstatechange", self._changed)
        self.tracks.audio.add_listener("ended", self.end)

    async def answer(self, sdp: str) -> str:
        """The SDP answer to a client's offer, both tracks send only. Raises MuseTalkError for an offer that is none."""
        from aiortc import RTCSessionDescription
        from aiortc.exceptions import InvalidAccessError, InvalidStateError, OperationError

        self._add_tracks()
        try:
            await self.connection.setRemoteDescription(RTCSessionDescription(sdp, "offer"))
        except (ValueError, KeyError, IndexError, AttributeError, AssertionError) as error:
            raise MuseTalkError("The SDP offer cannot be understood; send pc.localDescription.sdp.") from error
        except (InvalidAccessError, InvalidStateError, OperationError) as error:
            raise MuseTalkError(f"The SDP offer cannot be answered: {error}.") from error
        try:
            await self.connection.setLocalDescription(await self.connection.createAnswer())
        except (ValueError, InvalidAccessError, InvalidStateError, OperationError) as error:
            raise MuseTalkError("The SDP offer has no audio and video that can be sent to.") from error
        return str(self.connection.localDescription.sdp)

    async def offer(self) -> str:
        """An SDP offer of our own, for who takes a stream (WHIP)."""
        self._add_tracks()
        await self.connection.setLocalDescription(await self.connection.createOffer())
        return str(self.connection.localDescription.sdp)

    async def accept(self, sdp: str) -> None:
        """The answer to our offer. Raises MuseTalkError."""
        from aiortc import RTCSessionDescription

        try:
            await self.connection.setRemoteDescription(RTCSessionDescription(sdp, "answer"))
        except (ValueError, KeyError, IndexError, AttributeError, AssertionError) as error:
            raise MuseTalkError("The SDP answer cannot be understood.") from error

    def end(self) -> None:
        """Close, without waiting; does nothing when that has begun."""
        if self._closing is None:
            self._closing = asyncio.create_task(self._close())

    async def close(self) -> None:
        """Close everything and wait for it."""
        self.end()
        if self._closing is not None and self._closing is not asyncio.current_task():
            await asyncio.wait([self._closing])

    async def _close(self) -> None:
        try:
            await self.connection.close()
            await self.tracks.close()
            await self._ended()
        finally:
            self.closed.set()

    def _changed(self) -> None:
        if self.connection.connectionState in ("failed", "closed"):
            self.end()

    def _add_tracks(self) -> None:
        for track in (self.tracks.audio, self.tracks.video):
            _prefer(self.connection.addTransceiver(track, direction="sendonly"))


def _prefer(transceiver: Any) -> None:
    """H.264, else VP8; retransmission beside them."""
    from aiortc import RTCRtpSender

    if transceiver.kind == "video":
        known = RTCRtpSender.getCapabilities("video").codecs
        wanted = [codec for name in (*CODECS, "video/rtx") for codec in known if codec.mimeType.lower() == name]
        transceiver.setCodecPreferences(wanted)


def _connection(ice_servers: Sequence[Mapping[str, Any]]) -> "RTCPeerConnection":
    """A connection that asks only the servers of the configuration; with None aiortc would ask one of its own."""
    from aiortc import RTCConfiguration, RTCIceServer, RTCPeerConnection

    return RTCPeerConnection(RTCConfiguration([RTCIceServer(**server) for server in ice_servers]))


def require_webrtc() -> None:
    """Raise MuseTalkError when aiortc is not installed."""
    if find_spec("aiortc") is None:
        raise MuseTalkError(
            "WebRTC needs aiortc, which is not installed; run `pip install -r requirements-realtime.txt` or use /ws."
        )


def set_video_bitrate(bits: int) -> None:
    """Bits/s that encoders made from now on start with and may reach; aiortc has these as module constants only."""
    from aiortc.codecs import h264, vpx

    codecs: tuple[Any, ...] = (h264, vpx)
    for codec in codecs:
        codec.DEFAULT_BITRATE = bits
        codec.MAX_BITRATE = max(bits, codec.MAX_BITRATE)
        codec.MIN_BITRATE = min(bits, codec.MIN_BITRATE)
