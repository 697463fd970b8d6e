"""Follows the speaker's face through frames and says which box of each is generated."""

from collections.abc import Sequence

import numpy as np
import torch

from ..errors import MuseTalkError
from ..settings import FACE_CHOICES, FaceChoice, FaceSettings
from .appearance import Appearance
from .detector import Detector, Face
from .geometry import placed_box, why_no_box
from .smoothing import OneEuro, smooth_track
from .track import FOUND, LOST, NOBODY, OTHERS, FaceTrack
from .tracker import FaceTracker, TrackedFace

SMALLEST_SHARE = 0.1  # of the largest face's area: smaller faces are background for "left" and "right"
KEEP_SHARE = 0.5  # the followed face is kept until another one is twice as large
PATIENCE = 25  # frames: for so long after the followed face is lost nobody who was there before takes its place
LEAST_LIKENESS = 0.4  # a face less like the reference picture is somebody else


class FaceLocator:
    """Chooses one face in each frame and makes its crop box.

    face: "largest" (the person followed so far is kept while there and no other face is twice as large; a short
    occlusion does not make a bystander speak), "left" or "right" (as seen in the picture; faces below a tenth of the
    largest one's area do not count). options.face_index or options.reference, when set, choose a person instead.
    bbox_shift and extra_margin: pixels, see geometry.crop_box; options.subpixel and options.upright: see
    geometry.placed_box. Calls continue one another: give the frames in order.
    Raises MuseTalkError for an unknown choice.
    """

    def __init__(
        self,
        detector: Detector,
        bbox_shift: int = 0,
        extra_margin: int = 10,
        face: FaceChoice = "largest",
        options: FaceSettings = FaceSettings(),  # noqa: B008 (frozen)
    ) -> None:
        if face not in FACE_CHOICES:
            raise MuseTalkError(f"The face choice {face!r} is unknown; choose one of {', '.join(FACE_CHOICES)}.")
        self.detector = detector
        self.bbox_shift = bbox_shift
        self.extra_margin = extra_margin
        self.face = face
        self.options = options
        self._wanted = Appearance.from_text(options.reference) if options.reference else None
        self._tracker = FaceTracker(detector, options.detect_every)
        self._smoother = OneEuro(options.smoothing)
        self._speaker: int | None = None
        self._speaker_seen = -1
        self._likeness = LEAST_LIKENESS

    @property
    def choice(self) -> str:
        """The choice in words: a name for its track."""
        if self._wanted is not None:
            return "like the reference"
        return self.face if self.options.face_index < 0 else f"face {self.options.face_index}"

    def locate(
        self, frames: torch.Tensor, given: Sequence[Sequence[Face]] | None = None, live: bool = True
    ) -> FaceTrack:
        """The track of frames (B,H,W,3) or one frame (H,W,3), uint8 or floating 0..1; absent where no face is.

        given: the faces of each frame when something else has found them. live: options.smoothing looks back only, as
        a stream needs it; False leaves it to `smoothed`, once the whole track is there.
        """
        batch = frames[None] if frames.ndim == 3 else frames
        if batch.ndim != 4:
            raise MuseTalkError(
                f"Frames have shape {tuple(frames.shape)}; faces are found in (frames, height, width, 3)."
            )
        track = FaceTrack.absent(len(batch), (int(batch.shape[1]), int(batch.shape[2])), self.choice)
        for i, frame in enumerate(batch):
            chosen = self.find(frame, None if given is None else given[i])
            track.scenes[i] = self._tracker.scene
            if chosen is None:
                track.reasons[i] = self._absence()
                self._smoother.forget()
                continue
            if live and self.options.smoothing:
                chosen = self._smoother.face(chosen, self._tracker.scene)
            self._place(track, i, chosen)
        return track

    def find(self, frame: torch.Tensor, given: Sequence[Face] | None = None) -> Face | None:
        """The chosen face of the next frame (H,W,3), as it is found there; see `locate`."""
        return self.choose(self._tracker.step(frame, given))

    def smoothed(self, track: FaceTrack) -> FaceTrack:
        """A whole track with options.smoothing, which then looks as far ahead as back: nothing lags."""
        if not self.options.smoothing:
            return track
        smooth = smooth_track(track, self.options.smoothing)
        assert smooth.landmarks is not None
        for i in np.flatnonzero(track.present):
            known = smooth.landmarks[i].any()
            nowhere = np.full(4, np.nan)
            box, angle = self._box(smooth.landmarks[i], nowhere, track.image_size) if known else (None, 0.0)
            if box is not None:
                smooth.boxes[i], smooth.angles[i] = box, angle
            elif not self.options.subpixel:
                smooth.boxes[i] = smooth.boxes[i].round()
        return smooth

    def choose(self, faces: Sequence[TrackedFace]) -> Face | None:
        """The face to generate among a frame's faces (largest first); remembers its person for the next frame."""
        chosen = self._chosen(faces)
        if chosen is None:
            return None
        self._speaker, self._speaker_seen = chosen.identity, self._tracker.frame
        return chosen.face

    def _chosen(self, faces: Sequence[TrackedFace]) -> TrackedFace | None:
        if self._wanted is not None:
            return self._like_the_reference(faces, self._wanted)
        if self.options.face_index >= 0:
            return next((face for face in faces if face.identity == self.options.face_index), None)
        if not faces:
            return None
        return self._followed(faces) if self.face == "largest" else self._by_side(faces)

    def _by_side(self, faces: Sequence[TrackedFace]) -> TrackedFace:
        near = [face for face in faces if face.face.area >= SMALLEST_SHARE * faces[0].face.area]
        near.sort(key=lambda face: float(face.face.box[0] + face.face.box[2]))
        return near[0] if self.face == "left" else near[-1]

    def _followed(self, faces: Sequence[TrackedFace]) -> TrackedFace | None:
        speaker = next((face for face in faces if face.identity == self._speaker), None)
        if speaker is not None:
            return speaker if speaker.face.area >= KEEP_SHARE * faces[0].face.area else faces[0]
        hidden = self._speaker is not None and self._tracker.lost(self._speaker)
        if hidden and self._tracker.frame - self._speaker_seen <= PATIENCE:
            return next((face for face in faces if face.since > self._speaker_seen), None)
        return faces[0]

    def _like_the_reference(self, faces: Sequence[TrackedFace], wanted: Appearance) -> TrackedFace | None:
        """The person whose look has come nearest to the reference so far, if in this frame."""
        for face in faces:
            likeness = wanted.likeness(face.look)
            if likeness > self._likeness:
                self._likeness, self._speaker = likeness, face.identity
        return next((face for face in faces if face.identity == self._speaker), None)

    def _absence(self) -> str:
        """Why the frame just looked at has no chosen face."""
        if self._speaker is not None and self._tracker.lost(self._speaker):
            return LOST
        return OTHERS if self._tracker.in_view else NOBODY

    def _place(self, track: FaceTrack, row: int, face: Face) -> None:
        box, angle = self._box(face.landmarks, face.box, track.image_size)
        if box is None:
            track.reasons[row] = why_no_box(face.landmarks, face.box, track.image_size)
            return
        assert track.landmarks is not None
        track.boxes[row], track.angles[row] = box, angle
        track.present[row], track.reasons[row] = True, FOUND
        track.landmarks[row] = np.nan_to_num(face.landmarks)

    def _box(
        self, landmarks: np.ndarray, face_box: np.ndarray, size: tuple[int, int]
    ) -> tuple[np.ndarray | None, float]:
        """The crop box (4,), None without one, and its angle."""
        subpixel, upright = self.options.subpixel, self.options.upright
        return placed_box(landmarks, face_box, size, self.bbox_shift, self.extra_margin, subpixel, upright)
