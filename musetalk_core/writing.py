"""Frames as they are made, into the file that takes them."""

from collections.abc import Callable, Generator
from contextlib import closing

import torch

from .ahead import write_behind
from .media.video_writer import VideoWriter

Progress = Callable[[int, int], None]

WRITE_BEHIND = 8  # frames that may wait for the encoder


def write_frames(
    writer: VideoWriter,
    frames: Generator[torch.Tensor, None, None],
    count: int,
    progress: Progress | None = None,
    overlap: bool = False,
    before: int = 0,
) -> None:
    """Write frames as they come, and close what they come from; progress(before + done, count) after each.

    overlap: encode in a thread of its own, up to WRITE_BEHIND frames behind.
    """
    with closing(frames), write_behind(writer.write, WRITE_BEHIND if overlap else 0) as write:
        for done, frame in enumerate(frames, before + 1):
            write(frame)
            if progress is not None:
                progress(done, count)
