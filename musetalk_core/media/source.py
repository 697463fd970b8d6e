"""Where pictures come from: one interface for tensors, images, folders of images and videos."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Protocol

import torch

from ..errors import MuseTalkError

DEFAULT_FPS = Fraction(25)


class FrameSource(Protocol):
    """A finite row of pictures of one size at a constant rate.

    fps: frames/s; size: (height, width) in pixels; len(): number of frames; tags: what a video file says about
    itself (title, artist ...), empty for pictures.
    """

    @property
    def fps(self) -> Fraction: ...

    @property
    def size(self) -> tuple[int, int]: ...

    @property
    def tags(self) -> Mapping[str, str]: ...

    def __len__(self) -> int: ...

    def read(self, indices: Iterable[int]) -> Iterator[torch.Tensor]:
        """Yield frame (H,W,3) RGB for each 0-based index, in any order, lazily and in bounded memory.

        uint8 0..255 on the CPU (TensorFrames: its own dtype and device). A frame may be yielded again as the
        same tensor: do not write into it. Raises IndexError outside 0..len-1.
        """
        ...


class TensorFrames:
    """Frames that are in memory already.

    frames: (N,H,W,3) or (N,H,W,4), uint8 0..255 or floating 0..1; the alpha channel is left out. fps: frames/s.
    """

    def __init__(self, frames: torch.Tensor, fps: Fraction) -> None:
        if frames.ndim != 4 or frames.shape[-1] not in (3, 4) or 0 in frames.shape:
            raise MuseTalkError(
                f"The frames have the shape {tuple(frames.shape)}; give (frames, height, width, 3), none of them 0."
            )
        self.frames = frames[..., :3]
        self.fps = fps
        self.size = (int(frames.shape[1]), int(frames.shape[2]))
        self.tags: dict[str, str] = {}

    def __len__(self) -> int:
        return int(self.frames.shape[0])

    def read(self, indices: Iterable[int]) -> Iterator[torch.Tensor]:
        """Yield views (H,W,3) of the tensor."""
        for index in indices:
            check_index(index, len(self))
            yield self.frames[index]


class ShownFrames:
    """Pictures of a source in another order: frame i is the source's picture shown[i], at fps frames/s."""

    def __init__(self, source: FrameSource, shown: Sequence[int], fps: Fraction) -> None:
        self.source, self.shown, self.fps = source, shown, fps

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.source.size

    @property
    def tags(self) -> Mapping[str, str]:
        """The source's tags."""
        return self.source.tags

    def __len__(self) -> int:
        return len(self.shown)

    def read(self, indices: Iterable[int]) -> Iterator[torch.Tensor]:
        """Yield the source's pictures; see FrameSource.read."""

        def places() -> Iterator[int]:
            for index in indices:
                check_index(index, len(self))
                yield self.shown[index]

        return self.source.read(places())


def check_index(index: int, count: int) -> None:
    """Raise IndexError unless 0 <= index < count."""
    if not 0 <= index < count:
        raise IndexError(f"frame {index} of {count}")


def open_source(path: str | os.PathLike[str], fps: Fraction | None = None) -> FrameSource:
    """The frames of a video file, one image, or a folder of images (in the natural order of their names).

    fps: the rate of images (default 25 frames/s); a video keeps its own rate whatever is given here. Raises
    MuseTalkError, naming the file, for anything that cannot be read.
    """
    from .images import ImageFolder, StillImage, is_image
    from .video_reader import VideoReader

    place = Path(path)
    if place.is_dir():
        return ImageFolder(place, fps or DEFAULT_FPS)
    if is_image(place):
        return StillImage(place, fps or DEFAULT_FPS)
    return VideoReader(place)
