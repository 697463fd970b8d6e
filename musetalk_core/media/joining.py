"""Segments of a video into one file: their packets as they are, and the sound beside them."""

from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

from av.container import OutputContainer
from av.packet import Packet

from ..errors import MuseTalkError
from ..files import whole_file
from .audio import AudioSource
from .container import LIBRARY_ERROR, open_input
from .sound_track import SoundTrack
from .video_writer import open_output


def join_segments(
    segments: Sequence[Path],
    output: Path,
    fps: Fraction,
    frames: int,
    audio: AudioSource,
    audio_seconds: Fraction | None = None,
    metadata: dict[str, str] | None = None,
) -> None:
    """Write the pictures of VideoWriter's files one after the other into one file, without encoding them again.

    segments: of one encoding, each of which begins with a key frame, `frames` frames together at fps frames/s. audio,
    audio_seconds, metadata: as VideoWriter has them; the sound is encoded once over the whole length. output has one of
    VideoWriter's suffixes, appears only when it is whole and replaces what was there. Raises MuseTalkError for segments
    that do not fit together and for a file that cannot be written.
    """
    with whole_file(output) as part:
        try:
            with open_output(part, fps, metadata or {}) as container:
                joined = _write(container, segments, fps, audio, audio_seconds)
        except LIBRARY_ERROR as error:
            raise MuseTalkError(f"{output} cannot be written: {error}.") from error
        if joined != frames:
            raise MuseTalkError(
                f"The segments in {segments[0].parent} hold {joined} frames instead of {frames}; delete the folder."
            )


def _write(
    container: OutputContainer, segments: Sequence[Path], fps: Fraction, audio: AudioSource, seconds: Fraction | None
) -> int:
    """The number of frames written."""
    with open_input(segments[0]) as first:
        template = first.streams.video[0]
        header = template.codec_context.extradata
        video = container.add_stream_from_template(template)
    video.time_base = 1 / fps
    sound = SoundTrack(container, audio, seconds)
    frames, ahead = 0, 0
    for segment in segments:
        start = frames
        for packet, shown, decoded in _packets(segment, header, fps):
            if not frames:
                ahead = shown - decoded
            # Decoding begins as many frames ahead as in the first segment, the longest; in between it never pauses.
            packet.stream, packet.pts, packet.dts = video, start + shown, frames - ahead
            container.mux(packet)
            frames += 1
            container.mux(sound.encode(frames / fps))
    container.mux(sound.finish())
    return frames


def _packets(segment: Path, header: bytes | None, fps: Fraction) -> Iterator[tuple[Packet, int, int]]:
    """A segment's packets in decoding order, and when each is shown and decoded, in frames from the first shown on."""
    with open_input(segment) as container:
        stream = container.streams.video[0]
        if stream.codec_context.extradata != header:
            raise MuseTalkError(f"{segment} was encoded in another way than the first segment; delete its folder.")
        origin: Fraction | None = None
        for packet in container.demux(stream):
            if not packet.size or packet.pts is None or packet.dts is None:
                continue
            shown, decoded = packet.pts * packet.time_base * fps, packet.dts * packet.time_base * fps
            origin = shown if origin is None else origin
            packet.time_base, packet.duration = 1 / fps, 1
            yield packet, round(shown - origin), round(decoded - origin)
