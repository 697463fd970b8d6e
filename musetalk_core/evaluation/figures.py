"""What every figure is called, how it is written, and which way is better."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import MuseTalkError
from .clip import Figure

RESAMPLES = 2000
SEED = 0


@dataclass(frozen=True)
class Kind:
    """title: for people; better: "higher", "lower" or "" where neither is; digits: after the point."""

    title: str
    better: str
    digits: int = 3


KINDS = {
    "lse_d": Kind("LSE-D", "lower"),
    "lse_c": Kind("LSE-C", "higher"),
    "av_offset": Kind("AV offset, frames", "", 1),
    "lip_audio": Kind("lip gap and loudness, correlation", "higher"),
    "lip_audio_lag": Kind("lip gap behind loudness, frames", "", 1),
    "lip_reference": Kind("lip gap and reference's, correlation", "higher"),
    "lip_reference_lag": Kind("lip gap behind reference's, frames", "", 1),
    "faces": Kind("frames with a face", "higher"),
    "psnr": Kind("PSNR, dB", "higher", 2),
    "mouth_psnr": Kind("PSNR of the mouth, dB", "higher", 2),
    "ssim": Kind("SSIM", "higher", 4),
    "mouth_ssim": Kind("SSIM of the mouth", "higher", 4),
    "l1": Kind("L1, of 255", "lower"),
    "lpips": Kind("LPIPS", "lower", 4),
    "csim": Kind("CSIM", "higher"),
    "cpbd": Kind("CPBD", "higher"),
    "mouth_sharpness": Kind("sharpness of the mouth over source", "higher"),
    "nose_jitter": Kind("nose jitter, of 255", "lower"),
    "nose_jitter_source": Kind("nose jitter of the source", ""),
    "mouth_jitter": Kind("mouth jitter, of 255", "lower"),
    "seam": Kind("seam energy over source", "lower"),
    "outside_psnr": Kind("PSNR outside the mask, dB", "higher", 2),
}
GROUPS = {"lse": ("lse_d", "lse_c", "av_offset")}
WORST_BY = ("lse_d", "lip_reference", "lip_audio", "mouth_psnr")  # the first that was measured sorts the clips


def chosen(names: Sequence[str]) -> frozenset[str]:
    """The figures of these names or of the groups so called, in any case; all for none.

    Raises MuseTalkError for an unknown name.
    """
    known = {**{name: (name,) for name in KINDS}, **GROUPS}
    unknown = [name for name in names if name.lower() not in known]
    if unknown:
        raise MuseTalkError(f"The metric {unknown[0]!r} is unknown; known are {', '.join(known)}.")
    return frozenset(figure for name in names for figure in known[name.lower()]) or frozenset(KINDS)


@dataclass(frozen=True)
class Summary:
    """A figure over the clips: mean, the 95 % interval of that mean, number of clips; or why there is none."""

    mean: float
    low: float
    high: float
    clips: int
    missing: str = ""


def summarize(values: list[Figure]) -> Summary:
    """The mean of the numbers among `values`, and its bootstrap interval: 2.5 and 97.5 percentiles of the means of
    RESAMPLES draws of clips with replacement (Efron 1979; a fixed seed, so that a run repeats). One clip has no
    interval (NaN); none has the commonest reason."""
    numbers = np.array([value for value in values if not isinstance(value, str)], np.float64)
    if not len(numbers):
        reasons = [value for value in values if isinstance(value, str)]
        missing = max(set(reasons), key=reasons.count) if reasons else "nothing to measure"
        return Summary(float("nan"), float("nan"), float("nan"), 0, missing)
    low = high = float("nan")
    if len(numbers) > 1:
        draws = np.random.default_rng(SEED).integers(0, len(numbers), (RESAMPLES, len(numbers)))
        low, high = np.percentile(numbers[draws].mean(1), (2.5, 97.5))
    return Summary(float(numbers.mean()), float(low), float(high), len(numbers))


def written(name: str, value: Figure) -> str:
    """A figure for people: its digits, or the reason."""
    return value if isinstance(value, str) else f"{value:.{KINDS[name].digits}f}"


def told(figures: dict[str, Figure]) -> str:
    """Figures for people, one a line (a list where Markdown is shown): title, value, which way is better."""
    lines = []
    for name, value in figures.items():
        better = f" ({KINDS[name].better} is better)" if KINDS[name].better and not isinstance(value, str) else ""
        lines.append(f"- {KINDS[name].title}: {written(name, value)}{better}")
    return "\n".join(lines)
