"""Speech with phoneme times: espeak-ng and flite speak text, pocketsphinx aligns real speech with its transcript.

espeak-ng (GPL-3) and flite (BSD-like) are Debian packages, pocketsphinx (BSD-2) comes from pip; all three are tools
of the training scripts only. What they speak may be used freely.
"""

import ctypes
import re
import tempfile
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from comfy_setup import HostError, run
from system_packages import VOICE_LIBRARY

from .visemes import Segment, arpa_visemes, curves, ipa_visemes
from .warp import lip_gap

RATE = 16000  # samples a second everywhere in the corpus


@dataclass(frozen=True)
class Speech:
    """samples (M,) int16 at `rate` Hz, the sounds in them, and who spoke."""

    samples: np.ndarray
    rate: int
    segments: list[Segment]
    voice: str


@dataclass(frozen=True)
class RealSpeech:
    """Real speech and what the portrait's mouth does with it at `fps`: curves (N,5), gap (N,) of the eye distance."""

    samples: np.ndarray
    segments: list[Segment]
    curves: np.ndarray
    gap: np.ndarray


class _Id(ctypes.Union):
    _fields_ = (("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8))


class _Event(ctypes.Structure):
    """espeak_EVENT of speak_lib.h."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _Id),
    )


_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))
_SYNCHRONOUS, _PHONEME_EVENTS, _AS_IPA = 2, 1, 2
_EVENT_PHONEME = 7
_RATE_PARAMETER, _PITCH_PARAMETER = 1, 3
_UTF8 = 1


class Espeak:
    """The espeak-ng library; one a process: it keeps global state, so that a repeated text differs by a few samples."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(VOICE_LIBRARY)
        self.rate = self._library.espeak_Initialize(_SYNCHRONOUS, 0, None, _PHONEME_EVENTS | _AS_IPA)
        if self.rate <= 0:
            raise HostError("espeak-ng does not start: is the package espeak-ng-data installed?")
        self._sound: list[np.ndarray] = []
        self._events: list[tuple[float, str]] = []
        self._callback = _CALLBACK(self._receive)
        self._library.espeak_SetSynthCallback(self._callback)

    def _receive(self, samples: Any, count: int, events: Any) -> int:
        if samples and count > 0:
            self._sound.append(np.ctypeslib.as_array(samples, (count,)).copy())
        i = 0
        while events[i].type:
            if events[i].type == _EVENT_PHONEME:
                name = events[i].id.string.decode("utf-8", "ignore")
                self._events.append((events[i].audio_position / 1000, name))
            i += 1
        return 0

    def speak(self, text: str, voice: str = "en-us", words_per_minute: int = 150, pitch: int = 50) -> Speech:
        """Text in a voice such as "en-us+f2" ("en" is British); pitch 0..99. HostError for a voice it lacks."""
        self._sound, self._events = [], []
        if self._library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise HostError(f"espeak-ng has no voice {voice!r}")
        self._library.espeak_SetParameter(_RATE_PARAMETER, words_per_minute, 0)
        self._library.espeak_SetParameter(_PITCH_PARAMETER, pitch, 0)
        data = text.encode()
        self._library.espeak_Synth(data, ctypes.c_size_t(len(data) + 1), 0, 0, 0, _UTF8, None, None)
        self._library.espeak_Synchronize()
        samples = np.concatenate(self._sound)
        ends = [start for start, _ in self._events[1:]] + [len(samples) / self.rate]
        segments = [
            Segment(start, end, ipa_visemes(name))
            for (start, name), end in zip(self._events, ends, strict=True)
            if end > start
        ]
        return Speech(samples, self.rate, segments, f"espeak-{voice}")


def flite(text: str, voice: str = "slt", stretch: float = 1.0, pitch: float | None = None) -> Speech:
    """Text in one of flite's voices; stretch > 1 is slower, pitch is the mean F0 in Hz (None: the voice's own)."""
    with tempfile.TemporaryDirectory(prefix="flite-") as folder:
        path = Path(folder) / "speech.wav"
        command = ["flite", "-voice", voice, "-psdur", "--setf", f"duration_stretch={stretch:.3f}"]
        if pitch is not None:
            command += ["--setf", f"int_f0_target_mean={pitch:.1f}"]
        printed = run([*command, "-t", text, "-o", path], "flite")
        samples, rate = read_wav(path)
    return Speech(samples, rate, flite_segments(printed), f"flite-{voice}")


def flite_segments(printed: str) -> list[Segment]:
    """The sounds of `flite -psdur`: "hh:0.255" is a phone and the second at which it ends."""
    segments, start = [], 0.0
    for phone, second in re.findall(r"([a-z#]+):([0-9.]+)", printed):
        segments.append(Segment(start, float(second), arpa_visemes(phone)))
        start = float(second)
    if not segments:
        raise HostError(f"flite printed no phones: {printed[:80]!r}")
    return segments


def align(samples: np.ndarray, transcript: str) -> list[Segment]:
    """Sounds of real speech by forced alignment: samples (M,) int16 at 16 kHz, transcript in lower-case words.

    Needs `pip install pocketsphinx`; about a tenth of real time. HostError for an unknown word, or when the
    words do not fit the sound.
    """
    from pocketsphinx import Decoder

    decoder = Decoder(samprate=RATE, loglevel="FATAL", bestpath=False)
    try:
        decoder.set_align_text(transcript)
    except RuntimeError as error:
        raise HostError(f"the transcript has a word that is not in the dictionary: {transcript!r}") from error
    for refine in (True, False):  # first the words, then the phones in them
        decoder.start_utt()
        decoder.process_raw(samples.tobytes(), full_utt=True)
        decoder.end_utt()
        if refine:
            if decoder.hyp() is None:
                raise HostError("the transcript does not fit the recording")
            decoder.set_alignment()
    return [
        Segment(phone.start / 100, (phone.start + phone.duration) / 100, arpa_visemes(phone.name))
        for word in decoder.get_alignment()
        for phone in word
    ]


def real_speech_curves(wav: str | Path, transcript: str, fps: Fraction | float = 25) -> RealSpeech:
    """Ground truth for a 16 kHz mono recording of known words: the mouth's curves and lip gap, frame by frame.

    N = floor(seconds * fps). The truth is as good as the alignment: against exact text-to-speech times its jaw
    curve reaches a correlation of 0.89 to 0.98 (flite).
    """
    samples, rate = read_wav(wav)
    if rate != RATE:
        raise HostError(f"{wav} has {rate} samples a second; the aligner needs {RATE}")
    segments = align(samples, transcript)
    frames = int(Fraction(len(samples), RATE) * Fraction(fps))
    shape = curves(segments, frames, float(fps), samples, RATE)
    return RealSpeech(samples, segments, shape, lip_gap(shape))


def read_wav(path: str | Path) -> tuple[np.ndarray, int]:
    """(M,) int16 of a 16-bit mono WAV file and its rate."""
    import wave

    with wave.open(str(path)) as file:
        if file.getnchannels() != 1 or file.getsampwidth() != 2:
            raise HostError(f"{path} is not 16-bit mono")
        return np.frombuffer(file.readframes(file.getnframes()), np.int16), file.getframerate()
