"""What a session has still to say: texts and sounds, one after another, fed as fast as it takes them."""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import MuseTalkError
from ..media.audio import AudioSource, mono16k_blocks
from .block import RATE, SpeechEvent
from .session import Session

log = logging.getLogger(__name__)

PIECE = RATE  # of a file, fed at a time
PAUSE = 0.05
MOST_WAITING = 64


@dataclass(frozen=True)
class Speech:
    """One thing to say. text: what its events carry. sound: makes it, (n,) float32 at 16 kHz; used once.

    done: called when it was fed, failed or was dropped.
    """

    text: str
    sound: Callable[[], AsyncIterator[np.ndarray]]
    done: Callable[[], None] = lambda: None


class SpeechQueue:
    """The waiting utterances of one session. A task runs only while there is something to say.

    ahead: seconds of sound that may lie in the session before more is fed. ended: called when nothing is left.
    """

    def __init__(self, session: Session, ahead: float) -> None:
        self.session = session
        self.error = ""
        self._ahead = ahead
        self._waiting: deque[Speech] = deque()
        self._task: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        return len(self._waiting) + (self._task is not None)

    def add(self, utterance: Speech) -> None:
        """Say it after the others. Raises MuseTalkError when too many wait."""
        if len(self._waiting) >= MOST_WAITING:
            utterance.done()
            raise MuseTalkError(f"{MOST_WAITING} utterances wait already; wait until some are said, or interrupt.")
        self._waiting.append(utterance)
        if self._task is None:
            self._task = asyncio.create_task(self._run())

    async def clear(self) -> None:
        """Drop all that was not fed yet."""
        while self._waiting:
            self._waiting.popleft().done()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        try:
            while self._waiting:
                utterance = self._waiting.popleft()
                try:
                    await self._say(utterance)
                except MuseTalkError as error:
                    self.error = str(error)
                    log.warning("Session %s: %s", self.session.id, error)
                finally:
                    utterance.done()
        finally:
            self._task = None

    async def _say(self, utterance: Speech) -> None:
        """Feed its sound, the first piece with the start event, the last with the end event."""
        event: SpeechEvent | None = SpeechEvent("start", utterance.text)
        last: np.ndarray | None = None
        try:
            async with aclosing(utterance.sound()) as sound:  # type: ignore[type-var]
                async for piece in sound:
                    if last is not None:
                        await self._feed(last, event)
                        event = None
                    last = piece
        finally:
            if last is not None:
                await self._end(last, event, utterance.text)

    async def _end(self, last: np.ndarray, event: SpeechEvent | None, text: str) -> None:
        """Feed the last piece; one that carries the start too is parted, as a piece has one event."""
        if event is not None:
            half = len(last) // 2
            await self._feed(last[:half], event)
            last = last[half:]
        await self._feed(last, SpeechEvent("end", text))
        self.session.finish()

    async def _feed(self, samples: np.ndarray, event: SpeechEvent | None) -> None:
        while self.session.queued_seconds > self._ahead:
            await asyncio.sleep(PAUSE)
        self.session.feed(samples, event)


async def sound_pieces(source: AudioSource) -> AsyncIterator[np.ndarray]:
    """The sound of a source at 16 kHz mono, all channels averaged, to its very last sample, decoded in threads."""
    blocks = mono16k_blocks(source)
    while True:
        pieces = await asyncio.to_thread(_next_second, blocks)
        if not len(pieces):
            return
        yield pieces


def _next_second(blocks: Iterator[np.ndarray]) -> np.ndarray:
    """About a second more of the sound; empty at its end."""
    pieces: list[np.ndarray] = []
    size = 0
    for block in blocks:
        pieces.append(block)
        size += len(block)
        if size >= PIECE:
            break
    return np.concatenate(pieces) if pieces else np.zeros(0, np.float32)


def remover(file: Path) -> Callable[[], None]:
    """A function that removes a temporary file."""
    return lambda: file.unlink(missing_ok=True)
