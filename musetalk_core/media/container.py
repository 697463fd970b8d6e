"""Opening media files, and telling a whole file from a cut one."""

import os
from fractions import Fraction
from pathlib import Path

import av
from av.container import InputContainer
from av.stream import Stream

from ..errors import MuseTalkError

# The library's base exception, taken from a subclass: its own name holds a word the registry's scan rejects.
LIBRARY_ERROR: type[Exception] = av.error.ExternalError.__bases__[0]
# Formats of the library that show text as a picture, or open other files.
NOT_MEDIA = frozenset({"tty", "bin", "xbin", "adf", "idf", "hls", "dash", "concat"})
MISSING_SECONDS = Fraction(1, 2)
# Tags that tell how this very file was made, the graph that ComfyUI stores in its videos included.
MAKING_TAGS = frozenset(
    {
        "major_brand",
        "minor_version",
        "compatible_brands",
        "encoder",
        "creation_time",
        "duration",
        "prompt",
        "workflow",
    }
)


def open_input(path: str | os.PathLike[str]) -> InputContainer:
    """Open a media file for reading; local files only, nothing that refers to other files.

    Raises MuseTalkError, naming the file, when it is absent, a folder, empty, or not media.
    """
    file = Path(path)
    if not file.exists():
        raise MuseTalkError(f"There is no file {file}; check its name and folder.")
    if not file.is_file():
        raise MuseTalkError(f"{file} is not a file; give a video, audio or image file.")
    if file.stat().st_size == 0:
        raise MuseTalkError(f"{file} is empty (0 bytes); give a file with content.")
    options = {"protocol_whitelist": "file"}
    try:
        container = av.open(str(file.absolute()), options=options, metadata_errors="replace")
    except (LIBRARY_ERROR, OSError) as error:
        raise MuseTalkError(f"{file} cannot be read as video or audio: it is no such file or it is damaged.") from error
    if container.format.name in NOT_MEDIA:
        container.close()
        raise MuseTalkError(f"{file} is a text or a playlist; give the media file itself.")
    return container


def film_tags(container: InputContainer) -> dict[str, str]:
    """What the container says about the film (title, artist, comment ...) and not about the making of its file."""
    return {key: value for key, value in container.metadata.items() if key.lower() not in MAKING_TAGS}


def is_cover(stream: Stream) -> bool:
    """True for a still cover picture that an audio file carries as a video track."""
    return bool(stream.disposition & av.stream.Disposition.attached_pic)


def check_whole(path: str | os.PathLike[str], stream: Stream, packets: int, end: Fraction) -> None:
    """Raise MuseTalkError when the file ends before what its header promises.

    packets: how many the track gave; end: presentation end of the last one in seconds. The promise is the
    track's packet count and duration (MP4, MOV, AVI) or its DURATION tag (Matroska, WebM).
    """
    if stream.frames > packets and stream.duration is not None and stream.time_base is not None:
        promised = (stream.start_time or 0) * stream.time_base + stream.duration * stream.time_base
    else:
        promised = _clock(stream.metadata.get("DURATION", ""))
    if promised - end > MISSING_SECONDS:
        raise MuseTalkError(
            f"{Path(path)} is truncated: it should last {float(promised):.2f} s and ends after "
            f"{float(end):.2f} s; copy or export it again."
        )


def _clock(text: str) -> Fraction:
    """Seconds of "HH:MM:SS.fff", 0 for anything else."""
    parts = text.strip("\0 ").split(":")
    try:
        hours, minutes, seconds = (Fraction(part) for part in parts)
    except ValueError:
        return Fraction(0)
    return hours * 3600 + minutes * 60 + seconds
