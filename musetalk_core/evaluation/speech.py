"""Do mouth and sound go together? Measures of one clip: lips against loudness, lips against a reference, SyncNet."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import MuseTalkError
from .clip import Clip, Figure
from .face_crops import crop_faces, find_tracks, whole_frames
from .faces import ClipFaces, Faces
from .lips import best_lag, correlation, lip_gap
from .sync import FPS, MAX_SHIFT, SyncScore, SyncScorer
from .weights import MISSING

RATE = 16000
QUIET = 50.0  # dB below the loudest moment, where the curve is 0
CROPS = ("face", "none")


@dataclass(frozen=True)
class SyncSettings:
    """crop: "face" follows and cuts out the face, "none" squeezes the whole frame, as some published numbers were
    made; max_shift: frames at 25/s to both sides that SyncNet and the lags look at."""

    crop: str = "face"
    max_shift: int = MAX_SHIFT

    def __post_init__(self) -> None:
        if self.crop not in CROPS:
            raise MuseTalkError(f"The crop {self.crop!r} is unknown; choose {' or '.join(CROPS)}.")
        if not 1 <= self.max_shift <= 100:
            raise MuseTalkError(f"The largest shift is {self.max_shift} frames; give 1 to 100.")


@dataclass(frozen=True)
class Speech:
    """figures: name -> number or why there is none. Curves (K,) at 25/s: the opening of the mouth (NaN without a face),
    the loudness 0..1, and the reference's mouth or None."""

    figures: dict[str, Figure]
    gap: np.ndarray
    loudness: np.ndarray
    reference_gap: np.ndarray | None


def loudness(samples: np.ndarray, count: int) -> np.ndarray:
    """(count,) 0..1, at 25/s, of sound (M,) at 16 kHz: the level of the 2 frames around each frame's middle, from QUIET
    dB below the loudest (0) to the loudest (1); all 0 for silence."""
    width = RATE // FPS
    padded = np.pad(np.asarray(samples, np.float64), (width // 2, 2 * width))
    starts = (np.arange(count) * RATE // FPS).clip(0, len(padded) - 2 * width)
    power = np.array([np.mean(padded[s : s + 2 * width] ** 2) for s in starts])
    if not len(power) or power.max() < 1e-10:
        return np.zeros(count)
    level = 10 * np.log10(np.maximum(power / power.max(), 1e-12))
    return (1 + level / QUIET).clip(0, 1)


def measure_speech(clip: Clip, faces: ClipFaces, scorer: SyncScorer | None, settings: SyncSettings) -> Speech:
    """All measures of a clip with its faces. scorer None: SyncNet's say "weights missing".

    Raises MuseTalkError when the clip has no sound.
    """
    moments = clip.at(FPS)
    loud = loudness(clip.samples, len(moments))
    gap = lip_gap(faces.own.landmarks)[moments]
    landmarks = faces.reference_landmarks
    reference = None if landmarks is None else lip_gap(landmarks)[moments]
    figures: dict[str, Figure] = {"faces": float(faces.own.seen.mean())}
    figures |= _sync_figures(clip, faces.own, scorer, settings, moments)
    figures |= _against(gap, loud, "lip_audio", settings.max_shift)
    if reference is not None:
        figures |= _against(gap, reference, "lip_reference", settings.max_shift)
    return Speech(figures, gap, loud, reference)


def _against(gap: np.ndarray, other: np.ndarray, name: str, max_shift: int) -> dict[str, Figure]:
    """Correlation at the same moment, and the lag in frames at 25/s at which it is highest (positive: mouth late)."""
    if len(gap) <= 2 * max_shift or np.isfinite(gap).sum() < len(gap) / 2:
        short = f"fewer than {2 * max_shift + 1} frames" if len(gap) <= 2 * max_shift else "a face in under half"
        return {name: short, f"{name}_lag": short}
    lag, _ = best_lag(gap, other, max_shift)
    return {name: correlation(gap, other), f"{name}_lag": float(lag)}


def _sync_figures(
    clip: Clip, faces: Faces, scorer: SyncScorer | None, settings: SyncSettings, moments: Sequence[int]
) -> dict[str, Figure]:
    names = ("lse_c", "lse_d", "av_offset")
    if scorer is None:
        return dict.fromkeys(names, MISSING)
    scores = _scores(clip, faces, scorer, settings, moments)
    if not scores:
        return dict.fromkeys(names, "no face followed for 2 s")
    mean = [float(np.mean([getattr(score, part) for score in scores])) for part in ("confidence", "distance", "offset")]
    return dict(zip(names, mean, strict=True))


def _scores(
    clip: Clip, faces: Faces, scorer: SyncScorer, settings: SyncSettings, moments: Sequence[int]
) -> list[SyncScore]:
    """One score a face track."""
    if settings.crop == "none":
        return [scorer.score(whole_frames(clip.frames, moments), clip.samples, settings.max_shift)]
    scores = []
    for track in find_tracks(faces.boxes[moments]):
        start = track.start * RATE // FPS
        sound = clip.samples[start : start + len(track) * RATE // FPS]
        scores.append(scorer.score(crop_faces(clip.frames, moments, track), sound, settings.max_shift))
    return scores
