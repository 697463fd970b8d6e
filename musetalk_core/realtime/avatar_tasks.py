"""Avatar tasks: preparations that wait in a row, run one after another, and can be asked about."""

import asyncio
import logging
import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..errors import MuseTalkError
from .workshop import Workshop

log = logging.getLogger(__name__)

State = Literal["pending", "running", "completed", "failed"]
MOST_WAITING = 32
MOST_KEPT = 256


@dataclass
class AvatarTask:
    """One preparation. progress: 0..100. done: called when it ended or was deleted, to remove an uploaded file."""

    task_id: str
    avatar: str
    video: Path
    changes: Mapping[str, Any]
    done: Callable[[], None] = lambda: None
    state: State = "pending"
    progress: int = 0
    error: str = ""

    def as_dict(self) -> dict[str, Any]:
        """What clients are told."""
        told = {"task_id": self.task_id, "avatar_id": self.avatar, "status": self.state, "progress": self.progress}
        return told | ({"error": self.error} if self.error else {})


class AvatarTasks:
    """The tasks of a server. notify: told of each that ended, None when nobody is."""

    def __init__(self, workshop: Workshop, notify: Callable[[dict[str, Any]], Awaitable[None]] | None = None) -> None:
        self._workshop, self._notify = workshop, notify
        self._tasks: dict[str, AvatarTask] = {}
        self._runner: asyncio.Task[None] | None = None

    def add(
        self,
        avatar: str,
        video: Path,
        changes: Mapping[str, Any],
        task_id: str | None = None,
        done: Callable[[], None] = lambda: None,
    ) -> AvatarTask:
        """A new task. Raises MuseTalkError when too many wait or the id is taken."""
        if task_id in self._tasks:
            raise MuseTalkError(f"There is a task {task_id!r} already; give another task_id or none.")
        if len(self._pending()) >= MOST_WAITING:
            raise MuseTalkError(f"{MOST_WAITING} avatar tasks wait already; try again when some are done.")
        task = AvatarTask(task_id or uuid.uuid4().hex, avatar, video, changes, done)
        self._tasks[task.task_id] = task
        self._forget_old()
        if self._runner is None:
            self._runner = asyncio.create_task(self._run())
        return task

    def get(self, task_id: str) -> AvatarTask:
        """A task. Raises MuseTalkError."""
        if task_id not in self._tasks:
            raise MuseTalkError("task not found")
        return self._tasks[task_id]

    def all(self) -> list[AvatarTask]:
        """Every task that is remembered, oldest first."""
        return list(self._tasks.values())

    def delete(self, task_id: str) -> None:
        """Take back a task that waits. Raises MuseTalkError for one that runs or has ended."""
        task = self.get(task_id)
        if task.state != "pending":
            raise MuseTalkError(f"The task is {task.state}; only pending tasks can be deleted.")
        del self._tasks[task_id]
        task.done()

    async def close(self) -> None:
        """Drop what waits; what runs ends by itself in its thread."""
        for task in self._pending():
            self.delete(task.task_id)
        if self._runner is not None:
            self._runner.cancel()
            await asyncio.wait([self._runner])

    async def _run(self) -> None:
        try:
            while waiting := self._pending():
                await self._prepare(waiting[0])
        finally:
            self._runner = None

    async def _prepare(self, task: AvatarTask) -> None:
        def progress(done: int, total: int) -> None:
            task.progress = 100 * done // max(total, 1)

        task.state = "running"
        try:
            await self._workshop.prepare(task.avatar, task.video, task.changes, progress)
            task.state, task.progress = "completed", 100
        except MuseTalkError as error:
            task.state, task.error = "failed", str(error)
            log.warning("The avatar %s was not prepared: %s", task.avatar, error)
        finally:
            if task.state == "running":
                task.state, task.error = "failed", "it was ended with the server"
            task.done()
        if self._notify is not None:
            await self._notify(task.as_dict())

    def _pending(self) -> list[AvatarTask]:
        return [task for task in self._tasks.values() if task.state == "pending"]

    def _forget_old(self) -> None:
        ended = [task for task in self._tasks.values() if task.state in ("completed", "failed")]
        for task in ended[: max(len(self._tasks) - MOST_KEPT, 0)]:
            del self._tasks[task.task_id]
