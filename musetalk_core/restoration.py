"""Restored faces: a face restorer's detail, aligned to the face, steady over time, put back softly.

What is put back is the difference that the restorer makes, so a restorer that changes nothing changes no pixel.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from .batches import BatchSize, shrinking_batches
from .errors import MuseTalkError
from .faces.track import FaceTrack
from .faces.upright import view_to_frame

SIZE = 512
# Eyes, nose tip and corners of the mouth in the 512-pixel pictures that face restorers are trained on (FFHQ aligned):
# "standard 5 landmarks for FFHQ faces with 512 x 512", facexlib, utils/face_restoration_helper.py.
TEMPLATE = np.array(
    [
        [192.98138, 239.94708],
        [318.90277, 240.1936],
        [256.63416, 314.01935],
        [201.26117, 371.41043],
        [313.08905, 371.15118],
    ]
)
LEFT_EYE, RIGHT_EYE, NOSE_TIP, LEFT_MOUTH, RIGHT_MOUTH = slice(36, 42), slice(42, 48), 30, 48, 54
EDGE = 72  # pixels of the template over which the detail fades out at its border
# Grey levels (0..1) of change between frames at which smoothing is down to a third: what moves has new detail.
MOTION = 0.04
MOTION_BLUR = 9.0  # pixels of the template

# Aligned faces (B,512,512,3) float32 0..1 -> the restored ones, the same shape and range.
Restore = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class RestoreSettings:
    """strength: share of the restorer's change that is put back, 0..1. smoothing: share of the last frame's change
    that stays where the face does not move, 0 (every frame for itself) to 0.95."""

    strength: float = 0.5
    smoothing: float = 0.5

    def __post_init__(self) -> None:
        for name, value, most in (("strength", self.strength, 1.0), ("smoothing", self.smoothing, 0.95)):
            if not 0 <= value <= most:
                raise MuseTalkError(f"{name} is {value}; give 0 to {most:g}.")


def five_points(landmarks: np.ndarray) -> np.ndarray:
    """Centres of the eyes, nose tip and corners of the mouth (5,2) of 68 iBUG points (68,2)."""
    eyes = landmarks[LEFT_EYE].mean(0), landmarks[RIGHT_EYE].mean(0)
    return np.stack([*eyes, *landmarks[[NOSE_TIP, LEFT_MOUTH, RIGHT_MOUTH]]])


def similarity(points: np.ndarray, target: np.ndarray) -> np.ndarray:
    """(2,3): scale, rotation and shift that bring points (n,2) nearest to target (n,2) by least squares.

    With points as complex numbers this is a linear regression; there is no reflection.
    """
    source, wanted = (part[:, 0] + 1j * part[:, 1] for part in (points.astype(float), target.astype(float)))
    centred = source - source.mean()
    turn = (centred.conj() * (wanted - wanted.mean())).sum() / (abs(centred) ** 2).sum()
    shift = wanted.mean() - turn * source.mean()
    return np.array([[turn.real, -turn.imag, shift.real], [turn.imag, turn.real, shift.imag]])


def frame_alignments(track: FaceTrack) -> list[np.ndarray | None]:
    """For every frame the (2,3) that brings its pixels to the template, None without a face.

    Raises MuseTalkError when the track has no landmarks.
    """
    if track.landmarks is None:
        raise MuseTalkError(
            "The face track has no landmarks to align faces by; use Face Detect And Crop without boxes."
        )
    matrices: list[np.ndarray | None] = []
    for points, present in zip(track.landmarks, track.present, strict=True):
        usable = present and np.isfinite(points).all() and np.ptp(five_points(points), axis=0).min() > 1
        matrices.append(similarity(five_points(points), TEMPLATE) if usable else None)
    return matrices


def face_alignments(track: FaceTrack, size: int) -> list[np.ndarray | None]:
    """As frame_alignments, from the pixels of the boxes' content stretched to size x size (faces of VAE Decode)."""
    matrices = frame_alignments(track)
    for k, matrix in enumerate(matrices):
        if matrix is not None:
            x1, y1, x2, y2 = track.boxes[k].astype(float)
            wide, tall = (x2 - x1) / size, (y2 - y1) / size
            # Pixel centres lie at whole numbers: face pixel u shows the frame at x1 + (u + 0.5) * wide - 0.5.
            to_frame = np.array([[wide, 0, x1 + wide / 2 - 0.5], [0, tall, y1 + tall / 2 - 0.5], [0, 0, 1]])
            if track.angles[k]:
                turn = view_to_frame(track.boxes[k], float(track.angles[k]), np.zeros(2), np.zeros(2))
                to_frame = np.vstack([turn, [0, 0, 1]]) @ to_frame
            matrices[k] = matrix @ to_frame
    return matrices


class Detail:
    """The restorer's change of one face over time, in the template: (512,512,3) float32."""

    def __init__(self, settings: RestoreSettings) -> None:
        self._settings = settings
        self._last: tuple[np.ndarray, np.ndarray] | None = None

    def smoothed(self, aligned: np.ndarray, restored: np.ndarray) -> np.ndarray:
        """The next frame's change: its own, mixed with the last one's where the face did not move."""
        import cv2

        detail = restored - aligned
        if self._last is not None and self._settings.smoothing:
            before, last = self._last
            motion = cv2.GaussianBlur(np.abs(aligned - before).max(2), (0, 0), MOTION_BLUR)
            kept = self._settings.smoothing * np.exp(-motion / MOTION)[..., None]
            detail = detail + (last - detail) * kept
        self._last = (aligned, detail)
        return detail

    def forget(self) -> None:
        """Begin anew: the next frame is of another shot."""
        self._last = None


def restore_faces(
    pictures: Sequence[torch.Tensor] | torch.Tensor,
    alignments: Sequence[np.ndarray | None],
    restore: Restore,
    settings: RestoreSettings,
    batch_size: int,
) -> Iterator[torch.Tensor]:
    """Yield the pictures (H,W,3) floating 0..1 with restored faces, in order, same dtype; NaN counts as 0 in a face.

    alignments: for each the (2,3) from its pixels to the template, or None: such a picture is yielded as it is, and
    smoothing begins anew. Batches halve when memory runs out. Memory: one batch. Raises MuseTalkError when their
    numbers differ.
    """
    if len(pictures) != len(alignments):
        raise MuseTalkError(f"{len(pictures)} pictures and {len(alignments)} faces were given; give one for each.")
    history = Detail(settings)

    def batch(start: int, stop: int) -> list[tuple[np.ndarray, np.ndarray] | None]:
        rows = [(k, matrix) for k, matrix in enumerate(alignments[start:stop], start) if matrix is not None]
        found: list[tuple[np.ndarray, np.ndarray] | None] = [None] * (stop - start)
        if not rows:
            return found
        aligned = np.stack([_aligned(pictures[k], matrix) for k, matrix in rows])
        for (k, _), before, after in zip(rows, aligned, restore(aligned), strict=True):
            found[k - start] = before, after
        return found

    for start, _, part in shrinking_batches(batch, len(pictures), BatchSize(batch_size)):
        for k, pair in enumerate(part, start):
            matrix = alignments[k]
            if pair is None or matrix is None:
                history.forget()
                yield pictures[k]
            else:
                yield put_back(pictures[k], history.smoothed(*pair) * settings.strength, matrix)


def put_back(picture: torch.Tensor, detail: np.ndarray, matrix: np.ndarray) -> torch.Tensor:
    """A copy of the picture (H,W,3) floating 0..1 plus the detail (512,512,3), faded out at the template's border.

    matrix: (2,3) from the picture to the template. Pixels that the detail leaves at 0 keep their bits.
    """
    import cv2

    height, width = picture.shape[:2]
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    change = torch.from_numpy(cv2.warpAffine(detail * _soft_border(), matrix, (width, height), flags=flags))
    change = change.to(picture.device)
    dtype = torch.promote_types(picture.dtype, torch.float32)
    changed = (picture.to(dtype).nan_to_num(0.0) + change.to(dtype)).clamp(0, 1).to(picture.dtype)
    return torch.where(change == 0, picture, changed)


def _aligned(picture: torch.Tensor, matrix: np.ndarray) -> np.ndarray:
    import cv2

    pixels = picture.float().nan_to_num(0.0).clamp(0, 1).cpu().numpy()
    return cv2.warpAffine(pixels, matrix, (SIZE, SIZE), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE).clip(
        0, 1
    )


def _soft_border() -> np.ndarray:
    """(512,512,1) float32: 0 at the template's border, 1 from EDGE pixels in, by the smooth step 3t^2 - 2t^3."""
    inwards = np.minimum(np.arange(SIZE), np.arange(SIZE)[::-1])
    share = (np.minimum(inwards[:, None], inwards[None, :]) / EDGE).clip(0, 1)
    return (share * share * (3 - 2 * share)).astype(np.float32)[..., None]
