"""The face track: where the speaker's face is in every frame."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import MuseTalkError


@dataclass(frozen=True)
class FaceTrack:
    """One face over N frames.

    boxes: (N,4) float32, x1 y1 x2 y2 in pixels, the crop that is generated (margin and shift included, inside
    the image); zeros where absent. landmarks: (N,68,2) float32 iBUG points in pixels, zeros where absent, or None
    when the detector gives boxes only. present: (N,) bool. image_size: (height, width). identity: a name.
    """

    boxes: np.ndarray
    landmarks: np.ndarray | None
    present: np.ndarray
    image_size: tuple[int, int]
    identity: str = "face"

    def __post_init__(self) -> None:
        count = len(self.present)
        if self.boxes.shape != (count, 4):
            raise MuseTalkError(f"The track has {count} frames but boxes of shape {self.boxes.shape}.")
        if self.landmarks is not None and self.landmarks.shape != (count, 68, 2):
            raise MuseTalkError(f"The track has {count} frames but landmarks of shape {self.landmarks.shape}.")

    def __len__(self) -> int:
        return len(self.present)

    def select(self, indices: Sequence[int] | np.ndarray) -> "FaceTrack":
        """The track of the frames at `indices`, in that order."""
        rows = np.asarray(indices, dtype=np.int64)
        landmarks = None if self.landmarks is None else self.landmarks[rows]
        return FaceTrack(self.boxes[rows], landmarks, self.present[rows], self.image_size, self.identity)

    @staticmethod
    def join(tracks: Sequence["FaceTrack"]) -> "FaceTrack":
        """Tracks of consecutive frames of the same image size and face, one after the other."""
        first = tracks[0]
        landmarks = None
        if all(track.landmarks is not None for track in tracks):
            landmarks = np.concatenate([track.landmarks for track in tracks if track.landmarks is not None])
        return FaceTrack(
            np.concatenate([track.boxes for track in tracks]),
            landmarks,
            np.concatenate([track.present for track in tracks]),
            first.image_size,
            first.identity,
        )
