"""What is measured: a finished clip with its sound, and what it was made from or should look like."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..errors import MuseTalkError
from ..media.audio import AudioSource, mono16k
from ..media.source import FrameSource
from ..timeline import MatchMode, source_index

Figure = float | str  # a number, or the reason why there is none


@dataclass(frozen=True)
class Clip:
    """Frames with their sound.

    source: the face video that the frames were made from; reference: the real video that says the same sound. Both may
    be absent, be the same object, have other rates, and must have the frames' size. mode: how a source shorter than the
    sound was shown.
    """

    name: str
    frames: FrameSource
    sound: AudioSource | None = None
    source: FrameSource | None = None
    reference: FrameSource | None = None
    mode: MatchMode = "ping-pong"

    def __post_init__(self) -> None:
        for what, other in (("source", self.source), ("reference", self.reference)):
            if other is not None and other.size != self.frames.size:
                raise MuseTalkError(
                    f"The clip has {_size(self.frames)} pixels and its {what} {_size(other)}; scale one to the other."
                )

    def __len__(self) -> int:
        """Frames that are measured: those with a picture in the reference."""
        if self.reference is None:
            return len(self.frames)
        return min(len(self.frames), int(len(self.reference) / self.reference.fps * self.frames.fps))

    @property
    def shown(self) -> list[int]:
        """The source's frame for every frame of the clip."""
        return self._indices(self.source, self.mode)

    @property
    def aside(self) -> list[int]:
        """The reference's frame for every frame of the clip: the one of the same moment."""
        return self._indices(self.reference, "hold")

    def at(self, fps: int) -> list[int]:
        """The clip's frames at the moments k / fps."""
        count = int(len(self) / self.frames.fps * fps)
        return [min(int(k * self.frames.fps / fps), len(self) - 1) for k in range(count)]

    @cached_property
    def samples(self) -> np.ndarray:
        """(M,) float32 at 16 kHz. Raises MuseTalkError when there is no sound."""
        if self.sound is None:
            raise MuseTalkError("The clip has no sound; give the audio that it should say.")
        return mono16k(self.sound)

    def _indices(self, other: FrameSource | None, mode: MatchMode) -> list[int]:
        if other is None:
            return []
        return [source_index(k, len(other), other.fps, self.frames.fps, mode) for k in range(len(self))]


def _size(frames: FrameSource) -> str:
    return f"{frames.size[1]}x{frames.size[0]}"
