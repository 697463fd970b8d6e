"""A block: one video frame and the sound of its time."""

from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import numpy as np

FPS = Fraction(25)
RATE = 16000
BLOCK_SAMPLES = 640  # 40 ms, one video frame
BLOCK_SECONDS = BLOCK_SAMPLES / RATE

Kind = Literal["idle", "speech", "action"]


@dataclass(frozen=True)
class SpeechEvent:
    """The beginning or end of something that is said, delivered with the block that carries its sound."""

    status: Literal["start", "end"]
    text: str


@dataclass(frozen=True)
class Block:
    """40 ms of a session.

    index: counted from the session's start; the block is due at sample index * 640 of the session. picture: (H,W,3)
    uint8 RGB, not to be written into. sound: (640,) float32, 16 kHz mono, not to be written into. speaking: there
    is a voice in the sound. kind: idle (the picture is a source frame), speech (fed sound, or the mouth is closing
    after it) or action (a clip of the avatar).
    """

    index: int
    picture: np.ndarray
    sound: np.ndarray
    speaking: bool
    kind: Kind
    events: tuple[SpeechEvent, ...] = ()
