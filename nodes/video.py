"""A ComfyUI VIDEO as the core wants it: a stream of frames and its sound."""

import hashlib
from io import BytesIO
from pathlib import Path

import folder_paths
from comfy_api.latest import Input, InputImpl, Types

from ..musetalk_core.files import whole_file
from ..musetalk_core.media.audio import AudioFile, AudioSource, has_sound
from ..musetalk_core.media.source import FrameSource, TensorFrames
from ..musetalk_core.media.video_reader import VideoReader
from ..musetalk_core.timeline import rational_fps
from .sockets import audio_source, source_frames


def open_video(video: Input.Video, audio: Input.Audio | None = None) -> tuple[FrameSource, AudioSource | None]:
    """The frames of a VIDEO and the sound that goes with them: `audio` when given, else the video's own, else None.

    A file is streamed, never held as a whole. Raises MuseTalkError, naming the file, when it cannot be read.
    """
    if isinstance(video, InputImpl.VideoFromComponents):
        parts = video.get_components()
        audio = parts.audio if audio is None else audio
        frames = TensorFrames(source_frames(parts.images), rational_fps(parts.frame_rate))
        return frames, None if audio is None else audio_source(audio)
    source = video.get_stream_source()
    path = _stored(source) if isinstance(source, BytesIO) else Path(source)
    reader = VideoReader(path)
    if _is_part(video, path):
        part = BytesIO()
        video.save_to(part, format=Types.VideoContainer.MP4)
        path = _stored(part)
        reader = VideoReader(path)
    if audio is not None:
        return reader, audio_source(audio)
    return reader, AudioFile(path) if has_sound(path) else None


def _stored(content: BytesIO) -> Path:
    """The file in ComfyUI's temp folder, named by its content, that a video without a file is put into."""
    data = content.getbuffer()
    path = Path(folder_paths.get_temp_directory(), f"musetalk_{hashlib.sha256(data).hexdigest()[:32]}.video")
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as part:
            part.write_bytes(data)
    return path


def _is_part(video: Input.Video, path: Path) -> bool:
    """Whether a VIDEO is less than its file: newer ComfyUIs trim and crop by a note in the VIDEO."""
    whole = InputImpl.VideoFromFile(str(path))
    return (video.get_dimensions(), video.get_duration()) != (whole.get_dimensions(), whole.get_duration())
