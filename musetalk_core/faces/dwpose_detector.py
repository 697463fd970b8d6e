"""MuseTalk's own way to find faces: S3FD's boxes, and the face's points of a whole-body pose."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from ..nets.s3fd import S3FD
from .detector import Face
from .geometry import box_overlap
from .picture import Picture
from .top_down import PoseEstimator

FACE = slice(23, 91)  # the iBUG-68 points among the 133 of a body
LONGEST = 1280  # pixels; S3FD sees larger frames reduced to this, which leaves it faces from about 16 pixels on
AGREE = 0.3  # least intersection over union of a box with its points' extent
SURE = 0.3  # least mean score of the points
# What DWPose looks at around a face, in sides of its box: to the left and right, above and below its centre.
BESIDE, ABOVE, BELOW = 1.8, 1.3, 3.5


class DWPoseDetector:
    """Faces as upstream MuseTalk finds them; s3fd and pose.net: on `device`.

    With one face in the frame the pose is looked for in the whole frame, as upstream does, and around the face when
    that finds another place; with several faces it is looked for around each. Points that are unsure or lie
    elsewhere than the box are dropped: the face then has landmarks of zeros and keeps its box.
    """

    def __init__(self, s3fd: S3FD, pose: PoseEstimator, device: torch.device | str = "cpu") -> None:
        self.nets = nn.ModuleDict({"s3fd": s3fd, "pose": pose.net})
        self.s3fd = s3fd
        self.pose = pose
        self.device = torch.device(device)

    def detect(self, frame: torch.Tensor) -> list[Face]:
        """The frame's faces, largest first; [] when there is none.

        frame: (H,W,3) RGB, uint8 0..255 or floating 0..1, any size and device; alpha is dropped and NaN is black.
        Raises MuseTalkError for any other shape.
        """
        pixels = _bytes(frame)
        found = self._boxes(pixels)
        if not len(found):
            return []
        boxes, height, width = found[:, :4], *pixels.shape[:2]
        around = upper_bodies(boxes, width, height)
        alone = len(boxes) == 1
        points, scores = self._points(pixels, np.array([[0, 0, width, height]]) if alone else around)
        if alone and not agrees(points[0], scores[0], boxes[0]):
            points, scores = self._points(pixels, around)
        faces = [
            Face(box[:4].astype(np.float32), _agreed(mine, sure, box[:4]), float(box[4]))
            for box, mine, sure in zip(found, points, scores, strict=True)
        ]
        return sorted(faces, key=lambda face: -face.area)

    def follow(self, frame: torch.Tensor, faces: Sequence[Face]) -> list[Face | None]:
        """The same faces in the next frame, from a pose around their last places, without S3FD.

        None for a face that has no points, or whose points are now unsure or far from its last box. The box moves
        and grows with the points; score: the mean of the points', at most 1. frame: see detect.
        """
        pixels = _bytes(frame)
        known = [k for k, face in enumerate(faces) if face.landmarks.any()]
        boxes = np.reshape([faces[k].box for k in known], (-1, 4))
        points, scores = self._points(pixels, upper_bodies(boxes, pixels.shape[1], pixels.shape[0]))
        result: list[Face | None] = [None] * len(faces)
        for k, mine, sure in zip(known, points, scores, strict=True):
            if agrees(mine, sure, faces[k].box):
                box = _inside(_moved(faces[k], mine)[None], pixels)[0]
                result[k] = Face(box, mine, min(1.0, float(sure.mean())))
        return result

    def _boxes(self, pixels: np.ndarray) -> np.ndarray:
        """S3FD's faces (N,5) float64 x1 y1 x2 y2 inside the frame and probability."""
        import cv2

        height, width = pixels.shape[:2]
        shrink = max(1.0, max(height, width) / LONGEST)
        if shrink > 1:
            size = (max(1, round(width / shrink)), max(1, round(height / shrink)))
            pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
        found = self.s3fd.find(torch.from_numpy(pixels).to(self.device).permute(2, 0, 1)[None])[0]
        found[:, :4] = (found[:, :4] * shrink).clip(0, [width, height, width, height])
        return found[(found[:, 2:4] - found[:, :2] >= 1).all(axis=1)]

    def _points(self, pixels: np.ndarray, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Face points (N,68,2) and their scores (N,68) of the people in boxes (N,4)."""
        points, scores = self.pose.estimate(pixels, boxes)
        return points[:, FACE], scores[:, FACE]


def upper_bodies(boxes: np.ndarray, width: int, height: int) -> np.ndarray:
    """Boxes (N,4) inside the frame that hold head, shoulders and chest of faces with boxes (N,4)."""
    middle = (boxes[:, :2] + boxes[:, 2:]) / 2
    side = (boxes[:, 2:] - boxes[:, :2]).max(axis=1, keepdims=True)
    low, high = middle - side * [BESIDE, ABOVE], middle + side * [BESIDE, BELOW]
    return np.concatenate([low, high], axis=1).clip(0, [width, height, width, height]).astype(np.float32)


def agrees(points: np.ndarray, scores: np.ndarray, box: np.ndarray) -> bool:
    """Whether points (68,2) with scores (68,) are sure and lie where the face's box (4,) is."""
    extent = np.concatenate([points.min(axis=0), points.max(axis=0)])
    return bool(scores.mean() >= SURE and box_overlap(box, extent[None])[0] > AGREE)


def _agreed(points: np.ndarray, scores: np.ndarray, box: np.ndarray) -> np.ndarray:
    return points if agrees(points, scores, box) else np.zeros_like(points)


def _moved(face: Face, points: np.ndarray) -> np.ndarray:
    """The face's box (4,) moved and scaled as its landmarks were on their way to `points`."""
    before, after = face.landmarks, points
    scale = np.linalg.norm(np.ptp(after, axis=0)) / max(1e-6, np.linalg.norm(np.ptp(before, axis=0)))
    corners = (face.box.reshape(2, 2) - before.mean(axis=0)) * scale + after.mean(axis=0)
    return corners.reshape(4)


def _inside(boxes: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    height, width = pixels.shape[:2]
    return boxes.clip(0, [width, height, width, height]).astype(np.float32)


def _bytes(frame: torch.Tensor) -> np.ndarray:
    """A frame as (H,W,3) uint8 RGB on the CPU; raises MuseTalkError for another shape."""
    pixels = Picture(frame).pixels[..., :3]
    if pixels.dtype != np.uint8:
        pixels = (np.nan_to_num(pixels, nan=0.0) * 255).round().clip(0, 255).astype(np.uint8)
    return np.ascontiguousarray(pixels)
