"""Text to speech: what a voice is, and the one that needs no network."""

import asyncio
import re
import threading
from collections.abc import AsyncIterator, Mapping
from importlib.util import find_spec
from typing import Any, Protocol

import numpy as np

from ..errors import MuseTalkError

VOICES = ("en-US", "en-GB", "de-DE", "es-ES", "fr-FR", "it-IT")
LONGEST_TEXT = 5000
# The library holds Python's lock while it speaks, 13 to 25 ms for a second of sound: long texts go in pieces.
PHRASE_LETTERS = 60
WORD_LETTERS = 24


class Voice(Protocol):
    """Says texts."""

    def speak(self, text: str, options: Mapping[str, Any]) -> AsyncIterator[np.ndarray]:
        """Yield the sound (n,) float32 at 16 kHz as it is made; options: wishes of the caller, as voice or speed.

        Raises MuseTalkError for a text or a wish that cannot be met.
        """
        ...


class EmbeddedVoice:
    """The Pico voices of py-nanotts: 16 kHz, six languages, no download and no network."""

    def __init__(self, voice: str = "en-US") -> None:
        if find_spec("py_nanotts") is None:
            raise MuseTalkError(
                "The embedded voice needs py-nanotts, which is not installed; run "
                "`pip install -r requirements-realtime.txt` or choose tts none."
            )
        self.voice = _checked_voice(voice)
        self._lock = threading.Lock()

    async def speak(self, text: str, options: Mapping[str, Any]) -> AsyncIterator[np.ndarray]:
        """Yield a phrase at a time; options: voice (one of VOICES), speed 0.5..2, pitch 0.5..2."""
        voice = _checked_voice(options.get("voice") or self.voice)
        speed, pitch = (_factor(name, options.get(name, 1.0)) for name in ("speed", "pitch"))
        for phrase in phrases(text):
            sound = await asyncio.to_thread(self._say, phrase, voice, speed, pitch)
            if len(sound):
                yield sound

    def _say(self, phrase: str, voice: str, speed: float, pitch: float) -> np.ndarray:
        from py_nanotts import NanoTTS

        with self._lock:  # the library says nothing of threads
            data = NanoTTS().speak(phrase, voice=voice, speed=speed, pitch=pitch)
        return np.frombuffer(data, "<i2").astype(np.float32) / 32768


def phrases(text: str) -> list[str]:
    """A text in pieces of at most about PHRASE_LETTERS letters, cut at sentences, then commas, then words.

    What the voice reads as a command or stumbles over is left out: marks of tags, control characters, rows of
    punctuation, words longer than WORD_LETTERS letters are divided.
    """
    plain = "".join(letter if letter.isprintable() and letter not in "<>&" else " " for letter in text)
    plain = re.sub(r"([^\w\s])(?:\s*[^\w\s])+", r"\1", plain)
    plain = re.sub(rf"(\w{{{WORD_LETTERS}}})(?=\w)", r"\1 ", plain)
    pieces: list[str] = []
    for sentence in re.split(r"(?<=[.!?;:])\s+", plain):
        pieces += _cut(sentence.split())
    return [piece for piece in pieces if re.search(r"\w", piece)]


def _cut(words: list[str]) -> list[str]:
    """Words joined into phrases, ended by a comma once half the length is reached."""
    pieces, current = [], ""
    for word in words:
        if current and len(current) + len(word) >= PHRASE_LETTERS:
            pieces.append(current)
            current = ""
        current = f"{current} {word}".strip()
        if word.endswith(",") and len(current) > PHRASE_LETTERS // 2:
            pieces.append(current)
            current = ""
    return [*pieces, current] if current else pieces


def checked_text(text: str) -> str:
    """A text that can be said. Raises MuseTalkError for an empty and for a very long one."""
    if not text.strip():
        raise MuseTalkError("The text is empty; give words to say.")
    if len(text) > LONGEST_TEXT:
        raise MuseTalkError(f"The text has {len(text)} letters; give at most {LONGEST_TEXT} at a time.")
    return text


def _checked_voice(voice: Any) -> str:
    if voice not in VOICES:
        raise MuseTalkError(f"The voice {voice!r} is unknown; choose one of {', '.join(VOICES)}.")
    return str(voice)


def _factor(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0.5 <= value <= 2:
        raise MuseTalkError(f"{name} is {value!r}; give a number from 0.5 to 2.")
    return float(value)
