"""What has been done with each source: the memory that lets a run go on, and what the report is made of."""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from enum import Enum
from pathlib import Path

from ...errors import MuseTalkError
from ...evaluation.dataset import VIDEOS as SUFFIXES
from ...files import whole_file

RECORDS = "sources"  # folder inside the data folder
PIECES, PIECE = 16, 2**20  # of a file that are hashed, so that hundreds of gigabytes need no whole reading
LONGEST_NAME = 40


class Reason(Enum):
    """Why a source or a clip is rejected."""

    BROKEN = "cannot be read"
    NO_SOUND = "no sound"
    ONE_FRAME = "one frame"
    SHORT = "too short"
    NO_FACE = "no face"
    SMALL_FACE = "face too small"
    CUT = "scene cut"
    DUPLICATE = "same as another file"


class Rejected(Exception):
    """A source or clip that cannot be used: the reason, and what was found."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason, self.detail = reason, detail


@dataclass(frozen=True)
class Outcome:
    """What became of a clip or of a source as a whole: frames kept, or reason and detail."""

    frames: int = 0
    reason: str = ""
    detail: str = ""


@dataclass(frozen=True)
class Source:
    """A video to prepare. name: letters, digits and signs that every system takes, unique by content; digest: sha256
    over its size and 16 pieces of it."""

    path: Path
    name: str
    digest: str


@dataclass
class Record:
    """The work on one source. key: the settings it was done with; clips: clip name -> outcome; whole: the outcome of
    the source itself when it was rejected; complete: nothing is left to do."""

    source: str
    name: str
    digest: str
    key: str
    clips: dict[str, Outcome] = field(default_factory=dict)
    whole: Outcome | None = None
    complete: bool = False

    def split(self, val_share: float) -> str:
        """ "val" or "train": decided by the source's content alone, so it never changes sides."""
        return "val" if int(self.digest[:8], 16) < val_share * 2**32 else "train"

    def kept(self) -> list[str]:
        """Names of the clips that are there."""
        return [name for name, outcome in self.clips.items() if not outcome.reason]


def find_sources(folder: Path, out: Path) -> list[Source]:
    """The videos below a folder in the order of their paths; the data folder is left out if it lies inside.

    Raises MuseTalkError when there is none.
    """
    if not folder.is_dir():
        raise MuseTalkError(f"There is no folder {folder}; give one with videos.")
    inside = out.resolve()
    paths = [path for path in sorted(folder.rglob("*")) if path.suffix.lower() in SUFFIXES and path.is_file()]
    videos = [path for path in paths if not path.resolve().is_relative_to(inside) and not path.name.startswith(".")]
    if not videos:
        raise MuseTalkError(f"There is no video in {folder}; give a folder with {', '.join(SUFFIXES)} files.")
    return [_source(path) for path in videos]


def _source(path: Path) -> Source:
    digest = file_digest(path)
    plain = re.sub(r"[^A-Za-z0-9_-]+", "_", path.stem)[:LONGEST_NAME]
    return Source(path, f"{plain}_{digest[:8]}", digest)


def file_digest(path: Path) -> str:
    """sha256 over a file's size and 16 MiB of it, evenly spread. Raises MuseTalkError when it cannot be read."""
    try:
        size = path.stat().st_size
        digest = hashlib.sha256(str(size).encode())
        with path.open("rb") as content:
            for k in range(PIECES):
                content.seek(max(0, size - PIECE) * k // (PIECES - 1))
                digest.update(content.read(PIECE))
                if size <= PIECE:
                    break
    except OSError as error:
        raise MuseTalkError(f"{path} cannot be read: {error.strerror or error}.") from error
    return digest.hexdigest()


def record_path(folder: Path, name: str) -> Path:
    """Where the record of a source is kept."""
    return folder / RECORDS / f"{name}.json"


def read_record(path: Path) -> Record | None:
    """The record in a file; None where there is none or it cannot be understood, so that the work is done again."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        clips = {name: Outcome(**outcome) for name, outcome in content.pop("clips").items()}
        whole = content.pop("whole")
        return Record(**content, clips=clips, whole=None if whole is None else Outcome(**whole))
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def save_record(folder: Path, record: Record) -> None:
    """Write a record, whole or not at all. Raises MuseTalkError when that is impossible."""
    path = record_path(folder, record.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as part:
        part.write_text(json.dumps(asdict(record), indent=1), encoding="utf-8")


def read_records(folder: Path) -> Sequence[Record]:
    """All records of a data folder, in the order of their names."""
    found = [read_record(path) for path in sorted((folder / RECORDS).glob("[!.]*.json"))]
    return [record for record in found if record is not None]
