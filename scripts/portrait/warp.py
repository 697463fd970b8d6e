"""The face mesh and how mouth controls move it: lip rings, jaw, and everything else in between; dense warp maps.

Points are numbered as in MediaPipe's 468-point face mesh. Lengths are in units of the outer eye distance.
"""

import cv2
import numpy as np
from scipy.interpolate import RBFInterpolator
from scipy.spatial import Delaunay

from .visemes import TABLE

# Four rings from the outer edge of the lips to the inner, eleven points each from the picture's left to right.
UPPER = np.array(
    [
        [61, 185, 40, 39, 37, 0, 267, 269, 270, 409, 291],
        [76, 184, 74, 73, 72, 11, 302, 303, 304, 408, 306],
        [62, 183, 42, 41, 38, 12, 268, 271, 272, 407, 292],
        [78, 191, 80, 81, 82, 13, 312, 311, 310, 415, 308],
    ]
)
LOWER = np.array(
    [
        [61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291],
        [76, 77, 90, 180, 85, 16, 315, 404, 320, 307, 306],
        [62, 96, 89, 179, 86, 15, 316, 403, 319, 325, 292],
        [78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308],
    ]
)
RIGHT_EYE, LEFT_EYE = 33, 263  # outer corners
NOSE_BASE, INNER_TOP, INNER_BOTTOM = 2, 13, 14
STILL = (
    *(1, 2, 4, 5, 6, 168, 98, 327, 49, 279),  # nose
    *(33, 133, 362, 263, 145, 374, 70, 105, 107, 336, 334, 300),  # eyes and brows
    *(10, 21, 251, 54, 284, 127, 356, 234, 454),  # forehead and temples
    *(117, 346, 50, 280),  # cheeks
)
JAW = {  # share of the jaw's drop
    **{152: 1, 148: 0.97, 377: 0.97, 176: 0.9, 400: 0.9, 149: 0.8, 378: 0.8, 150: 0.68, 379: 0.68},
    **{136: 0.5, 365: 0.5, 172: 0.33, 397: 0.33, 58: 0.18, 288: 0.18, 132: 0.06, 361: 0.06},
    **{199: 1, 175: 1, 200: 0.95, 18: 0.9},
}
OVAL = (10, 297, 284, 389, 454, 361, 397, 378, 152, 149, 172, 132, 234, 162, 54, 67)
COLLAR = 1.22  # a ring of extra points around the face, this much larger than the oval
COLLAR_DROP = 0.45  # it follows the jaw by so much: the neck's skin
THINNEST = 0.4  # pixels; thinner triangles, and those that have flipped over, are covered by their neighbours
SQUEEZED = 2.5  # source pixels a pixel; beyond it a triangle is not continued across its edge
FEWEST_PIXELS = 0.1  # points that never move farther than this stay where they are

UPPER_PROFILE = ([0, 0.17, 0.4, 0.65, 0.85, 1], [0.9, 1.03, 0.86, 0.56, 0.26, 0])  # lip height from middle to corner
LOWER_PROFILE = ([0, 0.3, 0.6, 0.85, 1], [1, 0.96, 0.7, 0.3, 0])


def mouth_opening(controls: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Opening of the jaw, and how far the middle of the upper lip rises and of the lower lip falls, each (...).

    controls: (...,5) as visemes.CONTROLS; results in eye distances. A pressed or tucked lower lip may come up to
    the upper one but never through it.
    """
    jaw, wide, up, tuck, press = np.moveaxis(np.asarray(controls, np.float64), -1, 0)
    opening = 0.30 * jaw * (1 - 0.25 * np.maximum(0, -wide))
    rise = 0.20 * opening + 0.045 * up * (1 - press)
    fall = np.maximum(0, 0.80 * opening - 0.075 * tuck) + 0.02 * up * (1 - press)
    return opening, rise, fall


def lip_gap(controls: np.ndarray) -> np.ndarray:
    """The commanded gap |62 - 66| of the inner lips in eye distances (...), float32, for controls (...,5)."""
    _, rise, fall = mouth_opening(controls)
    tuck = np.asarray(controls)[..., 3]
    return (np.maximum(fall - 0.03 * tuck, -rise + 0.004) + rise).astype(np.float32)


class FaceMesh:
    """A face's mesh in a picture and its movement.

    mesh: (468,2) pixels; size: (H,W) of the picture; inset: pixels from its left and right edge beyond which nothing
    moves (shoulders). points: (P,2) the mesh, then fixed points on the border and the collar around the face;
    triangles: (T,3), the mouth's inside left out; turn: (T,) +1 or -1, their orientation.
    """

    def __init__(self, mesh: np.ndarray, size: tuple[int, int], inset: float = 0.0) -> None:
        mesh = mesh.astype(np.float64)
        border, collar = _border(size, inset), _collar(mesh, size)
        self.mesh = mesh
        self.points = np.concatenate([mesh, border, collar])
        self._set_axes()
        self.triangles = self._triangulate()
        self._set_controls(len(border))
        self.across = self._lip_places()
        self._moving = np.ones(len(self.points), bool)
        self._moving = self._find_moving()

    @property
    def moving(self) -> np.ndarray:
        """(P,) bool: the points that any viseme moves."""
        return self._moving

    def target(self, controls: np.ndarray) -> np.ndarray:
        """Where the points (P,2) go for controls (5,)."""
        opening, rise, fall = (float(v) * self.unit for v in mouth_opening(controls))
        target = self.points.copy()
        self._place_lips(target, controls, opening, rise, fall)
        drop = self.unit * 0.20 * float(controls[0])
        shift = np.concatenate(
            [target[self._lip_edge] - self.points[self._lip_edge], self._drops[:, None] * drop * self.down]
        )
        rest = self._rest[self._moving[self._rest]]
        target[rest] += self._spread[self._moving[self._rest]] @ shift
        return target

    def _set_axes(self) -> None:
        eyes = self.mesh[LEFT_EYE] - self.mesh[RIGHT_EYE]
        self.unit = float(np.linalg.norm(eyes))
        self.right = eyes / self.unit
        self.down = np.array([-self.right[1], self.right[0]])
        nose, top, bottom = (self.mesh[i] for i in (NOSE_BASE, INNER_TOP, INNER_BOTTOM))
        natural = (top - nose) @ self.down + 0.15 * ((bottom - top) @ self.down)
        self.seam = nose + self.down * max(0.24 * self.unit, natural)  # where closed lips meet

    def _triangulate(self) -> np.ndarray:
        triangles = Delaunay(self.points).simplices
        inner = np.zeros(len(self.points), bool)
        inner[np.concatenate([UPPER[3], LOWER[3]])] = True
        triangles = triangles[~inner[triangles].all(1)]
        first, second, third = (self.points[triangles[:, i]] for i in range(3))
        self.turn = np.sign(_cross(second - first, third - first))
        return triangles

    def _set_controls(self, border: int) -> None:
        """A linear radial basis function carries the control points' shift to the other points: one matrix."""
        count = len(self.mesh)
        self._lip_edge = np.concatenate([UPPER[0], LOWER[0][1:-1]])
        collar = range(count + border, len(self.points))
        others = {i: 0.0 for i in (*STILL, *range(count, count + border))} | JAW
        others |= {i: JAW.get(o, 0.0) * COLLAR_DROP for i, o in zip(collar, OVAL, strict=True)}
        self._drops = np.array(list(others.values()))
        fixed = np.concatenate([self._lip_edge, np.array(list(others))])
        lips = np.union1d(UPPER, LOWER)
        self._rest = np.setdiff1d(np.arange(len(self.points)), lips)
        field = RBFInterpolator(self.points[fixed], np.eye(len(fixed)), kernel="linear", smoothing=0)
        self._spread = field(self.points[self._rest])

    def _lip_places(self) -> np.ndarray:
        """Where the eleven points of a ring lie from corner (-1) to corner (1), averaged and symmetric."""
        places = []
        for ring in (*UPPER, *LOWER):
            x = self.mesh[ring] @ self.right
            places.append(np.clip(2 * (x - x[0]) / (x[-1] - x[0]) - 1, -1, 1))
        mean = np.mean(places, 0)
        return (mean - mean[::-1]) / 2

    def _place_lips(self, target: np.ndarray, controls: np.ndarray, opening: float, rise: float, fall: float) -> None:
        _, wide, _, tuck, press = (float(c) for c in controls)
        unit, u = self.unit, self.across
        pucker = max(0.0, -wide)
        half = 0.30 * unit * (1 + (0.14 if wide > 0 else 0.34) * wide)
        above = unit * 0.084 * (1 + 0.25 * pucker) * (1 - 0.35 * press) * np.interp(np.abs(u), *UPPER_PROFILE)
        below = (
            unit * 0.112 * (1 + 0.2 * pucker) * (1 - 0.3 * press - 0.35 * tuck) * np.interp(np.abs(u), *LOWER_PROFILE)
        )
        arch = np.clip(1 - np.abs(u) ** 2.2, 0, None) ** 0.75
        top = -rise * arch
        bottom = np.maximum(fall * arch - 0.03 * unit * tuck * (1 - u**2), top + 0.004 * unit)
        sag = 0.012 * unit * (1 - wide) * u**2
        seam = self.seam + self.down * 0.10 * opening
        for r in range(4):
            inward = r / 3
            x = u * half * (1 - 0.07 * inward)
            for ring, inner, thickness in ((UPPER[r], top, -above), (LOWER[r], bottom, below)):
                y = inner + thickness * (1 - inward) + sag
                target[ring] = seam + x[:, None] * self.right + y[:, None] * self.down

    def _find_moving(self) -> np.ndarray:
        shapes = [np.array(row[:5]) for row in TABLE.values()]
        moves = [np.linalg.norm(self.target(shape) - self.points, axis=1) for shape in shapes]
        return np.max(moves, 0) > FEWEST_PIXELS


def _border(size: tuple[int, int], inset: float) -> np.ndarray:
    height, width = size
    grid = [(x, y) for x in np.linspace(0, width - 1, 9) for y in np.linspace(0, height - 1, 9)]
    edge = [(x, y) for x, y in grid if x in (0, width - 1) or y in (0, height - 1)]
    sides = [(x, y) for x in (inset, width - 1 - inset) for y in np.linspace(0, height - 1, 17)[1:-1]]
    return np.array(edge + (sides if inset > 0 else []))


def _collar(mesh: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    middle = mesh.mean(0)
    ring = middle + (mesh[list(OVAL)] - middle) * COLLAR
    return ring.clip(2, [size[1] - 3, size[0] - 3])


def _cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]


def dense_map(face: FaceMesh, target: np.ndarray, region: tuple[int, int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Where each pixel of the region comes from: x and y, each (h,w) float32, for cv2.remap of the source picture.

    target: (P,2) where face.points lie in the output; region: x1, y1, x2, y2 of the output. Piecewise affine;
    pixels of no triangle, along the edge of the open mouth, take the nearest triangle's edge.
    """
    x1, y1, x2, y2 = region
    corners = target[face.triangles]  # (T,3,2)
    first, second = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    area = _cross(first, second)
    low, high = corners.min(1), corners.max(1)
    near = (high[:, 0] >= x1) & (low[:, 0] <= x2) & (high[:, 1] >= y1) & (low[:, 1] <= y2)
    longest = np.maximum(np.linalg.norm(corners - np.roll(corners, 1, 1), axis=2).max(1), 1e-6)
    height = area * face.turn / longest
    drawn = np.flatnonzero(near & (height > THINNEST))
    drawn = drawn[np.argsort(height[drawn])]  # slivers first: a pixel on an edge belongs to the larger triangle
    owner = np.full((y2 - y1, x2 - x1), -1, np.int16)
    shapes = np.round((corners[drawn] - [x1, y1]) * 16).astype(np.int32)
    for i, shape in enumerate(shapes):
        cv2.fillConvexPoly(owner, shape, i, cv2.LINE_8, 4)
    if (owner < 0).any():
        owner = np.where(owner < 0, cv2.dilate(owner, np.ones((5, 5), np.uint8)), owner)
    table = _affine_table(face, corners, first, second, area)[drawn].astype(np.float32)
    return _apply(table, owner, x1, y1)


def _affine_table(
    face: FaceMesh, corners: np.ndarray, first: np.ndarray, second: np.ndarray, area: np.ndarray
) -> np.ndarray:
    """(T,13): inverse of the triangle's edges, its first corner, the source's first corner and edges, and how far
    barycentric coordinates may leave the triangle."""
    area = np.where(np.abs(area) < 1e-6, 1e-6, area)[:, None]
    inverse = np.stack([second[:, 1], -second[:, 0], -first[:, 1], first[:, 0]], 1) / area
    source = face.points[face.triangles]
    edges = np.stack([source[:, 1] - source[:, 0], source[:, 2] - source[:, 0]], 2)
    squeeze = np.linalg.norm(edges @ inverse.reshape(-1, 2, 2), axis=(1, 2))
    slack = np.where(squeeze < SQUEEZED, 1e6, 0.0)[:, None]
    return np.concatenate([inverse, corners[:, 0], source[:, 0], edges[:, :, 0], edges[:, :, 1], slack], 1)


def _apply(table: np.ndarray, owner: np.ndarray, left: int, top: int) -> tuple[np.ndarray, np.ndarray]:
    """Each pixel by its triangle's affine map. A pixel just outside a strongly squeezed triangle takes its edge:
    continuing such a map by one pixel would fetch something far away."""
    row = np.take(np.ascontiguousarray(table.T), np.maximum(owner, 0), axis=1)
    height, width = owner.shape
    dx = np.arange(left, left + width, dtype=np.float32) - row[4]
    dy = np.arange(top, top + height, dtype=np.float32)[:, None] - row[5]
    slack = row[12]
    a = np.clip(row[0] * dx + row[1] * dy, -slack, 1 + slack)
    b = np.clip(row[2] * dx + row[3] * dy, -slack, 1 + slack)
    beyond = np.where(slack > 0, 1, np.maximum(a + b, 1))
    a /= beyond
    b /= beyond
    return row[6] + a * row[8] + b * row[10], row[7] + a * row[9] + b * row[11]
