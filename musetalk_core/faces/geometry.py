"""Crop geometry: the box MuseTalk generates, the square that is parsed, and the mask drawn from landmarks."""

import numpy as np
import torch

from .track import BROKEN, OUTSIDE, SMALL
from .upright import centre_of, rectangle_in_frame, roll, turned, view_to_frame

CROP_SIZE = 256
LANCZOS_REACH = 4  # pixels that the 8x8 taps see beyond a place
SMALLEST_BOX = 2  # pixels; a narrower crop holds no mouth
LEAST_VISIBLE = 0.5  # of the crop box: of a face that shows less the mouth is hardly in the image
JAW, BRIDGE, MID_NOSE, LOW_NOSE, TOP_NOSE = slice(0, 17), slice(27, 31), 29, 30, 28
HULL_SHRINK = 0.04  # of the hull, towards its centre, so that the blurred edge stays on the skin


def crop_box(
    landmarks: np.ndarray,
    face_box: np.ndarray,
    image_size: tuple[int, int],
    bbox_shift: int = 0,
    extra_margin: int = 10,
    whole: bool = True,
) -> np.ndarray | None:
    """The box whose content is generated: (4,) float32 x1 y1 x2 y2 in pixels, or None.

    landmarks: (68,2) iBUG points in pixels; face_box: (4,) used when the landmarks give no box; image_size:
    (height, width). MuseTalk's arithmetic on whole-pixel landmarks: the middle is y of point 29 plus bbox_shift,
    the box reaches as far above it as the chin lies below and from the leftmost to the rightmost point (so a shift
    of s moves the top edge by 2s); then extra_margin pixels are added below, as far as the image goes. A face that
    leaves the image keeps its box, so that it is not stretched: what lies outside is made up by crop_face and never
    pasted. whole: rounded to whole pixels, as MuseTalk does; else to none. None when half of the box or more lies
    outside, when less than 2 pixels remain, or when nothing is finite.
    """
    if np.isfinite(landmarks).all():
        points = landmarks.astype(np.int64) if whole else landmarks.astype(np.float64)
        low = points[:, 1].max()
        top = 2 * points[MID_NOSE, 1] - low
        box = np.array([points[:, 0].min(), top, points[:, 0].max(), low], np.float64)
        share = visible_share(box, image_size)
        if 0 < share <= LEAST_VISIBLE:
            return None
        box[1] = max(top + 2 * bbox_shift, min(0, top))  # a shift alone does not leave the image
        if share > 0 and box[1] < low:
            return _lengthened(box, image_size, extra_margin)
    if not np.isfinite(face_box).all():
        return None
    height, width = image_size
    box = (face_box.astype(np.int64) if whole else face_box).clip(0, [width, height, width, height])
    return _lengthened(box, image_size, extra_margin) if visible_share(box, image_size) > 0 else None


def placed_box(
    landmarks: np.ndarray,
    face_box: np.ndarray,
    image_size: tuple[int, int],
    bbox_shift: int = 0,
    extra_margin: int = 10,
    subpixel: bool = False,
    upright: bool = False,
) -> tuple[np.ndarray | None, float]:
    """The crop_box and its angle in radians, which is 0 unless `upright`; subpixel: not rounded.

    upright: the box is made in the view of upright.py, where the head is upright, and never rounded. For what crop_box
    does at the image's edges the view, turned about the landmarks' middle, counts as large as the image.
    """
    angle = roll(landmarks) if upright else 0.0
    if not angle:
        return crop_box(landmarks, face_box, image_size, bbox_shift, extra_margin, whole=not subpixel), 0.0
    middle = (landmarks.min(0) + landmarks.max(0)).astype(np.float64) / 2
    points = turned(landmarks, middle, -angle)
    box = crop_box(points, face_box, image_size, bbox_shift, extra_margin, whole=False)
    if box is None:
        return None, 0.0
    # From a view about the landmarks' middle to the one about the box's own.
    moved = turned(centre_of(box)[None], middle, angle)[0] - centre_of(box)
    return (box + np.tile(moved, 2)).astype(np.float32), angle


def _lengthened(box: np.ndarray, image_size: tuple[int, int], extra_margin: int) -> np.ndarray | None:
    """The box with its margin, which does not leave the image; None when less than 2 pixels of it are in the image."""
    bottom = max(box[3], min(box[3] + extra_margin, image_size[0]))
    longer = np.array([*box[:3], bottom], np.float32)
    inside = longer.clip(0, [image_size[1], image_size[0]] * 2)
    return longer if min(inside[2] - inside[0], inside[3] - inside[1]) >= SMALLEST_BOX else None


def visible_share(box: np.ndarray, image_size: tuple[int, int]) -> float:
    """The share 0..1 of a box (4,) that lies in an image of (height, width); 0 for an empty box."""
    area = float((box[2:] - box[:2]).clip(0).prod())
    inside = box.clip(0, [image_size[1], image_size[0]] * 2)
    return float((inside[2:] - inside[:2]).clip(0).prod()) / area if area > 0 else 0.0


def why_no_box(landmarks: np.ndarray, face_box: np.ndarray, image_size: tuple[int, int]) -> str:
    """Why crop_box gave None, in the words of a track's reasons."""
    points = landmarks if np.isfinite(landmarks).all() else face_box.reshape(2, 2)
    if not np.isfinite(points).all():
        return BROKEN
    extent = np.concatenate([points.min(0), points.max(0)])
    return OUTSIDE if visible_share(extent, image_size) <= LEAST_VISIBLE else SMALL


def bbox_shift_range(landmarks: np.ndarray) -> tuple[int, int]:
    """The useful bbox_shift, (lowest <= 0, highest >= 0) in pixels: -mean(y30-y29) to mean(y29-y28).

    landmarks: (N,68,2) pixels; frames of only zeros (no face) do not count; (0, 0) when none is left. Upstream's
    advice to users: a positive shift opens the mouth more.
    """
    seen = landmarks[np.any(landmarks != 0, axis=(1, 2))].astype(np.int64)
    if not len(seen):
        return 0, 0
    below = (seen[:, LOW_NOSE, 1] - seen[:, MID_NOSE, 1]).mean()
    above = (seen[:, MID_NOSE, 1] - seen[:, TOP_NOSE, 1]).mean()
    return -max(0, int(below)), max(0, int(above))


def crop_face(frame: torch.Tensor, box: np.ndarray, angle: float = 0.0) -> torch.Tensor:
    """The box's picture as (256,256,3) uint8 on the CPU, resized by Lanczos (8x8 taps) as MuseTalk was trained.

    frame: (H,W,3 or 4) uint8 or floating 0..1 on any device, alpha ignored; only the box is converted (x*255
    rounded, NaN is 0). box: (4,) pixels, part of it in the frame, at least one pixel wide and high; what lies outside
    the frame repeats its border. Edges between two pixels are met exactly. angle: of the box, see upright.py.
    """
    import cv2

    size = (CROP_SIZE, CROP_SIZE)
    if not angle and (box == np.floor(box)).all():
        return torch.from_numpy(cv2.resize(_region(frame, box), size, interpolation=cv2.INTER_LANCZOS4))
    # A pixel more all around for the Lanczos taps' nearest neighbours; further ones repeat the border.
    held = np.array(rectangle_in_frame(box, box, angle), np.float32) if angle else box
    outer = np.concatenate([np.floor(held[:2]) - LANCZOS_REACH, np.ceil(held[2:]) + LANCZOS_REACH])
    scale = (box[2:] - box[:2]) / CROP_SIZE
    start = box[:2] - outer[:2] + scale / 2 - 0.5
    to_region = np.array([[scale[0], 0, start[0]], [0, scale[1], start[1]]])
    if angle:
        to_region = view_to_frame(box, angle, outer[:2], outer[:2]) @ np.vstack([to_region, [0, 0, 1]])
    flags = cv2.INTER_LANCZOS4 | cv2.WARP_INVERSE_MAP
    crop = cv2.warpAffine(_region(frame, outer), to_region, size, flags=flags, borderMode=cv2.BORDER_REPLICATE)
    return torch.from_numpy(crop)


def _region(frame: torch.Tensor, box: np.ndarray) -> np.ndarray:
    """The pixels of a whole-pixel box (h,w,3) uint8; outside the frame its border is repeated."""
    x1, y1, x2, y2 = (int(edge) for edge in box)
    height, width = frame.shape[:2]
    left, top, right, bottom = max(x1, 0), max(y1, 0), min(x2, width), min(y2, height)
    region = frame[top:bottom, left:right, :3]
    if region.dtype != torch.uint8:
        region = region.float().nan_to_num(0.0).mul(255).round().clamp(0, 255).to(torch.uint8)
    pixels = np.ascontiguousarray(region.cpu().numpy())
    around = ((top - y1, y2 - bottom), (left - x1, x2 - right), (0, 0))
    return np.pad(pixels, around, mode="edge") if any(map(sum, around)) else pixels


def fit_face(face: torch.Tensor, box: np.ndarray) -> torch.Tensor:
    """A face (h,w,3), uint8 or floating 0..1, as blending.composite is to paste it into a box (4,) of a track.

    A whole-pixel box takes it as it is. For edges between two pixels it is moved by the fraction: (box height, box
    width, 3) of the whole-pixel box that composite uses, its dtype kept.
    """
    import cv2

    if (box == np.floor(box)).all():
        return face
    start = np.trunc(box[:2])
    width, height = (int(side) for side in np.trunc(box[2:]) - start)
    pixels = np.ascontiguousarray(face.float().cpu().numpy())
    scale = np.array(pixels.shape[1::-1]) / (box[2:] - box[:2])
    first = (start - box[:2] + 0.5) * scale - 0.5
    to_face = np.array([[scale[0], 0, first[0]], [0, scale[1], first[1]]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    fitted = cv2.warpAffine(pixels, to_face, (width, height), flags=flags, borderMode=cv2.BORDER_REPLICATE)
    return torch.from_numpy(fitted).to(face.dtype)


def crop_square(box: np.ndarray, expand: float = 1.5) -> tuple[int, int, int, int]:
    """The square (x1, y1, x2, y2) around the box that is parsed and blurred; it may leave the image.

    Half its side is int(longer side of the box // 2 * expand), around the box's centre in whole pixels.
    """
    x1, y1, x2, y2 = (int(edge) for edge in box)
    x, y = (x1 + x2) // 2, (y1 + y2) // 2
    half = int(max(x2 - x1, y2 - y1) // 2 * expand)
    return x - half, y - half, x + half, y + half


def landmark_mask(landmarks: np.ndarray, square: tuple[int, int, int, int]) -> np.ndarray:
    """The lower face as (h,w) uint8, 0 or 255, in the pixel grid of the square.

    landmarks: (68,2) pixels of the frame; drawn is the convex hull of the jaw (0-16) and the bridge of the nose
    (27-30), shrunk by 4 % towards its centre. Used when no face parser is there.
    """
    import cv2

    x1, y1, x2, y2 = square
    mask = np.zeros((y2 - y1, x2 - x1), np.uint8)
    points = np.concatenate([landmarks[JAW], landmarks[BRIDGE]])
    if not mask.size or not np.isfinite(points).all():
        return mask
    hull = cv2.convexHull(points.astype(np.float32))[:, 0]
    centre = (hull.min(0) + hull.max(0)) / 2
    hull = centre + (hull - centre) * (1 - HULL_SHRINK) - np.array([x1, y1])
    cv2.fillConvexPoly(mask, np.round(hull * 16).astype(np.int32), 255, shift=4)
    return mask


def box_overlap(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Intersection over union (N,), 0..1, of a box (4,) x1 y1 x2 y2 with others (N,4)."""
    sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    common = sides.clip(0).prod(1)
    covered = (box[2:] - box[:2]).prod() + (others[:, 2:] - others[:, :2]).prod(1) - common
    return common / np.maximum(covered, 1e-9)
