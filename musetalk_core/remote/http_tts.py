"""A speech server that answers HTTP: its sound is passed on while it arrives."""

import asyncio
import io
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import numpy as np

from ..errors import MuseTalkError

RATE = 16000
PIECE = 2**13
SECONDS_WITHOUT_SOUND = 30.0
MOST_BYTES = 256 * 2**20
RAW_TYPES = ("audio/l16", "audio/pcm", "audio/raw", "application/octet-stream")
WAV_TYPES = ("audio/wav", "audio/x-wav", "audio/wave", "audio/vnd.wave")
# Wishes of a caller that may replace those of the configuration.
WISHES = ("voice", "speed", "pitch", "emotion", "lang", "language")


@dataclass(frozen=True)
class HttpVoice:
    """POST url {text_field: text, **options}; the answer is sound.

    A WAV (PCM16 or float32) and raw PCM16 mono at `rate` are streamed; other formats are decoded when they are whole.
    token: sent as bearer token. All of it comes from the configuration; a request chooses only WISHES.
    """

    url: str
    token: str | None = None
    text_field: str = "text"
    options: Mapping[str, Any] = field(default_factory=dict)
    rate: int = 24000

    async def speak(self, text: str, options: Mapping[str, Any]) -> AsyncIterator[np.ndarray]:
        """Yield the sound (n,) float32 at 16 kHz as it arrives. Raises MuseTalkError when there is none."""
        wishes = {name: value for name, value in options.items() if name in WISHES}
        body = {**self.options, **wishes, self.text_field: text}
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        limits = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=SECONDS_WITHOUT_SOUND)
        try:
            async with (
                aiohttp.ClientSession(timeout=limits, headers=headers) as session,
                session.post(self.url, json=body, allow_redirects=False) as reply,
            ):
                if reply.status != 200:
                    raise MuseTalkError(f"The speech server {self.url} answers {reply.status}; see its log.")
                async for piece in self._sound(reply):
                    yield piece
        except (aiohttp.ClientError, asyncio.TimeoutError) as error:
            reason = str(error) or type(error).__name__
            raise MuseTalkError(f"The speech server {self.url} cannot be used: {reason}.") from error

    async def _sound(self, reply: aiohttp.ClientResponse) -> AsyncIterator[np.ndarray]:
        kind = reply.content_type.lower()
        if kind in WAV_TYPES or kind in RAW_TYPES:
            stream = PcmStream(None if kind in WAV_TYPES else self.rate)
            async for data in reply.content.iter_chunked(PIECE):
                samples = stream.add(data)
                if len(samples):
                    yield samples
            rest = stream.end()
            if len(rest):
                yield rest
            return
        whole = bytearray()
        async for data in reply.content.iter_chunked(PIECE):
            whole += data
            if len(whole) > MOST_BYTES:
                raise MuseTalkError(f"The speech server {self.url} sends more than {MOST_BYTES} bytes.")
        yield await asyncio.to_thread(decode, bytes(whole), self.url)


class PcmStream:
    """Bytes of a WAV (rate None) or of raw PCM16 mono at a rate, as they come, into samples at 16 kHz mono."""

    def __init__(self, rate: int | None) -> None:
        self._bytes = b""
        self._channels, self._kind = 1, "<i2"
        self._resampler: Any = None
        self._ready = rate is not None
        if rate is not None:
            self._resampler = _resampler(rate)

    def add(self, data: bytes) -> np.ndarray:
        """The samples (n,) float32 that are ready now. Raises MuseTalkError for a WAV that is none."""
        self._bytes += data
        if not self._ready and not self._read_header():
            return np.zeros(0, np.float32)
        width = np.dtype(self._kind).itemsize * self._channels
        whole = len(self._bytes) // width * width
        samples, self._bytes = self._floats(self._bytes[:whole]), self._bytes[whole:]
        return np.asarray(self._resampler.resample_chunk(samples), np.float32)

    def end(self) -> np.ndarray:
        """The last samples. Raises MuseTalkError when not even a header came."""
        if not self._ready:
            raise MuseTalkError("The speech server sent no sound.")
        return np.asarray(self._resampler.resample_chunk(np.zeros(0, np.float32), last=True), np.float32)

    def _floats(self, data: bytes) -> np.ndarray:
        samples = np.frombuffer(data, self._kind).reshape(-1, self._channels)
        scale = 32768.0 if self._kind == "<i2" else 1.0
        return (samples.astype(np.float32) / scale).mean(axis=1, dtype=np.float32)

    def _read_header(self) -> bool:
        """Read the chunks before the samples; False when more bytes are needed. A stream's data size may be wrong."""
        if len(self._bytes) >= 12 and (self._bytes[:4] != b"RIFF" or self._bytes[8:12] != b"WAVE"):
            raise MuseTalkError("The speech server says WAV and sends something else.")
        place = 12
        while len(self._bytes) >= place + 8:
            name, size = self._bytes[place : place + 4], int.from_bytes(self._bytes[place + 4 : place + 8], "little")
            if name == b"data":
                self._bytes, self._ready = self._bytes[place + 8 :], True
                if self._resampler is None:
                    raise MuseTalkError("The speech server's WAV has no format.")
                return True
            if len(self._bytes) < place + 8 + size:
                return False
            if name == b"fmt ":
                self._read_format(self._bytes[place + 8 : place + 8 + size])
            place += 8 + size + size % 2
        return False

    def _read_format(self, header: bytes) -> None:
        tag, self._channels, rate = (int.from_bytes(header[a:b], "little") for a, b in ((0, 2), (2, 4), (4, 8)))
        bits = int.from_bytes(header[14:16], "little")
        if tag == 0xFFFE:
            tag = int.from_bytes(header[24:26], "little")
        kinds = {(1, 16): "<i2", (3, 32): "<f4"}
        if (tag, bits) not in kinds or not 1 <= self._channels <= 8 or not 4000 <= rate <= 192_000:
            raise MuseTalkError(f"The speech server's WAV has {bits} bits of kind {tag}; let it send PCM16.")
        self._kind = kinds[tag, bits]
        self._resampler = _resampler(rate)


def decode(data: bytes, url: str) -> np.ndarray:
    """A whole sound file as (n,) float32 at 16 kHz, channels averaged. Raises MuseTalkError."""
    import av

    from ..media.container import LIBRARY_ERROR

    pieces: list[np.ndarray] = []
    resampler = av.AudioResampler(format="fltp", layout="mono", rate=RATE)
    try:
        with av.open(io.BytesIO(data)) as container:
            for frame in container.decode(audio=0):
                pieces += [part.to_ndarray()[0] for part in resampler.resample(frame)]
            pieces += [part.to_ndarray()[0] for part in resampler.resample(None)]
    except (LIBRARY_ERROR, IndexError, ValueError) as error:
        raise MuseTalkError(f"The speech server {url} sends no sound that can be read.") from error
    if not pieces:
        raise MuseTalkError(f"The speech server {url} sends a sound without samples.")
    return np.concatenate(pieces)


def _resampler(rate: int) -> Any:
    import soxr

    return soxr.ResampleStream(rate, RATE, 1, dtype="float32", quality="HQ")
