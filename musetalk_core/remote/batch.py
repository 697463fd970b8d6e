"""A batch: a table of jobs, a folder of results, and the queue between them, from start to end or to Ctrl-C."""

import asyncio
import signal
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import MuseTalkError
from .comfy_api import ComfyApi, session
from .display import Display
from .jobs import Job, read_jobs
from .queue import Limits, Queue
from .results import STATE, SUMMARY, Results
from .state import Record, State, StateFile
from .workflow import Workflow, read_workflow


@dataclass(frozen=True)
class Batch:
    """What to run: addresses of servers, workflow and table files, `node.input=value` for all jobs, result folder."""

    servers: Sequence[str]
    workflow: Path
    table: Path
    common: Sequence[str]
    folder: Path
    limits: Limits = Limits()


async def run_batch(batch: Batch) -> list[Record]:
    """Run what is not done yet; a record for each job, and DIR/summary.csv.

    The first Ctrl-C stops in good order, the second raises KeyboardInterrupt. Raises MuseTalkError for files that
    cannot be used, before anything is sent, and for results that cannot be written.
    """
    workflow = read_workflow(batch.workflow)
    jobs = read_jobs(batch.table, workflow, batch.common)
    try:
        batch.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MuseTalkError(f"The folder {batch.folder} cannot be made: {error}.") from error
    if (batch.folder / SUMMARY).exists() and not (batch.folder / STATE).exists():
        raise MuseTalkError(f"{batch.folder} holds a {SUMMARY} that no queue has made; choose another --out.")
    results = Results(batch.folder)
    with closing(StateFile(batch.folder / STATE)) as state:
        records = _known(state, results, jobs)
        await _work_off(batch, workflow, records, state, results)
        results.write_summary(records)
    return records


def _known(state: StateFile, results: Results, jobs: list[Job]) -> list[Record]:
    """What is known of the jobs; one with a folder is done, even when its killed queue could not note it."""
    records = state.load(jobs)
    for record in records:
        about = results.find(record.job)
        if about is not None:
            record.state, record.server = State.DONE, about["server"]
            record.seconds, record.files = about["seconds"], len(about["files"])
    return records


async def _work_off(
    batch: Batch, workflow: Workflow, records: list[Record], state: StateFile, results: Results
) -> None:
    with closing(Display(len(records), sum(record.ended for record in records))) as display:
        async with session() as connections:
            servers = [ComfyApi(url, connections) for url in dict.fromkeys(batch.servers)]
            queue = Queue(workflow, records, servers, state, results, batch.limits, display)
            with _stopped_by_interrupt(queue):
                await queue.run()


@contextmanager
def _stopped_by_interrupt(queue: Queue) -> Iterator[None]:
    """The first Ctrl-C stops the queue, the next one raises KeyboardInterrupt."""
    loop = asyncio.get_running_loop()

    def stop(*_signal: Any) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        loop.call_soon_threadsafe(queue.stop)

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
