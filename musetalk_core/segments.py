"""Long jobs in segments: what is done stays in a folder beside the output, and a later run goes on from there."""

import json
import os
import shutil
from collections.abc import Callable, Generator
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch

from .errors import MuseTalkError
from .files import whole_file
from .media.audio import AudioSource
from .media.encoding import Encoding
from .media.joining import join_segments
from .media.video_writer import VideoWriter, check_place, refuse_existing
from .report import Report, read_report, write_report
from .writing import Progress, write_frames

SEGMENT_SECONDS = 60
LONGEST_SEGMENT = 3600

# Frames start..stop-1 of the result, counted in the report: (start, stop, report).
FramesOf = Callable[[int, int, Report], Generator[torch.Tensor, None, None]]


def segment_frames(seconds: int, fps: Fraction, batch_size: int) -> int:
    """Frames of a segment of about so many seconds: whole batches, so that no batch is cut.

    Raises MuseTalkError below one second and above an hour.
    """
    if not 1 <= seconds <= LONGEST_SEGMENT:
        raise MuseTalkError(f"A segment of {seconds} s is not possible; give 1 to {LONGEST_SEGMENT} seconds.")
    batches = -(-round(seconds * fps) // batch_size)
    return max(1, batches) * batch_size


class Parts:
    """The folder of an unfinished job, <output>.parts: job.json, the face track, segments and their reports.

    facts: everything that the job's frames depend on, ready for JSON. count: frames of the result; length: of a
    segment, the last one may be shorter.
    """

    def __init__(self, output: Path, facts: dict[str, Any], count: int, length: int) -> None:
        self.output, self.count, self.length = output, count, length
        self.folder = output.with_name(f"{output.name}.parts")
        self.track = self.folder / "track.json"
        self._job = self.folder / "job.json"
        self._facts = json.loads(json.dumps({**facts, "frames": count, "segment_frames": length}))

    @property
    def starts(self) -> range:
        """The first frame of every segment."""
        return range(0, self.count, self.length)

    @property
    def segments(self) -> list[Path]:
        """The files of all segments, there or not."""
        return [self.folder / f"{number:06d}.mp4" for number in range(len(self.starts))]

    @property
    def reports(self) -> list[Path]:
        """The files of their reports, there or not."""
        return [path.with_suffix(".report.json") for path in self.segments]

    def begin(self, overwrite: bool) -> None:
        """Make the folder, or go on in it.

        Raises MuseTalkError when it is that of another job, and for an output that cannot or must not be written.
        """
        check_place(self.output)
        refuse_existing(self.output, overwrite)
        if self._job.exists():
            self._check()
            return
        if self.folder.exists() and any(not path.name.startswith(".") for path in self.folder.iterdir()):
            raise MuseTalkError(f"{self.folder} is not the folder of a job; move it away or choose another output.")
        self.folder.mkdir(exist_ok=True)
        with whole_file(self._job) as part:
            part.write_text(json.dumps(self._facts, indent=1), encoding="utf-8")

    def finished(self) -> bool:
        """Whether the output was put in its place by this very job and only the folder was left."""
        if not self._job.exists() or not self.output.exists() or not all(path.exists() for path in self.reports):
            return False
        newest = max(path.stat().st_mtime_ns for path in self.reports)
        return self._read() == self._facts and self.output.stat().st_mtime_ns >= newest

    def write(
        self,
        frames: FramesOf,
        fps: Fraction,
        size: tuple[int, int],
        encoding: Encoding,
        progress: Progress | None,
        overlap: bool,
    ) -> None:
        """Make the segments that are missing, each whole or not at all; progress(done, count) after every frame.

        overlap: see write_frames.
        """
        for start, segment, reported in zip(self.starts, self.segments, self.reports, strict=True):
            if segment.exists():
                continue
            report = Report()
            with VideoWriter(segment, fps, size, encoding=encoding) as writer:
                made = frames(start, min(start + self.length, self.count), report)
                write_frames(writer, made, self.count, progress, overlap, start)
                # Before the segment appears: a segment that is there has its report.
                write_report(reported, report)

    def join(
        self, fps: Fraction, audio: AudioSource, seconds: Fraction | None, tags: dict[str, str], overwrite: bool
    ) -> None:
        """Put the output in its place: all segments and the sound, up to `seconds`."""
        joined = self.folder / f"joined{self.output.suffix}"
        join_segments(self.segments, joined, fps, self.count, audio, seconds, tags)
        refuse_existing(self.output, overwrite)
        os.replace(joined, self.output)

    def report(self) -> Report:
        """The report of all segments."""
        whole = Report()
        for path in self.reports:
            whole.extend(read_report(path))
        return whole

    def remove(self) -> None:
        """Delete the folder; reports and job.json last, by which a later run knows that it was finished."""
        for path in self.segments:
            path.unlink(missing_ok=True)
        shutil.rmtree(self.folder)

    def _check(self) -> None:
        stored = self._read()
        other = [key for key, value in self._facts.items() if stored.get(key) != value]
        if other:
            raise MuseTalkError(
                f"{self.folder} holds another job ({', '.join(other)} differ); finish that one, delete the folder, or "
                "choose another output."
            )

    def _read(self) -> dict[str, Any]:
        try:
            stored = json.loads(self._job.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise MuseTalkError(f"{self._job} cannot be read: {error}; delete {self.folder}.") from error
        return stored if isinstance(stored, dict) else {}


def file_facts(path: Path | None) -> list[Any] | None:
    """What tells a file from a changed one: [name, bytes, time of change in ns]; of a folder, of every file in it."""
    if path is None:
        return None
    if path.is_dir():
        return [str(path.absolute()), [file_facts(file) for file in sorted(path.iterdir()) if file.is_file()]]
    status = path.stat()
    return [str(path.absolute()), status.st_size, status.st_mtime_ns]
