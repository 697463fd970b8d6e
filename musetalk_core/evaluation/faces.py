"""The faces of a clip, of its source and of its reference, each looked for once."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..faces.detector import Detector
from ..faces.locator import FaceLocator
from ..faces.track import FaceTrack
from ..media.source import FrameSource
from ..settings import LipSyncSettings
from .clip import Clip


@dataclass(frozen=True)
class Faces:
    """The followed face of every frame: boxes (N,4) and landmarks (N,68,2) in pixels, NaN where there is none."""

    boxes: np.ndarray
    landmarks: np.ndarray

    @property
    def seen(self) -> np.ndarray:
        """(N,) bool."""
        return np.isfinite(self.boxes[:, 0])


class ClipFaces:
    """Finds what the measures ask for when they first ask. settings: those that the clip was made with.

    progress(): after each frame of the clip itself.
    """

    def __init__(
        self,
        clip: Clip,
        detector: Detector,
        settings: LipSyncSettings = LipSyncSettings(),  # noqa: B008 (frozen)
        progress: Callable[[], None] = lambda: None,
    ) -> None:
        self.clip = clip
        self.detector = detector
        self.settings = settings
        self._progress = progress

    @cached_property
    def own(self) -> Faces:
        """The clip's own faces, one a frame."""
        return self._find(self.clip.frames, range(len(self.clip)), self._progress)

    @cached_property
    def source(self) -> FaceTrack | None:
        """The source's track for every frame of the clip, found as lip-sync finds it: its boxes are the crops."""
        clip, made = self.clip, self.settings
        if clip.source is None:
            return None
        locator = FaceLocator(self.detector, made.bbox_shift, made.extra_margin, made.face, made.faces)
        shown, rows = _once(clip.shown)
        tracks = [locator.locate(frame, live=False) for frame in clip.source.read(shown)]
        return locator.smoothed(FaceTrack.join(tracks)).select(rows)

    @cached_property
    def reference_landmarks(self) -> np.ndarray | None:
        """(N,68,2) of the reference's face for every frame of the clip, NaN where there is none."""
        clip = self.clip
        if clip.reference is None:
            return None
        if clip.reference is clip.source and self.source is not None and self.source.landmarks is not None:
            return np.where(self.source.present[:, None, None], self.source.landmarks, np.nan)
        return self._find(clip.reference, clip.aside).landmarks

    def _find(self, frames: FrameSource, indices: Sequence[int], progress: Callable[[], None] = lambda: None) -> Faces:
        locator = FaceLocator(self.detector, face=self.settings.face, options=self.settings.faces)
        shown, rows = _once(indices)
        boxes, landmarks = np.full((len(shown), 4), np.nan), np.full((len(shown), 68, 2), np.nan)
        for k, frame in enumerate(frames.read(shown)):
            face = locator.find(frame)
            if face is not None:
                boxes[k], landmarks[k] = face.box, face.landmarks
            progress()
        return Faces(boxes[rows], landmarks[rows])


def _once(indices: Sequence[int]) -> tuple[list[int], list[int]]:
    """The distinct indices in the order in which they first come, and the place of every index among them."""
    places = {index: k for k, index in enumerate(dict.fromkeys(indices))}
    return list(places), [places[index] for index in indices]
