"""Features of sound that still comes in against those of the whole file, and the lips made of both."""

import sys
from fractions import Fraction

import numpy as np
import pytest
import torch
from comfy_client import REPOSITORY
from transformers import WhisperConfig
from transformers.models.whisper.modeling_whisper import WhisperEncoder as Whisper

sys.path.insert(0, str(REPOSITORY / "scripts"))

from realtime_parts import FPS, RATE, demo_speech, mouths_live_and_offline

from musetalk_core.audio_features import WhisperEncoder, extract_features
from musetalk_core.engine import WeightChoice, load_engine
from musetalk_core.evaluation.lips import correlation, find_landmarks, lip_gap
from musetalk_core.realtime.features import LOOKAHEAD_ROWS, LiveFeatures, LocalEncoder, SampleRing
from musetalk_core.weights.folders import ModelFolders


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory):
    folders = ModelFolders({"musetalk": [tmp_path_factory.mktemp("models")]})
    return load_engine(WeightChoice("demo"), folders, torch.device("cpu"), torch.float32)


@pytest.fixture(scope="module")
def speech() -> np.ndarray:
    return demo_speech()


@pytest.fixture(scope="module")
def whisper() -> WhisperEncoder:
    """A random small Whisper whose layers really change their input."""
    torch.manual_seed(2)
    module = Whisper(WhisperConfig(d_model=16, encoder_layers=2, encoder_attention_heads=2, encoder_ffn_dim=16))
    return WhisperEncoder(module.train(False), "cpu", torch.float32)


def heard(encoder, sound: np.ndarray, pieces: list[int], first: int = 0) -> torch.Tensor:
    """Tokens of the frames from `first` on, each made as soon as it can be."""
    ring = SampleRing()
    features = LiveFeatures(ring, 2, 2)
    parts, start, done = [], 0, first
    for piece in [*pieces, len(sound)]:
        ring.append(sound[start : start + piece])
        start = min(start + piece, len(sound))
        if start == len(sound):
            ring.finish()
        while done < min(features.frames, len(sound) // 640):
            stop = min(done + 8, features.frames, len(sound) // 640)
            parts.append(features.tokens(encoder, done, stop))
            done = stop
    return torch.cat(parts)


def whole(encoder, sound: np.ndarray) -> torch.Tensor:
    features = extract_features(encoder, sound, Fraction(len(sound), RATE), FPS)
    return features.tokens(0, features.frames)


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def test_a_ring_gives_the_same_samples_for_any_pieces_in_bounded_memory():
    rng = np.random.default_rng(3)
    sound = rng.normal(0, 1, 50 * RATE).astype(np.float32)
    sound[RATE // 2] = np.nan
    ring, start = SampleRing(), 0
    while start < len(sound):
        piece = int(rng.choice([0, 1, 639, 5000, 100000]))
        ring.append(sound[start : start + piece])
        start += piece
        low = max(ring.end - RATE, 0)
        assert np.array_equal(ring.read(low, ring.end), np.nan_to_num(sound[low : ring.end]))
        ring.forget(ring.end - 2 * RATE)
        assert ring.held <= 2 * (2 * RATE + 2 * 100000)
    assert ring.end == len(sound) and not ring.read(ring.end, ring.end + 9).any()


def test_a_frame_can_be_made_when_its_rows_and_the_lookahead_were_fed(engine):
    """Frame i hears the rows up to 2 i + 5, so the samples before (2 i + 6) * 320; 640 lookahead samples are 2 rows."""
    ring = SampleRing()
    features = LiveFeatures(ring, 2, 2)
    assert isinstance(engine.audio_encoder, LocalEncoder)
    for k in range(40):
        for count, frames in ((639, None), (1, max(k + 1 - 2 - LOOKAHEAD_ROWS // 2, 0))):
            ring.append(np.zeros(count, np.float32))
            if frames is not None:
                assert features.frames == frames
    ring.append(np.zeros(5, np.float32))
    ring.finish()
    assert features.frames == 41


def test_whisper_hears_a_known_utterance_as_offline(whisper, speech):
    expected = whole(whisper, speech)
    assert torch.equal(heard(whisper, speech, []), expected)


def test_whisper_beyond_30_seconds_takes_the_windows_of_offline(whisper, speech):
    sound = np.tile(speech, 5)
    expected, found = whole(whisper, sound), heard(whisper, sound, [])
    for same in (slice(0, 660), slice(680, None)):  # at 27 s a batch of 8 frames lies in two windows
        assert torch.allclose(found[same], expected[same], atol=1e-5)
    assert torch.isfinite(found).all()


def test_the_demo_encoder_hears_a_part_as_offline_but_for_the_quietest_sounds(engine, speech):
    """Whisper's spectrum is cut 80 dB below the loudest moment of what is heard at once: parts differ where quiet."""
    encoder = engine.audio_encoder
    assert relative(heard(encoder, speech, []), whole(encoder, speech)) < 0.05
    part = encoder.encode_part(speech[: 3 * RATE])
    inner = slice(0, 150 - encoder.reach)
    alone = encoder.encode(speech[: 3 * RATE])
    assert torch.allclose(part[inner], alone[inner], atol=1e-4)


def test_the_demo_encoder_hears_a_microphone_nearly_as_offline(engine, speech):
    found = heard(engine.audio_encoder, speech, [640] * (len(speech) // 640))
    assert relative(found, whole(engine.audio_encoder, speech)) < 0.16


def test_lips_of_a_microphone_follow_as_those_of_a_file(engine, speech):
    """One picture, so that all that moves is the mouth: the gap between the lips correlates with at least 0.99."""
    live, offline = mouths_live_and_offline(engine, speech[: round(3.6 * RATE)])
    detector = engine.backends.get("mediapipe").detector
    gaps = [lip_gap(find_landmarks(map(torch.tensor, pictures), detector)) for pictures in (live, offline)]
    assert len(live) > 50 and correlation(*gaps) >= 0.99
    assert np.abs(np.stack(live).astype(int) - np.stack(offline)).mean() < 1.0
