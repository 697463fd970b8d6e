"""A prepared avatar in memory."""

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch

from ..faces.track import FaceTrack
from ..media.source import FrameSource
from ..pipeline import PreparedFrame
from ..report import Report
from ..settings import LipSyncSettings

REALTIME_FPS = Fraction(25)


@dataclass(frozen=True)
class Avatar:
    """Everything about a source that does not depend on what is said.

    frames: the source's N pictures, each once, uint8 (H,W,3), at REALTIME_FPS or, for offline use only, at the
    source's own rate. track: their faces. masked, reference: (N,4,h,w) float32 latents on the CPU, unscaled, zeros
    where no face is. masks: per frame (box height, box width) uint8, or None. settings: what it was prepared with;
    those of the sound are defaults. version: whose networks made the latents (v1.5, v1.0, demo, an own file's name).
    """

    name: str
    frames: FrameSource
    track: FaceTrack
    masked: torch.Tensor
    reference: torch.Tensor
    masks: tuple[np.ndarray | None, ...]
    settings: LipSyncSettings
    version: str

    def __len__(self) -> int:
        return len(self.track)

    def text(self) -> str:
        """Lines for people: how many frames have a face, and which have none and why."""
        faces = int(self.track.present.sum())
        return "\n".join([f"{len(self)} frames, {faces} with a face", *Report.of_track(self.track).gap_lines()])

    def prepared(self, k: int) -> PreparedFrame:
        """Frame k (0-based) as the pipeline takes it: box, latents and mask, or why there is no face."""
        mask = self.masks[k]
        if mask is None:
            return PreparedFrame(reason=str(self.track.reasons[k]))
        return PreparedFrame(self.track.boxes[k], self.masked[k], self.reference[k], mask)
