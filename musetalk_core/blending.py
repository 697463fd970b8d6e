"""Blending: which pixels of a frame the generated face replaces, and the replacement itself."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from .errors import MuseTalkError
from .face_parsing import FaceParser, label_mask
from .faces.geometry import crop_square, landmark_mask
from .faces.track import FaceTrack
from .settings import MaskSettings

Square = tuple[int, int, int, int]
# Share of the box that the drawn ellipse fills when there is neither a parser nor landmarks: the blur then fades
# out inside the box.
_ELLIPSE_FILL = 0.92


class Masker:
    """Makes the blend masks of frames: by face parsing, else from the landmarks, else an ellipse in the box."""

    def __init__(self, parser: FaceParser | None, settings: MaskSettings) -> None:
        self.parser = parser
        self.settings = settings

    def masks(self, frames: Sequence[Tensor], track: FaceTrack) -> list[np.ndarray | None]:
        """One (box height, box width) uint8 mask per frame; None where the track has no face.

        frames: (H,W,3) uint8 0..255 or floating 0..1 (a batch (B,H,W,3) works too), on any device; only the
        parsed square is converted, NaN counts as 0. Raises MuseTalkError when frames and track differ in length.
        """
        if len(frames) != len(track):
            raise MuseTalkError(
                f"{len(frames)} frames were given with a track of {len(track)}; give the track of these frames."
            )
        rows = [int(row) for row in np.flatnonzero(track.present)]
        squares = [crop_square(track.boxes[row], self.settings.expand) for row in rows]
        masks: list[np.ndarray | None] = [None] * len(frames)
        for row, square, picture in zip(rows, squares, self._pictures(frames, track, rows, squares), strict=True):
            masks[row] = blend_mask(picture, track.boxes[row], square, self.settings)
        return masks

    def _pictures(
        self, frames: Sequence[Tensor], track: FaceTrack, rows: list[int], squares: list[Square]
    ) -> Iterator[np.ndarray]:
        if self.parser is None:
            for row, square in zip(rows, squares, strict=True):
                yield _drawn_mask(track, row, square)
            return
        regions = (_square_region(frames[row], square) for row, square in zip(rows, squares, strict=True))
        for labels in self.parser.labels(regions):
            yield label_mask(labels, self.settings)


def blend_mask(mask: np.ndarray, box: np.ndarray, square: Square, settings: MaskSettings) -> np.ndarray:
    """Turns a mask of the square into the soft mask of the box: (box height, box width) uint8.

    mask: uint8 picture of `square` (x1,y1,x2,y2, may leave the image) at any resolution. It is resized to the
    square (PIL bicubic), kept only in the box and below the upper boundary int(side * ratio), and blurred over the
    square by a Gaussian of kernel int(blur * side // 2 * 2) + 1. MuseTalk's arithmetic (musetalk/utils/blending.py
    at 0a89dec). What the blur carries outside the box has no effect on the picture and is left out.
    """
    import cv2

    x1, y1, x2, y2 = _corners(box)
    side = square[2] - square[0]
    out = np.zeros((max(y2 - y1, 0), max(x2 - x1, 0)), np.uint8)
    # The box in the square's pixel grid, cut to the square (with expand 1 an odd box is one pixel wider).
    left, top = max(x1 - square[0], 0), max(y1 - square[1], 0)
    right, bottom = min(x2 - square[0], side), min(y2 - square[1], side)
    first = max(top, int(side * settings.upper_boundary_ratio))
    if right <= left or bottom <= first:
        return out
    soft = _resize_mask(mask, side)
    kept = np.zeros_like(soft)
    kept[first:bottom, left:right] = soft[first:bottom, left:right]
    radius = int(settings.blur * side // 2 * 2) // 2
    # Rows above `start` stay 0, and the blur of a pixel sees no further than `radius`: the rest is not blurred.
    start = max(top, first - radius)
    above, before = max(start - radius, 0), max(left - radius, 0)
    window = kept[above : bottom + radius, before : right + radius]
    blurred = cv2.GaussianBlur(window, (2 * radius + 1, 2 * radius + 1), 0)
    row, column = start + square[1] - y1, left + square[0] - x1
    out[row : row + bottom - start, column : column + right - left] = blurred[
        start - above : bottom - above, left - before : right - before
    ]
    return out


def composite(frame: Tensor, face: Tensor, box: np.ndarray, mask: np.ndarray) -> Tensor:
    """A copy of the frame with the face blended into the box; same dtype and device.

    frame: (H,W,3) uint8 0..255 or floating 0..1. face: (256,256,3) uint8 or floating 0..1, any device; it is
    rounded to 8 bits and resized to the box by OpenCV's bilinear filter. mask: (box height, box width) uint8.
    Pixels where the mask is 0 and all outside the box keep their bits. Where it is not, NaN counts as 0. A box that
    leaves the frame is cut. Raises MuseTalkError when the mask is not of the box's size.
    """
    x1, y1, x2, y2 = _corners(box)
    if mask.shape != (y2 - y1, x2 - x1):
        raise MuseTalkError(f"The mask is {mask.shape} for a box of {(y2 - y1, x2 - x1)}; make it for this box.")
    result = frame.clone()
    left, top, right, bottom = _extent(mask)
    left, top = max(left, -x1), max(top, -y1)
    right, bottom = min(right, frame.shape[1] - x1), min(bottom, frame.shape[0] - y1)
    if right <= left or bottom <= top:
        return result
    inside = (slice(top, bottom), slice(left, right))
    pasted = torch.from_numpy(_resize_face(face, mask.shape)[inside]).to(frame.device)
    weight = torch.from_numpy(mask[inside]).to(frame.device)[..., None]
    region = result[y1 + top : y1 + bottom, x1 + left : x1 + right]
    blend = _blend_float if frame.is_floating_point() else _blend_uint8
    region.copy_(blend(region, pasted, weight))
    return result


def _extent(mask: np.ndarray) -> Square:
    """The smallest rectangle (x1, y1, x2, y2) that holds every non-zero pixel; empty when there is none."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return 0, 0, 0, 0
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _blend_uint8(base: Tensor, face: Tensor, weight: Tensor) -> Tensor:
    """Rounded (base * (255 - weight) + face * weight) / 255, all uint8."""
    weights = weight.to(torch.int32)
    total = base.to(torch.int32) * (255 - weights)
    total += face.to(torch.int32) * weights
    # (t + (t >> 8)) >> 8 with t = total + 128 is the exact rounded division by 255 for totals up to 255 * 255.
    total += 128
    total += total >> 8
    return (total >> 8).to(torch.uint8)


def _blend_float(base: Tensor, face: Tensor, weight: Tensor) -> Tensor:
    dtype = torch.promote_types(base.dtype, torch.float32)
    finite = torch.nan_to_num(base.to(dtype), nan=0.0, posinf=1.0, neginf=0.0)
    blended = torch.lerp(finite, face.to(dtype).div_(255), weight.to(dtype).div_(255))
    return torch.where(weight == 0, base, blended.to(base.dtype))


def _corners(box: np.ndarray) -> Square:
    x1, y1, x2, y2 = (int(value) for value in box)
    return x1, y1, x2, y2


def _to_uint8(pixels: Tensor) -> Tensor:
    if not pixels.is_floating_point():
        return pixels
    scaled = torch.nan_to_num(pixels.to(torch.float32), nan=0.0).clamp(0, 1) * 255
    return scaled.round().to(torch.uint8)


def _resize_face(face: Tensor, size: tuple[int, int]) -> np.ndarray:
    import cv2

    pixels = np.ascontiguousarray(_to_uint8(face.detach()).cpu().numpy())
    return cv2.resize(pixels, (size[1], size[0]), interpolation=cv2.INTER_LINEAR)


def _resize_mask(mask: np.ndarray, side: int) -> np.ndarray:
    from PIL import Image

    return np.asarray(Image.fromarray(mask).resize((side, side), Image.Resampling.BICUBIC))


def _square_region(frame: Tensor, square: Square) -> np.ndarray:
    """The frame inside the square, (side,side,3) uint8, black where the square leaves the frame."""
    x1, y1, x2, y2 = square
    height, width = frame.shape[:2]
    region = np.zeros((max(y2 - y1, 1), max(x2 - x1, 1), 3), np.uint8)
    left, top, right, bottom = max(x1, 0), max(y1, 0), min(x2, width), min(y2, height)
    if right > left and bottom > top:
        pixels = _to_uint8(frame[top:bottom, left:right].detach()).cpu().numpy()
        region[top - y1 : bottom - y1, left - x1 : right - x1] = pixels
    return region


def _drawn_mask(track: FaceTrack, row: int, square: Square) -> np.ndarray:
    landmarks = None if track.landmarks is None else track.landmarks[row]
    if landmarks is not None and np.isfinite(landmarks).all() and landmarks.any():
        return landmark_mask(landmarks, square)
    return _ellipse_mask(track.boxes[row], square)


def _ellipse_mask(box: np.ndarray, square: Square) -> np.ndarray:
    x1, y1, x2, y2 = (float(value) for value in box)
    columns = np.arange(square[0], square[2]) + 0.5
    lines = np.arange(square[1], square[3]) + 0.5
    across = (columns - (x1 + x2) / 2) / max((x2 - x1) / 2 * _ELLIPSE_FILL, 1e-6)
    down = (lines - (y1 + y2) / 2) / max((y2 - y1) / 2 * _ELLIPSE_FILL, 1e-6)
    return ((across[None, :] ** 2 + down[:, None] ** 2) <= 1).astype(np.uint8) * 255
