"""Telling sources apart by what they hold."""

import hashlib
from pathlib import Path

from ..media.images import ImageFolder, StillImage
from ..media.source import FrameSource
from ..media.video_reader import VideoReader
from ..media.video_writer import frame_bytes


def source_hash(source: FrameSource) -> str:
    """sha256 of a source: of its files, or of its frames as 8-bit pictures where it has none, and of rate and size."""
    digest = hashlib.sha256(repr((str(source.fps), tuple(source.size), len(source))).encode())
    files = _files(source)
    for file in files:
        digest.update(f"\n{file.stat().st_size}\n".encode())
        with file.open("rb") as content:
            while piece := content.read(2**20):
                digest.update(piece)
    if not files:
        for frame in source.read(range(len(source))):
            digest.update(frame_bytes(frame).tobytes())
    return digest.hexdigest()


def source_name(source: FrameSource) -> str:
    """The name of a source's file or folder, "frames" where it has none."""
    files = _files(source)
    if not files:
        return "frames"
    return files[0].parent.name if isinstance(source, ImageFolder) else files[0].name


def _files(source: FrameSource) -> list[Path]:
    if isinstance(source, ImageFolder):
        return list(source.files)
    return [source.path] if isinstance(source, VideoReader | StillImage) else []
