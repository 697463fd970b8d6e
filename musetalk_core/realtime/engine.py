"""The engine: one thread that makes the mouths of all sessions."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from threading import Event, Lock, Thread
from typing import Protocol

import numpy as np
import torch

from ..audio_features import AudioEncoder
from ..avatars.avatar import Avatar
from ..batches import BatchSize, shrinking_batches
from ..errors import MuseTalkError
from ..generator import Generator
from ..latents import Codec, decode_faces
from ..media.source import TensorFrames
from .actions import ActionClip
from .compositor import speaking_picture
from .scheduler import Scheduler
from .session import Frame, Session

log = logging.getLogger(__name__)

LONGEST_WAIT = 0.2  # s


@dataclass(frozen=True)
class RealtimeModels:
    """The networks of real time, each already on its device."""

    codec: Codec
    generator: Generator
    audio_encoder: AudioEncoder


class ModelHolder(Protocol):
    """Who owns the networks. A holder may take a lock, and load them, whenever they are held."""

    def hold(self) -> AbstractContextManager[RealtimeModels]:
        """The networks, ready to run until the context ends."""
        ...


@dataclass(frozen=True)
class ResidentModels:
    """A ModelHolder of networks that stay where they are and that nobody else uses."""

    models: RealtimeModels

    @contextmanager
    def hold(self) -> Iterator[RealtimeModels]:
        """The networks, at once."""
        yield self.models


@dataclass
class Job:
    """Frames of one session in a batch; faces: (256,256,3) float32 [0,1] on the CPU, None where there is none."""

    session: Session
    frames: list[Frame]
    tokens: torch.Tensor | None = None
    faces: list[torch.Tensor | None] = field(default_factory=list)


class RealtimeEngine:
    """Makes the frames of any number of sessions, together where it can.

    ladder: frames of a session's first, second ... batch. A batch that fails shows source frames in its sessions and
    stops nothing. now: seconds, of the same clock for all sessions.
    """

    def __init__(
        self,
        holder: ModelHolder,
        ladder: tuple[int, ...] = (2, 4, 8),
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._holder = holder
        self._now = now
        self._scheduler = Scheduler(ladder)
        self._sessions: list[Session] = []
        self._lock = Lock()
        self._awake = Event()
        self._stopping = False
        self._thread: Thread | None = None

    def start(self) -> None:
        """Start the worker thread; nothing happens when it runs."""
        if self._thread is not None:
            return
        self._stopping = False
        self._thread = Thread(target=self._run, name="musetalk-realtime", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the worker thread and wait for it; open sessions stay idle."""
        self._stopping = True
        self._awake.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def session(
        self, avatar: Avatar, actions: Mapping[int, ActionClip] | None = None, max_queued_seconds: float = 600.0
    ) -> Session:
        """A new session of an avatar whose latents these networks made.

        Raises MuseTalkError when its pictures are not in memory, for every block would wait for a file, and for action
        clips of another size.
        """
        if not isinstance(avatar.frames, TensorFrames) or avatar.frames.frames.dtype != torch.uint8:
            raise MuseTalkError(
                f"The pictures of the avatar {avatar.name!r} are not in memory as 8-bit; load it for real time."
            )
        session = Session(avatar, self._awake.set, self._remove, actions, max_queued_seconds, self._now)
        with self._lock:
            self._sessions.append(session)
        return session

    @property
    def sessions(self) -> int:
        """Sessions that are open."""
        return len(self._sessions)

    def warm_up(self, avatar: Avatar) -> None:
        """Run the networks once for every size of batch, so that the first speech is not the slow one."""
        with self._holder.hold() as models:
            width, rows = models.audio_encoder.width, models.audio_encoder.states * 10
            for size in self._scheduler.ladder * 2:
                begun = self._now()
                latents = torch.zeros(size, *avatar.masked.shape[1:])
                made = models.generator.generate(latents, latents, torch.zeros(size, rows, width))
                decode_faces(models.codec, made).cpu()
                self._scheduler.measured(size, self._now() - begun)

    def work(self) -> float | None:
        """Make one batch if one is due; the seconds to wait before the next call, None: until something is fed."""
        with self._lock:
            sessions = list(self._sessions)
        chosen, wait = self._scheduler.next(sessions, self._now())
        if not chosen:
            return wait
        begun = self._now()
        total = sum(count for _, count in chosen)
        ready = begun + self._scheduler.expected(total)
        stride = self._scheduler.stride(total, len(chosen))
        taken = [Job(session, session.take(count, ready, stride)) for session, count in chosen]
        jobs = [job for job in taken if job.frames]
        for job in jobs:
            for frame in job.frames:
                job.session.metrics.time("batch_wait", begun - frame.planned)
        if jobs:
            self._make(jobs)
            self._scheduler.measured(sum(len(job.frames) for job in jobs), self._now() - begun)
        return 0.0

    def _remove(self, session: Session) -> None:
        with self._lock:
            if session in self._sessions:
                self._sessions.remove(session)

    def _run(self) -> None:
        while not self._stopping:
            self._awake.clear()
            wait = self.work()
            if wait != 0.0:
                self._awake.wait(LONGEST_WAIT if wait is None else min(wait, LONGEST_WAIT))

    def _make(self, jobs: list[Job]) -> None:
        """Make and deliver the frames of all jobs. Whatever goes wrong costs pictures, never the thread."""
        try:
            with self._holder.hold() as models:
                heard = [job for job in jobs if self._hear(models, job)]
                if heard and not self._generate(models, heard) and len(heard) > 1:
                    for job in heard:
                        self._generate(models, [job])
        except Exception:  # the holder's own: loading, another program's memory
            log.exception("The networks cannot be had; %d sessions show source frames.", len(jobs))
        for job in jobs:
            self._deliver(job)

    def _hear(self, models: RealtimeModels, job: Job) -> bool:
        """The tokens of a job's frames; False when they could not be made."""
        begun = self._now()
        try:
            parts = []
            for run in _runs(job.frames):
                features = run[0].utterance.features
                parts.append(features.tokens(models.audio_encoder, run[0].number, run[-1].number + 1))
            job.tokens = torch.cat(parts)
        except Exception:
            log.exception("Session %s: the sound of %d frames was not heard.", job.session.id, len(job.frames))
            return False
        job.session.metrics.time("features", self._now() - begun)
        return True

    def _generate(self, models: RealtimeModels, jobs: list[Job]) -> bool:
        """The faces of all jobs in one batch; False when it failed."""
        begun = self._now()
        try:
            count = _make_faces(models, jobs)
        except Exception:
            log.exception("A batch of %d sessions failed.", len(jobs))
            return False
        took = self._now() - begun
        for job in jobs:
            job.session.metrics.time("generation", took)
            job.session.metrics.set("fps_infer", count / max(took, 1e-9))
        return True

    def _deliver(self, job: Job) -> None:
        """Paste the faces, and hand the pictures to the session; a frame without one shows its source."""
        for frame, face in zip(job.frames, job.faces or [None] * len(job.frames), strict=True):
            begun = self._now()
            picture = None if face is None else self._paste(job.session, frame, face)
            job.session.metrics.time("compositing", self._now() - begun)
            job.session.deliver(frame, picture)

    def _paste(self, session: Session, frame: Frame, face: torch.Tensor) -> np.ndarray | None:
        try:
            return speaking_picture(session.avatar, session.loop.index(frame.position), face, frame.weight)
        except Exception:
            log.exception("Session %s: a face could not be pasted.", session.id)
            return None


def _make_faces(models: RealtimeModels, jobs: list[Job]) -> int:
    """Give every job its faces; how many there are."""
    rows: list[tuple[Job, int, int]] = []  # job, frame in it, source frame
    for job in jobs:
        job.faces = [None] * len(job.frames)
        for k, frame in enumerate(job.frames):
            index = job.session.loop.index(frame.position)
            if job.session.avatar.track.present[index]:
                rows.append((job, k, index))
    if not rows:
        return 0
    masked = torch.stack([job.session.avatar.masked[index] for job, _, index in rows])
    reference = torch.stack([job.session.avatar.reference[index] for job, _, index in rows])
    tokens = torch.stack([job.tokens[k] for job, k, _ in rows if job.tokens is not None])

    def generate(start: int, stop: int) -> torch.Tensor:
        part = slice(start, stop)
        latents = models.generator.generate(masked[part], reference[part], tokens[part])
        return decode_faces(models.codec, latents).cpu()

    for start, stop, faces in shrinking_batches(generate, len(rows), BatchSize(len(rows))):
        for (job, k, _), face in zip(rows[start:stop], faces, strict=True):
            job.faces[k] = face
    return len(rows)


def _runs(frames: Sequence[Frame]) -> Iterator[list[Frame]]:
    """The frames in pieces of one utterance whose numbers follow one another."""
    run: list[Frame] = []
    for frame in frames:
        if run and (frame.utterance is not run[-1].utterance or frame.number != run[-1].number + 1):
            yield run
            run = []
        run.append(frame)
    if run:
        yield run
