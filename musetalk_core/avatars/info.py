"""avatar.json: what an avatar was prepared from, and with what."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from ..errors import MuseTalkError
from ..settings import LipSyncSettings
from ..timeline import rational_fps
from .timing import Timing

FORMAT = "musetalk-avatar-1"
INFO, TRACK, LATENTS, FRAMES = "avatar.json", "track.json", "latents.safetensors", "frames.mkv"
DATA = (TRACK, LATENTS, FRAMES)
MOST_FRAMES = 10**7  # more than a day at 100 frames/s; a foreign file shall not ask for all memory
# Settings that count only while the avatar speaks: they may change without a new preparation.
SPEAKING = (
    "mode",
    "segmentation",
    "audio_padding_left",
    "audio_padding_right",
    "batch_size",
    "allow_no_face",
    "silence",
)


@dataclass(frozen=True)
class StoredFile:
    """A file of an avatar: its length in bytes and the sha256 of its content."""

    length: int
    sha256: str

    @staticmethod
    def of(path: Path) -> "StoredFile":
        """What a file holds now, read in pieces."""
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while piece := file.read(2**20):
                digest.update(piece)
        return StoredFile(path.stat().st_size, digest.hexdigest())


@dataclass(frozen=True)
class AvatarInfo:
    """Everything about an avatar but its data.

    source_hash: sha256 of the source's content. size: (height, width) of the frames. files: the avatar's other files
    by name.
    """

    name: str
    version: str
    settings: LipSyncSettings
    timing: Timing
    source_name: str
    source_hash: str
    size: tuple[int, int]
    files: Mapping[str, StoredFile]

    @property
    def content_hash(self) -> str:
        """sha256 of all that the avatar's data depend on: source, settings, version, frame rate and format."""
        known = [FORMAT, self.source_hash, self.version, str(self.timing.fps), preparing(self.settings)]
        return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()

    def text(self) -> str:
        """The content of avatar.json."""
        content = {
            "format": FORMAT,
            "name": self.name,
            "version": self.version,
            "content_hash": self.content_hash,
            "fps": str(self.timing.fps),
            "size": list(self.size),
            "source": {
                "name": self.source_name,
                "sha256": self.source_hash,
                "frames": self.timing.source_frames,
                "fps": str(self.timing.source_fps),
            },
            "settings": self.settings.as_dict(),
            "files": {name: {"length": file.length, "sha256": file.sha256} for name, file in self.files.items()},
        }
        return json.dumps(content, indent=1)


def read_info(folder: Path) -> AvatarInfo:
    """The avatar.json of an avatar's folder. Raises MuseTalkError, with the reason, when it cannot be used."""
    file = folder / INFO
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise MuseTalkError(f"{INFO} is missing") from error
    except (OSError, ValueError) as error:
        raise MuseTalkError(f"{INFO} cannot be read") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise MuseTalkError(f"{INFO} has not the format {FORMAT}")
    try:
        info = _info(content)
    except (AttributeError, KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise MuseTalkError(f"{INFO} lacks what this version needs") from error
    if info.content_hash != content.get("content_hash"):
        raise MuseTalkError(f"{INFO} was changed by hand")
    return info


def _info(content: dict[str, Any]) -> AvatarInfo:
    source = content["source"]
    timing = Timing(int(source["frames"]), Fraction(source["fps"]), rational_fps(content["fps"]))
    if not 0 < timing.source_frames <= MOST_FRAMES or not 0 < timing.source_fps <= MOST_FRAMES:
        raise ValueError
    files = {name: StoredFile(int(file["length"]), file["sha256"]) for name, file in content["files"].items()}
    height, width = content["size"]
    settings = settings_from(content["settings"])
    return AvatarInfo(
        content["name"],
        content["version"],
        settings,
        timing,
        source["name"],
        source["sha256"],
        (int(height), int(width)),
        files,
    )


def settings_from(content: Mapping[str, Any]) -> LipSyncSettings:
    """Settings from their as_dict; raises MuseTalkError for values that are none."""
    groups = [value for value in content.values() if isinstance(value, Mapping)]
    changes = {name: value for name, value in content.items() if not isinstance(value, Mapping)}
    return LipSyncSettings().changed(INFO, {name: value for part in (changes, *groups) for name, value in part.items()})


def preparing(settings: LipSyncSettings) -> dict[str, Any]:
    """The settings that the preparation depends on, by name, those of the groups among them."""
    plain: dict[str, Any] = {}
    for name, value in settings.as_dict().items():
        if name not in SPEAKING:
            plain.update(value if isinstance(value, dict) else {name: value})
    return plain


def speaking_as(prepared: LipSyncSettings, wanted: LipSyncSettings) -> LipSyncSettings:
    """The settings of an avatar with those that count while it speaks taken from `wanted`."""
    return replace(prepared, **{name: getattr(wanted, name) for name in SPEAKING})
