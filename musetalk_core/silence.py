"""Silence: frames in which nobody speaks get a closed mouth, or stay as they were."""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch

from .audio_features import SAMPLE_RATE, AudioEncoder, FrameRows, TokenSource, extract_features
from .errors import MuseTalkError
from .settings import LipSyncSettings, SilenceSettings
from .speech import HOPS_PER_SECOND, detect_speech

QUIET_SECONDS = 2  # of digital silence that is encoded; the tokens are taken from its middle


class SpeechWeights:
    """How much each video frame speaks: 1 in speech, 0 in silence, between them a linear fade.

    blocks: gives the sound from its start as (n,) float32 blocks of 16 kHz mono. frames: of the result, at `fps`. A
    frame speaks when any of its time does. The fade is done when speech begins and starts when it has ended; live, it
    starts with the speech. Asking for earlier frames than the last time is allowed and costs a restart. Memory: a few
    seconds of sound.
    """

    def __init__(
        self,
        blocks: Callable[[], Iterator[np.ndarray]],
        frames: int,
        fps: Fraction,
        settings: SilenceSettings,
        live: bool = False,
    ) -> None:
        self.frames = frames
        self._blocks, self._fps, self._settings, self._live = blocks, fps, settings, live
        self._restart()

    def weights(self, start: int, stop: int) -> np.ndarray:
        """The weights (stop-start,) float32 of the frames start..stop-1. Raises MuseTalkError for frames not there."""
        if not 0 <= start <= stop <= self.frames:
            raise MuseTalkError(f"Frames {start} to {stop} were asked of audio that lasts {self.frames} frames.")
        if start < self._next:
            self._restart()
        while self._next < start:
            self._advance()
        return np.array([self._advance() for _ in range(start, stop)], np.float32)

    def _restart(self) -> None:
        self._decisions = detect_speech(self._blocks(), self._settings.silence_level, self._live)
        self._heard: np.ndarray = np.zeros(0, bool)
        self._first = 0  # hop of _heard[0]
        self._next = 0
        self._last = -self._settings.silence_fade - 1  # the last frame that speaks
        self._weight = 0.0
        self._seen: deque[int] = deque()  # speaking frames ahead
        self._looked = 0  # frames that are in _seen if they speak

    def _advance(self) -> float:
        """The next frame's weight."""
        frame, fade = self._next, self._settings.silence_fade
        ahead = 0 if self._live else fade
        while self._looked <= min(frame + ahead, self.frames - 1):
            if self._speaks(self._looked):
                self._seen.append(self._looked)
            self._looked += 1
        while self._seen and self._seen[0] <= frame:
            self._last = self._seen.popleft()
        self._next += 1
        if self._live:
            step = 1 / (fade + 1)
            self._weight = min(self._weight + step, 1.0) if self._last == frame else max(self._weight - step, 0.0)
            return self._weight
        distance = min(frame - self._last, self._seen[0] - frame if self._seen else fade + 1)
        return max(1 - distance / (fade + 1), 0.0)

    def _speaks(self, frame: int) -> bool:
        """Whether there is speech in the frame's time; frames are asked for in order."""
        first = frame * HOPS_PER_SECOND * self._fps.denominator // self._fps.numerator
        stop = -(-(frame + 1) * HOPS_PER_SECOND * self._fps.denominator // self._fps.numerator)
        while self._first + len(self._heard) < stop and (more := next(self._decisions, None)) is not None:
            self._heard = np.concatenate([self._heard[max(first - self._first, 0) :], more])
            self._first = max(self._first, first)
        return bool(self._heard[first - self._first : stop - self._first].any())


@dataclass(frozen=True)
class GatedTokens:
    """Tokens of a sound whose silence is treated apart; to the generator they are tokens as any.

    source: the tokens of the sound. speech: how much each frame speaks. quiet: (1,n,D) tokens of digital silence, to
    which those of silent frames fade (the mouth closes); None: tokens stay, and the original picture is to be shown.
    """

    source: TokenSource
    speech: SpeechWeights
    quiet: torch.Tensor | None

    @property
    def frames(self) -> int:
        """Video frames the audio lasts."""
        return self.source.frames

    @property
    def fps(self) -> Fraction:
        """Frames/s."""
        return self.source.fps

    def tokens(self, start: int, stop: int) -> torch.Tensor:
        """As AudioFeatures.tokens; speaking frames keep their tokens bit by bit."""
        spoken = self.source.tokens(start, stop)
        if self.quiet is None:
            return spoken
        weights = torch.from_numpy(self.speech.weights(start, stop))[:, None, None]
        return torch.where(weights == 1, spoken, torch.lerp(self.quiet.expand_as(spoken), spoken, weights))

    def shown(self, start: int, stop: int) -> np.ndarray:
        """How much of the generated face is shown in the frames start..stop-1, (stop-start,) float32, 0..1."""
        if self.quiet is not None:
            return np.ones(stop - start, np.float32)
        return self.speech.weights(start, stop)


def gate(
    tokens: TokenSource,
    encoder: AudioEncoder,
    blocks: Callable[[], Iterator[np.ndarray]],
    settings: LipSyncSettings,
) -> TokenSource:
    """The tokens with silence treated as the settings say; the tokens themselves when it is off.

    encoder: which made the tokens. blocks: the same sound, see SpeechWeights.
    """
    mode = settings.silence.silence
    if mode == "off":
        return tokens
    speech = SpeechWeights(blocks, tokens.frames, tokens.fps, settings.silence)
    return GatedTokens(tokens, speech, quiet_tokens(encoder, tokens.fps, settings) if mode == "close" else None)


def quiet_tokens(encoder: AudioEncoder, fps: Fraction, settings: LipSyncSettings) -> torch.Tensor:
    """(1,n,D): what a frame in the middle of digital silence hears."""
    samples = np.zeros(QUIET_SECONDS * SAMPLE_RATE, np.float32)
    paddings = settings.audio_padding_left, settings.audio_padding_right
    rows = extract_features(encoder, samples, Fraction(QUIET_SECONDS), fps, *paddings).hidden
    middle = int(QUIET_SECONDS * fps) // 2
    return FrameRows(fps, *paddings).tokens(rows, 0, middle, middle + 1)
