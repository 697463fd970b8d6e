"""Several avatars with several sounds each, as upstream's configs/inference/realtime.yaml states them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import MuseTalkError
from ..settings import LipSyncSettings
from ..tasks import read_sections

KEYS = ("preparation", "video_path", "audio_clips")


@dataclass(frozen=True)
class AvatarClips:
    """An avatar and what it shall say. preparation: from `video`, if that or the settings have changed; otherwise what
    is there is used, and `video` only where nothing is. audio: sound files by the clips' names.
    """

    name: str
    preparation: bool
    video: Path | None
    audio: Mapping[str, Path]
    settings: LipSyncSettings


def read_clips(config: Path, base: LipSyncSettings) -> list[AvatarClips]:
    """The avatars of a YAML or JSON file: {name: {preparation, bbox_shift, video_path, audio_clips: {name: path}}}.

    Any setting may stand beside bbox_shift. Paths are relative to the working directory. Raises MuseTalkError for an
    unreadable file, an unknown key and a missing path.
    """
    example = "`avatar_1: {preparation: true, video_path: .., audio_clips: {audio_0: ..}}`"
    content = read_sections(config, "avatars", example)
    return [_clips(str(name), values, base) for name, values in content.items()]


def _clips(name: str, values: Mapping[str, Any], base: LipSyncSettings) -> AvatarClips:
    preparation, video, audio = values.get("preparation", True), values.get("video_path"), values.get("audio_clips")
    if not isinstance(preparation, bool):
        raise MuseTalkError(f"The avatar {name!r} has preparation {preparation!r}; give true or false.")
    if preparation and not video:
        raise MuseTalkError(f"The avatar {name!r} has no video_path; name it, or set preparation to false.")
    if not isinstance(audio, dict) or not all(isinstance(path, str) for path in audio.values()):
        raise MuseTalkError(f"The avatar {name!r} has no audio_clips; give them as `audio_clips: {{name: path}}`.")
    settings = base.changed(f"avatar {name}", {key: value for key, value in values.items() if key not in KEYS})
    paths = {str(key): Path(path) for key, path in audio.items()}
    return AvatarClips(name, preparation, Path(video) if video else None, paths, settings)
