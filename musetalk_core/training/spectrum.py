"""Whisper's log-mel spectrum in torch, in two steps, so that sound can be altered between them."""

import math
from functools import lru_cache

import numpy as np
import torch
from torch.nn import functional as F

FFT, HOP = 400, 160  # samples at 16 kHz: 25 ms and 10 ms
BINS = 80
RANGE = 8.0  # decades below the loudest that are kept
FLOOR = 1e-10


@lru_cache(maxsize=1)
def mel_filters() -> torch.Tensor:
    """Whisper's mel filters (201,80) float32, from transformers."""
    from transformers import WhisperFeatureExtractor

    return torch.from_numpy(np.asarray(WhisperFeatureExtractor().mel_filters, np.float32))


def log_mel(samples: np.ndarray) -> torch.Tensor:
    """log10 of the mel power (80, M // 160) float32 of (M,) int16 samples at 16 kHz, not yet normalised."""
    wave = torch.from_numpy(samples.astype(np.float32) / 32768)
    window = torch.hann_window(FFT)
    spectrum = torch.stft(wave, FFT, HOP, window=window, return_complex=True)[:, :-1].abs().square()
    return (mel_filters().T @ spectrum).clamp(min=FLOOR).log10()


def normalised(mel: torch.Tensor) -> torch.Tensor:
    """Whisper's normalisation of (...,80,n): cut 8 decades below the loudest, then (x + 4) / 4."""
    loudest = mel.amax((-2, -1), keepdim=True)
    return (torch.maximum(mel, loudest - RANGE) + 4) / 4


def altered(mel: torch.Tensor, draw: np.random.Generator) -> torch.Tensor:
    """Another voice, room and microphone for a log-mel (80,n): what makes synthetic voices stand for real ones.

    In turn: the frequency axis stretched by 0.88 to 1.14 (another vocal tract), a smooth equaliser of up to +-0.6
    decades, a decaying echo, steady noise 2.2 to 6 decades below the loudest, sometimes a low-pass.
    """
    out = _stretched(mel, float(draw.uniform(0.88, 1.14)))
    knots = torch.from_numpy(draw.uniform(-0.6, 0.6, (1, 1, 6)).astype(np.float32))
    out = out + F.interpolate(knots, BINS, mode="linear", align_corners=True)[0, 0][:, None]
    if draw.random() < 0.5:
        out = _echoed(out, float(draw.uniform(0.3, 0.75)), float(draw.uniform(0.05, 0.4)))
    loudest = float(out.max())
    slope = torch.linspace(float(draw.uniform(-0.5, 0.8)), 0, BINS)[:, None]
    tremble = torch.from_numpy(draw.normal(0, 0.2, out.shape).astype(np.float32))
    noise = loudest - float(draw.uniform(2.2, 6.0)) + slope + tremble
    out = torch.logaddexp(out * 2.302585, noise * 2.302585) / 2.302585
    if draw.random() < 0.25:
        cut = int(draw.integers(50, 78))
        out[cut:] = torch.minimum(out[cut:], torch.tensor(loudest - float(draw.uniform(4, 7))))
    return out


def room_tone(columns: int, draw: np.random.Generator) -> torch.Tensor:
    """The normalised mel (80,columns) of a recording in which nobody speaks: digital silence, or steady noise.

    Whisper normalises against the loudest column it is given, so a pause inside speech never looks like this.
    """
    if draw.random() < 0.5:
        return normalised(torch.full((BINS, columns), math.log10(FLOOR)))
    slope = torch.linspace(float(draw.uniform(-0.5, 1.5)), 0, BINS)[:, None]
    tremble = torch.from_numpy(draw.normal(0, 0.25, (BINS, columns)).astype(np.float32))
    return normalised(float(draw.uniform(-9.0, -3.0)) + slope + tremble)


def with_holes(mel: torch.Tensor, draw: np.random.Generator) -> torch.Tensor:
    """A copy of (80,n) with up to 5 short spans of time and 2 of frequency set to the mean (SpecAugment)."""
    out, mean = mel.clone(), float(mel.mean())
    for _ in range(draw.integers(0, 6)):
        start = int(draw.integers(0, max(1, mel.shape[1] - 10)))
        out[:, start : start + int(draw.integers(1, 9))] = mean
    for _ in range(draw.integers(0, 3)):
        start = int(draw.integers(0, BINS - 6))
        out[start : start + int(draw.integers(1, 7))] = mean
    return out


def _stretched(mel: torch.Tensor, factor: float) -> torch.Tensor:
    at = (torch.arange(BINS) * factor).clamp(0, BINS - 1)
    low = at.floor().long().clamp(max=BINS - 2)
    share = (at - low)[:, None]
    return mel[low] * (1 - share) + mel[low + 1] * share


def _echoed(mel: torch.Tensor, decay: float, level: float) -> torch.Tensor:
    """Adds `level` times the earlier power, fading by `decay` per 10 ms over 80 ms."""
    power = 10**mel
    out = power.clone()
    for delay in range(1, 9):
        out[:, delay:] += level * decay**delay * power[:, :-delay]
    return out.log10()
