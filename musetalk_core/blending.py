"""Blending: which pixels of a frame the generated face replaces, and the replacement itself."""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from .colour_match import match_colours
from .errors import MuseTalkError
from .face_parsing import FaceParser, front_mask, label_mask
from .faces.geometry import crop_square
from .faces.track import FaceTrack
from .faces.upright import REACH, laid_back, rectangle_in_frame, view_to_frame
from .mask_shapes import Square, shape_mask
from .settings import MaskSettings

FRONT_SHARE = 0.02  # of the square's side: how far around something in front of the face the original fades in


class Masker:
    """Makes the blend masks of frames: by face parsing, else from the landmarks, else an ellipse in the box."""

    def __init__(self, parser: FaceParser | None, settings: MaskSettings) -> None:
        self.parser = parser
        self.settings = settings

    def masks(self, frames: Sequence[Tensor], track: FaceTrack, own: Tensor | None = None) -> list[np.ndarray | None]:
        """One (box height, box width) uint8 mask per frame, as upright as its box; None where the track has no face.

        frames: (H,W,3) uint8 0..255 or floating 0..1 (a batch (B,H,W,3) works too), on any device; only the
        parsed square is converted, NaN counts as 0. own: a user's mask (1 or B,H,W) floating 0..1, NaN counts as 0,
        that ours are multiplied with. Raises MuseTalkError when frames, track and own masks do not fit together.
        """
        if len(frames) != len(track):
            raise MuseTalkError(
                f"{len(frames)} frames were given with a track of {len(track)}; give the track of these frames."
            )
        if own is not None:
            check_own_mask(own, len(frames), track.image_size)
        rows = [int(row) for row in np.flatnonzero(track.present)]
        squares = [crop_square(track.boxes[row], self.settings.expand) for row in rows]
        masks: list[np.ndarray | None] = [None] * len(frames)
        for row, square, labels in zip(rows, squares, self._labels(frames, track, rows, squares), strict=True):
            mask = self._mask(track, row, square, labels)
            if own is not None:
                angle = float(track.angles[row])
                mask = _weighed(mask, _own_weights(own[row if len(own) > 1 else 0], track.boxes[row], angle))
            masks[row] = feathered(mask, self.settings.feather)
        return masks

    def _labels(
        self, frames: Sequence[Tensor], track: FaceTrack, rows: list[int], squares: list[Square]
    ) -> Iterable[np.ndarray] | Iterable[None]:
        """The classes of each square, or None where nothing asks for them."""
        if self.parser is None or (self.settings.mask_shape != "parsing" and not self.settings.occlusion):
            return [None] * len(rows)
        regions = (
            _square_region(frames[row], square, track.boxes[row], float(track.angles[row]))
            for row, square in zip(rows, squares, strict=True)
        )
        return self.parser.labels(regions)

    def _mask(self, track: FaceTrack, row: int, square: Square, labels: np.ndarray | None) -> np.ndarray:
        shape, box = self.settings.mask_shape, track.boxes[row]
        if labels is not None and shape == "parsing":
            picture = label_mask(labels, self.settings)
        else:
            picture = shape_mask(shape, box, track.upright_landmarks(row), square)
        mask = blend_mask(picture, box, square, self.settings)
        if labels is None or not self.settings.occlusion or not picture.size:
            return mask
        return _weighed(mask, _visible(front_mask(labels, picture), box, square))


def check_own_mask(own: Tensor, frames: int, size: tuple[int, int]) -> None:
    """Raise one sentence unless a user's mask (N,H,W) is one or one per frame, of the frames' size (height, width)."""
    if own.ndim != 3 or len(own) not in (1, frames):
        raise MuseTalkError(
            f"The mask has the shape {tuple(own.shape)} for {frames} frames; give one mask or one for every frame."
        )
    if tuple(own.shape[1:]) != tuple(size):
        raise MuseTalkError(
            f"The mask has {own.shape[2]}x{own.shape[1]} pixels and the frames {size[1]}x{size[0]}; make it on a frame."
        )


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


def feathered(mask: np.ndarray, pixels: int) -> np.ndarray:
    """The mask (h,w) uint8 faded inwards: 0 at its edge (where it is 0, or the box ends), itself `pixels` further in.

    Between them the weight follows 3t^2 - 2t^3 of the distance's share t, which has no kink at either end. 0 pixels:
    the mask as it is.
    """
    import cv2

    if not pixels or not mask.any():
        return mask
    inside = np.pad((mask > 0).astype(np.uint8), 1)
    share = (cv2.distanceTransform(inside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1] / pixels).clip(0, 1)
    return np.round(mask * (share * share * (3 - 2 * share))).astype(np.uint8)


def faded(mask: np.ndarray, weight: float) -> np.ndarray:
    """The mask (h,w) uint8 times a weight 0..1; the mask itself for 1."""
    return mask if weight == 1 else np.round(mask * np.float32(weight)).astype(np.uint8)


def composite(
    frame: Tensor, face: Tensor, box: np.ndarray, mask: np.ndarray, colour_match: float = 0.0, angle: float = 0.0
) -> Tensor:
    """A copy of the frame with the face blended into the box; same dtype and device.

    frame: (H,W,3) uint8 0..255 or floating 0..1. face: (256,256,3) uint8 or floating 0..1, any device; it is
    rounded to 8 bits and resized to the box by OpenCV's bilinear filter. mask: (box height, box width) uint8.
    colour_match: share of the difference in colour to the frame that is taken from the face first (match_colours).
    angle: of the box in radians (faces/upright.py); face and mask are upright and are turned with it. Pixels where the
    mask is 0 and all outside the box keep their bits. Where it is not, NaN counts as 0. A box that leaves the frame is
    cut. Raises MuseTalkError when the mask is not of the box's size.
    """
    x1, y1, x2, y2 = _corners(box)
    if mask.shape != (y2 - y1, x2 - x1):
        raise MuseTalkError(f"The mask is {mask.shape} for a box of {(y2 - y1, x2 - x1)}; make it for this box.")
    if not mask.any():
        return frame.clone()
    pixels = _resize_face(face, mask.shape)
    if colour_match:
        pixels = _matched(pixels, frame, box, mask, colour_match, angle)
    if angle:
        pixels, (x1, y1, _, _) = laid_back(pixels, box, angle)
        mask, _ = laid_back(mask, box, angle)
    return _pasted(frame, pixels, mask, x1, y1)


def _pasted(frame: Tensor, pixels: np.ndarray, mask: np.ndarray, x: int, y: int) -> Tensor:
    """A copy of the frame with pixels (h,w,3) uint8 blended in by a mask (h,w) uint8, their first pixel at x, y."""
    result = frame.clone()
    left, top, right, bottom = _extent(mask)
    left, top = max(left, -x), max(top, -y)
    right, bottom = min(right, frame.shape[1] - x), min(bottom, frame.shape[0] - y)
    if right <= left or bottom <= top:
        return result
    inside = (slice(top, bottom), slice(left, right))
    pasted = torch.from_numpy(pixels[inside]).to(frame.device)
    weight = torch.from_numpy(mask[inside]).to(frame.device)[..., None]
    region = result[y + top : y + bottom, x + left : x + right]
    blend = _blend_float if frame.is_floating_point() else _blend_uint8
    region.copy_(blend(region, pasted, weight))
    return result


def _matched(
    face: np.ndarray, frame: Tensor, box: np.ndarray, mask: np.ndarray, amount: float, angle: float
) -> np.ndarray:
    """The face with the colours of the frame in the part of the box that lies inside the frame.

    A turned box is compared as a whole: what lies outside the frame repeats its border, as in the crop.
    """
    import cv2

    x1, y1, x2, y2 = _corners(box)
    if angle:
        original = _upright_region(frame, (x1, y1, x2, y2), box, angle, cv2.BORDER_REPLICATE)
        return match_colours(face, original, mask, amount)
    if min(x2, frame.shape[1]) <= max(x1, 0) or min(y2, frame.shape[0]) <= max(y1, 0):
        return face
    rows, columns = slice(max(-y1, 0), frame.shape[0] - y1), slice(max(-x1, 0), frame.shape[1] - x1)
    original = _to_uint8(frame[max(y1, 0) : y2, max(x1, 0) : x2].detach()).cpu().numpy()
    matched = face.copy()
    matched[rows, columns] = match_colours(face[rows, columns], original, mask[rows, columns], amount)
    return matched


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


def _square_region(frame: Tensor, square: Square, box: np.ndarray, angle: float) -> np.ndarray:
    """The frame inside the square around a box, (side,side,3) uint8, black where the square leaves the frame."""
    import cv2

    x1, y1, x2, y2 = square
    if angle and x2 > x1:
        return _upright_region(frame, square, box, angle, cv2.BORDER_CONSTANT)
    height, width = frame.shape[:2]
    region = np.zeros((max(y2 - y1, 1), max(x2 - x1, 1), 3), np.uint8)
    left, top, right, bottom = max(x1, 0), max(y1, 0), min(x2, width), min(y2, height)
    if right > left and bottom > top:
        pixels = _to_uint8(frame[top:bottom, left:right].detach()).cpu().numpy()
        region[top - y1 : bottom - y1, left - x1 : right - x1] = pixels
    return region


def _upright_region(picture: Tensor, region: Square, box: np.ndarray, angle: float, border: int) -> np.ndarray:
    """The pixels of a picture (H,W,3) or (H,W) in a region of the upright view of a box, uint8, bicubic.

    border: OpenCV's way to go on beyond the picture. Only the part that the region needs is converted.
    """
    import cv2

    width, height = region[2] - region[0], region[3] - region[1]
    x1, y1, x2, y2 = rectangle_in_frame(region, box, angle)
    left, top = max(x1 - REACH, 0), max(y1 - REACH, 0)
    part = picture[top : max(y2 + REACH, 0), left : max(x2 + REACH, 0)]
    if not part.numel():
        return np.zeros((height, width, *picture.shape[2:]), np.uint8)
    pixels = np.ascontiguousarray(_to_uint8(part.detach()).cpu().numpy())
    matrix = view_to_frame(box, angle, np.array(region[:2]), np.array([left, top]))
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(pixels, matrix, (width, height), flags=flags, borderMode=border)


def _weighed(mask: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The mask (h,w) uint8 times weights (h,w) uint8 / 255, rounded."""
    return ((mask.astype(np.uint16) * weights + 127) // 255).astype(np.uint8)


def _own_weights(own: Tensor, box: np.ndarray, angle: float) -> np.ndarray:
    """A user's mask (H,W) in the box, (box height, box width) uint8; 0 where the box leaves the frame."""
    import cv2

    x1, y1, x2, y2 = _corners(box)
    if angle:
        return _upright_region(own, (x1, y1, x2, y2), box, angle, cv2.BORDER_CONSTANT)
    weights = np.zeros((y2 - y1, x2 - x1), np.uint8)
    part = _to_uint8(own[max(y1, 0) : y2, max(x1, 0) : x2].detach().float()).cpu().numpy()
    top, left = max(-y1, 0), max(-x1, 0)
    weights[top : top + part.shape[0], left : left + part.shape[1]] = part
    return weights


def _visible(front: np.ndarray, box: np.ndarray, square: Square) -> np.ndarray:
    """0 where something is in front of the face, 255 away from it: (box height, box width) uint8.

    front: (512,512) bool of the square.
    """
    import cv2

    side = square[2] - square[0]
    reach = max(1, round(side * FRONT_SHARE))
    kernel = np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)
    covered = cv2.resize(front.astype(np.uint8) * 255, (side, side), interpolation=cv2.INTER_NEAREST)
    # Grown by as much as the blur reaches, so that what is in front itself stays at 0.
    soft = 255 - cv2.blur(cv2.dilate(covered, kernel), kernel.shape)
    x1, y1, x2, y2 = _corners(box)
    visible = np.zeros((y2 - y1, x2 - x1), np.uint8)
    left, top = max(square[0] - x1, 0), max(square[1] - y1, 0)
    part = soft[max(y1 - square[1], 0) : y2 - square[1], max(x1 - square[0], 0) : x2 - square[0]]
    visible[top : top + part.shape[0], left : left + part.shape[1]] = part
    return visible
