"""Parts of real-time tests: an avatar in memory, the demo model behind a holder, and a clock that is turned by hand."""

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction

import numpy as np
import soundfile
import torch
from clips import moving_portrait
from comfy_client import HOST_ROOT
from demo_inputs import make_speech

from musetalk_core.audio_features import extract_features
from musetalk_core.avatars.avatar import Avatar
from musetalk_core.batches import BatchSize
from musetalk_core.engine import Engine
from musetalk_core.latents import decode_faces
from musetalk_core.media.source import TensorFrames
from musetalk_core.pipeline import prepare_frames
from musetalk_core.realtime.block import BLOCK_SECONDS, Block
from musetalk_core.realtime.compositor import speaking_picture
from musetalk_core.realtime.engine import RealtimeEngine, RealtimeModels
from musetalk_core.realtime.session import Session
from musetalk_core.settings import LipSyncSettings

RATE, FPS = 16000, Fraction(25)


def demo_speech() -> np.ndarray:
    """7.1 s of a LibriVox recording (public domain), (n,) float32."""
    path = HOST_ROOT / "demo-inputs" / "demo_speech.wav"
    path.parent.mkdir(parents=True, exist_ok=True)
    make_speech(path)
    return soundfile.read(path, dtype="float32")[0]


def portrait_avatar(engine: Engine, count: int = 6, size: int = 256) -> Avatar:
    """The moving portrait, prepared with the demo model."""
    settings = LipSyncSettings()
    frames = torch.from_numpy(moving_portrait(count, size))
    models = engine.models(settings)
    track = models.locator.locate(frames)
    prepared = prepare_frames(frames, track, models, BatchSize(4))
    masked = torch.stack([frame.masked for frame in prepared])
    reference = torch.stack([frame.reference for frame in prepared])
    masks = tuple(frame.mask for frame in prepared)
    return Avatar("portrait", TensorFrames(frames, FPS), track, masked, reference, masks, settings, "demo")


class Holder:
    """A ModelHolder that counts how often the networks ran, and fails when told to."""

    def __init__(self, engine: Engine) -> None:
        self.models = RealtimeModels(engine.codec, engine.generator, engine.audio_encoder)
        self.held = 0
        self.fails = False

    @contextmanager
    def hold(self) -> Iterator[RealtimeModels]:
        self.held += 1
        if self.fails:
            raise RuntimeError("out of memory, says the test")
        yield self.models


class Stage:
    """An engine whose work is done between two blocks, on a clock that only moves from block to block."""

    def __init__(self, holder: Holder, ladder: tuple[int, ...] = (2, 4, 8)) -> None:
        self.seconds, self.blocks = 0.0, 0
        self.holder = holder
        self.engine = RealtimeEngine(holder, ladder, lambda: self.seconds)

    def work(self, until: float = 0.0) -> None:
        """Let the engine do what it does up to a time; what it waits for passes at once."""
        while (wait := self.engine.work()) is not None and (wait == 0 or self.seconds + wait < until):
            self.seconds += wait and max(wait, 1e-4)

    def step(self, *sessions: Session) -> list[Block]:
        """40 ms: all that can be made is made, then every session hands out a block."""
        self.blocks += 1
        due = self.blocks * BLOCK_SECONDS
        self.work(due)
        self.seconds = due
        return [session.next_block() for session in sessions]

    def run(self, session: Session, blocks: int) -> list[Block]:
        return [self.step(session)[0] for _ in range(blocks)]

    def until_idle(self, session: Session, most: int = 2000) -> list[Block]:
        """Blocks until everything that was fed is said."""
        blocks = []
        while len(blocks) < most:
            blocks += self.step(session)
            if blocks[-1].kind == "idle" and not session.queued_seconds:
                return blocks
        raise AssertionError("it never ends")


def mouths_live_and_offline(engine: Engine, sound: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """One picture saying a sound that comes from a microphone, and that is known as a whole.

    Left out are the frames in which a part of the mouth shows only.
    """
    avatar = portrait_avatar(engine, 1)
    stage = Stage(Holder(engine))
    session = stage.engine.session(avatar)
    blocks = []
    for start in range(0, len(sound), 640):
        session.feed(sound[start : start + 640])
        blocks += stage.step(session)
    session.finish()
    blocks += stage.until_idle(session)
    spoken = [block for block in blocks if block.kind == "speech"][: len(sound) // 640]
    rows = [k for k in range(4, len(spoken)) if all(block.speaking for block in spoken[k - 4 : k + 1])]
    features = extract_features(engine.audio_encoder, sound, Fraction(len(sound), RATE), FPS)
    latents = [part.expand(len(rows), -1, -1, -1) for part in (avatar.masked, avatar.reference)]
    tokens = features.tokens(0, features.frames)[rows]
    faces = decode_faces(engine.codec, engine.generator.generate(*latents, tokens))
    offline = [speaking_picture(avatar, 0, face, 1.0) for face in faces]
    return [spoken[k].picture for k in rows], offline


def sound_of(blocks: list[Block]) -> np.ndarray:
    return np.concatenate([block.sound for block in blocks])


def shape_of(blocks: list[Block]) -> list[tuple]:
    """All of the blocks but their pictures."""
    return [(block.index, block.kind, block.speaking, block.events, block.sound.tobytes()) for block in blocks]
