"""The face track: where the speaker's face is in every frame."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from ..errors import MuseTalkError
from .upright import upright_points

# Why a frame of a track has no face to generate.
FOUND = ""
NOBODY = "no face"
LOST = "lost"  # the person was there before, in this scene
OTHERS = "not the chosen face"
OUTSIDE = "outside the image"
SMALL = "too small"
BROKEN = "not finite"
REASON_LENGTH = 24


@dataclass(frozen=True)
class FaceTrack:
    """One face over N frames.

    boxes: (N,4) float32, x1 y1 x2 y2 in pixels, the crop that is generated (margin and shift included; it may leave
    the image by less than half); zeros where absent. angles: (N,) float32 radians, by which each box is turned about
    its centre, see upright.py (default: 0, none is). landmarks: (N,68,2) float32 iBUG points in pixels, zeros where
    absent or unknown, or None when the detector gives boxes only. present: (N,) bool. image_size: (height, width).
    identity: a name. reasons: (N,) text, why a face is absent, "" where it is present (default: NOBODY). scenes: (N,)
    int32, the number of the scene that a frame belongs to (default: one); nothing is smoothed from one to the next.
    """

    boxes: np.ndarray
    landmarks: np.ndarray | None
    present: np.ndarray
    image_size: tuple[int, int]
    identity: str = "face"
    reasons: np.ndarray = field(default_factory=lambda: np.zeros(0))
    scenes: np.ndarray = field(default_factory=lambda: np.zeros(0))
    angles: np.ndarray = field(default_factory=lambda: np.zeros(0))

    def __post_init__(self) -> None:
        count = len(self.present)
        if not len(self.reasons):
            reasons = np.where(self.present, FOUND, NOBODY).astype(f"<U{REASON_LENGTH}")
            object.__setattr__(self, "reasons", reasons)
        if not len(self.scenes):
            object.__setattr__(self, "scenes", np.zeros(count, np.int32))
        if not len(self.angles):
            object.__setattr__(self, "angles", np.zeros(count, np.float32))
        if self.boxes.shape != (count, 4):
            raise MuseTalkError(f"The track has {count} frames but boxes of shape {self.boxes.shape}.")
        if self.landmarks is not None and self.landmarks.shape != (count, 68, 2):
            raise MuseTalkError(f"The track has {count} frames but landmarks of shape {self.landmarks.shape}.")
        if not len(self.reasons) == len(self.scenes) == len(self.angles) == count:
            raise MuseTalkError(
                f"The track has {count} frames but {len(self.reasons)} reasons, {len(self.scenes)} scenes and "
                f"{len(self.angles)} angles."
            )

    @staticmethod
    def absent(count: int, image_size: tuple[int, int], identity: str = "face") -> "FaceTrack":
        """A track of `count` frames without a face, to be filled."""
        boxes, landmarks = np.zeros((count, 4), np.float32), np.zeros((count, 68, 2), np.float32)
        return FaceTrack(boxes, landmarks, np.zeros(count, bool), image_size, identity)

    def __len__(self) -> int:
        return len(self.present)

    def upright_landmarks(self, row: int) -> np.ndarray | None:
        """The landmarks (68,2) of a frame in the upright view of its box; None when the track has none."""
        if self.landmarks is None:
            return None
        return upright_points(self.landmarks[row], self.boxes[row], float(self.angles[row]))

    def select(self, indices: Sequence[int] | np.ndarray) -> "FaceTrack":
        """The track of the frames at `indices`, in that order."""
        rows = np.asarray(indices, dtype=np.int64)
        landmarks = None if self.landmarks is None else self.landmarks[rows]
        return replace(
            self,
            boxes=self.boxes[rows],
            landmarks=landmarks,
            present=self.present[rows],
            reasons=self.reasons[rows],
            scenes=self.scenes[rows],
            angles=self.angles[rows],
        )

    def check(self, frames: int, image_size: tuple[int, int]) -> None:
        """Raise MuseTalkError unless the track is of `frames` frames of (height, width) pixels."""
        if len(self) != frames:
            raise MuseTalkError(
                f"The face track has {len(self)} frames and the source {frames}; locate the faces again."
            )
        if tuple(self.image_size) != tuple(image_size):
            (height, width), (tall, wide) = image_size, self.image_size
            raise MuseTalkError(
                f"The face track was made on {wide}x{tall} pixels and the frames have {width}x{height}; locate the "
                "faces again."
            )

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
            np.concatenate([track.reasons for track in tracks]),
            np.concatenate([track.scenes for track in tracks]),
            np.concatenate([track.angles for track in tracks]),
        )
