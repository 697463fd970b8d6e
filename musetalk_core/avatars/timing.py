"""Which of a source's frames an avatar holds, and which of them it shows when."""

from dataclasses import dataclass
from fractions import Fraction

from ..timeline import source_index


@dataclass(frozen=True)
class Timing:
    """An avatar at `fps` frames/s of a source with `source_frames` at `source_fps`.

    Avatar frame i shows the source frame of its time, timeline.source_index. A source frame that is shown several
    times is stored once, one that never is, not at all.
    """

    source_frames: int
    source_fps: Fraction
    fps: Fraction

    def shown(self) -> list[int]:
        """The source frame that each avatar frame shows; at least one."""
        count = max(1, int(self.source_frames / self.source_fps * self.fps))
        return [source_index(i, self.source_frames, self.source_fps, self.fps, "hold") for i in range(count)]

    def stored(self) -> list[int]:
        """The source frames that are stored, rising."""
        return sorted(set(self.shown()))

    def places(self) -> list[int]:
        """The stored frame that each avatar frame shows."""
        place = {frame: k for k, frame in enumerate(self.stored())}
        return [place[frame] for frame in self.shown()]
