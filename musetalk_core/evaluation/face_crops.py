"""What SyncNet looks at: the face's box followed through the clip, smoothed, cut out as 224 pixels.

The arithmetic is joonson/syncnet_python's run_pipeline.py; boxes come from this project's detector.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ..faces.geometry import box_overlap
from ..media.source import FrameSource
from ..nets.syncnet import FACE_SIZE

SAME_FACE = 0.5  # least intersection over union between frames of a track
LONGEST_GAP = 25  # frames without the face that are bridged
SHORTEST = 50  # frames; LatentSync's evaluation
SMOOTHING = 13  # frames of the median
MARGIN = 0.4  # of the face's half side
PADDING = 110  # grey beyond the picture


@dataclass(frozen=True)
class CropTrack:
    """A face through frames start .. start + len(boxes) - 1: boxes (N,4) x1 y1 x2 y2 in pixels, gaps filled."""

    start: int
    boxes: np.ndarray

    def __len__(self) -> int:
        return len(self.boxes)


def find_tracks(boxes: np.ndarray, shortest: int = SHORTEST) -> list[CropTrack]:
    """Tracks in boxes (N,4) of one face a frame, NaN where there is none.

    A new track begins where the box jumps (a cut, another person) or after a gap of more than LONGEST_GAP frames;
    shorter gaps are filled linearly. Tracks of fewer than `shortest` frames are left out.
    """
    seen = np.flatnonzero(np.isfinite(boxes).all(1))
    runs: list[list[int]] = []
    for k in seen:
        last = runs[-1][-1] if runs else None
        follows = last is not None and k - last <= LONGEST_GAP + 1
        if follows and box_overlap(boxes[last], boxes[k][None])[0] > SAME_FACE:
            runs[-1].append(int(k))
        else:
            runs.append([int(k)])
    tracks = []
    for run in runs:
        frames = np.arange(run[0], run[-1] + 1)
        filled = np.stack([np.interp(frames, run, boxes[run, side]) for side in range(4)], 1)
        if len(frames) >= shortest:
            tracks.append(CropTrack(run[0], filled))
    return tracks


def crop_faces(source: FrameSource, indices: Sequence[int], track: CropTrack) -> Iterator[np.ndarray]:
    """Yield the track's faces (224,224,3) uint8 RGB; indices: the source's frame for each frame of the clip."""
    places = _smoothed(track.boxes)
    chosen = indices[track.start : track.start + len(track)]
    for frame, place in zip(_pictures(source, chosen), places, strict=True):
        yield _crop(frame, *place)


def whole_frames(source: FrameSource, indices: Sequence[int]) -> Iterator[np.ndarray]:
    """Yield whole frames squeezed to (224,224,3) uint8 RGB: right only for videos that are face crops already."""
    import cv2

    for frame in _pictures(source, indices):
        yield cv2.resize(frame, (FACE_SIZE, FACE_SIZE))


def _pictures(source: FrameSource, indices: Iterable[int]) -> Iterator[np.ndarray]:
    for frame in source.read(indices):
        picture = frame.cpu().numpy()
        yield picture if picture.dtype == np.uint8 else (picture.clip(0, 1) * 255).round().astype(np.uint8)


def _smoothed(boxes: np.ndarray) -> np.ndarray:
    """(N,3): half of the longer side and the middle's x and y, each a running median (zeros beyond the ends)."""
    from scipy.signal import medfilt

    half = np.maximum(boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]) / 2
    middle = (boxes[:, :2] + boxes[:, 2:]) / 2
    return np.stack([medfilt(values, SMOOTHING) for values in (half, middle[:, 0], middle[:, 1])], 1)


def _crop(frame: np.ndarray, half: float, x: float, y: float) -> np.ndarray:
    import cv2

    margin = int(half * (1 + 2 * MARGIN))
    padded = np.pad(frame, ((margin, margin), (margin, margin), (0, 0)), constant_values=PADDING)
    x, y = x + margin, y + margin
    rows = slice(int(y - half), int(y + half * (1 + 2 * MARGIN)))
    columns = slice(int(x - half * (1 + MARGIN)), int(x + half * (1 + MARGIN)))
    return cv2.resize(padded[rows, columns], (FACE_SIZE, FACE_SIZE))
