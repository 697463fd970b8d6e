"""A session: sound comes in, blocks of picture and sound go out, one every 40 ms."""

import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from threading import RLock
from uuid import uuid4

import numpy as np

from ..avatars.avatar import Avatar
from ..errors import MuseTalkError
from .actions import OTHER_IDLE, OWN_IDLE, ActionClip, Playing, check_actions
from .block import BLOCK_SAMPLES, BLOCK_SECONDS, RATE, Block, SpeechEvent
from .compositor import PictureLoop, between
from .metrics import SessionMetrics
from .utterance import Utterance

AHEAD = 12  # frames that are planned and made before they are due: what an interruption throws away
FADE = 3  # frames between idle and speech that show a part of the mouth, as LipSyncSettings' silence_fade
MOST_REPEATS = 1  # a picture shown again is 40 ms behind its sound; further behind, the source frame shows
MOST_HELD = 3  # idle pictures that wait for the mouth that was made for the next one
MOST_SKIPPED = 2  # source frames that are left out when the mouth is there early
START_PATIENCE = 25  # blocks after which sound starts without its pictures
FEED_PATIENCE = 10  # blocks without new sound after which an utterance is taken as ended
QUIET = np.zeros(BLOCK_SAMPLES, np.float32)
QUIET.flags.writeable = False


@dataclass(eq=False)
class Frame:
    """A block that is planned. Without weight the source frame shows and nothing is made for it.

    number: in its utterance. position: in the picture loop, set when the frame is taken to be made. planned: when, in
    seconds of the session's clock.
    """

    utterance: Utterance
    number: int
    sound: np.ndarray
    events: tuple[SpeechEvent, ...]
    speaks: bool
    weight: float
    planned: float
    position: int = -1
    taken: bool = False
    ready: bool = False
    late: bool = False
    picture: np.ndarray | None = None


@dataclass(frozen=True)
class Need:
    """What a session wants to have made.

    deadline: when the first frame is shown, in seconds of the session's clock; frames: how many wait; batches: made
    since the sound began; last: no more will come; playing: sound is heard already; planned: since when the
    first one waits.
    """

    session: "Session"
    deadline: float
    frames: int
    batches: int
    last: bool
    playing: bool
    planned: float


class Session:
    """One viewer's avatar; thread-safe. Made by RealtimeEngine.session().

    Fed sound is planned in frames of 40 ms as soon as its context is there; the engine's thread takes frames that
    speak, and delivers their pictures; `next_block` hands out what is due. All sound is handed out in order and
    without gaps once it began; pictures follow it.
    """

    def __init__(
        self,
        avatar: Avatar,
        wake: Callable[[], None],
        forget: Callable[["Session"], None],
        actions: Mapping[int, ActionClip] | None = None,
        max_queued_seconds: float = 600.0,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.id = str(uuid4())
        self.avatar = avatar
        self.actions = dict(actions or {})
        check_actions(self.actions, avatar.frames.size)
        self.metrics = SessionMetrics()
        self.loop = PictureLoop(avatar.frames)
        self.lead = 2  # blocks from planning to showing that the engine asks for
        self._wake, self._forget, self._now = wake, forget, now
        self._max_queued = max_queued_seconds
        self._lock = RLock()
        self._closed = False
        self._index = 0
        self._last_block = now()
        self._position = -1  # of the picture shown last
        self._held = 0
        self._idle_loop: PictureLoop | None = None  # instead of the avatar's own pictures
        self._action: Playing | None = None
        self._calm()

    def _calm(self) -> None:
        """Nothing is said and nothing waits."""
        self._utterances: deque[Utterance] = deque()
        self._line: deque[Frame] = deque()
        self._weight = 0.0  # of the frame planned last
        self._playing = False
        self._starts = 0  # index of the block in which the line may begin
        self._starved = 0  # blocks without new sound while none is left
        self._step = 0  # batches since the line began
        self._shown: Frame | None = None  # whose mouth was in the last picture
        self._repeats = 0
        self._fade: deque[tuple[float, np.ndarray]] = deque()  # weights of _shown and sound, to idle

    def feed(self, samples: np.ndarray, event: SpeechEvent | None = None) -> None:
        """Say this: (n,) float32 at 16 kHz, any n, non-finite samples are silence.

        event: a start is delivered with the first of these samples, an end with the last. Raises MuseTalkError for
        another shape, when more than max_queued_seconds would wait, and when the session is closed.
        """
        samples = np.asarray(samples, np.float32)
        if samples.ndim != 1:
            raise MuseTalkError(f"The sound has the shape {samples.shape}; give mono samples in one dimension.")
        with self._lock:
            self._check_open()
            waiting = self._queued() + len(samples)
            if waiting > self._max_queued * RATE:
                raise MuseTalkError(
                    f"{waiting / RATE:.1f} s of sound would wait and {self._max_queued:g} s may; send it more slowly."
                )
            if not self._utterances or self._utterances[-1].finished:
                self._utterances.append(Utterance(self.avatar.settings, self._now()))
            self._utterances[-1].feed(samples, event)
            self._starved = 0
        self._wake()

    def finish(self) -> None:
        """The utterance ends here: its last frames do not wait for more sound."""
        with self._lock:
            if self._utterances:
                self._utterances[-1].finish()
        self._wake()

    def interrupt(self) -> None:
        """To idle within 100 ms: one block fades, the next is idle. What waits is dropped, and an action ends."""
        with self._lock:
            shown, playing = self._shown, self._playing
            sound = self._line[0].sound if self._line else QUIET
            self._calm()
            self._idle_loop = self._action = None
            if playing:
                self._shown = shown
                self._fade.append((0.5, sound * np.linspace(1, 0, BLOCK_SAMPLES, dtype=np.float32)))
        self._wake()

    def set_action(self, audiotype: int) -> None:
        """0: the avatar's own idle pictures; 1: its other idle clip; above 1: a clip once, with its sound.

        A clip waits until nothing is said. Raises MuseTalkError for a clip that the avatar does not have.
        """
        with self._lock:
            if audiotype != OWN_IDLE and audiotype not in self.actions:
                known = ", ".join(str(number) for number in sorted({OWN_IDLE, *self.actions}))
                raise MuseTalkError(f"The avatar has no action {audiotype}; choose one of {known}.")
            if audiotype == OWN_IDLE:
                self._idle_loop = self._action = None
            elif audiotype == OTHER_IDLE:
                self._idle_loop = PictureLoop(self.actions[audiotype].frames)
                self._action = None
            else:
                self._action = Playing(self.actions[audiotype])

    @property
    def speaking(self) -> bool:
        """Whether fed sound that is not known to be silence is heard or waits to be."""
        with self._lock:
            more = any(utterance.plannable for utterance in self._utterances)
            return more or self._shown is not None or any(frame.speaks for frame in self._line)

    @property
    def queued_seconds(self) -> float:
        """Seconds of fed sound that were not handed out yet."""
        with self._lock:
            return self._queued() / RATE

    @property
    def closed(self) -> bool:
        """Whether the session was closed."""
        return self._closed

    def next_block(self) -> Block:
        """The block that is due now; never waits. Raises MuseTalkError when the session is closed."""
        with self._lock:
            self._check_open()
            self._plan()
            block = self._speech() or self._fading() or self._acting() or self._idle()
            self._index += 1
            self._count(block)
        self._wake()
        return block

    def close(self) -> None:
        """No blocks any more; the engine forgets the session."""
        with self._lock:
            self._closed = True
            self._calm()
            self._action = None
        self._forget(self)

    # What the engine asks for.

    def plan(self) -> "Need | None":
        """Plan what can be, and say what is to be made of it; None when nothing is."""
        with self._lock:
            if not self._closed:
                self._plan()
            waiting = [k for k, frame in enumerate(self._line) if frame.weight and not frame.taken]
            if not waiting:
                return None
            blocks = waiting[0] + (0 if self._playing else max(self._starts - self._index, 0))
            deadline = self._last_block + (blocks + 1) * BLOCK_SECONDS
            last = not self._utterances
            planned = self._line[waiting[0]].planned
            return Need(self, deadline, len(waiting), self._step, last, self._playing, planned)

    def take(self, count: int, ready: float, stride: int = 1) -> list[Frame]:
        """At most `count` frames to make, in order; their places in the picture loop are decided now.

        ready: when they will be made, in seconds of the session's clock; of sound that is heard already frames due
        before are left out. stride: 2 takes every other frame, where the engine is too slow for all of them.
        """
        with self._lock:
            wait = 0 if self._playing else max(self._starts - self._index, 0)
            frames: list[Frame] = []
            spare = 0
            for k, frame in enumerate(self._line):
                if not frame.weight or frame.taken:
                    continue
                if len(frames) == count:
                    break
                frame.taken = True
                late = self._playing and self._last_block + (k + 1) * BLOCK_SECONDS < ready
                if late or spare:
                    spare = 0 if late else spare - 1
                    continue
                frame.position = self._position + 1 + wait + k
                frames.append(frame)
                spare = stride - 1
            self._step += 1
            return frames

    def deliver(self, frame: Frame, picture: np.ndarray | None) -> None:
        """The picture of a taken frame; None when it could not be made: the source frame shows."""
        with self._lock:
            frame.picture, frame.ready = picture, True
            self.metrics.count("failed_frames" if picture is None else "generated")
            if frame.late:
                self.metrics.count("dropped_frames")

    # What is planned.

    def _plan(self) -> None:
        """Cut fed sound into frames as far as its context and AHEAD allow."""
        while self._utterances and len(self._line) < AHEAD:
            utterance = self._utterances[0]
            if utterance.plannable:
                number = utterance.planned
                self._append(utterance, number, *utterance.next_frame())
            elif not utterance.done:
                break
            elif self._weight and len(self._utterances) == 1:
                number = utterance.planned
                utterance.tail_frame()
                self._append(utterance, number, QUIET, (), False)
            else:
                self._utterances.popleft()

    def _append(
        self, utterance: Utterance, number: int, sound: np.ndarray, events: tuple[SpeechEvent, ...], speaks: bool
    ) -> None:
        if not self._line and not self._playing:
            self._starts = self._index + self.lead
            self._step = 0
        if number == 0:
            self.metrics.time("audio_in", self._now() - utterance.began)
        step = 1 / (FADE + 1)
        self._weight = min(self._weight + step, 1.0) if speaks else max(self._weight - step, 0.0)
        frame = Frame(utterance, number, sound, events, speaks, self._weight, self._now())
        frame.ready = not frame.weight
        self._line.append(frame)

    def _queued(self) -> int:
        return sum(len(frame.sound) for frame in self._line) + sum(part.waiting for part in self._utterances)

    # What is handed out.

    def _speech(self) -> Block | None:
        if not self._line:
            self._run_dry()
            return None
        if not self._playing and not self._may_start(self._line[0]):
            return None
        frame = self._line.popleft()
        if frame.number == 0:
            self.metrics.set("first_frame_ms", (self._now() - frame.utterance.began) * 1000)
        self._playing, self._action = True, None
        self._fade.clear()
        self._starved, skew = 0, 0.0
        if frame.ready and frame.picture is not None:
            self._position, self._shown, self._repeats = frame.position, frame, 0
            picture = frame.picture
        elif not frame.ready and self._shown is not None and self._repeats < MOST_REPEATS:
            frame.late = True
            self._repeats += 1
            self.metrics.count("duplicated_frames")
            skew = self._repeats * BLOCK_SECONDS * 1000
            assert self._shown.picture is not None
            picture = self._shown.picture
        else:
            frame.late = not frame.ready
            self._shown = None
            self._position += 1
            picture = self.loop.picture(self._position)
            if frame.late:
                self.metrics.count("duplicated_frames")
        self.metrics.set("av_skew_ms", skew)
        return Block(self._index, picture, frame.sound, frame.speaks, "speech", frame.events)

    def _may_start(self, frame: Frame) -> bool:
        """Whether the line may begin with this block."""
        if self._index >= self._starts + START_PATIENCE:
            return True
        if not frame.weight:
            return self._index >= self._starts
        return frame.ready and frame.position - (self._position + 1) <= MOST_SKIPPED

    def _run_dry(self) -> None:
        """Nothing can be said now: a mouth that is still open fades, sound that is awaited may never come."""
        if self._playing:
            self._playing, self._weight = False, 0.0
            if self._utterances:
                self.metrics.count("underruns")
            if self._shown is not None and self._shown.weight > 1 / (FADE + 1):
                self._fade.extend((k / (FADE + 1), QUIET) for k in range(FADE, 0, -1))
            else:
                self._shown = None
        if self._utterances:
            self._starved += 1
            if self._starved > FEED_PATIENCE:
                self._utterances[-1].finish()

    def _fading(self) -> Block | None:
        """The last mouth leaves where it is: the picture stands still for these blocks."""
        if not self._fade:
            self._shown = None
            return None
        weight, sound = self._fade.popleft()
        picture = self.loop.picture(max(self._position, 0))
        if self._shown is not None and self._shown.picture is not None:
            picture = between(picture, self._shown.picture, weight)
        return Block(self._index, picture, sound, False, "speech")

    def _acting(self) -> Block | None:
        if self._action is None or self._line:
            return None
        picture, sound = self._action.next()
        if self._action.done:
            self._action = None
        return Block(self._index, picture, sound, False, "action")

    def _idle(self) -> Block:
        due = self._line[0].position if self._line else -1
        if 0 <= due <= self._position + 1 and self._held < MOST_HELD and self._position >= 0:
            self._held += 1  # the mouth of the next picture is being made
        else:
            self._position += 1
            self._held = self._held if self._line else 0
        loop = self._idle_loop or self.loop
        return Block(self._index, loop.picture(self._position), QUIET, False, "idle")

    def _count(self, block: Block) -> None:
        self._last_block = self._now()
        if block.kind != "speech":
            self.metrics.set("av_skew_ms", 0.0)
        self.metrics.count("blocks")
        self.metrics.set("ready_frames", sum(frame.ready for frame in self._line))
        self.metrics.set("queued_seconds", self._queued() / RATE)

    def _check_open(self) -> None:
        if self._closed:
            raise MuseTalkError("The session is closed; open another one.")
