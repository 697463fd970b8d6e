"""Heads that lean to a side: how far, and the upright view of a frame in which they do not.

The upright view is the frame turned about the centre of a crop box, at the same scale, so that a box (4,) and its angle
say what is generated: the box is drawn in the view, and its centre lies at the same pixel of the frame. Angles are in
radians, positive where the head leans clockwise on screen (the eye further right is lower); at 0 view and frame are the
same. Points are in pixels, the first pixel from 0 to 1.
"""

import math

import numpy as np

RIGHT_EYE, LEFT_EYE, MOUTH_CORNERS = slice(36, 42), slice(42, 48), [48, 54]
REACH = 2  # pixels that the 4x4 taps of bicubic interpolation see beyond a place
Rectangle = tuple[int, int, int, int]


def roll(landmarks: np.ndarray) -> float:
    """The angle of a head by its iBUG points (68,2), -pi to pi; 0 where they are unknown (zeros or not finite).

    The direction of (line between the eyes) + (line from between the eyes to the mouth, turned back by 90 degrees), as
    FFHQ aligns faces (Karras, Laine and Aila 2019). The eyes are means of six points, the mouth of its two corners. In
    profile, where the line between the eyes is short, the other one decides.
    """
    if not np.isfinite(landmarks).all():
        return 0.0
    right, left = landmarks[RIGHT_EYE].mean(0), landmarks[LEFT_EYE].mean(0)
    across, down = left - right, landmarks[MOUTH_CORNERS].mean(0) - (left + right) / 2
    return math.atan2(across[1] - down[0], across[0] + down[1])


def turned(points: np.ndarray, centre: np.ndarray, angle: float) -> np.ndarray:
    """Points (N,2) turned by `angle` about a centre (2,), float64: from the upright view to the frame, -angle back."""
    return (points - centre) @ _rotation(angle).T + centre


def centre_of(box: np.ndarray) -> np.ndarray:
    """The middle (2,) of a box (4,), float64."""
    return box.astype(np.float64).reshape(2, 2).mean(0)


def upright_points(points: np.ndarray, box: np.ndarray, angle: float) -> np.ndarray:
    """Points (N,2) of the frame as the upright view of a box (4,) has them; the same array for angle 0."""
    return turned(points, centre_of(box), -angle).astype(points.dtype) if angle else points


def corners_in_frame(region: np.ndarray | Rectangle, box: np.ndarray, angle: float) -> np.ndarray:
    """The corners (4,2) in the frame of a region (4,) of a box's upright view, clockwise from its upper left one."""
    x1, y1, x2, y2 = (float(edge) for edge in region)
    return turned(np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]]), centre_of(box), angle)


def rectangle_in_frame(region: np.ndarray | Rectangle, box: np.ndarray, angle: float) -> Rectangle:
    """The whole-pixel rectangle of the frame that holds a region (4,) of the upright view of a box (4,)."""
    corners = corners_in_frame(region, box, angle)
    (left, top), (right, bottom) = np.floor(corners.min(0)), np.ceil(corners.max(0))
    return int(left), int(top), int(right), int(bottom)


def view_to_frame(box: np.ndarray, angle: float, view_corner: np.ndarray, frame_corner: np.ndarray) -> np.ndarray:
    """(2,3) for cv2.warpAffine: from pixels of the upright view of a box (4,) to pixels of the frame.

    The pixels of the view are counted from view_corner (2,), those of the frame from frame_corner (2,).
    """
    # warpAffine has the middle of the first pixel at 0.
    first = turned(np.asarray(view_corner, np.float64)[None] + 0.5, centre_of(box), angle)[0] - frame_corner - 0.5
    return np.column_stack([_rotation(angle), first])


def laid_back(pixels: np.ndarray, box: np.ndarray, angle: float) -> tuple[np.ndarray, Rectangle]:
    """What the upright view shows in a box (4,), turned into the frame: the pixels of a rectangle there, and that.

    pixels: uint8 of the box cut to whole pixels, a picture (h,w,3), which repeats its border beyond the box, or a mask
    (h,w), which is 0 there.
    """
    import cv2

    left, top = (int(edge) for edge in box[:2])
    height, width = pixels.shape[:2]
    rectangle = rectangle_in_frame((left, top, left + width, top + height), box, angle)
    matrix = view_to_frame(box, angle, np.array([left, top]), np.array(rectangle[:2]))
    size = (rectangle[2] - rectangle[0], rectangle[3] - rectangle[1])
    if pixels.ndim == 2:
        return cv2.warpAffine(pixels, matrix, size, flags=cv2.INTER_LINEAR), rectangle
    flags, border = cv2.INTER_CUBIC, cv2.BORDER_REPLICATE
    return cv2.warpAffine(pixels, matrix, size, flags=flags, borderMode=border), rectangle


def _rotation(angle: float) -> np.ndarray:
    cos, sin = math.cos(angle), math.sin(angle)
    return np.array([[cos, -sin], [sin, cos]])
