"""Do the lips follow? The opening of the mouth, measured in frames, against the curve it should follow.

A gap is the distance of the inner lips as a share of the distance of the outer eye corners, so it does not depend on
the size of the face. A clip is a pair of curves (measured, truth), one value per frame at the same rate; NaN marks a
frame without a face and is left out everywhere.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from ..errors import MuseTalkError
from ..faces.detector import Detector

UPPER_LIP, LOWER_LIP = 62, 66  # the middle of the inner lips, iBUG points
EYE_CORNERS = (36, 45)
CLOSED, OPEN = 0.03, 0.15  # a true gap below the first is a closed mouth, above the second a wide open one
MAX_LAG = 5  # frames

Clip = tuple[np.ndarray, np.ndarray]


def lip_gap(landmarks: np.ndarray) -> np.ndarray:
    """|62 - 66| / |36 - 45| of iBUG points (...,68,2): (...) float64, 0 closed, about 0.3 wide open; NaN stays NaN.

    Eye corners on one point give NaN.
    """
    points = np.asarray(landmarks, np.float64)
    lips = np.linalg.norm(points[..., UPPER_LIP, :] - points[..., LOWER_LIP, :], axis=-1)
    eyes = np.linalg.norm(points[..., EYE_CORNERS[0], :] - points[..., EYE_CORNERS[1], :], axis=-1)
    return lips / np.where(eyes > 0, eyes, np.nan)


def find_landmarks(frames: Iterable[torch.Tensor], detector: Detector) -> np.ndarray:
    """The largest face of every frame (H,W,3): (N,68,2) float32 iBUG points in pixels, NaN where there is none.

    Each frame is looked at by itself: nothing is smoothed over time.
    """
    rows = []
    for frame in frames:
        faces = detector.detect(frame)
        rows.append(faces[0].landmarks if faces else np.full((68, 2), np.nan, np.float32))
    return np.stack(rows) if rows else np.zeros((0, 68, 2), np.float32)


def correlation(x: np.ndarray, y: np.ndarray) -> float:
    """Pearson's correlation of two curves (N,), -1..1; 0 when one of them is constant or fewer than 2 pairs remain.

    Raises MuseTalkError for curves of different lengths.
    """
    x, y = _pairs(x, y)
    if len(x) < 2:
        return 0.0
    x, y = x - x.mean(), y - y.mean()
    spread = np.sqrt((x * x).sum() * (y * y).sum())
    return float((x * y).sum() / spread) if spread > 1e-12 else 0.0


def slope(measured: np.ndarray, truth: np.ndarray) -> float:
    """The least-squares slope of `measured` over `truth` (N,): 1 keeps the amplitude, 0 is a mouth that never moves.

    0 when the truth is constant.
    """
    measured, truth = _pairs(measured, truth)
    spread = ((truth - truth.mean()) ** 2).sum() if len(truth) else 0.0
    return float(((truth - truth.mean()) * (measured - measured.mean())).sum() / spread) if spread > 1e-12 else 0.0


def best_lag(measured: np.ndarray, truth: np.ndarray, max_lag: int = MAX_LAG) -> tuple[int, float]:
    """The lag, in frames, at which two curves (N,) correlate best, and that correlation.

    Positive: the measured mouth is late, measured[i + lag] goes with truth[i]. Of equal ones the smallest shift wins.
    Raises MuseTalkError unless both are longer than 2 * max_lag.
    """
    return pooled_lag([(measured, truth)], max_lag)


def pooled_lag(clips: Sequence[Clip], max_lag: int = MAX_LAG) -> tuple[int, float]:
    """best_lag of several clips together: each is shifted within itself, then their pairs are correlated as one."""
    shortest = min(len(truth) for _, truth in clips)
    if shortest <= 2 * max_lag:
        raise MuseTalkError(f"A clip of {shortest} frames is too short for lags up to {max_lag}; give longer clips.")
    found = {}
    for lag in sorted(range(-max_lag, max_lag + 1), key=abs):
        found[lag] = correlation(*_pool([_shift(measured, truth, lag) for measured, truth in clips]))
    best = max(found, key=lambda lag: found[lag])
    return best, found[best]


def crossed_correlations(clips: Sequence[Clip]) -> list[float]:
    """Correlations of every clip's measured curve with every other clip's truth, cut to the shorter: N * (N - 1)."""
    values = []
    for i, (measured, _) in enumerate(clips):
        for j, (_, truth) in enumerate(clips):
            length = min(len(measured), len(truth))
            if i != j:
                values.append(correlation(measured[:length], truth[:length]))
    return values


@dataclass(frozen=True)
class LipReport:
    """How well the lips follow, over the pooled frames of some clips.

    closed_*: over the frames whose truth is below CLOSED; open_*: above OPEN (medians; NaN when there are none).
    found: share of frames in which a face was measured.
    """

    frames: int
    found: float
    correlation: float
    lag: int
    lag_correlation: float
    slope: float
    closed_frames: int
    closed_median: float
    closed_truth: float
    open_frames: int
    open_median: float
    open_truth: float

    def as_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self)


def compare(clips: Sequence[Clip], max_lag: int = MAX_LAG) -> LipReport:
    """The report of one or more clips, all their frames in one pool. Raises MuseTalkError as pooled_lag."""
    measured, truth = _pool(clips)
    lag, lag_correlation = pooled_lag(clips, max_lag)
    seen = np.isfinite(measured) & np.isfinite(truth)
    closed, wide = seen & (truth < CLOSED), seen & (truth > OPEN)
    return LipReport(
        frames=len(truth),
        found=float(np.isfinite(measured).mean()),
        correlation=correlation(measured, truth),
        lag=lag,
        lag_correlation=lag_correlation,
        slope=slope(measured, truth),
        closed_frames=int(closed.sum()),
        closed_median=_median(measured[closed]),
        closed_truth=_median(truth[closed]),
        open_frames=int(wide.sum()),
        open_median=_median(measured[wide]),
        open_truth=_median(truth[wide]),
    )


def source_share(measured: np.ndarray, truth: np.ndarray, source: np.ndarray) -> tuple[float, float]:
    """(share of the truth, share of the source's mouth) in measured = a * truth + b * source + c, least squares.

    All (N,). b is what leaks from a source that speaks other words: 0 nothing, 1 the source's mouth as it is.
    """
    rows = np.isfinite(measured) & np.isfinite(truth) & np.isfinite(source)
    terms = np.stack([truth[rows], source[rows], np.ones(int(rows.sum()))], 1)
    share = np.linalg.lstsq(terms, measured[rows], rcond=None)[0]
    return float(share[0]), float(share[1])


def _pool(clips: Sequence[Clip]) -> Clip:
    for measured, truth in clips:
        _check(measured, truth)
    return np.concatenate([m for m, _ in clips]), np.concatenate([t for _, t in clips])


def _shift(measured: np.ndarray, truth: np.ndarray, lag: int) -> Clip:
    if lag < 0:
        truth, measured = _shift(truth, measured, -lag)
        return measured, truth
    return measured[lag:], truth[: len(truth) - lag]


def _pairs(x: np.ndarray, y: np.ndarray) -> Clip:
    """Both curves as float64 without the frames that are not finite in either."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    _check(x, y)
    rows = np.isfinite(x) & np.isfinite(y)
    return x[rows], y[rows]


def _check(x: np.ndarray, y: np.ndarray) -> None:
    if len(x) != len(y):
        raise MuseTalkError(f"Curves of {len(x)} and {len(y)} frames cannot be compared; cut them to one length.")


def _median(values: np.ndarray) -> float:
    return float(np.median(values)) if len(values) else float("nan")
