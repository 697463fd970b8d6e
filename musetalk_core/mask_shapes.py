"""Shapes of the region that is replaced, drawn without face parsing, in the pixel grid of the parsed square."""

import numpy as np

from .faces.geometry import landmark_mask
from .settings import MaskShape

Square = tuple[int, int, int, int]
ELLIPSE_FILL = 0.92  # share of the box that the ellipse fills: the blur then fades out inside the box


def shape_mask(shape: MaskShape, box: np.ndarray, landmarks: np.ndarray | None, square: Square) -> np.ndarray:
    """(h,w) uint8, 0 or 255, of the square (x1,y1,x2,y2 in frame pixels): where a face in `box` (4,) is replaced.

    landmarks: (68,2) iBUG points in frame pixels; where they are None, all zero or not finite, the ellipse in the box
    is drawn. "parsing", which has no parser here, is "landmarks".
    """
    if shape == "ellipse" or landmarks is None or not (np.isfinite(landmarks).all() and landmarks.any()):
        return ellipse_mask(box, square)
    return landmark_mask(landmarks, square)


def ellipse_mask(box: np.ndarray, square: Square) -> np.ndarray:
    """The ellipse that fills 92 % of the box (4,), (h,w) uint8, 0 or 255, of the square."""
    x1, y1, x2, y2 = (float(value) for value in box)
    columns = np.arange(square[0], square[2]) + 0.5
    lines = np.arange(square[1], square[3]) + 0.5
    across = (columns - (x1 + x2) / 2) / max((x2 - x1) / 2 * ELLIPSE_FILL, 1e-6)
    down = (lines - (y1 + y2) / 2) / max((y2 - y1) / 2 * ELLIPSE_FILL, 1e-6)
    return ((across[None, :] ** 2 + down[:, None] ** 2) <= 1).astype(np.uint8) * 255
