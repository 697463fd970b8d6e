"""Audio features against Whisper's published formulas written out here, and MuseTalk's published chunking."""

import math
from dataclasses import replace
from fractions import Fraction

import librosa
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import WhisperConfig
from transformers.models.whisper.modeling_whisper import WhisperEncoder as Whisper

from musetalk_core.audio_features import (
    AudioFeatures,
    StreamingFeatures,
    WhisperEncoder,
    extract_features,
    plan_windows,
)
from musetalk_core.errors import MuseTalkError

NTSC = Fraction(30000, 1001)


def make_whisper(width=64, layers=4, ffn=128, seed=1):
    """A random Whisper encoder whose layers really change their input."""
    torch.manual_seed(seed)
    config = WhisperConfig(d_model=width, encoder_layers=layers, encoder_attention_heads=1, encoder_ffn_dim=ffn)
    whisper = Whisper(config).train(False)
    for parameter in whisper.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.05)
    return whisper


@pytest.fixture(scope="module")
def whisper():
    return make_whisper()


@pytest.fixture(scope="module")
def encoder(whisper):
    return WhisperEncoder(whisper, "cpu", torch.float32)


@pytest.fixture(scope="module")
def small_encoder():
    return WhisperEncoder(make_whisper(width=8, layers=1, ffn=8, seed=2), "cpu", torch.float32)


def speech(seconds, seed=0):
    """Noise whose loudness and pitch change, so that rows differ."""
    samples = int(seconds * 16000)
    rng = np.random.default_rng(seed)
    t = np.arange(samples) / 16000
    voice = np.sin(2 * np.pi * (120 * t + 30 * np.sin(2 * t))) * (0.5 + 0.5 * np.sin(7 * t))
    return (0.3 * voice + 0.05 * rng.standard_normal(samples)).astype(np.float32)


def mel_by_formula(samples):
    """Whisper's log-mel picture (80,3000) in float64, from its description: Radford et al. 2022, section 2.2."""
    padded = np.zeros(480000)
    padded[: len(samples)] = samples
    mirrored = np.pad(padded, 200, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(mirrored, 400)[::160][:3000]
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    power = np.abs(np.fft.rfft(frames * hann, axis=1)) ** 2
    filters = librosa.filters.mel(sr=16000, n_fft=400, n_mels=80, norm="slaney", htk=False)
    logs = np.log10(np.maximum(filters @ power.T, 1e-10))
    return (np.maximum(logs, logs.max() - 8) + 4) / 4


def states_by_formula(whisper, samples):
    """Hidden states (1500,S,D): pre-norm transformer encoder on two convolutions, in float64."""
    weight = {name: tensor.double() for name, tensor in whisper.state_dict().items()}

    def norm(x, name):
        return F.layer_norm(x, x.shape[-1:], weight[f"{name}.weight"], weight[f"{name}.bias"])

    def linear(x, name):
        return F.linear(x, weight[f"{name}.weight"], weight.get(f"{name}.bias"))

    x = torch.from_numpy(mel_by_formula(samples))[None]
    x = F.gelu(F.conv1d(x, weight["conv1.weight"], weight["conv1.bias"], padding=1))
    x = F.gelu(F.conv1d(x, weight["conv2.weight"], weight["conv2.bias"], stride=2, padding=1))
    x = x[0].T + weight["embed_positions.weight"]
    states = [x]
    for k in range(whisper.config.encoder_layers):
        name = f"layers.{k}"
        y = norm(x, f"{name}.self_attn_layer_norm")
        q, key, v = (linear(y, f"{name}.self_attn.{part}_proj") for part in "qkv")
        attention = torch.softmax(q @ key.T / math.sqrt(q.shape[-1]), dim=-1)
        x = x + linear(attention @ v, f"{name}.self_attn.out_proj")
        y = norm(x, f"{name}.final_layer_norm")
        x = x + linear(F.gelu(linear(y, f"{name}.fc1")), f"{name}.fc2")
        states.append(x)
    states[-1] = norm(x, "layer_norm")
    return torch.stack(states, dim=1)


def chunks_by_formula(hidden, samples, fps, left=2, right=2):
    """MuseTalk's chunking for an integer fps: zeros around the rows, then one slice a frame."""
    multiple = math.ceil(50 / fps)
    kept = hidden[: samples * 50 // 16000]
    before = torch.zeros(multiple * left, *kept.shape[1:])
    after = torch.zeros(multiple * 3 * right, *kept.shape[1:])
    rows = torch.cat([before, kept, after])
    frames = range(samples * fps // 16000)
    return torch.stack([rows[i * 50 // fps : i * 50 // fps + 2 * (left + right + 1)].flatten(0, 1) for i in frames])


def relative(result, expected):
    return ((result - expected).abs().max() / expected.abs().max()).item()


@pytest.mark.parametrize("seconds", [0.3, 30])
def test_encoder_equals_the_published_formulas(whisper, encoder, seconds):
    result = encoder.encode(speech(seconds))
    expected = states_by_formula(whisper, speech(seconds))
    assert result.shape == (1500, 5, 64) and result.dtype == torch.float32
    assert (encoder.states, encoder.width, encoder.extractor) == (5, 64, "whisper-5x64")
    for state in range(5):
        assert relative(result[:, state], expected[:, state]) < 1e-4


def test_upstream_segmentation_and_chunks_for_61_seconds(whisper, encoder):
    samples = speech(61)
    pieces = [samples[:480000], samples[480000:960000], samples[960000:]]
    hidden = torch.cat([states_by_formula(whisper, piece) for piece in pieces])
    features = extract_features(encoder, samples, Fraction(61), Fraction(25), segmentation="upstream")
    assert features.hidden.shape == (3050, 5, 64)
    assert relative(features.hidden, hidden[:3050]) < 1e-4
    for fps, left, right in [(25, 2, 2), (30, 2, 2), (48, 1, 3), (49, 3, 1)]:
        expected = chunks_by_formula(hidden, len(samples), fps, left, right)
        source = replace(features, fps=Fraction(fps), padding_left=left, padding_right=right)
        assert source.frames == len(expected) == 61 * fps
        assert relative(source.tokens(0, source.frames), expected) < 1e-4


def test_overlap_keeps_every_row_3_seconds_from_inner_edges(whisper, encoder):
    samples = speech(61, seed=3)
    features = extract_features(encoder, samples, Fraction(61), Fraction(25))
    windows = [states_by_formula(whisper, samples[k * 384000 : k * 384000 + 480000]) for k in range(3)]
    for row in range(3050):
        fit = [
            k
            for k in range(3)
            if 0 <= row - 1200 * k < 1500
            and (k == 0 or row - 1200 * k >= 150)
            and (k == 2 or row + 1 <= 1200 * k + 1350)
        ]
        assert len(fit) == 1
        expected = windows[fit[0]][row - 1200 * fit[0]]
        torch.testing.assert_close(features.hidden[row].double(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("samples", [320, 479999, 480000, 480001, 480321, 864000, 864001, 57600000])
@pytest.mark.parametrize("segmentation", ["overlap", "upstream"])
def test_windows_cover_all_rows_once(samples, segmentation):
    windows = plan_windows(samples, segmentation)
    rows = [(window.first_row, window.stop_row) for window in windows]
    assert rows[0][0] == 0 and rows[-1][1] == samples // 320
    assert all(before[1] == after[0] for before, after in zip(rows, rows[1:], strict=False))
    hop = 24 if segmentation == "overlap" else 30
    assert [window.start for window in windows] == [k * hop * 16000 for k in range(len(windows))]
    assert all(0 < window.stop - window.start <= 480000 for window in windows)
    assert all(320 * window.stop_row <= window.stop for window in windows)


def test_segmentations_agree_up_to_30_seconds(encoder):
    samples = speech(30)
    both = [extract_features(encoder, samples, Fraction(30), NTSC, segmentation=s) for s in ("overlap", "upstream")]
    assert torch.equal(both[0].hidden, both[1].hidden)


@pytest.mark.parametrize("fps", [Fraction(6), Fraction(12), Fraction(24000, 1001), NTSC, Fraction(60), Fraction(120)])
def test_rows_of_a_frame_by_integer_arithmetic(fps):
    """Rows carry their own number + 1, so a token shows which row it is and 0 shows padding."""
    hidden = (torch.arange(100) + 1.0)[:, None, None].expand(100, 2, 3)
    features = AudioFeatures(hidden, Fraction(2), fps, padding_left=2, padding_right=1)
    tokens = features.tokens(0, features.frames)
    assert tokens.shape == (2 * fps.numerator // fps.denominator, 2 * 4 * 2, 3)
    for i, token in enumerate(tokens):
        start = (i * 50 * fps.denominator) // fps.numerator - 4
        expected = [row + 1 if 0 <= row < 100 else 0 for row in range(start, start + 8) for _ in range(2)]
        assert token[:, 0].tolist() == expected


def test_tokens_run_over_states_within_a_row():
    hidden = torch.arange(50 * 5).float().reshape(50, 5, 1)
    tokens = AudioFeatures(hidden, Fraction(1), Fraction(25)).tokens(10, 11)
    assert tokens[0, :, 0].tolist() == list(range(16 * 5, 26 * 5))


def blocks_of(samples, seed):
    """Blocks of random sizes, some empty."""

    def blocks():
        rng = np.random.default_rng(seed)
        start = 0
        while start < len(samples):
            size = int(rng.choice([0, 1, 700, 16000, 100000]))
            yield samples[start : start + size]
            start += size

    return blocks


@pytest.mark.parametrize("segmentation", ["overlap", "upstream"])
@pytest.mark.parametrize(("step", "seed"), [(1, 0), (8, 1), (333, 2), (10**6, 3)])
def test_streaming_equals_whole(small_encoder, segmentation, step, seed):
    samples = speech(61.013, seed)
    seconds = Fraction(len(samples), 16000)
    whole = extract_features(small_encoder, samples, seconds, NTSC, 2, 3, segmentation)
    stream = StreamingFeatures(small_encoder, blocks_of(samples, seed), len(samples), seconds, NTSC, 2, 3, segmentation)
    assert stream.frames == whole.frames and stream.fps == NTSC
    for start in range(0, whole.frames, step):
        stop = min(start + step, whole.frames)
        assert torch.equal(stream.tokens(start, stop), whole.tokens(start, stop))


def test_streaming_skips_and_goes_back(small_encoder):
    samples = speech(80)
    whole = extract_features(small_encoder, samples, Fraction(80), Fraction(25))
    stream = StreamingFeatures(small_encoder, blocks_of(samples, 4), len(samples), Fraction(80), Fraction(25))
    for start, stop in [(1900, 1910), (1905, 2000), (30, 30), (0, 9), (0, 9), (700, 1500)]:
        assert torch.equal(stream.tokens(start, stop), whole.tokens(start, stop))


def test_streaming_memory_is_bounded_for_10_minutes(small_encoder):
    samples = speech(600)
    stream = StreamingFeatures(small_encoder, blocks_of(samples, 5), len(samples), Fraction(600), Fraction(25))
    held = []
    for start in range(0, stream.frames, 50):
        tokens = stream.tokens(start, start + 50)
        held.append(stream.held_rows)
        assert torch.isfinite(tokens).all()
    assert stream.frames == 15000 and max(held) <= 2 * 1500


def test_half_precision_encoder_gives_float32(whisper, encoder):
    exact = encoder.encode(speech(1))
    half = WhisperEncoder(make_whisper().to(torch.bfloat16), "cpu", torch.bfloat16).encode(speech(1))
    assert half.dtype == torch.float32
    assert relative(half, exact) < 0.05


def test_samples_that_are_not_numbers_are_silence(small_encoder):
    samples = speech(2)
    broken = samples.copy()
    broken[1000:1100] = np.nan
    broken[1100] = np.inf
    samples[1000:1101] = 0
    expected = extract_features(small_encoder, samples, Fraction(2), Fraction(25))
    assert torch.equal(extract_features(small_encoder, broken, Fraction(2), Fraction(25)).hidden, expected.hidden)
    assert np.isnan(broken[1000])


def test_audio_shorter_than_a_feature_row_is_silent_context(small_encoder):
    features = extract_features(small_encoder, speech(0.015), Fraction(15, 1000), Fraction(120))
    assert features.frames == 1 and not features.tokens(0, 1).any()


def test_bad_audio_is_refused(small_encoder):
    with pytest.raises(MuseTalkError, match="0 samples|less than one frame"):
        extract_features(small_encoder, np.zeros(0, np.float32), Fraction(0), Fraction(25))
    with pytest.raises(MuseTalkError, match="less than one frame"):
        extract_features(small_encoder, speech(0.0399), Fraction(399, 10000), Fraction(25))
    with pytest.raises(MuseTalkError, match="less than one frame"):
        StreamingFeatures(small_encoder, blocks_of(speech(0.02), 0), 320, Fraction(2, 100), Fraction(25))
    features = extract_features(small_encoder, speech(1), Fraction(1), Fraction(25))
    for start, stop in [(-1, 3), (3, 2), (20, 26)]:
        with pytest.raises(MuseTalkError, match="lasts 25 frames"):
            features.tokens(start, stop)


def test_a_stream_that_ends_early_is_refused(small_encoder):
    stream = StreamingFeatures(small_encoder, blocks_of(speech(10), 0), 12 * 16000, Fraction(12), Fraction(25))
    with pytest.raises(MuseTalkError, match=r"10\.00 s instead of 12\.00 s"):
        stream.tokens(0, 1)


def test_a_stream_one_sample_short_is_padded(small_encoder):
    samples = speech(10)
    whole = extract_features(small_encoder, samples[:-1], Fraction(10), Fraction(25))
    stream = StreamingFeatures(small_encoder, blocks_of(samples[:-1], 0), len(samples), Fraction(10), Fraction(25))
    assert torch.equal(stream.tokens(0, 240), whole.tokens(0, 240))
