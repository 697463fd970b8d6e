"""Less trembling: boxes and landmarks averaged over neighbouring frames, never across a cut, an absence or a jump."""

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from .detector import Face
from .geometry import box_overlap
from .track import FaceTrack

REACH = 3.0  # standard deviations that a Gaussian window spans to each side
JUMP = 0.2  # least intersection over union of one face in neighbouring frames
# Cutoff of a low-pass in cycles a frame at which half the power is left, for a Gaussian of one frame's deviation.
HALF_POWER = math.sqrt(math.log(2)) / (2 * math.pi)
SPEED_GAIN = 5.0  # cycles a frame that the cutoff rises for a speed of one face size a frame
SPEED_CUTOFF = 0.04  # cycles a frame: Casiez's 1 Hz at 25 frames/s


def smooth_track(track: FaceTrack, frames: float) -> FaceTrack:
    """A track with its landmarks and boxes averaged by `smooth_run` within every run of frames; all else unchanged."""
    count = len(track)
    landmarks = np.zeros((count, 68, 2), np.float32) if track.landmarks is None else track.landmarks.copy()
    boxes = track.boxes.copy()
    for run in runs(track):
        boxes[run] = smooth_run(boxes[run], frames)
        landmarks[run] = smooth_run(landmarks[run].reshape(-1, 136), frames).reshape(-1, 68, 2)
    return replace(track, boxes=boxes, landmarks=landmarks, angles=track.angles.copy())


def smooth_run(values: np.ndarray, frames: float) -> np.ndarray:
    """Rows (N,D) of consecutive frames, each replaced by a local line through it and its neighbours, float32.

    The line is fitted by least squares with Gaussian weights of `frames` standard deviation (local linear regression,
    Cleveland 1979): within the run that is the Gaussian average, at its ends a moving head is not held back.
    """
    reach = math.ceil(REACH * frames)
    wide = values.astype(np.float64)
    out = np.empty_like(wide)
    for i in range(len(wide)):
        first, last = max(0, i - reach), min(len(wide), i + reach + 1)
        steps = np.arange(first, last) - i
        weights = np.exp(-0.5 * (steps / frames) ** 2)
        s0, s1, s2 = (float((weights * steps**power).sum()) for power in range(3))
        spread = s0 * s2 - s1 * s1
        weights *= (s2 - s1 * steps) / spread if spread > 1e-9 else 1 / s0
        out[i] = weights @ wide[first:last]
    return out.astype(np.float32)


def runs(track: FaceTrack) -> Iterator[slice]:
    """The stretches of a track over which one face is seen without a cut, an absence or a jump."""
    start: int | None = None
    for i in range(len(track) + 1):
        goes_on = start is not None and i < len(track) and _continues(track, i)
        if start is not None and not goes_on:
            yield slice(start, i)
            start = None
        if start is None and i < len(track) and track.present[i]:
            start = i


def _continues(track: FaceTrack, i: int) -> bool:
    """Whether frame i shows the face of frame i - 1, in the same way."""
    if not track.present[i] or track.scenes[i] != track.scenes[i - 1]:
        return False
    if track.landmarks is not None and track.landmarks[i].any() != track.landmarks[i - 1].any():
        return False
    return bool(box_overlap(track.boxes[i - 1], track.boxes[i : i + 1])[0] >= JUMP)


class OneEuro:
    """Smooths one face live: the One Euro filter (Casiez, Roussel and Vogel 2012), a low-pass whose cutoff rises with
    speed, so that a still face is steady and a moving one hardly lags. It never looks ahead.

    frames: the smoothing at rest, in the unit of smooth_run. The speed is measured in face sizes a frame, so that a
    close-up is smoothed like a small face.
    """

    def __init__(self, frames: float) -> None:
        self._least = HALF_POWER / max(frames, 1e-3)
        self._last: tuple[np.ndarray, np.ndarray, Face, int] | None = None

    def forget(self) -> None:
        """Begin anew with the next face: this one is gone."""
        self._last = None

    def face(self, face: Face, scene: int) -> Face:
        """The next frame's face, smoothed; anew when the scene is another one or the face has jumped."""
        values = np.concatenate([face.box.reshape(2, 2), face.landmarks]).astype(np.float64)
        if self._last is None or not _same_face(self._last[2], face) or self._last[3] != scene:
            self._last = (values, np.zeros_like(values), face, scene)
            return face
        before, speed, _, _ = self._last
        size = math.sqrt(max(face.area, 1.0))
        share = _share(SPEED_CUTOFF)
        speed = share * (values - before) / size + (1 - share) * speed
        share = _share(self._least + SPEED_GAIN * np.abs(speed))
        smooth = share * values + (1 - share) * before
        self._last = (smooth, speed, face, scene)
        return Face(smooth[:2].reshape(4).astype(np.float32), smooth[2:].astype(np.float32), face.score)


def _same_face(face: Face, other: Face) -> bool:
    known = np.isfinite(face.landmarks).all() == np.isfinite(other.landmarks).all()
    return bool(known and box_overlap(face.box, other.box[None])[0] >= JUMP)


def _share(cutoff: np.ndarray | float) -> np.ndarray:
    """The newest value's share in a low-pass of first order with this cutoff in cycles a frame."""
    return np.asarray(1 / (1 + 1 / (2 * math.pi * np.asarray(cutoff))))
