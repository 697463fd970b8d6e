"""`batch`: make a lip-synced video for each line of a file, on this machine or by the workers of a Ray cluster."""

import argparse
import sys
import time
from collections.abc import Generator, Sequence
from contextlib import closing
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..batch.jobs import Job, read_jobs, unfinished
from ..batch.journal import Journal, Summary
from ..batch.ray_workers import Fleet, run_on_ray
from ..batch.work import Outcome, run_here
from ..errors import MuseTalkError
from ..tasks import Task
from .infer import add_encoding, add_settings, add_weights, encoding_of, load, option, settings_of, version_of


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the `batch` command."""
    parser = commands.add_parser(
        "batch",
        help="lip-sync many videos, on this machine or on many with Ray",
        description="Makes a video for each line of a file. Interrupted or killed, the same command goes on where it "
        "was: outputs that exist are done.",
    )
    parser.set_defaults(run=run)
    files = parser.add_argument_group("jobs")
    files.add_argument("jobs", type=Path, metavar="JSONL", help='lines of {"video", "audio", "output", any setting}')
    option(files, "result-dir", type=Path, default=Path("results"), help="folder of results without an output")
    option(files, "overwrite", action="store_true", help="make every video anew, replacing those that exist")
    add_encoding(files)
    _add_workers(parser.add_argument_group("workers"))
    add_weights(parser.add_argument_group("weights and device"))
    add_settings(parser.add_argument_group("face, audio and blending, where a line says nothing else"))


def _add_workers(group: Any) -> None:
    option(
        group,
        "ray",
        nargs="?",
        const="",
        metavar="ADDRESS",
        help="use Ray workers: of the cluster at ADDRESS (auto: this machine's), else of one started for the run",
    )
    option(group, "workers", type=int, help="Ray workers; default: one for each GPU, without GPUs one")
    option(group, "threads", type=int, help="compute threads of each worker; default: all, shared among workers")
    option(group, "attempts", type=int, default=2, help="starts of a job whose workers die; default: %(default)s")


def run(args: argparse.Namespace) -> int:
    """Run the jobs that are not done; 0 when all are done, 1 when some failed, 130 when interrupted."""
    _check(args)
    base = Task(Path(), Path(), settings=settings_of(args), encoding=encoding_of(args), overwrite=args.overwrite)
    jobs = read_jobs(args.jobs, base, args.result_dir, version_of(args))
    todo = unfinished(jobs)
    with Journal(args.jobs.with_suffix(".results.jsonl")) as journal:
        try:
            _work_off(_outcomes(args, todo), journal, Display(len(jobs), len(jobs) - len(todo)))
        except KeyboardInterrupt:
            print("interrupted; the same command goes on from here", file=sys.stderr)
            return 130
        summary = journal.summary(jobs)
    _tell(summary)
    return 1 if summary.failed else 0


def _check(args: argparse.Namespace) -> None:
    for name in ("workers", "threads", "attempts"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise MuseTalkError(f"--{name} is {value}; give at least 1.")
    if args.ray is None and args.workers:
        raise MuseTalkError("--workers are Ray's; give --ray as well.")
    if args.ray is not None and find_spec("ray") is None:
        raise MuseTalkError("--ray needs Ray, which is not installed; run `pip install ray`, or leave --ray out.")


def _outcomes(args: argparse.Namespace, todo: Sequence[Job]) -> Generator[Outcome, None, None]:
    """What becomes of the jobs; nothing is loaded or started when there is none."""
    if not todo:
        return
    if args.ray is not None:
        fleet = Fleet(args.ray, args.workers, args.threads, args.attempts, gpu=args.device != "cpu")
        yield from run_on_ray(todo, partial(load, args), fleet)
        return
    if args.threads:
        import torch

        torch.set_num_threads(args.threads)
    yield from run_here(todo, load(args))


def _work_off(outcomes: Generator[Outcome, None, None], journal: Journal, display: "Display") -> None:
    with closing(display), closing(outcomes):
        for outcome in outcomes:
            journal.append(outcome)
            display.ended(outcome)


def _tell(summary: Summary) -> None:
    """Print the counts, and what failed."""
    print(f"{summary.done} of {summary.jobs} jobs done, {len(summary.failed)} failed")
    if summary.seconds:
        each = summary.frames / summary.seconds
        print(f"{summary.frames} frames in {summary.seconds:.1f} s of workers, {each:.2f} frames/s each")
    for job, error in summary.failed:
        print(f"failed: line {job.line}, {job.task.output}: {error}")


class Display:
    """Progress on stderr: a bar on a terminal, else a line for each job; `total` jobs, `done` of them before."""

    def __init__(self, total: int, done: int) -> None:
        from tqdm import tqdm

        self._total, self._ended = total, done
        self._frames, self._started = 0, time.monotonic()
        shown = sys.stderr.isatty()
        self._bar = tqdm(total=total, initial=done, desc="batch", unit="job", file=sys.stderr, disable=not shown)

    def ended(self, outcome: Outcome) -> None:
        """Count a job; what failed is told at once."""
        self._ended += 1
        self._frames += outcome.frames
        self._bar.update()
        rate = f"{self._frames / (time.monotonic() - self._started):.2f} frames/s"
        self._bar.set_postfix_str(rate)
        line = f"[{self._ended}/{self._total}] line {outcome.job.line}, {outcome.job.task.output.name}"
        if outcome.error:
            self._bar.write(f"{line} failed: {outcome.error}", file=sys.stderr)
        elif self._bar.disable:
            print(f"{line}: {outcome.seconds:.1f} s on {outcome.worker}; {rate} in all", file=sys.stderr)

    def close(self) -> None:
        self._bar.close()
