"""A session on disk: an mp4 whose picture and sound have one length, there only when it is whole."""

import asyncio
import os
from collections import deque
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch

from ..errors import MuseTalkError
from ..media.encoding import Encoding
from ..media.video_writer import VideoWriter
from .block import BLOCK_SAMPLES, FPS, RATE, Block
from .runner import LiveSession

MOST_WAITING = 50  # blocks, 2 s
LONGEST = 4 * 3600 * 25  # frames; VideoWriter is closed then


class LiveSound:
    """Sound that becomes known while it is written: an AudioSource for VideoWriter, which asks as it goes."""

    sample_rate = RATE
    channels = 1
    samples = LONGEST * BLOCK_SAMPLES
    seconds = Fraction(samples, RATE)

    def __init__(self) -> None:
        self._blocks: deque[np.ndarray] = deque()

    def append(self, samples: np.ndarray) -> None:
        """More of it, (n,) float32."""
        self._blocks.append(samples)

    def blocks(self) -> Iterator[np.ndarray]:
        """Yield what was appended, (1,n), and end where nothing more is there."""
        while self._blocks:
            yield self._blocks.popleft()[None]


class Recorder:
    """Records a live session from now to `stop` or to the session's end, whichever is first.

    Blocks that came too fast for the disk are filled: the last picture stays, the sound is silent.
    """

    def __init__(self, live: LiveSession, path: Path) -> None:
        self.path = path
        self._size = live.session.avatar.frames.size
        self._subscription = live.subscribe(MOST_WAITING)
        self._task = asyncio.create_task(self._run())

    @property
    def running(self) -> bool:
        """Whether it still records."""
        return not self._task.done()

    async def stop(self) -> Path:
        """The whole file. Raises MuseTalkError when nothing was recorded or it could not be written."""
        self._subscription.close()
        await self._task
        return self.path

    async def _run(self) -> None:
        sound = LiveSound()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise MuseTalkError(f"The folder {self.path.parent} cannot be made: {error.strerror}.") from error
        writer = VideoWriter(self.path, FPS, self._size, sound, encoding=Encoding(preset="veryfast"), overwrite=True)
        with writer:
            before: Block | None = None
            async for block in self._subscription:
                await asyncio.to_thread(_write, writer, sound, block, before)
                before = block
                if writer.frames >= LONGEST:
                    break


def _write(writer: VideoWriter, sound: LiveSound, block: Block, before: Block | None) -> None:
    """A block, and before it what is missing since the one before."""
    missing = 0 if before is None else block.index - before.index - 1
    for _ in range(missing if before is not None else 0):
        sound.append(np.zeros(BLOCK_SAMPLES, np.float32))
        writer.write(torch.from_numpy(before.picture.copy()))  # type: ignore[union-attr]
    sound.append(block.sound)
    writer.write(torch.from_numpy(block.picture.copy()))


class Recordings:
    """The recordings of all sessions: at most one running of each, its file named after the session."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._running: dict[str, Recorder] = {}

    def recording(self, sessionid: str) -> bool:
        """Whether a session is being recorded."""
        recorder = self._running.get(sessionid)
        return recorder is not None and recorder.running

    def start(self, live: LiveSession) -> None:
        """Begin. Raises MuseTalkError when it is recorded already."""
        name = live.session.id
        if self.recording(name):
            raise MuseTalkError(f"The session {name} is being recorded already; send end_record first.")
        self._running[name] = Recorder(live, self.path(name))

    async def stop(self, sessionid: str) -> Path:
        """End it. Raises MuseTalkError when it is not recorded, or the file could not be written."""
        recorder = self._running.pop(sessionid, None)
        if recorder is None:
            raise MuseTalkError(f"The session {sessionid} is not being recorded; send start_record first.")
        return await recorder.stop()

    async def stop_all(self) -> None:
        """End every recording; errors are left to their files, which then do not appear."""
        recorders, self._running = list(self._running.values()), {}
        await asyncio.gather(*(recorder.stop() for recorder in recorders), return_exceptions=True)

    def path(self, sessionid: str) -> Path:
        """Where the recording of a session is when it is whole."""
        return self.folder / f"{os.path.basename(sessionid)}.mp4"
