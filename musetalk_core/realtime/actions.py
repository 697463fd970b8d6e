"""Action clips: pictures, and sound, that an avatar shows when asked to instead of idling."""

from dataclasses import dataclass

import numpy as np

from ..errors import MuseTalkError
from ..media.source import FrameSource
from .block import BLOCK_SAMPLES
from .compositor import PictureLoop

OWN_IDLE, OTHER_IDLE = 0, 1


@dataclass(frozen=True)
class ActionClip:
    """frames: pictures of the avatar's size; sound: (n,) float32, 16 kHz mono, None for silence."""

    frames: FrameSource
    sound: np.ndarray | None = None


class Playing:
    """A clip from its beginning to its end: as long as its pictures or its sound, whichever lasts longer."""

    def __init__(self, clip: ActionClip) -> None:
        self._loop = PictureLoop(clip.frames)
        self._sound = np.zeros(0, np.float32) if clip.sound is None else clip.sound
        pictures = int(len(clip.frames) * 25 / clip.frames.fps)
        self._blocks = max(pictures, -(-len(self._sound) // BLOCK_SAMPLES), 1)
        self._next = 0

    @property
    def done(self) -> bool:
        """Whether nothing is left."""
        return self._next >= self._blocks

    def next(self) -> tuple[np.ndarray, np.ndarray]:
        """The next picture and its sound (640,); pictures go back and forth while the sound lasts longer."""
        start = self._next * BLOCK_SAMPLES
        sound = np.zeros(BLOCK_SAMPLES, np.float32)
        part = self._sound[start : start + BLOCK_SAMPLES]
        sound[: len(part)] = part
        picture = self._loop.picture(self._next)
        self._next += 1
        return picture, sound


def check_actions(actions: dict[int, ActionClip], size: tuple[int, int]) -> None:
    """Raise MuseTalkError unless every clip is of the avatar's size (height, width)."""
    for audiotype, clip in actions.items():
        if tuple(clip.frames.size) != tuple(size):
            height, width = clip.frames.size
            raise MuseTalkError(
                f"The action {audiotype} has {width}x{height} pixels and the avatar {size[1]}x{size[0]}; "
                "make the clip in the avatar's size."
            )
