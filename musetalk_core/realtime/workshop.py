"""What makes files instead of live pictures: avatars from videos, videos from sounds, one at a time."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..avatars.files import avatar_folder
from ..avatars.prepare import prepare_avatar
from ..avatars.speaking import AvatarVideo
from ..media.audio import AudioFile
from ..media.source import open_source
from ..pipeline import Models
from ..settings import LipSyncSettings
from ..writing import Progress
from .avatar_shelf import AvatarShelf
from .engine import ModelHolder


@dataclass(frozen=True)
class Workshop:
    """Prepares avatars and speaks sounds with them in threads, beside the sessions and on the same networks.

    shelf: where avatars lie. holder: the networks that speak. models: those that prepare with some settings.
    """

    shelf: AvatarShelf
    holder: ModelHolder
    models: Callable[[LipSyncSettings], Models]
    _one: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def prepare(
        self, name: str, video: Path, changes: Mapping[str, Any], progress: Progress | None = None
    ) -> None:
        """Make the avatar `name` of a video, picture or folder, anew when it is there. Raises MuseTalkError."""
        async with self._one:
            await asyncio.to_thread(self._prepare, name, video, changes, progress)
        self.shelf.forget(name)

    async def speak(self, name: str, sound: Path, output: Path) -> None:
        """Make the mp4 `output`, replacing one, of the avatar `name` and a sound. Raises MuseTalkError."""
        async with self._one:
            await asyncio.to_thread(self._speak, name, sound, output)

    def _prepare(self, name: str, video: Path, changes: Mapping[str, Any], progress: Progress | None) -> None:
        settings = LipSyncSettings.for_version(self.shelf.version, **changes)
        folder = avatar_folder(self.shelf.folder, name)
        folder.parent.mkdir(parents=True, exist_ok=True)
        prepare_avatar(name, open_source(video), self.models(settings), settings, self.shelf.version, folder, progress)

    def _speak(self, name: str, sound: Path, output: Path) -> None:
        avatar = self.shelf.get(name)
        audio = AudioFile(sound)
        output.parent.mkdir(parents=True, exist_ok=True)
        with self.holder.hold() as networks:
            AvatarVideo(
                avatar,
                audio,
                None,
                networks.audio_encoder,
                networks.generator,
                networks.codec,
                avatar.settings,
                avatar.version,
            ).write(output, overwrite=True)
