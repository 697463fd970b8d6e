"""Crop geometry: the box MuseTalk generates, the square that is parsed, and the mask drawn from landmarks."""

import numpy as np
import torch

CROP_SIZE = 256
SMALLEST_BOX = 2  # pixels; a narrower crop holds no mouth
JAW, BRIDGE, MID_NOSE, LOW_NOSE, TOP_NOSE = slice(0, 17), slice(27, 31), 29, 30, 28
HULL_SHRINK = 0.04  # of the hull, towards its centre, so that the blurred edge stays on the skin


def crop_box(
    landmarks: np.ndarray,
    face_box: np.ndarray,
    image_size: tuple[int, int],
    bbox_shift: int = 0,
    extra_margin: int = 10,
) -> np.ndarray | None:
    """The box whose content is generated: (4,) float32 x1 y1 x2 y2, whole pixels inside the image, or None.

    landmarks: (68,2) iBUG points in pixels; face_box: (4,) used when the landmarks give no box; image_size:
    (height, width). MuseTalk's arithmetic on whole-pixel landmarks: the middle is y of point 29 plus bbox_shift,
    the box reaches as far above it as the chin lies below and from the leftmost to the rightmost point (so a shift
    of s moves the top edge by 2s); then extra_margin pixels are added below. A box that leaves the image is cut at
    all four borders alike. None when less than 2 pixels remain of both boxes, or nothing is finite.
    """
    if np.isfinite(landmarks).all():
        points = landmarks.astype(np.int64)
        middle = points[MID_NOSE, 1] + bbox_shift
        low = points[:, 1].max()
        top = max(0, 2 * middle - low)
        box = np.array([points[:, 0].min(), top, points[:, 0].max(), low])
        found = _inside(box, image_size, extra_margin)
        if found is not None:
            return found
    if not np.isfinite(face_box).all():
        return None
    return _inside(face_box.astype(np.int64), image_size, extra_margin)


def _inside(box: np.ndarray, image_size: tuple[int, int], extra_margin: int) -> np.ndarray | None:
    """The box with its margin, cut to the image; None when it was empty or less than 2 pixels remain."""
    height, width = image_size
    if box[2] <= box[0] or box[3] <= box[1]:
        return None
    lengthened = box + np.array([0, 0, 0, extra_margin])
    cut = lengthened.clip(0, [width, height, width, height])
    if min(cut[2] - cut[0], cut[3] - cut[1]) < SMALLEST_BOX:
        return None
    return cut.astype(np.float32)


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


def crop_face(frame: torch.Tensor, box: np.ndarray) -> torch.Tensor:
    """The box's picture as (256,256,3) uint8 on the CPU, resized by Lanczos (8x8 taps) as MuseTalk was trained.

    frame: (H,W,3 or 4) uint8 or floating 0..1 on any device, alpha ignored; only the box is converted (x*255
    rounded, NaN is 0). box: (4,) whole pixels inside the frame, at least one pixel wide and high.
    """
    import cv2

    x1, y1, x2, y2 = (int(edge) for edge in box)
    region = frame[y1:y2, x1:x2, :3]
    if region.dtype != torch.uint8:
        region = region.float().nan_to_num(0.0).mul(255).round().clamp(0, 255).to(torch.uint8)
    pixels = np.ascontiguousarray(region.cpu().numpy())
    return torch.from_numpy(cv2.resize(pixels, (CROP_SIZE, CROP_SIZE), interpolation=cv2.INTER_LANCZOS4))


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
