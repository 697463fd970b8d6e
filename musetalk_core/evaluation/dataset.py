"""Which clips are measured: from a folder of faces and voices, from a list of pairs, or one by one."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import MuseTalkError

PROTOCOLS = ("paired", "unpaired")
VIDEOS = (".mp4", ".mov", ".mkv", ".webm", ".avi")
SOUNDS = (".wav", ".flac", ".mp3", ".m4a", ".ogg")
COLUMNS = ("name", "output", "audio", "source", "reference")


@dataclass(frozen=True)
class ClipFiles:
    """One clip's files. output: the finished video. audio: what it should say, None for its own sound. source: the face
    video it was made from. reference: the real video that says the audio."""

    name: str
    output: Path
    audio: Path | None = None
    source: Path | None = None
    reference: Path | None = None


def read_dataset(folder: Path, protocol: str, outputs: Path) -> list[ClipFiles]:
    """The clips of <folder>/val/{face,audio}, finished as <outputs>/<face>_<audio>.mp4.

    paired: every face with the sound of its own name, or its own sound where there is none; it is then the reference,
    too. unpaired: every face with the next sound that is not its own, in the order of names, so that a run can be
    repeated. Raises MuseTalkError for another layout or nothing to pair.
    """
    if protocol not in PROTOCOLS:
        raise MuseTalkError(f"The protocol {protocol!r} is unknown; choose {' or '.join(PROTOCOLS)}.")
    faces, sounds = _files(folder / "val" / "face", VIDEOS), _files(folder / "val" / "audio", SOUNDS + VIDEOS)
    if not faces:
        raise MuseTalkError(f"There is no video in {folder / 'val' / 'face'}; lay the data out as NAME/val/face/*.mp4.")
    if protocol == "paired":
        own = {sound.stem: sound for sound in sounds}
        return [_clip(face, own.get(face.stem), outputs, face) for face in faces]
    voices = sounds or faces
    clips = []
    for i, face in enumerate(faces):
        others = [voices[(i + step) % len(voices)] for step in range(1, len(voices) + 1)]
        other = next((voice for voice in others if voice.stem != face.stem), None)
        if other is None:
            raise MuseTalkError(f"{face.name} has no sound but its own in {folder}; unpaired needs at least two.")
        clips.append(_clip(face, other, outputs, None))
    return clips


def _clip(face: Path, audio: Path | None, outputs: Path, reference: Path | None) -> ClipFiles:
    name = f"{face.stem}_{(audio or face).stem}"
    return ClipFiles(name, outputs / f"{name}.mp4", audio or face, face, reference)


def _files(folder: Path, suffixes: Sequence[str]) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in suffixes and path.is_file())


def read_pairs(path: Path, outputs: Path | None = None) -> list[ClipFiles]:
    """The clips of a CSV file with a head line: any of name, output, audio, source, reference.

    Paths are relative to the list. Without a name it is the output's, else <source>_<audio>; without an output it is
    <outputs>/<name>.mp4. Raises MuseTalkError, naming the line, for an unknown column or a line without what it needs.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream)
            rows, columns = list(reader), reader.fieldnames or []
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise MuseTalkError(f"The list {path} cannot be read: {error}.") from error
    unknown = [name for name in columns if name not in COLUMNS]
    if unknown or not rows:
        found = f"the column {unknown[0]!r}" if unknown else "no line"
        raise MuseTalkError(f"The list {path} has {found}; its head line names columns of {', '.join(COLUMNS)}.")
    clips = [_pair(row, path, line, outputs) for line, row in enumerate(rows, 2)]
    names = [clip.name for clip in clips]
    for line, name in enumerate(names, 2):
        if name in names[: line - 2]:
            raise MuseTalkError(f"Line {line} of {path} has the name {name!r} again; give every clip its own.")
    return clips


def _pair(row: dict[str, str], path: Path, line: int, outputs: Path | None) -> ClipFiles:
    files = {key: path.parent / row[key].strip() for key in COLUMNS[1:] if (row.get(key) or "").strip()}
    source, audio, output = files.get("source"), files.get("audio"), files.get("output")
    name = (row.get("name") or "").strip()
    if not name and output is not None:
        name = output.stem
    elif not name and source is not None:
        name = f"{source.stem}_{(audio or source).stem}"
    if output is None and name and outputs is not None:
        output = outputs / f"{name}.mp4"
    if not name or output is None:
        raise MuseTalkError(f"Line {line} of {path} has neither output nor source; give one, or --outputs for sources.")
    return ClipFiles(name, output, audio or (source if "output" not in files else None), source, files.get("reference"))
