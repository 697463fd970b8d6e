"""What is behind the lips: the dark of the mouth, the tongue, the portrait's own teeth (or drawn ones)."""

import cv2
import numpy as np

from .warp import INNER_BOTTOM, INNER_TOP, LOWER, UPPER, FaceMesh

CAVITY, CAVITY_FALL = np.array([58.0, 22.0, 28.0]), np.array([22.0, 14.0, 12.0])  # RGB, darker further down
TONGUE = np.array([150.0, 70.0, 78.0])
SHOWN_TEETH = 0.06  # a portrait whose lips are farther apart (eye distances) shows its teeth
SUPERSAMPLING = 4


def inner_outline(points: np.ndarray) -> np.ndarray:
    """The mouth's opening (22,2) as a closed outline."""
    return np.concatenate([points[UPPER[3]], points[LOWER[3]][::-1]])


class InnerMouth:
    """Paints the open mouth of one face. picture: (H,W,3) uint8 RGB, the source in which `face` lies."""

    def __init__(self, picture: np.ndarray, face: FaceMesh) -> None:
        self.face = face
        gap = np.linalg.norm(face.mesh[INNER_TOP] - face.mesh[INNER_BOTTOM]) / face.unit
        self.teeth, self.teeth_mask = _own_teeth(picture, face) if gap > SHOWN_TEETH else _drawn_teeth(picture, face)
        # The teeth stay with the skull; their upper edge lies a little above the seam of the closed lips.
        up = (face.seam - face.mesh[INNER_TOP]) @ face.down - 0.035 * face.unit
        self.teeth_shift = face.down * (up if gap > SHOWN_TEETH else 0.0)

    def paint(
        self, patch: np.ndarray, corner: tuple[int, int], points: np.ndarray, matrix: np.ndarray, opening: float
    ) -> None:
        """Paint into patch (h,w,3) uint8 in place.

        corner: the patch's x, y in the frame; points: (P,2) of the warped mesh in the frame; matrix: (2,3) from the
        source picture to the frame; opening: of the jaw, in eye distances.
        """
        outline = inner_outline(points) - corner
        unit = self.face.unit * float(np.sqrt(np.linalg.det(matrix[:, :2])))
        margin = int(0.06 * unit) + 3
        (left, top), (right, bottom) = np.floor(outline.min(0)).astype(int), np.ceil(outline.max(0)).astype(int)
        left, top = max(left - margin, 0), max(top - margin, 0)
        right, bottom = min(right + margin, patch.shape[1]), min(bottom + margin, patch.shape[0])
        if right - left < 2 or bottom - top < 2:
            return
        view = patch[top:bottom, left:right]
        inside = _cover(outline - [left, top], view.shape[:2], 0.008 * unit)
        place = _grid(matrix, left + corner[0], top + corner[1], view.shape[:2])
        colour = self._colour(place, np.linalg.inv(matrix[:, :2]) @ (points[INNER_BOTTOM] - matrix[:, 2]))
        depth = cv2.GaussianBlur(inside, (0, 0), 0.022 * unit)[..., None]
        colour *= 0.45 + 0.55 * np.clip(depth * 1.25 - 0.1, 0, 1)  # the lips throw a shadow
        mixed = view + (colour - view) * inside[..., None]
        closed = float(np.clip(1 - opening / 0.03, 0, 1))
        if closed > 0:
            line = (points[UPPER[3]] + points[LOWER[3]]) / 2 - corner - [left, top]
            mixed *= 1 - 0.55 * closed * _seam(line, view.shape[:2], 0.009 * unit)[..., None]
        view[:] = mixed.round().clip(0, 255)

    def _colour(self, place: np.ndarray, lower_lip: np.ndarray) -> np.ndarray:
        """(h,w,3) float32 RGB of the mouth's inside at source coordinates place (h,w,2)."""
        face, unit = self.face, self.face.unit
        deep = ((place - face.seam) @ face.down / (0.3 * unit)).clip(-0.3, 1)[..., None]
        colour = CAVITY - CAVITY_FALL * deep
        tongue = place - (lower_lip - face.down * 0.02 * unit)
        x, y = tongue @ face.right / (0.19 * unit), tongue @ face.down / (0.10 * unit)
        colour += (TONGUE - colour) * (0.8 * np.exp(-((x**2 + y**2) ** 2)))[..., None]
        source = (place - self.teeth_shift).astype(np.float32)
        x, y = np.ascontiguousarray(source[..., 0]), np.ascontiguousarray(source[..., 1])
        teeth = cv2.remap(self.teeth, x, y, cv2.INTER_LINEAR).astype(np.float32)
        mask = cv2.remap(self.teeth_mask, x, y, cv2.INTER_LINEAR)[..., None] * 0.95
        return (colour + (teeth * 0.92 - colour) * mask).astype(np.float32)


def _cover(outline: np.ndarray, size: tuple[int, int], softness: float) -> np.ndarray:
    """How much of each pixel lies inside the outline, 0..1 float32, slightly blurred."""
    height, width = size
    mask = np.zeros((height * SUPERSAMPLING, width * SUPERSAMPLING), np.uint8)
    cv2.fillPoly(mask, [np.round((outline + 0.5) * SUPERSAMPLING).astype(np.int32)], 255)
    small = cv2.resize(mask, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    return cv2.GaussianBlur(small, (0, 0), max(softness, 0.5))


def _seam(line: np.ndarray, size: tuple[int, int], softness: float) -> np.ndarray:
    """A soft line where closed lips meet, 0..1."""
    drawn = np.zeros(size, np.uint8)
    cv2.polylines(drawn, [np.round(line * 16).astype(np.int32)], False, 255, 1, cv2.LINE_AA, 4)
    return cv2.GaussianBlur(drawn.astype(np.float32) / 255, (0, 0), max(softness, 0.7))


def _grid(matrix: np.ndarray, left: int, top: int, size: tuple[int, int]) -> np.ndarray:
    """Source coordinates (h,w,2) of the frame's pixels from (left, top) on."""
    back = cv2.invertAffineTransform(matrix)
    x, y = np.meshgrid(np.arange(left, left + size[1]), np.arange(top, top + size[0]))
    return np.stack([x, y], -1) @ back[:, :2].T + back[:, 2]


def _own_teeth(picture: np.ndarray, face: FaceMesh) -> tuple[np.ndarray, np.ndarray]:
    """The picture's teeth (H,W,3) uint8, continued beyond the lips' edge, and their soft mask (H,W) float32."""
    pixel = max(1, round(face.unit / 65))
    mask = np.zeros(picture.shape[:2], np.uint8)
    cv2.fillPoly(mask, [np.round(inner_outline(face.points)).astype(np.int32)], 255)
    sure = cv2.erode(mask, np.ones((2 * pixel + 1, 2 * pixel + 1), np.uint8))
    around = cv2.dilate(sure, np.ones((8 * pixel + 1, 8 * pixel + 1), np.uint8))
    teeth = cv2.inpaint(picture, cv2.subtract(around, sure), 3, cv2.INPAINT_TELEA)
    grown = cv2.dilate(sure, np.ones((2 * pixel + 1, 1), np.uint8))
    return teeth, cv2.GaussianBlur(grown.astype(np.float32) / 255, (0, 0), 1.2 * pixel)


def _drawn_teeth(picture: np.ndarray, face: FaceMesh) -> tuple[np.ndarray, np.ndarray]:
    """Eight plain upper teeth for a portrait with closed lips, and their soft mask."""
    width, height = 0.27 * face.unit, 0.085 * face.unit
    middle = face.seam - face.down * 0.03 * face.unit
    teeth, mask = np.zeros_like(picture), np.zeros(picture.shape[:2], np.float32)
    for i in range(-4, 4):
        aside = abs(i + 0.5)
        corners = [
            middle + face.right * width * (i + x) / 4 + face.down * height * y * (1 - 0.05 * aside)
            for x, y in ((0.04, -0.4), (0.96, -0.4), (0.92, 1), (0.08, 1))
        ]
        shape = np.round(corners).astype(np.int32)
        cv2.fillPoly(teeth, [shape], (222 - 8 * aside, 214 - 7 * aside, 205 - 6 * aside))
        cv2.fillPoly(mask, [shape], 1)
    softness = face.unit * 0.01
    return cv2.GaussianBlur(teeth, (0, 0), softness), cv2.GaussianBlur(mask, (0, 0), softness)
