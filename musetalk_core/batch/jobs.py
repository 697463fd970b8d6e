"""Jobs: the lines of a file, each a video to make."""

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import MuseTalkError
from ..media.video_writer import FORMATS
from ..tasks import Task, output_path
from ..timeline import rational_fps

PATH_KEYS = ("video", "audio", "output", "result_name")
JOB_KEYS = (*PATH_KEYS, "fps")
MOST_TOLD = 20


@dataclass(frozen=True)
class Job:
    """One video to make. line: of the file, from 1. task: what `infer` would run."""

    line: int
    task: Task


def read_jobs(file: Path, base: Task, result_dir: Path, version: str) -> list[Job]:
    """The jobs of a file with a JSON object a line: {"video", "audio"?, "output" or "result_name"?, "fps"?, settings}.

    Each starts from `base`. Without an output a result is named as by `infer`, below result_dir/version. Blank lines
    are skipped. Paths are relative to the working directory. Raises MuseTalkError that tells every bad line: one that
    is no such object, two with one output, an output that is an input.
    """
    jobs: list[Job] = []
    problems: list[tuple[int, str]] = []
    for number, text in _lines(file):
        try:
            jobs.append(Job(number, _read_task(text, base, result_dir, version)))
        except MuseTalkError as error:
            problems.append((number, str(error)))
    problems += _clashes(jobs)
    if problems:
        told = [f"line {number}: {problem}" for number, problem in sorted(problems)]
        more = [f"and {len(told) - MOST_TOLD} more"] if len(told) > MOST_TOLD else []
        raise MuseTalkError("\n  ".join([f"{file} has lines that are no jobs:", *told[:MOST_TOLD], *more]))
    if not jobs:
        raise MuseTalkError(f'{file} holds no jobs; write a line such as {{"video": "a.mp4", "audio": "a.wav"}}.')
    return jobs


def unfinished(jobs: Sequence[Job]) -> list[Job]:
    """The jobs whose output is not there, and those that may replace it."""
    return [job for job in jobs if job.task.overwrite or not job.task.output.exists()]


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    """The lines that are not blank, with their numbers."""
    try:
        with file.open(encoding="utf-8-sig") as lines:
            yield from ((number, line) for number, line in enumerate(lines, 1) if line.strip())
    except UnicodeDecodeError as error:
        raise MuseTalkError(f"{file} is not UTF-8; save it as UTF-8.") from error
    except OSError as error:
        raise MuseTalkError(f"The jobs in {file} cannot be read: {error}.") from error


def _read_task(text: str, base: Task, result_dir: Path, version: str) -> Task:
    values = _read_object(text)
    if not values.get("video"):
        raise MuseTalkError("It has no video; name the video, picture or folder.")
    if "output" in values and "result_name" in values:
        raise MuseTalkError("It has an output and a result_name; give one of them.")
    video = Path(values["video"])
    audio = Path(values["audio"]) if "audio" in values else None
    named = output_path(result_dir, version, video, audio, values.get("result_name"))
    output = Path(values["output"]) if "output" in values else named
    if output.suffix.lower() not in FORMATS:
        raise MuseTalkError(f"The output {output} does not end in {', '.join(FORMATS)}; choose one of them.")
    settings = {key: value for key, value in values.items() if key not in JOB_KEYS}
    return replace(
        base,
        video=video,
        audio=audio,
        output=output,
        fps=rational_fps(values["fps"]) if "fps" in values else base.fps,
        settings=base.settings.changed(f"Besides {', '.join(JOB_KEYS)}", settings) if settings else base.settings,
    )


def _read_object(text: str) -> dict[str, Any]:
    """A line's values without those that are null."""
    try:
        values = json.loads(text)
    except ValueError as error:
        raise MuseTalkError(f"It is no JSON: {error}.") from error
    if not isinstance(values, dict):
        raise MuseTalkError('It is no JSON object; write {"video": "a.mp4", "audio": "a.wav"}.')
    for key in PATH_KEYS:
        if not isinstance(values.get(key), str | None):
            raise MuseTalkError(f"{key} is {values[key]!r}; give a path in quotes.")
    return {key: value for key, value in values.items() if value is not None}


def _clashes(jobs: Sequence[Job]) -> Iterator[tuple[int, str]]:
    """Jobs whose output is another one's, or a file that is read."""
    inputs = {_place(path) for job in jobs for path in (job.task.video, job.task.audio) if path is not None}
    first: dict[str, int] = {}
    for job in jobs:
        place = _place(job.task.output)
        if place in inputs:
            yield job.line, f"The output {job.task.output} is an input; choose another name."
        if first.setdefault(place, job.line) != job.line:
            yield job.line, f"Line {first[place]} has the output {job.task.output} too; names differ in more than case."


def _place(path: Path) -> str:
    return os.path.abspath(path).casefold()
