"""What is known of each job, in a file that a killed process leaves whole."""

import json
import sqlite3
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from ..errors import MuseTalkError
from .jobs import Job


class State(Enum):
    """Where a job is. SENDING: its prompt id is recorded, the server's answer is not. RAN: files not yet fetched."""

    WAITING = "waiting"
    SENDING = "sending"
    SENT = "sent"
    RAN = "ran"
    DONE = "done"
    FAILED = "failed"


ON_SERVER = (State.SENDING, State.SENT, State.RAN)


@dataclass
class Record:
    """A job and what became of it. attempts: runs that ended badly and may be repeated; seconds: the server's time.

    outputs: {node id: {kind: [entry]}} as the server's history has it. started: monotonic seconds at which the server
    was first seen running it; stopping: it ran too long and the server was asked to interrupt it. Both last as long
    as the process.
    """

    job: Job
    state: State = State.WAITING
    server: str = ""
    prompt_id: str = ""
    attempts: int = 0
    error: str = ""
    seconds: float = 0.0
    files: int = 0
    outputs: dict[str, Any] = field(default_factory=dict)
    started: float | None = None
    stopping: bool = False

    @property
    def on_server(self) -> bool:
        return self.state in ON_SERVER

    @property
    def ended(self) -> bool:
        return self.state in (State.DONE, State.FAILED)

    def send_to(self, server: str) -> None:
        """Choose where it runs and under which id."""
        self.state, self.server, self.prompt_id = State.SENDING, server, str(uuid.uuid4())
        self.started, self.stopping = None, False

    def wait_again(self) -> None:
        """Leave the server; attempts stay."""
        self.state, self.server, self.prompt_id, self.outputs = State.WAITING, "", "", {}


TABLES = """
CREATE TABLE IF NOT EXISTS batch (id TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS jobs (
    name TEXT PRIMARY KEY, fingerprint TEXT NOT NULL, state TEXT NOT NULL, server TEXT NOT NULL,
    prompt_id TEXT NOT NULL, attempts INTEGER NOT NULL, error TEXT NOT NULL, seconds REAL NOT NULL,
    files INTEGER NOT NULL, outputs TEXT NOT NULL);
"""


class StateFile:
    """An SQLite file with a row for each job that was ever sent; one process at a time has it.

    batch: a random id of the folder, the same in every run; servers know us by it.
    """

    def __init__(self, path: Path) -> None:
        """Open or make the file. Raises MuseTalkError when another process has it or it is something else."""
        self._path = path
        self._base = sqlite3.connect(path, timeout=1, isolation_level=None)
        try:
            # The system lets go of this lock when the process dies, however it dies.
            self._base.execute("PRAGMA locking_mode = EXCLUSIVE")
            self._base.execute("BEGIN EXCLUSIVE")
            for statement in TABLES.split(";"):
                self._base.execute(statement)
            self._base.execute("INSERT INTO batch SELECT ? WHERE NOT EXISTS (SELECT 1 FROM batch)", [uuid.uuid4().hex])
            self._base.execute("COMMIT")
            self.batch: str = self._base.execute("SELECT id FROM batch").fetchone()[0]
        except sqlite3.OperationalError as error:
            self._base.close()
            raise MuseTalkError(f"Another queue works on {path.parent} ({error}); wait for it or end it.") from error
        except sqlite3.DatabaseError as error:
            self._base.close()
            raise MuseTalkError(f"{path} is not the state of a queue ({error}); choose another --out.") from error

    def load(self, jobs: Iterable[Job]) -> list[Record]:
        """The records of jobs that a server has, new ones for all others: what is done, the results tell.

        Raises MuseTalkError when a job on a server differs from the job of that name now.
        """
        rows = {row[0]: row[1:] for row in self._base.execute("SELECT * FROM jobs")}
        return [self._record(job, *rows[job.name]) if job.name in rows else Record(job) for job in jobs]

    def _record(self, job: Job, fingerprint: str, state: str, *rest: Any) -> Record:
        if State(state) not in ON_SERVER:
            return Record(job)
        if fingerprint != job.fingerprint:
            raise MuseTalkError(
                f"The job {job.name!r} is on {rest[0]} with other values or another workflow; "
                "give it another name, or choose another --out."
            )
        server, prompt_id, attempts, error, seconds, files, outputs = rest
        return Record(job, State(state), server, prompt_id, attempts, error, seconds, files, json.loads(outputs))

    def save(self, record: Record) -> None:
        """Write a record; it is on disk when this returns."""
        row: list[Any] = [record.job.name, record.job.fingerprint]
        row += [record.state.value, record.server, record.prompt_id]
        row += [record.attempts, record.error, record.seconds, record.files, json.dumps(record.outputs)]
        self._base.execute("INSERT OR REPLACE INTO jobs VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row)

    def close(self) -> None:
        self._base.close()
