"""Pictures of a session: the source's, over and over, and with the mouth in them."""

import numpy as np
import torch

from ..avatars.avatar import Avatar
from ..media.source import FrameSource
from ..pipeline import pasted
from ..timeline import source_index
from .block import FPS


class PictureLoop:
    """The frames of a source, there and back without end, at 25 a second; nothing is copied when they are in memory."""

    def __init__(self, frames: FrameSource) -> None:
        self._frames = frames

    def index(self, position: int) -> int:
        """The source frame at a position (0, 1, 2 ... from the beginning)."""
        return source_index(position, len(self._frames), self._frames.fps, FPS, "ping-pong")

    def picture(self, position: int) -> np.ndarray:
        """(H,W,3) uint8, read-only."""
        picture = next(iter(self._frames.read([self.index(position)]))).numpy()
        picture.flags.writeable = False
        return picture


def speaking_picture(avatar: Avatar, index: int, face: torch.Tensor, weight: float) -> np.ndarray | None:
    """Source frame `index` with a generated face (256,256,3) float 0..1 pasted in, as the pipeline does; read-only.

    weight: share 0..1 of the mask that is shown. None when the face is not finite.
    """
    frame = avatar.prepared(index)
    if frame.box is None or frame.mask is None or not torch.isfinite(face).all():
        return None
    source = next(iter(avatar.frames.read([index])))
    picture = pasted(source, frame, face, weight, avatar.settings.mask.colour_match).numpy()
    picture.flags.writeable = False
    return picture


def between(source: np.ndarray, picture: np.ndarray, weight: float) -> np.ndarray:
    """`weight` (0..1) of a speaking picture over its own source frame, (H,W,3) uint8; equal pixels stay equal."""
    import cv2

    mixed = cv2.addWeighted(picture, weight, source, 1 - weight, 0)
    mixed.flags.writeable = False
    return mixed
