"""A portrait that speaks: one picture, rendered with any mouth and head pose."""

from dataclasses import dataclass

import cv2
import numpy as np
import torch

from musetalk_core.faces.detector import BETWEEN, IBUG_TO_MESH, FaceDetector
from musetalk_core.faces.picture import Picture, View
from musetalk_core.nets.facemesh import FaceMesh as MeshNet

from .mouth import InnerMouth, inner_outline
from .warp import LOWER, UPPER, FaceMesh, dense_map, lip_gap, mouth_opening

NEUTRAL = np.array([0.0, 0.0, 0.0, 0.0, 0.35], np.float32)
SIZE = 384  # pixels of a frame's side; a face box is then 170 to 210 wide
SHOULDERS = 0.07  # share of the frame's width, left and right, that the jaw does not move
LIP_TINT = 0.6  # how much a lower lip pale from smiling is brought to the upper one's colour
ROOM = 1.3  # the source reaches this much beyond the frame, for the head to move in


@dataclass(frozen=True)
class Pose:
    """Turn in the picture plane (radians), scale, and shift in shares of the frame's side."""

    angle: float = 0.0
    scale: float = 1.0
    x: float = 0.0
    y: float = 0.0


@dataclass(frozen=True)
class Rendering:
    """frame: (size,size,3) uint8 RGB; mesh: (468,2) pixels in it; gap: of the lips, in eye distances."""

    frame: np.ndarray
    mesh: np.ndarray
    gap: float


def find_mesh(picture: np.ndarray, detector: FaceDetector) -> np.ndarray | None:
    """The largest face's mesh (468,2) in pixels of picture (H,W,3) uint8 RGB, or None."""
    faces = detector.detect(torch.from_numpy(np.ascontiguousarray(picture)))
    if not faces:
        return None
    box, right, left = faces[0].box, faces[0].landmarks[36], faces[0].landmarks[45]
    view = View.upright(box, right, left, 1.5)
    pixels = Picture(torch.from_numpy(np.ascontiguousarray(picture))).sample(view, MeshNet.size)
    with torch.inference_mode():
        points, _ = detector.nets.mesh(pixels[None])
    return view.to_frame(points[0].double().numpy() / MeshNet.size)


def landmarks68(mesh: np.ndarray) -> np.ndarray:
    """The 68 iBUG points (68,2) float32 of a mesh (468,2), as FaceDetector gives them."""
    points = mesh[list(IBUG_TO_MESH)]
    for point, (first, second, share) in BETWEEN.items():
        points[point] = (1 - share) * mesh[first] + share * mesh[second]
    return points.astype(np.float32)


class Portrait:
    """picture: (H,W,3) uint8 RGB with one face, best at twice the frame's detail or more; mesh: (468,2) in it.

    size: pixels of the frame's side; expand: the frame's side in face lengths. Frames are drawn from the source in
    one interpolation, whatever the pose.
    """

    def __init__(self, picture: np.ndarray, mesh: np.ndarray, size: int = SIZE, expand: float = 1.55) -> None:
        self.size = size
        low, high = mesh.min(0), mesh.max(0)
        side = float((high - low).max()) * expand
        middle = (low + high) / 2 - [0, 0.04 * side]
        length = round(size * ROOM)
        zoom = size / side
        matrix = np.array([[zoom, 0, length / 2 - zoom * middle[0]], [0, zoom, length / 2 - zoom * middle[1]]])
        self.source = _draw(picture, matrix, length)
        inset = (length - size) / 2 + SHOULDERS * size
        self.face = FaceMesh(mesh @ matrix[:, :2].T + matrix[:, 2], (length, length), inset)
        self.inner = InnerMouth(self.source, self.face)
        self.skin = _fuller_lip(_without_teeth(self.source, self.face), self.face)

    def matrix(self, pose: Pose) -> np.ndarray:
        """(2,3) from source to frame pixels; the head turns about its neck."""
        middle = len(self.source) / 2
        pivot = (middle, middle + 0.12 * self.size)
        matrix = cv2.getRotationMatrix2D(pivot, np.degrees(pose.angle), pose.scale)
        shift = (self.size - len(self.source)) / 2 + np.array([pose.x, pose.y]) * self.size
        return np.column_stack([matrix[:, :2], matrix[:, 2] + shift])

    def still(self, pose: Pose | None = None) -> np.ndarray:
        """The picture itself, unwarped, in a pose: (size,size,3) uint8."""
        return self._place(self.source, self.matrix(pose or Pose()))

    def mesh(self, controls: np.ndarray, pose: Pose | None = None) -> np.ndarray:
        """The mesh (468,2) in frame pixels without drawing it."""
        return self._posed(controls, self.matrix(pose or Pose()))[: len(self.face.mesh)]

    def render(self, controls: np.ndarray, pose: Pose | None = None) -> Rendering:
        """One frame. controls: (5,) as visemes.CONTROLS."""
        matrix = self.matrix(pose or Pose())
        points = self._posed(controls, matrix)
        frame = self._place(self.source, matrix)
        region = self._region(points, matrix)
        x1, y1, x2, y2 = region
        patch = cv2.remap(self.skin, *dense_map(self.face, points, region), cv2.INTER_CUBIC)
        self.inner.paint(patch, (x1, y1), points, matrix, float(mouth_opening(controls)[0]))
        frame[y1:y2, x1:x2] = patch
        return Rendering(frame, points[: len(self.face.mesh)], float(lip_gap(controls)))

    def _posed(self, controls: np.ndarray, matrix: np.ndarray) -> np.ndarray:
        return self.face.target(controls) @ matrix[:, :2].T + matrix[:, 2]

    def _place(self, picture: np.ndarray, matrix: np.ndarray) -> np.ndarray:
        size = (self.size, self.size)
        return cv2.warpAffine(picture, matrix, size, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101)

    def _region(self, points: np.ndarray, matrix: np.ndarray) -> tuple[int, int, int, int]:
        """The part of the frame that the mouth changes: every triangle with a moving corner, before and after."""
        triangles = self.face.triangles
        touched = np.unique(triangles[self.face.moving[triangles].any(1)])
        rest = self.face.points[touched] @ matrix[:, :2].T + matrix[:, 2]
        both = np.concatenate([points[touched], rest])
        low, high = np.floor(both.min(0)).astype(int), np.ceil(both.max(0)).astype(int) + 1
        (x1, y1), (x2, y2) = low.clip(0, self.size - 1), high.clip(1, self.size)
        return int(x1), int(y1), int(x2), int(y2)


def _draw(picture: np.ndarray, matrix: np.ndarray, length: int) -> np.ndarray:
    return cv2.warpAffine(
        picture, matrix, (length, length), flags=cv2.INTER_LANCZOS4, borderMode=cv2.BORDER_REFLECT_101
    )


def _without_teeth(picture: np.ndarray, face: FaceMesh) -> np.ndarray:
    """The picture with its open mouth filled from the lips, so that neither teeth nor shadow cling to moved lips."""
    pixel = max(1, round(face.unit / 65))
    mask = np.zeros(picture.shape[:2], np.uint8)
    cv2.fillPoly(mask, [np.round(inner_outline(face.points)).astype(np.int32)], 255)
    grown = cv2.dilate(mask, np.ones((2 * pixel + 1, 2 * pixel + 1), np.uint8))
    return cv2.inpaint(picture, grown, 3, cv2.INPAINT_TELEA)


def _fuller_lip(picture: np.ndarray, face: FaceMesh) -> np.ndarray:
    """The lower lip, stretched thin and pale by a smile, nearer to the upper lip's mean colour."""

    def band(rings: np.ndarray) -> np.ndarray:
        outline = np.concatenate([face.points[rings[0]], face.points[rings[3]][::-1]])
        mask = np.zeros(picture.shape[:2], np.uint8)
        cv2.fillPoly(mask, [np.round(outline).astype(np.int32)], 255)
        return mask

    lab = cv2.cvtColor(picture.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    upper, lower = band(UPPER), band(LOWER)
    change = (lab[upper > 0].mean(0) - lab[lower > 0].mean(0)) * LIP_TINT
    soft = cv2.GaussianBlur(lower.astype(np.float32) / 255, (0, 0), 0.012 * face.unit)
    toned = cv2.cvtColor((lab + change * soft[..., None]).astype(np.float32), cv2.COLOR_LAB2RGB)
    return (toned.clip(0, 1) * 255).round().astype(np.uint8)
