"""Follows the speaker's face through frames and says which box of each is generated."""

import numpy as np
import torch

from ..errors import MuseTalkError
from ..settings import FACE_CHOICES, FaceChoice
from .detector import Detector, Face
from .geometry import box_overlap, crop_box
from .track import FaceTrack

SMALLEST_SHARE = 0.1  # of the largest face's area: smaller faces are background for "left" and "right"
KEEP_SHARE = 0.5  # the followed face is kept until another one is twice as large
SAME_FACE = 0.2  # least intersection over union between frames


class FaceLocator:
    """Chooses one face in each frame and makes its crop box.

    face: "largest" (the face followed so far is kept while it overlaps its last place and no other face is twice as
    large), "left" or "right" (as seen in the picture; faces below a tenth of the largest one's area do not count).
    bbox_shift and extra_margin: pixels, see geometry.crop_box. Calls continue one another: give the frames in order.
    Raises MuseTalkError for an unknown choice.
    """

    def __init__(
        self,
        detector: Detector,
        bbox_shift: int = 0,
        extra_margin: int = 10,
        face: FaceChoice = "largest",
    ) -> None:
        if face not in FACE_CHOICES:
            raise MuseTalkError(f"The face choice {face!r} is unknown; choose one of {', '.join(FACE_CHOICES)}.")
        self.detector = detector
        self.bbox_shift = bbox_shift
        self.extra_margin = extra_margin
        self.face = face
        self._last_box: np.ndarray | None = None

    def locate(self, frames: torch.Tensor) -> FaceTrack:
        """The track of frames (B,H,W,3) or one frame (H,W,3), uint8 or floating 0..1; absent where no face is."""
        batch = frames[None] if frames.ndim == 3 else frames
        if batch.ndim != 4:
            raise MuseTalkError(
                f"Frames have shape {tuple(frames.shape)}; faces are found in (frames, height, width, 3)."
            )
        size = (int(batch.shape[1]), int(batch.shape[2]))
        track = FaceTrack(
            np.zeros((len(batch), 4), np.float32),
            np.zeros((len(batch), 68, 2), np.float32),
            np.zeros(len(batch), bool),
            size,
            self.face,
        )
        assert track.landmarks is not None
        for i, frame in enumerate(batch):
            chosen = self.choose(self.detector.detect(frame))
            if chosen is None:
                continue
            box = crop_box(chosen.landmarks, chosen.box, size, self.bbox_shift, self.extra_margin)
            if box is not None:
                track.boxes[i], track.landmarks[i], track.present[i] = box, chosen.landmarks, True
        return track

    def choose(self, faces: list[Face]) -> Face | None:
        """The face to generate among a frame's faces (largest first); remembers it for the next frame."""
        if not faces:
            return None
        chosen = self._by_side(faces) if self.face != "largest" else self._followed(faces)
        self._last_box = chosen.box
        return chosen

    def _by_side(self, faces: list[Face]) -> Face:
        near = [face for face in faces if face.area >= SMALLEST_SHARE * faces[0].area]
        near.sort(key=lambda face: float(face.box[0] + face.box[2]))
        return near[0] if self.face == "left" else near[-1]

    def _followed(self, faces: list[Face]) -> Face:
        if self._last_box is None:
            return faces[0]
        overlaps = box_overlap(self._last_box, np.stack([face.box for face in faces]))
        best = int(np.argmax(overlaps))
        kept = overlaps[best] >= SAME_FACE and faces[best].area >= KEEP_SHARE * faces[0].area
        return faces[best] if kept else faces[0]
