"""What became of the jobs, a line each, in a file that a killed process leaves readable."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import MuseTalkError
from .jobs import Job
from .work import Outcome

KEYS = ("output", "line", "frames", "seconds", "worker", "attempt", "error")
START = b'{"output": "'


class Journal:
    """Lines of JSON, one for each attempt that ended: KEYS, as Outcome has them. A job's last line counts.

    Each line is on the disk before the next job is counted. Use it in a `with` block, from one process at a time.
    """

    def __init__(self, path: Path) -> None:
        """Open or make the file; a last line that a killed process left unfinished is cut off.

        Raises MuseTalkError when it cannot be written or holds something else.
        """
        self._path = path
        try:
            self._file = path.open("a+b")
            try:
                self._entries = self._read(path)
            except BaseException:
                self._file.close()
                raise
        except OSError as error:
            raise _refused(path, error) from error

    def append(self, outcome: Outcome) -> None:
        """Write an outcome; it is on the disk when this returns. Raises MuseTalkError when that is impossible."""
        entry = _entry(outcome)
        try:
            self._file.write(json.dumps(entry).encode() + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise _refused(self._path, error) from error
        self._entries[entry["output"]] = entry

    def summary(self, jobs: Sequence[Job]) -> "Summary":
        """How jobs stand after all runs.

        One whose output is there is done even without a line, unless it was to be replaced and that failed.
        """
        failed: list[tuple[Job, str]] = []
        done, frames, seconds = 0, 0, 0.0
        for job in jobs:
            entry, there = self._entries.get(str(job.task.output), {}), job.task.output.exists()
            if entry.get("error") and (job.task.overwrite or not there):
                failed.append((job, entry["error"]))
            elif there:
                done, frames, seconds = done + 1, frames + entry.get("frames", 0), seconds + entry.get("seconds", 0)
        return Summary(len(jobs), done, failed, frames, seconds)

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *_error: object) -> None:
        self._file.close()

    def _read(self, path: Path) -> dict[str, dict[str, Any]]:
        """The entries by output, the last of each; the file ends after the last whole one."""
        self._file.seek(0)
        whole, entries = 0, {}
        for number, line in enumerate(self._file, 1):
            torn = not line.endswith(b"\n")
            entry = None if torn else _parsed(line)
            if entry is None and not (torn and line.startswith(START[: len(line)])):
                raise MuseTalkError(f"{path} is no journal of a batch (line {number}); move it away.")
            if entry is not None:
                entries[entry["output"]] = entry
                whole += len(line)
        self._file.truncate(whole)
        return entries


@dataclass(frozen=True)
class Summary:
    """jobs, and how many of them are done; failed: those that are not, with the reason. frames, and seconds of
    workers: of the done jobs that the journal knows."""

    jobs: int
    done: int
    failed: list[tuple[Job, str]]
    frames: int
    seconds: float


def _entry(outcome: Outcome) -> dict[str, Any]:
    values = (
        str(outcome.job.task.output),
        outcome.job.line,
        outcome.frames,
        round(outcome.seconds, 3),
        outcome.worker,
        outcome.attempt,
        outcome.error,
    )
    return dict(zip(KEYS, values, strict=True))


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) and tuple(entry) == KEYS else None


def _refused(path: Path, error: OSError) -> MuseTalkError:
    return MuseTalkError(f"The journal {path} cannot be written: {error.strerror or error}; make room or rights.")
