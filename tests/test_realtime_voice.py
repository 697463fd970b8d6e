"""Voices: the embedded one really speaks, and one over HTTP is streamed from a real server."""

import asyncio
import io
import time
from importlib import metadata

import numpy as np
import pytest
import soundfile
from aiohttp import web
from clips import tone

from musetalk_core.errors import MuseTalkError
from musetalk_core.realtime.tts import PHRASE_LETTERS, VOICES, EmbeddedVoice, checked_text, phrases
from musetalk_core.remote.http_tts import HttpVoice, PcmStream

RATE = 16000


def spoken(voice, text: str, /, **options) -> np.ndarray:
    async def run():
        return [piece async for piece in voice.speak(text, options)]

    pieces = asyncio.run(run())
    assert all(piece.dtype == np.float32 and piece.ndim == 1 for piece in pieces)
    return np.concatenate(pieces) if pieces else np.zeros(0, np.float32)


@pytest.mark.parametrize("voice", VOICES)
def test_every_embedded_voice_speaks(voice):
    """Seven syllables, at 2 to 8 a second; speech has most of its energy below 4 kHz and moves from hop to hop."""
    sound = spoken(EmbeddedVoice(voice), "Anna, Maria, Roberto.")
    assert 0.9 < len(sound) / RATE < 4.5
    assert 0.02 < np.sqrt(np.mean(sound**2)) < 0.5 and np.abs(sound).max() <= 1
    spectrum = np.abs(np.fft.rfft(sound)) ** 2
    low = spectrum[np.fft.rfftfreq(len(sound), 1 / RATE) < 4000].sum()
    assert low / spectrum.sum() > 0.8
    hops = np.sqrt(np.mean(sound[: len(sound) // 320 * 320].reshape(-1, 320) ** 2, axis=1))
    assert hops.max() > 5 * np.percentile(hops, 10)


def uttered(sound: np.ndarray) -> float:
    """Seconds from the first to the last audible 20 ms; the pause behind a phrase varies with what was said before."""
    hops = np.sqrt(np.mean(sound[: len(sound) // 320 * 320].reshape(-1, 320) ** 2, axis=1))
    audible = np.nonzero(hops > 0.01)[0]
    return 0.02 * float(audible[-1] - audible[0] + 1)


def test_a_longer_text_is_longer_and_speed_shortens_it():
    voice = EmbeddedVoice()
    for _ in range(6):
        short = uttered(spoken(voice, "One two three."))
        long = uttered(spoken(voice, "One two three, four five six, seven eight nine."))
        fast = uttered(spoken(voice, "One two three.", speed=2))
        assert long > 2 * short and 0.35 < fast / short < 0.75, (short, long, fast)


def test_the_embedded_voice_has_the_licence_that_the_docs_name():
    text = metadata.distribution("py-nanotts").read_text("licenses/LICENSE.md")
    assert "Apache License" in text and "Version 2.0" in text


@pytest.mark.parametrize(
    "text",
    [
        "a" * 5000,
        "!?" * 2000,
        "1" * 4000,
        "<play file='/etc/passwd'/>",
        "a\0b\x07\ud800",
        "漢字 🙂",
        "<" * 100,
        "\n" * 50,
    ],
)
def test_odd_texts_neither_hang_nor_break_the_voice(text):
    assert all(len(piece) <= PHRASE_LETTERS + 26 and "<" not in piece for piece in phrases(text))
    assert np.isfinite(spoken(EmbeddedVoice(), text[:300])).all()


def test_phrases_keep_every_word_and_end_at_sentences():
    text = "First sentence. And the second one, which is quite a bit longer than the first, has commas! Is it so? Yes"
    pieces = phrases(text)
    assert " ".join(pieces) == text and pieces[0] == "First sentence." and pieces[-2:] == ["Is it so?", "Yes"]


def test_wrong_wishes_are_told():
    voice = EmbeddedVoice()
    for wish in ({"voice": "tlh"}, {"speed": 9}, {"pitch": "high"}, {"speed": True}):
        with pytest.raises(MuseTalkError):
            spoken(voice, "a", **wish)
    for text in ("", "  \n", "a" * 5001):
        with pytest.raises(MuseTalkError):
            checked_text(text)


def wav(samples: np.ndarray, rate: int, **options) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format="WAV", **options)
    return file.getvalue()


def over_http(answer, **options):
    """What an HttpVoice makes of a real server's answer, when its pieces came, and what was asked."""
    asked: dict = {}

    async def handle(request):
        asked.update(body=await request.json(), token=request.headers.get("Authorization"))
        return await answer(request)

    async def run():
        app = web.Application()
        app.add_routes([web.post("/speak", handle)])
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        wishes = options.pop("wishes", {})
        voice = HttpVoice(f"http://127.0.0.1:{runner.addresses[0][1]}/speak", **options)
        try:
            pieces = []
            async for piece in voice.speak("Good morning", wishes):
                pieces.append((time.monotonic(), piece))
            return pieces
        finally:
            await runner.cleanup()

    return asyncio.run(run()), asked


def in_pieces(data: bytes, kind: str, piece: int = 3001):
    async def answer(request):
        reply = web.StreamResponse(headers={"Content-Type": kind})
        await reply.prepare(request)
        for start in range(0, len(data), piece):
            await reply.write(data[start : start + piece])
            await asyncio.sleep(0.01)
        return reply

    return answer


@pytest.mark.parametrize("kind", ["wav16", "float", "raw", "stereo", "flac"])
def test_sound_of_a_speech_server_is_passed_on_while_it_arrives(kind):
    rate = 24000
    samples = tone(0.5, rate)
    forms = {
        "wav16": (wav(samples, rate), "audio/wav"),
        "float": (wav(samples, rate, subtype="FLOAT"), "audio/x-wav"),
        "raw": ((samples * 32767).astype("<i2").tobytes(), "audio/pcm"),
        "stereo": (wav(np.stack([samples * 2, samples * 0], 1), rate), "audio/wav"),
        "flac": (None, "audio/flac"),
    }
    data, content_type = forms[kind]
    if data is None:
        file = io.BytesIO()
        soundfile.write(file, samples, rate, format="FLAC")
        data = file.getvalue()
    pieces, asked = over_http(
        in_pieces(data, content_type),
        token="t",
        text_field="input",
        options={"model": "m", "voice": "a"},
        wishes={"voice": "b", "model": "evil"},
    )
    assert asked == {"body": {"input": "Good morning", "model": "m", "voice": "b"}, "token": "Bearer t"}
    sound = np.concatenate([piece for _, piece in pieces])
    assert abs(len(sound) - 8000) <= 40
    wanted = tone(0.5, RATE)[: len(sound)]
    assert np.abs(sound[400:7000] - wanted[400:7000]).max() < 0.01
    assert len(pieces) == 1 if kind == "flac" else len(pieces) > 3


def test_a_wav_that_is_streamed_with_a_wrong_length_is_heard_to_its_end():
    data = bytearray(wav(tone(0.2), RATE))
    data[4:8] = data[40:44] = b"\xff\xff\xff\xff"
    stream = PcmStream(None)
    pieces = [stream.add(bytes(data[k : k + 7])) for k in range(0, len(data), 7)]
    assert len(np.concatenate([*pieces, stream.end()])) == 3200


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [
        (b"no sound", "audio/wav", 200),
        (b"", "audio/wav", 200),
        (b"<html>", "text/html", 200),
        (wav(tone(0.1), RATE, subtype="PCM_24"), "audio/wav", 200),
        (b"busy", "text/plain", 500),
        (b"", "text/plain", 302),
    ],
)
def test_a_speech_server_that_sends_no_sound_is_told(content, kind, status):
    async def answer(request):
        return web.Response(status=status, body=content, headers={"Content-Type": kind, "Location": "/other"})

    with pytest.raises(MuseTalkError):
        over_http(answer)


def test_a_speech_server_that_is_not_there_is_told():
    async def run():
        async for _ in HttpVoice("http://127.0.0.1:9/").speak("a", {}):
            pass

    with pytest.raises(MuseTalkError, match="127.0.0.1:9"):
        asyncio.run(run())
