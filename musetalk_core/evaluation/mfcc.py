"""MFCC as SyncNet was trained on them: python_speech_features.mfcc with its defaults at 16 kHz."""

import numpy as np

RATE = 16000
WINDOW, STEP, FFT = 400, 160, 512  # samples: 25 ms every 10 ms, zero-padded
FILTERS, COEFFICIENTS, LIFTER = 26, 13, 22
PREEMPHASIS = 0.97
FULL_SCALE = 32768  # the reference reads 16-bit numbers


def mfcc(samples: np.ndarray) -> np.ndarray:
    """Sound (M,) float -1..1 at 16 kHz -> (N,13) float64 at 100 rows/s; the first coefficient is the log energy.

    N = 1 + ceil((M - 400) / 160), at least 1; what lacks at the end is zero. Source: python_speech_features 0.6, whose
    arithmetic this is (rectangular window, 26 mel filters from 0 to 8000 Hz, DCT-II ortho, lifter 22).
    """
    from scipy.fft import dct

    spectrum = _power(np.rint(np.asarray(samples, np.float64) * FULL_SCALE).clip(-FULL_SCALE, FULL_SCALE - 1))
    tiny = np.finfo(float).eps
    energy = spectrum.sum(1)
    bands = spectrum @ mel_filters().T
    rows = dct(np.log(np.where(bands == 0, tiny, bands)), type=2, axis=1, norm="ortho")[:, :COEFFICIENTS]
    rows = rows * (1 + LIFTER / 2 * np.sin(np.pi * np.arange(COEFFICIENTS) / LIFTER))
    rows[:, 0] = np.log(np.where(energy == 0, tiny, energy))
    return rows


def mel_filters() -> np.ndarray:
    """(26,257) triangles, equally wide in mel = 2595 log10(1 + Hz / 700), their corners on whole FFT bins."""
    top = 2595 * np.log10(1 + RATE / 2 / 700)
    corners = 700 * (10 ** (np.linspace(0, top, FILTERS + 2) / 2595) - 1)
    bins = np.floor((FFT + 1) * corners / RATE)
    filters = np.zeros((FILTERS, FFT // 2 + 1))
    for j in range(FILTERS):
        left, middle, right = bins[j : j + 3]
        rising, falling = np.arange(int(left), int(middle)), np.arange(int(middle), int(right))
        filters[j, rising] = (rising - left) / (middle - left)
        filters[j, falling] = (right - falling) / (right - middle)
    return filters


def _power(samples: np.ndarray) -> np.ndarray:
    """(N,257) power spectrum of the windows."""
    emphasised = np.append(samples[:1], samples[1:] - PREEMPHASIS * samples[:-1])
    count = 1 + max(0, -(-(len(samples) - WINDOW) // STEP))
    padded = np.zeros((count - 1) * STEP + WINDOW)
    padded[: len(samples)] = emphasised[: len(padded)]
    windows = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::STEP]
    return np.abs(np.fft.rfft(windows, FFT)) ** 2 / FFT
