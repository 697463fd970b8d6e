"""Text, voices and utterances of the training corpus: all random, all fixed by their seed."""

from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np

from .phonemes import RATE, Espeak, Speech, flite
from .visemes import Segment, classes, curves, shifted

ROWS = 50  # rows a second of the stored curves
FRAME_WORDS = """
the a of and to in is was that it for on with as his he be at by this had not are but from or have an they which one
you were her all she there would their we him been has when who will more no if out so said what up its about into
than them can only other new some could time these two may then do first any my now such like our over man me even
most made after also did many before must through back years where much your way well down should because each just
those people mister how too little state good very make world still own see men work long get here between both life
being under never day same another know while last might us great old year off come since against go came right used
take three
"""  # separated by blanks
FLITE_SHARE = 0.8  # of the utterances; flite's voices are recordings of people, espeak-ng is robotic
FLITE_VOICES = {"slt": 0.5, "rms": 0.22, "awb": 0.2, "kal16": 0.08}
FLITE_PITCH = {"slt": (150, 240), "rms": (85, 140), "awb": (90, 150), "kal16": (85, 150)}  # Hz
ESPEAK_ACCENTS = {"en-us": 0.6, "en": 0.15, "en-gb-x-rp": 0.1, "en-gb-scotland": 0.1, "en-gb-x-gbclan": 0.05}
ESPEAK_VARIANTS = (
    "",
    *(f"+f{i}" for i in range(1, 6)),
    *(f"+m{i}" for i in range(1, 9)),
    "+Annie",
    "+Andrea",
    "+linda",
    "+steph",
)
TEMPI = (0.86, 0.92, 0.96, 1.0, 1.0, 1.04, 1.1, 1.18)  # playing faster also shifts pitch and vocal tract


@dataclass
class Utterance:
    """samples (M,) int16 at 16 kHz, its sounds, and the voice's name."""

    samples: np.ndarray
    segments: list[Segment]
    voice: str
    curves: np.ndarray = field(init=False)
    visemes: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        rows = len(self.samples) * ROWS // RATE
        self.curves = curves(self.segments, rows, ROWS, self.samples, RATE)
        self.visemes = classes(self.segments, rows, ROWS)

    @property
    def seconds(self) -> float:
        """Length in seconds."""
        return len(self.samples) / RATE


def sentence(rng: np.random.Generator) -> str:
    """Six to fourteen words, frequent ones mixed with any of the CMU dictionary; meaningless and neutral."""
    words, frequent = [], FRAME_WORDS.split()
    for _ in range(rng.integers(6, 15)):
        pool = frequent if rng.random() < 0.6 else _dictionary()
        words.append(pool[rng.integers(len(pool))] + ("," if rng.random() < 0.08 else ""))
    return " ".join(words).rstrip(",") + "."


@lru_cache
def _dictionary() -> list[str]:
    """The words of three to nine letters in pocketsphinx's CMU dictionary."""
    import pocketsphinx

    path = Path(pocketsphinx.get_model_path()) / "en-us" / "cmudict-en-us.dict"
    words = (line.split(" ", 1)[0] for line in path.read_text(encoding="utf-8").splitlines())
    return [word for word in words if word.isalpha() and word.isascii() and 3 <= len(word) <= 9]


@lru_cache
def _espeak() -> Espeak:
    return Espeak()


def utterance(rng: np.random.Generator) -> Utterance:
    """One sentence of one voice, with silence before and after it, at a random tempo and level."""
    text = sentence(rng)
    spoken = _speak_flite(text, rng) if rng.random() < FLITE_SHARE else _speak_espeak(text, rng)
    samples, segments = _played(spoken, float(rng.choice(TEMPI)))
    before, after = _pause(rng), _pause(rng)
    floor = _room_noise(len(samples) + before + after, rng)
    floor[before : before + len(samples)] += samples * rng.uniform(0.3, 0.95) / max(np.abs(samples).max(), 1e-3)
    return Utterance(_int16(floor), shifted(segments, before / RATE), spoken.voice)


def monologue(rng: np.random.Generator, seconds: float) -> Utterance:
    """Utterances one after the other, cut to exactly `seconds`; the voices may change."""
    wanted, parts, segments, voices, length = round(seconds * RATE), [], [], [], 0
    while length < wanted:
        part = utterance(rng)
        segments += [s for s in shifted(part.segments, length / RATE) if s.start < seconds]
        parts.append(part.samples)
        voices.append(part.voice)
        length += len(part.samples)
    return Utterance(np.concatenate(parts)[:wanted], segments, " ".join(voices))


def _speak_flite(text: str, rng: np.random.Generator) -> Speech:
    voice = str(rng.choice(list(FLITE_VOICES), p=list(FLITE_VOICES.values())))
    return flite(text, voice, float(rng.uniform(0.8, 1.25)), float(rng.uniform(*FLITE_PITCH[voice])))


def _speak_espeak(text: str, rng: np.random.Generator) -> Speech:
    accent = str(rng.choice(list(ESPEAK_ACCENTS), p=list(ESPEAK_ACCENTS.values())))
    voice = accent + str(rng.choice(ESPEAK_VARIANTS))
    return _espeak().speak(text, voice, int(rng.integers(115, 191)), int(rng.integers(25, 81)))


def _played(speech: Speech, tempo: float) -> tuple[np.ndarray, list[Segment]]:
    """Float samples at 16 kHz of the speech played `tempo` times as fast, and its sounds."""
    import soxr

    samples = soxr.resample(speech.samples.astype(np.float32) / 32768, speech.rate * tempo, RATE)
    return samples, shifted(speech.segments, 0.0, tempo)


def _pause(rng: np.random.Generator) -> int:
    """Samples of silence; sometimes long, so that a silent mouth is learned."""
    return int(RATE * (rng.uniform(0.5, 1.5) if rng.random() < 0.12 else rng.uniform(0.0, 0.35)))


def _room_noise(count: int, rng: np.random.Generator) -> np.ndarray:
    """Faint noise, in a third of the cases none at all."""
    if rng.random() < 0.33:
        return np.zeros(count, np.float32)
    return (rng.standard_normal(count) * 10 ** rng.uniform(-4.5, -2.6)).astype(np.float32)


def _int16(samples: np.ndarray) -> np.ndarray:
    return np.round(samples.clip(-1, 1) * 32767).astype(np.int16)
