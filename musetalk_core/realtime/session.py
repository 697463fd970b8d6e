"""A session: sound comes in, blocks of picture and sound go out, one every 40 ms."""

import numpy as np

from ..avatars.avatar import Avatar
from .block import Block, SpeechEvent


class Session:
    """One viewer's avatar; thread-safe. Made by RealtimeEngine.session()."""

    id: str
    avatar: Avatar

    def feed(self, samples: np.ndarray, event: SpeechEvent | None = None) -> None:
        """Say this: (n,) float32 at 16 kHz, any n, non-finite samples are silence. MuseTalkError when too much waits.

        event: a start is delivered with the first of these samples, an end with the last.
        """
        raise NotImplementedError

    def finish(self) -> None:
        """The utterance ends here: its last frames do not wait for more sound."""
        raise NotImplementedError

    def interrupt(self) -> None:
        """To idle within 100 ms; queued sound and events are dropped, an action ends."""
        raise NotImplementedError

    def set_action(self, audiotype: int) -> None:
        """0: the avatar's own idle pictures; 1: its other idle clip; above 1: a clip once, with its sound."""
        raise NotImplementedError

    @property
    def speaking(self) -> bool:
        """Whether fed sound is heard or waits."""
        raise NotImplementedError

    @property
    def queued_seconds(self) -> float:
        """Seconds of fed sound that were not handed out yet."""
        raise NotImplementedError

    def next_block(self) -> Block:
        """The block that is due now; never waits."""
        raise NotImplementedError

    def close(self) -> None:
        """No blocks any more; the engine forgets the session."""
        raise NotImplementedError
