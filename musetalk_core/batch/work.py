"""One job on one engine, and what became of it."""

import os
import platform
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..engine import Engine
from ..errors import MuseTalkError
from ..tasks import run_task
from .jobs import Job


@dataclass(frozen=True)
class Outcome:
    """What became of a job. error: "" when its output is there, else why not.

    frames: of the output; 0 when it failed, or when its worker died after the last frame. seconds: of the attempt.
    worker: computer:process. attempt: from 1.
    """

    job: Job
    worker: str
    frames: int = 0
    seconds: float = 0.0
    attempt: int = 1
    error: str = ""


def run_here(jobs: Sequence[Job], engine: Engine) -> Iterator[Outcome]:
    """Make the videos of jobs in this process, one after the other, giving each outcome as it comes."""
    for job in jobs:
        yield run_job(job, engine)


def run_job(job: Job, engine: Engine, attempt: int = 1) -> Outcome:
    """Make a job's video. What a user can mend (MuseTalkError) is in the outcome; defects are raised.

    It is written in a folder beside the output that is named after it, so that a later attempt finds what a killed
    one has left, and renamed when it is whole.
    """
    started, output = time.monotonic(), job.task.output
    try:
        part = _make_scratch(output)
        report = run_task(replace(job.task, output=part), engine)
        _publish(part, output, job.task.overwrite)
    except MuseTalkError as error:
        return Outcome(job, worker_name(), 0, time.monotonic() - started, attempt, str(error))
    finally:
        clear_scratch(output)
    return Outcome(job, worker_name(), report.frames, time.monotonic() - started, attempt)


def worker_name() -> str:
    """This computer and process."""
    return f"{platform.node()}:{os.getpid()}"


def clear_scratch(output: Path) -> None:
    """Remove what an attempt at `output` whose process was killed has left."""
    shutil.rmtree(_scratch_folder(output), ignore_errors=True)


def _make_scratch(output: Path) -> Path:
    """A path in a new, empty folder beside `output`, whose own folder is made when it lacks."""
    clear_scratch(output)
    try:
        _scratch_folder(output).mkdir(parents=True)
    except OSError as error:
        raise _refused(output, error) from error
    return _scratch_folder(output) / output.name


def _publish(part: Path, output: Path, overwrite: bool) -> None:
    """Give a finished file its name."""
    if output.exists() and not overwrite:
        raise MuseTalkError(f"{output} has appeared meanwhile; it is kept, and this result is dropped.")
    try:
        os.replace(part, output)
    except OSError as error:
        raise _refused(output, error) from error


def _refused(output: Path, error: OSError) -> MuseTalkError:
    return MuseTalkError(f"{output} cannot be written: {error.strerror or error}; choose another folder.")


def _scratch_folder(output: Path) -> Path:
    return output.with_name(f".{output.name}.part")
