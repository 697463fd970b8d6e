"""The queue: jobs to servers, results back, each exactly once.

What "exactly once" means. A job is done when its folder is in DIR; the folder appears whole, by one rename, and a job
with a folder is never queued again. Before a prompt is posted, its id (chosen here) and its server are on disk. A
prompt that is waiting or running on that server, or is in its history, is never queued a second time: it is waited
for, or fetched.

What happens when something is killed:
- here, before the id is on disk: the server knows nothing; the job is queued later.
- here, between the id and the server's answer: the server is asked for the id. Not there: queued again. A post could
  still be on its way inside a stalled server, so such an id is looked for twice, LATE_POST seconds apart.
- here, later: the server works on; its queue and history tell what became of each id.
- here, between the end of a job and its folder: what it saved is on disk here as soon as it is known (RAN); fetched
  again as a whole.
- the server: its queue and history are gone with it. Jobs whose end was read (RAN) are still fetched from its output
  folder. The others, at most `ahead` for each server, are queued again. A server killed between saving a file and
  writing its history leaves that file in its own output folder beside the one of the second run; DIR gets one. Such
  files cannot be used: a killed server may have left half of them.
- a server that stays silent for `patience` seconds: its jobs go to the others. If it was only out of reach and runs
  them still, they run twice; DIR gets one result each.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .comfy_api import UPLOADS, ComfyApi, Ending, FileGone, Refused, ServerLost
from .display import Display
from .jobs import Job
from .results import Results
from .state import Record, State, StateFile
from .workflow import Workflow, title, with_values

POLL = 2.0  # seconds between looks at a server that sends no event
LATE_POST = 3.0
PAUSE = 2.0  # seconds between attempts to reach a silent server


@dataclass(frozen=True)
class Limits:
    """ahead: jobs on a server at once, running and waiting; retries: repeats of a job after a lost server or a
    timeout; timeout: seconds a job may run, 0 for any; patience: seconds to wait for a silent server."""

    ahead: int = 2
    retries: int = 2
    timeout: float = 0.0
    patience: float = 300.0


class Lane:
    """One server's side of the queue. ahead 0: only jobs that are there already are finished."""

    def __init__(self, api: ComfyApi, ahead: int) -> None:
        self.api = api
        self.ahead = ahead
        self.records: dict[str, Record] = {}
        self.woken = asyncio.Event()
        self.reached = 0.0  # when the connection was made, monotonic seconds
        self.silent_since: float | None = None
        self.gone = False

    @property
    def room(self) -> bool:
        return sum(record.state is not State.RAN for record in self.records.values()) < self.ahead

    async def sleep(self, seconds: float) -> None:
        """Until the time is over or an event asks for a look."""
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self.woken.wait(), seconds)
        self.woken.clear()


class Queue:
    """Works off `records` on the servers; each server's share follows from its speed."""

    def __init__(
        self,
        workflow: Workflow,
        records: Sequence[Record],
        servers: Sequence[ComfyApi],
        state: StateFile,
        results: Results,
        limits: Limits,
        display: Display,
    ) -> None:
        """servers[0:] take jobs; a server that a record names and that is not among them finishes what it has."""
        self._workflow, self._state, self._results = workflow, state, results
        self._limits, self._display = limits, display
        self._lanes = {api.url: Lane(api, limits.ahead) for api in servers}
        self._open = sum(not record.ended for record in records)
        self._waiting = deque(record for record in records if record.state is State.WAITING)
        self._stopped = False
        for record in records:
            if record.on_server:
                if record.server not in self._lanes:
                    self._lanes[record.server] = Lane(ComfyApi(record.server, servers[0].session), 0)
                self._lanes[record.server].records[record.prompt_id] = record

    async def run(self) -> None:
        """Return when every job has ended, no server is left, or stop() was called.

        Raises MuseTalkError when results cannot be written.
        """
        tasks = [asyncio.create_task(self._work(lane)) for lane in self._lanes.values()]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def stop(self) -> None:
        """Send nothing more; what the servers have stays there."""
        self._stopped = True
        self._display.say("Stopping; the servers go on with what they have. Ctrl-C again leaves at once.")
        self._wake_all()

    def _wake_all(self) -> None:
        for lane in self._lanes.values():
            lane.woken.set()

    def _over(self, lane: Lane) -> bool:
        return self._stopped or self._open == 0 or (lane.ahead == 0 and not lane.records)

    async def _work(self, lane: Lane) -> None:
        """Attend to a server, whatever happens to it."""
        while not self._over(lane):
            try:
                await self._attend(lane)
            except ServerLost as lost:
                if lane.silent_since is None:
                    lane.silent_since = time.monotonic()
                    self._display.say(f"No answer ({lost}); waiting up to {self._limits.patience:g} s for it.")
                elif time.monotonic() - lane.silent_since > self._limits.patience:
                    self._give_up(lane, f"{lane.api.url} did not answer for {self._limits.patience:g} s")
                    return
                await lane.sleep(PAUSE)

    async def _attend(self, lane: Lane) -> None:
        """Look, send and fetch until the connection breaks, which raises ServerLost."""
        async with lane.api.events(self._state.batch) as events:
            lane.reached = time.monotonic()
            listener = asyncio.create_task(self._listen(lane, events))
            try:
                while not self._over(lane):
                    await self._look(lane)
                    await self._fill(lane)
                    await self._collect(lane)
                    if lane.silent_since is not None:
                        lane.silent_since = None
                        self._display.say(f"{lane.api.url} answers.")
                    await lane.sleep(POLL)
                    if listener.done():
                        listener.result()
                        raise ServerLost(f"{lane.api.url} closed the connection")
            finally:
                listener.cancel()
                await asyncio.gather(listener, return_exceptions=True)

    async def _listen(self, lane: Lane, events: AsyncIterator[dict[str, Any]]) -> None:
        try:
            async for event in events:
                data = event["data"]
                record = lane.records.get(data.get("prompt_id", ""))
                if record is None:
                    continue
                node = data.get("node")
                if event["type"] == "progress" and node in self._workflow:
                    self._display.working(record.job.name, title(self._workflow, node), data["value"], data["max"])
                elif event["type"] == "execution_start":
                    self._seen_running(record)
                elif event["type"] == "executing" and node is None:
                    lane.woken.set()  # its history is there
        finally:
            lane.woken.set()

    def _seen_running(self, record: Record) -> None:
        if record.started is None:
            record.started = time.monotonic()

    async def _look(self, lane: Lane) -> None:
        """Learn what became of the jobs on the server.

        The queue is asked before the history: a job that ends in between is then seen in the history, never missed.
        """
        asked = [record for record in lane.records.values() if record.state in (State.SENDING, State.SENT)]
        queued = await lane.api.queued()
        for record in asked:
            if record.prompt_id in queued:
                await self._watch(lane, record, queued[record.prompt_id])
                continue
            ending = await lane.api.history(record.prompt_id)
            if ending is not None:
                self._end_of_run(lane, record, ending)
            elif record.state is State.SENT or time.monotonic() - lane.reached > LATE_POST:
                counted = record.started is not None
                self._again(lane, record, f"{lane.api.url} lost it, perhaps by a restart", counted)

    async def _watch(self, lane: Lane, record: Record, running: bool) -> None:
        if record.state is State.SENDING:
            record.state = State.SENT
            self._state.save(record)
        if running:
            self._seen_running(record)
        if record.started is None or record.stopping or not self._limits.timeout:
            return
        if time.monotonic() - record.started > self._limits.timeout:
            record.stopping = True
            await lane.api.interrupt(record.prompt_id)

    def _end_of_run(self, lane: Lane, record: Record, ending: Ending) -> None:
        record.seconds = ending.seconds
        if record.stopping and ending.interrupted:
            self._again(lane, record, f"it ran longer than {self._limits.timeout:g} s", counted=True)
        elif ending.error:
            self._fail(lane, record, ending.error)
        else:
            record.state, record.outputs = State.RAN, ending.outputs
            self._state.save(record)

    async def _fill(self, lane: Lane) -> None:
        while lane.room and self._waiting and not self._stopped:
            await self._send(lane, self._waiting.popleft())

    async def _send(self, lane: Lane, record: Record) -> None:
        try:
            prompt = await self._prompt(lane, record.job)
        except Refused as error:
            self._fail(lane, record, str(error))
            return
        except ServerLost as lost:  # it answered a moment ago, so this file may be the reason
            self._again(lane, record, f"its files could not be sent ({lost})", counted=True)
            raise
        record.send_to(lane.api.url)
        lane.records[record.prompt_id] = record
        self._state.save(record)
        try:
            await lane.api.queue(prompt, record.prompt_id, self._state.batch)
        except Refused as error:
            self._fail(lane, record, str(error))
        else:
            record.state = State.SENT
            self._state.save(record)

    async def _prompt(self, lane: Lane, job: Job) -> Workflow:
        """The job's workflow for this server, its files uploaded."""
        values = dict(job.values)
        for target, value in job.values.items():
            spec = await lane.api.input_spec(self._workflow[target.node]["class_type"], target.name)
            if spec.takes_file(value):
                values[target] = await lane.api.upload(Path(str(value)))
            elif spec.kind == "INT" and isinstance(value, float):
                raise Refused(f"{target.node}.{target.name} takes whole numbers, not {value}.")
        return with_values(self._workflow, values, f"{UPLOADS}/{self._state.batch[:8]}/{job.name}")

    async def _collect(self, lane: Lane) -> None:
        for record in [record for record in lane.records.values() if record.state is State.RAN]:
            try:
                record.files = await self._results.collect(lane.api, record)
            except FileGone as error:
                self._again(lane, record, str(error), counted=True)
                continue
            del lane.records[record.prompt_id]
            record.state = State.DONE
            self._ended(record)

    def _again(self, lane: Lane, record: Record, reason: str, counted: bool) -> None:
        """Queue a job again, unless that was done often enough; a job that had not begun is not to blame."""
        record.attempts += counted
        if record.attempts > self._limits.retries:
            self._fail(lane, record, f"{reason}; tried {record.attempts} times")
            return
        self._display.say(f"{record.job.name} is queued again: {reason}.")
        lane.records.pop(record.prompt_id, None)
        record.wait_again()
        self._state.save(record)
        self._waiting.appendleft(record)
        self._wake_all()

    def _fail(self, lane: Lane, record: Record, error: str) -> None:
        lane.records.pop(record.prompt_id, None)
        record.state, record.server, record.error = State.FAILED, lane.api.url, error
        self._ended(record)

    def _ended(self, record: Record) -> None:
        self._state.save(record)
        self._open -= 1
        self._display.ended(record)
        if self._open == 0:
            self._wake_all()

    def _give_up(self, lane: Lane, reason: str) -> None:
        """Leave a server for this run. Its jobs go to the others; without others they stay its own."""
        lane.gone = True
        self._display.say(f"Giving up: {reason}.")
        if any(other.ahead and not other.gone for other in self._lanes.values()):
            for record in list(lane.records.values()):
                self._again(lane, record, reason, counted=record.started is not None)
