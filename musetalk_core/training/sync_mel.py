"""The mel spectrum that lip-sync experts of Wav2Lip's family hear (Wav2Lip audio.py, LatentSync)."""

from fractions import Fraction

import numpy as np

from .clips import FPS

RATE = 16000
FFT, HOP, BANDS = 800, 200, 80  # samples, samples, mel bands
LOWEST, HIGHEST = 55, 7600  # Hz
PREEMPHASIS = 0.97
REFERENCE_DB, LEAST_DB, RANGE = 20.0, -100.0, 4.0
ROWS_PER_SECOND = RATE // HOP
WINDOW_ROWS = 52  # ceil(16 / 5 * 16): what the expert hears with 16 frames


def sync_mel(samples: np.ndarray) -> np.ndarray:
    """Sound (M,) float -1..1 at 16 kHz -> (1 + M // 200, 80) float32 in [-4,4], 80 rows/s.

    Row k is centred at sample 200 k. Pre-emphasis, magnitude of a Hann window of 800 samples, Slaney's 80 mel bands
    from 55 to 7600 Hz, in dB less 20, -100 dB to 0 dB mapped to -4..4 and clipped. Source: Wav2Lip's hparams.py and
    audio.py, used by MuseTalk's sync loss.
    """
    import librosa

    emphasised = np.append(samples[:1], samples[1:] - PREEMPHASIS * samples[:-1])
    magnitude = np.abs(librosa.stft(y=emphasised, n_fft=FFT, hop_length=HOP, win_length=FFT))
    filters = librosa.filters.mel(sr=RATE, n_fft=FFT, n_mels=BANDS, fmin=LOWEST, fmax=HIGHEST)
    decibels = 20 * np.log10(np.maximum(10 ** (LEAST_DB / 20), filters @ magnitude)) - REFERENCE_DB
    scaled = 2 * RANGE * (decibels - LEAST_DB) / -LEAST_DB - RANGE
    return np.clip(scaled, -RANGE, RANGE).T.astype(np.float32)


def mel_start(frame: int) -> int:
    """The row of the spectrum that belongs to a frame at 25 frames/s: floor(80 * frame / 25)."""
    return int(Fraction(ROWS_PER_SECOND * frame) / FPS)
