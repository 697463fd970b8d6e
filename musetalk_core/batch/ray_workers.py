"""Workers on a Ray cluster: each has loaded networks and one job at a time.

What is lost when something is killed:
- a worker, or its machine: its job starts anew on another one, at most that job; a new worker takes its place.
- this process: the workers end with it. Outputs are whole or absent, so the next run makes what is absent.
- a worker that Ray takes for dead and that works on: its job may be made twice; one result stays.
"""

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

from ..engine import Engine
from ..errors import MuseTalkError
from ..host_memory import keep_freed_memory
from .jobs import Job
from .work import Outcome, clear_scratch, run_job

MOST_DEATHS = 10  # of each worker in a row, with no job finished anywhere between


@dataclass(frozen=True)
class Fleet:
    """address: of a running cluster ("auto": this machine's), "" starts one on this machine for the run. workers:
    None is one for each GPU, or one on processors. threads: of each worker, None shares the cluster's processors
    out. attempts: of a job whose workers die. gpu: workers need one, where the cluster has any."""

    address: str = ""
    workers: int | None = None
    threads: int | None = None
    attempts: int = 2
    gpu: bool = True


@dataclass(frozen=True)
class Share:
    """What each of `workers` workers gets: threads, and GPUs (a fraction when several share one)."""

    workers: int
    threads: int
    gpus: float


def run_on_ray(jobs: Sequence[Job], load: Callable[[], Engine], fleet: Fleet) -> Iterator[Outcome]:
    """Make the videos of jobs by workers, giving each outcome as it comes, in any order.

    load: run once in each worker. Workers see this machine's working directory and all files under the same paths.
    Raises MuseTalkError for a cluster that cannot be reached or lacks room, networks that do not load, and workers
    that die again and again.
    """
    with _cluster(fleet.address) as ray:
        share = share_out(fleet, [node["Resources"] for node in ray.nodes() if node["Alive"]])
        crew = _Crew(ray, load, share)
        try:
            yield from _work_off(ray, crew, deque((job, 1) for job in jobs), fleet.attempts)
        finally:
            crew.dismiss()


def share_out(fleet: Fleet, nodes: Sequence[dict[str, float]]) -> Share:
    """The share of each worker on machines with {"CPU", "GPU"}; raises MuseTalkError when there is no room."""
    cpus, gpus = (int(sum(node.get(kind, 0) for node in nodes)) for kind in ("CPU", "GPU"))
    gpus = gpus if fleet.gpu else 0
    workers = fleet.workers or gpus or 1
    share = Share(workers, fleet.threads or max(1, cpus // workers), 1 / ceil(workers / gpus) if gpus else 0)
    room = sum(_fitting(share, node) for node in nodes)
    if workers > room:
        raise MuseTalkError(
            f"The cluster has {cpus} processors and {gpus} GPUs on {len(nodes)} machines, room for {room} workers of "
            f"{share.threads} threads; {workers} are asked for. Lower --workers or --threads."
        )
    return share


def _fitting(share: Share, node: dict[str, float]) -> int:
    fitting = int(node.get("CPU", 0) // share.threads)
    return min(fitting, int(node.get("GPU", 0)) * round(1 / share.gpus)) if share.gpus else fitting


@contextmanager
def _cluster(address: str) -> Iterator[Any]:
    """The module ray, joined to a cluster; one that was started for it ends with the block."""
    import ray

    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if address:
        options |= {"address": address, "runtime_env": {"py_modules": [str(Path(__file__).parents[1])]}}
    else:
        options |= {"address": "local", "include_dashboard": False}
    try:
        ray.init(**options)
    except (OSError, ValueError, RuntimeError) as error:
        raise MuseTalkError(f"No Ray cluster can be used at {address or 'this machine'}: {error}.") from error
    try:
        yield ray
    finally:
        ray.shutdown()


class Worker:
    """What runs in a worker's process; the networks stay loaded from job to job."""

    def __init__(self, load: Callable[[], Engine], threads: int, folder: str) -> None:
        self._load, self._threads, self._folder = load, threads, folder

    def prepare(self) -> None:
        """Load the networks, in the folder in which the command was given."""
        import torch

        torch.set_num_threads(self._threads)
        keep_freed_memory()
        try:
            os.chdir(self._folder)
        except OSError as error:
            raise MuseTalkError(f"A worker has no folder {self._folder}; workers need the same files.") from error
        self._engine = self._load()

    def run(self, job: Job, attempt: int) -> Outcome:
        """Make a job's video; see run_job."""
        return run_job(job, self._engine, attempt)


@dataclass(frozen=True)
class _Flight:
    """What a worker is at: a job in its attempt, or loading (None)."""

    worker: Any
    job: Job | None = None
    attempt: int = 1


class _Crew:
    """The workers, and what they are at."""

    def __init__(self, ray: Any, load: Callable[[], Engine], share: Share) -> None:
        self._ray, self.share = ray, share
        self._class = ray.remote(num_cpus=share.threads, num_gpus=share.gpus, max_restarts=0)(Worker)
        self._load = load
        self._flights: dict[Any, _Flight] = {}

    def hire(self) -> None:
        """Start one more worker, which loads first."""
        worker = self._class.remote(self._load, self.share.threads, str(Path.cwd()))
        self._flights[worker.prepare.remote()] = _Flight(worker)

    def give(self, worker: Any, job: Job, attempt: int) -> None:
        self._flights[worker.run.remote(job, attempt)] = _Flight(worker, job, attempt)

    def landed(self) -> tuple[Any, _Flight]:
        """Wait for one worker to end what it is at; its reference, and what it was."""
        (ref,), _ = self._ray.wait(list(self._flights), num_returns=1)
        return ref, self._flights.pop(ref)

    def send_home(self, worker: Any) -> None:
        self._ray.kill(worker)

    @property
    def at_work(self) -> bool:
        return any(flight.job is not None for flight in self._flights.values())

    def dismiss(self) -> None:
        """End all workers, whatever they are at, and remove what they have begun."""
        for flight in self._flights.values():
            self.send_home(flight.worker)
            if flight.job is not None:
                clear_scratch(flight.job.task.output)


def _work_off(ray: Any, crew: _Crew, waiting: deque[tuple[Job, int]], attempts: int) -> Iterator[Outcome]:
    """Give out jobs as workers come free, until none waits or is worked on."""
    from ray.exceptions import OutOfMemoryError, RayActorError

    deaths = 0
    for _ in range(min(crew.share.workers, len(waiting))):
        crew.hire()
    while waiting or crew.at_work:
        ref, flight = crew.landed()
        try:
            outcome = _outcome(ray, ref, flight)
        except (RayActorError, OutOfMemoryError) as error:
            deaths += 1
            if deaths > MOST_DEATHS * crew.share.workers:
                raise MuseTalkError(f"{deaths} workers died in a row without finishing a job ({error}).") from error
            crew.send_home(flight.worker)
            outcome = _bereaved(flight, waiting, attempts, str(error))
            if waiting:
                crew.hire()
        else:
            deaths = 0 if flight.job else deaths
            if waiting:
                crew.give(flight.worker, *waiting.popleft())
        if outcome is not None:
            yield outcome


def _outcome(ray: Any, ref: Any, flight: _Flight) -> Outcome | None:
    """What came of a flight, None of loading; a defect of the program is its job's outcome.

    Raises MuseTalkError when the networks do not load, and Ray's errors when the worker died.
    """
    from ray.exceptions import RayTaskError

    try:
        return ray.get(ref)
    except RayTaskError as error:
        if flight.job is None:
            raise MuseTalkError(str(error.cause)) from error
        told = f"{type(error.cause).__name__}: {error.cause}"
        return Outcome(flight.job, "", attempt=flight.attempt, error=told)


def _bereaved(flight: _Flight, waiting: deque[tuple[Job, int]], attempts: int, error: str) -> Outcome | None:
    """What becomes of the job of a dead worker: None when it waits again, first of all."""
    if flight.job is None:
        return None
    output = flight.job.task.output
    if output.exists() and not flight.job.task.overwrite:
        return Outcome(flight.job, "", attempt=flight.attempt)
    clear_scratch(output)
    if flight.attempt < attempts:
        waiting.appendleft((flight.job, flight.attempt + 1))
        return None
    reason = " ".join(error.split())
    return Outcome(flight.job, "", attempt=flight.attempt, error=f"Its worker died, attempt {flight.attempt}: {reason}")
