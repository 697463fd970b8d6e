"""Voice activity on real speech with known pauses, and what the pipeline shows in them."""

import sys
import tracemalloc
from fractions import Fraction

import numpy as np
import pytest
import soundfile
import torch
from clips import moving_portrait, write_video
from comfy_client import HOST_ROOT, REPOSITORY

sys.path.insert(0, str(REPOSITORY / "scripts"))
from demo_inputs import make_speech

from musetalk_core.__main__ import main
from musetalk_core.audio_features import extract_features
from musetalk_core.engine import WeightChoice, load_engine
from musetalk_core.errors import MuseTalkError
from musetalk_core.evaluation.lips import find_landmarks, lip_gap
from musetalk_core.media.audio import AudioArray
from musetalk_core.media.source import TensorFrames
from musetalk_core.pipeline import Report, lip_sync
from musetalk_core.settings import LipSyncSettings, SilenceSettings
from musetalk_core.silence import GatedTokens, SpeechWeights, gate
from musetalk_core.speech import SpeechDetector, detect_speech
from musetalk_core.tasks import stream_tokens
from musetalk_core.weights.folders import ModelFolders

RATE, FPS = 16000, Fraction(25)
LEVEL = SilenceSettings().silence_level
FRAME = 0.04


@pytest.fixture(scope="module")
def speech() -> np.ndarray:
    """A LibriVox recording (public domain), without its ends: it begins and ends inside words."""
    path = HOST_ROOT / "demo-inputs" / "demo_speech.wav"
    path.parent.mkdir(parents=True, exist_ok=True)
    make_speech(path)
    return soundfile.read(path, dtype="float32")[0][round(0.36 * RATE) : round(6.6 * RATE)]


def quiet(seconds: float, decibels: float = -75.0) -> np.ndarray:
    """Room noise: white, of a level in dB of full scale."""
    noise = np.random.default_rng(7).normal(0, 10 ** (decibels / 20), round(seconds * RATE))
    return noise.astype(np.float32)


def breath(seconds: float, decibels: float) -> np.ndarray:
    """Noise between 300 and 3500 Hz that swells and fades, at most `decibels` of full scale in the mean of 25 ms."""
    count = round(seconds * RATE)
    spectrum = np.fft.rfft(np.random.default_rng(3).normal(size=count))
    hertz = np.fft.rfftfreq(count, 1 / RATE)
    spectrum[(hertz < 300) | (hertz > 3500)] = 0
    noise = np.fft.irfft(spectrum, count)
    return (noise / noise.std() * 10 ** (decibels / 20) * np.hanning(count)).astype(np.float32)


def hum(seconds: float) -> np.ndarray:
    """Mains hum with its harmonics, as loud as soft speech (-33 dB)."""
    t = np.arange(round(seconds * RATE)) / RATE
    waves = (np.sin(2 * np.pi * 50 * k * t + k) / k for k in range(1, 12))
    return (0.025 * sum(waves)).astype(np.float32)


def spans(active: np.ndarray) -> list[tuple[float, float]]:
    """Seconds from and to which somebody speaks."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], active.astype(int), [0]])))
    return [(float(a) / 100, float(b) / 100) for a, b in edges.reshape(-1, 2)]


def found(samples: np.ndarray, live: bool = False) -> list[tuple[float, float]]:
    return spans(np.concatenate(list(detect_speech(iter([samples]), LEVEL, live))))


def spliced(speech: np.ndarray, pause: np.ndarray) -> tuple[np.ndarray, list[tuple[float, float]]]:
    """pause, speech, pause, speech, pause; and when there is speech."""
    sound = np.concatenate([pause, speech, pause, speech, pause])
    one, two = len(pause) / RATE, len(speech) / RATE
    return sound, [(one, one + two), (2 * one + two, 2 * one + 2 * two)]


@pytest.mark.parametrize(
    "pause", [np.zeros(2 * RATE, np.float32), quiet(3), quiet(0.8)], ids=["digital", "room", "short"]
)
def test_pauses_in_speech_are_found_within_a_frame(speech, pause):
    sound, truth = spliced(speech, pause)
    measured = found(sound)
    assert len(measured) == 2
    assert np.abs(np.array(measured) - truth).max() <= FRAME


def test_speech_of_any_loudness_is_found(speech):
    for gain in (0.1, 0.3, 3.0):
        sound, truth = spliced(speech, quiet(2, -90))
        measured = found((sound * gain).clip(-1, 1))
        assert len(measured) == 2 and np.abs(np.array(measured) - truth).max() <= 2 * FRAME


def test_steady_hum_does_not_open_it_and_speech_over_hum_does(speech):
    sound, truth = spliced(speech, quiet(3))
    assert found(hum(8)) == []
    setting_in = np.concatenate([quiet(4), hum(5), quiet(4)])
    assert found(setting_in) == []
    measured = found(sound + hum(len(sound) / RATE))
    inside = [(a, b) for a, b in measured if any(a > s - 0.1 and b < e + 0.1 for s, e in truth)]
    assert inside == measured and sum(b - a for a, b in measured) > 0.75 * sum(b - a for a, b in truth)


@pytest.mark.parametrize("decibels", [-55, -46])
def test_breathing_between_words_does_not_open_it(speech, decibels):
    """The loudest 25 ms of the recording have about -17 dB."""
    pause = np.concatenate([quiet(1), breath(0.8, decibels), quiet(0.7)])
    pause += quiet(len(pause) / RATE)
    sound, truth = spliced(speech, pause)
    measured = found(sound)
    assert len(measured) == 2 and np.abs(np.array(measured) - truth).max() <= FRAME


def test_a_click_is_no_speech(speech):
    pause = quiet(3)
    pause[RATE : RATE + 160] = 0.5
    measured = found(spliced(speech, pause)[0])
    assert len(measured) == 2


@pytest.mark.parametrize("live", [False, True])
@pytest.mark.parametrize("size", [1, 159, 160, 777, 16000, 100000])
def test_blocks_of_any_size_give_the_same_decisions(speech, size, live):
    sound = spliced(speech[: RATE if size == 1 else None], quiet(1.003))[0]
    whole = np.concatenate(list(detect_speech(iter([sound]), LEVEL, live)))
    parts = (sound[k : k + size] for k in range(0, len(sound), size))
    assert np.array_equal(np.concatenate(list(detect_speech(parts, LEVEL, live))), whole)
    assert len(whole) == -(-len(sound) // 160)


@pytest.mark.parametrize("samples", [0, 1, 159, 1600])
def test_sounds_shorter_than_a_syllable_have_no_speech(samples):
    active = np.concatenate(list(detect_speech(iter([quiet(1)[:samples]]), LEVEL)))
    assert len(active) == -(-samples // 160) and not active.any()


def test_live_decisions_never_wait_and_never_look_ahead(speech):
    sound = spliced(speech, quiet(2))[0]
    detector = SpeechDetector(LEVEL, live=True)
    heard = np.concatenate([detector.feed(sound[k : k + 320]) for k in range(0, len(sound), 320)])
    assert len(heard) == len(sound) // 160
    changed = sound.copy()
    changed[5 * RATE :] = 0
    again = np.concatenate(list(detect_speech(iter([changed]), LEVEL, True)))
    assert np.array_equal(heard[:500], again[:500])
    first = spans(heard)[0]
    assert 2 <= first[0] <= 2.1, "opens within 0.1 s"


def test_memory_does_not_grow_with_the_sound():
    def peak(seconds: int) -> int:
        tracemalloc.start()
        for _ in detect_speech((quiet(1) for _ in range(seconds)), LEVEL):
            pass
        top = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return top

    assert peak(60) < 1.1 * peak(15)


def weights_of(sound: np.ndarray, fade: int, fps: Fraction = FPS, live: bool = False) -> np.ndarray:
    frames = int(len(sound) * fps / RATE)
    settings = SilenceSettings("close", fade)
    return SpeechWeights(lambda: iter(np.array_split(sound, 7)), frames, fps, settings, live).weights(0, frames)


@pytest.mark.parametrize("fps", [FPS, Fraction(30000, 1001)])
def test_a_fade_is_done_when_speech_begins_and_starts_when_it_ends(speech, fps):
    sound, truth = spliced(speech, quiet(2))
    hard, soft = weights_of(sound, 0, fps), weights_of(sound, 4, fps)
    assert set(hard.tolist()) == {0.0, 1.0}
    speaking = np.flatnonzero(hard)
    frames = np.arange(len(hard))
    distance = np.abs(frames[:, None] - speaking).min(1)
    assert np.allclose(soft, np.maximum(0, 1 - distance / 5), atol=1e-6)
    starts = frames[1:][np.diff(hard) > 0]
    assert np.abs(starts / float(fps) - [start for start, _ in truth]).max() <= 2 / float(fps)


def test_a_live_fade_begins_with_the_speech(speech):
    sound = spliced(speech, quiet(2))[0]
    hard, soft = weights_of(sound, 0, live=True), weights_of(sound, 3, live=True)
    start = int(np.flatnonzero(hard)[0])
    assert soft[start - 1 : start + 5].tolist() == [0, 0.25, 0.5, 0.75, 1, 1]


def test_weights_may_be_asked_for_in_any_order(speech):
    sound = spliced(speech, quiet(1))[0]
    frames = len(sound) // 640
    whole = weights_of(sound, 3)
    speaking = SpeechWeights(lambda: iter([sound]), frames, FPS, SilenceSettings("close", 3))
    for start, stop in ((0, 8), (8, 16), (100, 130), (3, 60), (60, 60), (frames - 1, frames)):
        assert np.array_equal(speaking.weights(start, stop), whole[start:stop])
    with pytest.raises(MuseTalkError, match=f"lasts {frames} frames"):
        speaking.weights(0, frames + 1)


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    folders = ModelFolders.default(tmp_path_factory.mktemp("models"))
    return load_engine(WeightChoice("demo"), folders, torch.device("cpu"), torch.float32)


def settings_of(**values):
    return LipSyncSettings(batch_size=8).changed("test", values)


def gated(engine, sound, settings):
    tokens = extract_features(engine.audio_encoder, sound, Fraction(len(sound), RATE), FPS)
    return tokens, gate(tokens, engine.audio_encoder, lambda: iter([sound]), settings)


@pytest.fixture(scope="module")
def talk(speech):
    """0.6 s breath, 0.8 s of speech, 0.6 s breath."""
    pause = breath(0.6, -46) + quiet(0.6, -80)
    return np.concatenate([pause, speech[: round(0.8 * RATE)], pause])


def test_off_changes_nothing(engine, talk):
    tokens, same = gated(engine, talk, settings_of())
    assert same is tokens


def test_closing_fades_to_the_tokens_of_digital_silence(engine, talk):
    settings = settings_of(silence="close", silence_fade=2)
    tokens, closed = gated(engine, talk, settings)
    assert isinstance(closed, GatedTokens) and closed.frames == tokens.frames == 50
    zeros = np.zeros(2 * RATE, np.float32)
    silent = extract_features(engine.audio_encoder, zeros, Fraction(2), FPS).tokens(25, 26)
    weights = torch.from_numpy(weights_of(talk, 2))[:, None, None]
    got, spoken = closed.tokens(0, 50), tokens.tokens(0, 50)
    assert {0.0, 1.0} < set(weights.flatten().tolist())
    assert torch.equal(got[weights.flatten() == 1], spoken[weights.flatten() == 1])
    assert torch.allclose(got, spoken * weights + silent * (1 - weights), atol=1e-5)
    assert (closed.shown(0, 50) == 1).all()


def test_a_streamed_sound_is_gated_as_the_whole_one(engine, talk):
    settings = settings_of(silence="close")
    streamed = stream_tokens(engine.audio_encoder, AudioArray(talk[None], RATE), FPS, settings)
    assert torch.equal(streamed.tokens(0, 50), gated(engine, talk, settings)[1].tokens(0, 50))


def run(engine, talk, settings, frames):
    report = Report()
    tokens = gated(engine, talk, settings)[1]
    made = list(lip_sync(TensorFrames(frames, FPS), tokens, 50, engine.models(settings), settings, report))
    return torch.stack(made), report


def test_the_original_shows_bit_by_bit_where_nobody_speaks(engine, talk):
    frames = torch.from_numpy(moving_portrait(50))
    plain, _ = run(engine, talk, settings_of(), frames)
    made, report = run(engine, talk, settings_of(silence="original", silence_fade=2), frames)
    weights = weights_of(talk, 2)
    same = (made == frames).flatten(1).all(1).numpy()
    assert np.array_equal(same, weights == 0)
    for k in np.flatnonzero(weights == 1):
        assert (made[k].int() - plain[k].int()).abs().max() <= 1
    assert report.silent == (weights == 0).sum() and report.found == 50 - report.silent
    assert f"{report.silent} kept in silence" in report.text()


def test_silence_alone_is_no_missing_face(engine):
    frames = torch.from_numpy(moving_portrait(1))
    made, report = run(engine, quiet(2, -80), settings_of(silence="original"), frames)
    assert (made == frames).all() and report.silent == 50


def test_the_mouth_stays_closed_in_breath(engine, talk):
    """The gap of the lips over the eye distance; 0.05 and less is closed (musetalk_core.evaluation.lips)."""
    frames = torch.from_numpy(moving_portrait(1, 384))
    made, _ = run(engine, talk, settings_of(silence="close", silence_fade=2), frames)
    gap = lip_gap(find_landmarks(made, engine.backends.get("mediapipe").detector))
    weights = weights_of(talk, 2)
    assert np.median(gap[weights == 0]) < 0.03 < np.max(gap[weights == 1])


def test_the_command_takes_it(tmp_path, talk):
    video = write_video(tmp_path / "face.mp4", moving_portrait(10))
    soundfile.write(tmp_path / "talk.wav", talk, RATE)
    output = tmp_path / "out.mp4"
    words = ["infer", "--video", str(video), "--audio", str(tmp_path / "talk.wav"), "--output", str(output)]
    assert main([*words, "--version", "demo", "--silence", "original", "--silence-fade", "1"]) == 0
    assert output.is_file()


@pytest.mark.parametrize(
    ("name", "value"), [("silence", "mute"), ("silence_fade", -1), ("silence_fade", 1.5), ("silence_level", 5)]
)
def test_bad_values_are_refused_by_name(name, value):
    with pytest.raises(MuseTalkError, match=name):
        settings_of(**{name: value})
