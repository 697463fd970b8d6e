"""Finds faces in a frame with the embedded networks: BlazeFace boxes, then FaceMesh points."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import nn

from ..nets.blazeface import BlazeFaceFull, BlazeFaceShort
from ..nets.facemesh import FaceMesh
from .geometry import box_overlap
from .picture import Picture, View

WEIGHTS = Path(__file__).with_name("facekit.safetensors")
SCORE = 0.5  # least score of a detected box
FLAG = 0.9  # least probability of the mesh that it sees a face, at its first look and of a face that is followed
# The same at the second look, of a face that is new. Of lfw_subset's 400 faces and variants of faces (50 pixels wide,
# turned, dark, a third covered) one found lies between; non-faces: the best patch 0.96, the colour wheel 0.977.
SURE = 0.98
OVERLAP = 0.3  # boxes with more intersection over union are one face
SMALLEST = 8  # pixels of a face's shorter side; below, noise looks like one
MESH_VIEW = 1.5  # the mesh looks at a square this much larger than the face
MESH_BATCH = 8
MOVED = 0.1  # of the view: the mesh of a face that moved further between two frames is looked at again
TILES_FROM = 720  # pixels of the longer side; in smaller frames a face lost to the whole view is no use anyway
TILE_OVERLAP = 0.25

# iBUG-68 point -> mesh point; chosen on ten identities against two other 68-point models.
IBUG_TO_MESH = (
    *(127, 234, 93, 58, 172, 136, 150, 176, 152, 400, 379, 365, 397, 288, 323, 454, 356),  # jaw 0-16
    *(70, 63, 105, 66, 107, 336, 296, 334, 293, 300),  # brows 17-26
    *(168, 197, 5, 4, 75, 97, 2, 326, 305),  # nose 27-35
    *(33, 160, 158, 133, 153, 144, 362, 385, 387, 263, 373, 380),  # eyes 36-47
    *(61, 39, 37, 0, 267, 269, 291, 405, 314, 17, 84, 181),  # outer lips 48-59
    *(78, 82, 13, 312, 308, 317, 14, 87),  # inner lips 60-67
)
# Points between two mesh points: iBUG point -> (mesh point, other mesh point, share of the other).
BETWEEN = {27: (168, 6, 0.43), 29: (5, 195, 0.26)}
EYE_CORNERS, IBUG_EYES = (33, 263), (36, 45)  # outer corners: mesh points, iBUG points
POINTS = [0, 2, 3, 4, 5, 6, 7]  # rows of a BlazeFace answer that are places; row 1 is width and height


@dataclass(frozen=True)
class Face:
    """One face. box: (4,) float32 x1 y1 x2 y2 in pixels, the mesh's extent (hairline to chin) inside the image;
    landmarks: (68,2) float32 iBUG points in pixels (may lie outside the image), zeros where unknown; score: the
    detector's, 0..1."""

    box: np.ndarray
    landmarks: np.ndarray
    score: float

    @property
    def area(self) -> float:
        """Square pixels of the box."""
        return float((self.box[2] - self.box[0]) * (self.box[3] - self.box[1]))


class Detector(Protocol):
    """What finds faces: FaceDetector here, or any other with the same two methods."""

    def detect(self, frame: torch.Tensor) -> list[Face]:
        """The frame's faces, largest first. frame: (H,W,3) RGB, uint8 0..255 or floating 0..1."""

    def follow(self, frame: torch.Tensor, faces: Sequence[Face]) -> list[Face | None]:
        """The same faces in the next frame, looked for where they were, without a search; None where lost."""


class FaceNets(nn.Module):
    """The three networks of facekit.safetensors."""

    def __init__(self) -> None:
        super().__init__()
        self.short = BlazeFaceShort()
        self.full = BlazeFaceFull()
        self.mesh = FaceMesh()


@dataclass(frozen=True)
class _Candidates:
    """Boxes (N,4) and the two eyes (N,2,2) in frame pixels, scores (N,)."""

    boxes: np.ndarray
    eyes: np.ndarray
    scores: np.ndarray

    def without(self, faces: Sequence[Face]) -> "_Candidates":
        """Those whose middle lies in none of the faces."""
        middles = (self.boxes[:, :2] + self.boxes[:, 2:]) / 2
        new = np.ones(len(middles), bool)
        for face in faces:
            new &= ~((middles >= face.box[:2]) & (middles <= face.box[2:])).all(1)
        return _Candidates(self.boxes[new], self.eyes[new], self.scores[new])


class FaceDetector:
    """Detects every face of a frame with its landmarks.

    nets: what load_nets gives, already on `device`. Close faces are looked for, and farther ones, each by its network;
    when there is none, in frames of TILES_FROM pixels or more, small ones tile by tile.
    """

    def __init__(self, nets: FaceNets, device: torch.device | str = "cpu") -> None:
        self.nets = nets
        self.device = torch.device(device)

    @staticmethod
    def load_nets() -> FaceNets:
        """The embedded networks (facekit.safetensors, fp16) as float32 on the CPU, ready to run."""
        from safetensors.torch import load_file

        with torch.device("meta"):
            nets = FaceNets()
        tensors = {key: tensor.float() for key, tensor in load_file(WEIGHTS).items()}
        nets.load_state_dict(tensors, assign=True)
        return nets.train(False).requires_grad_(False)

    @torch.inference_mode()
    def detect(self, frame: torch.Tensor) -> list[Face]:
        """The frame's faces, largest first; [] when there is none.

        frame: (H,W,3) RGB, uint8 0..255 or floating 0..1, any size and device; alpha is dropped and NaN is black.
        Raises MuseTalkError for any other shape.
        """
        picture = Picture(frame)
        whole = [View.around(picture.width, picture.height)]
        large = max(picture.width, picture.height) >= TILES_FROM
        tiles = _tiles(picture.width, picture.height) if large else []
        faces = self._faces(picture, self._candidates(picture, self.nets.short, whole), [])
        faces += self._faces(picture, self._candidates(picture, self.nets.full, whole), faces)
        if not faces and tiles:
            faces = self._faces(picture, self._candidates(picture, self.nets.full, tiles), [])
        return sorted(faces, key=lambda face: -face.area)

    @torch.inference_mode()
    def follow(self, frame: torch.Tensor, faces: Sequence[Face]) -> list[Face | None]:
        """The same faces in the next frame, by the mesh alone in the view that their last points ask for.

        frame: as for detect. Each keeps its score; None where the mesh sees no face. About a third of detect's time.
        """
        picture = Picture(frame)
        found: list[Face | None] = []
        for start in range(0, len(faces), MESH_BATCH):
            part = faces[start : start + MESH_BATCH]
            views = [_last_view(face) for face in part]
            meshes, flags = self._look(picture, views)
            moved = [k for k, mesh in enumerate(meshes) if _moved(views[k], _mesh_view(mesh))]
            if moved:
                again, sure = self._look(picture, [_mesh_view(meshes[k]) for k in moved])
                for k, mesh, flag in zip(moved, again, sure, strict=True):
                    meshes[k], flags[k] = mesh, flag
            for face, mesh, flag in zip(part, meshes, flags, strict=True):
                found.append(_face(mesh, face.score, picture) if flag >= FLAG else None)
        return found

    def _candidates(self, picture: Picture, net: BlazeFaceShort | BlazeFaceFull, views: list[View]) -> _Candidates:
        pixels = self._pixels(picture, views, net.size)
        raw, logits = (output.cpu().numpy() for output in net(pixels * 2 - 1))
        scores = 1 / (1 + np.exp(-logits.clip(-60, 60)))
        tile, anchor = np.nonzero(scores > SCORE)
        rows = raw[tile, anchor].reshape(-1, 8, 2) / net.size
        rows[:, POINTS] += net.anchors().numpy()[anchor][:, None]
        side = np.array([views[t].size for t in tile]).reshape(-1, 1, 1)
        middle = np.array([(views[t].x, views[t].y) for t in tile]).reshape(-1, 1, 2)
        half = rows[:, 1] * side[:, 0] / 2
        points = (rows - 0.5) * side + middle
        boxes = np.concatenate([points[:, 0] - half, points[:, 0] + half], 1)
        return _merge(_Candidates(boxes, points[:, 2:4], scores[tile, anchor]))

    def _faces(self, picture: Picture, found: _Candidates, known: Sequence[Face]) -> list[Face]:
        """The candidates whose mesh agrees that they are faces; each face once, those known already left out."""
        found = found.without(known)
        faces: list[Face] = []
        for start in range(0, len(found.boxes), MESH_BATCH):
            part = slice(start, start + MESH_BATCH)
            views = [
                View.upright(box, eyes[0], eyes[1], MESH_VIEW)
                for box, eyes in zip(found.boxes[part], found.eyes[part], strict=True)
            ]
            for mesh, score in zip(*self._meshes(picture, views, found.scores[part]), strict=True):
                face = _face(mesh, float(score), picture)
                if min(face.box[2:] - face.box[:2]) >= SMALLEST and all(
                    box_overlap(face.box, other.box[None])[0] <= OVERLAP for other in [*known, *faces]
                ):
                    faces.append(face)
        return faces

    def _meshes(self, picture: Picture, views: list[View], scores: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
        """Mesh points (468,2) in frame pixels of the views that show a face.

        Done twice, the second time in the view the first points ask for: the points then hardly depend on how well
        the detector placed its box, which halves their trembling in a video.
        """
        meshes: list[np.ndarray] = []
        for least in (FLAG, SURE):
            meshes, flags = self._look(picture, views)
            sure = np.flatnonzero(flags >= least)
            meshes, scores = [meshes[i] for i in sure], scores[sure]
            if not meshes:
                break
            views = [_mesh_view(mesh) for mesh in meshes]
        return meshes, scores

    def _look(self, picture: Picture, views: list[View]) -> tuple[list[np.ndarray], np.ndarray]:
        pixels = self._pixels(picture, views, FaceMesh.size)
        points, logits = self.nets.mesh(pixels)
        local = points.double().cpu().numpy() / FaceMesh.size
        return [view.to_frame(mesh) for view, mesh in zip(views, local, strict=True)], logits.sigmoid().cpu().numpy()

    def _pixels(self, picture: Picture, views: list[View], size: int) -> torch.Tensor:
        """(N,3,size,size) 0..1 on the device, channels last: a third faster on a CPU."""
        pixels = torch.stack([picture.sample(view, size) for view in views]).to(self.device)
        return pixels.contiguous(memory_format=torch.channels_last)


def _mesh_view(mesh: np.ndarray) -> View:
    box = np.concatenate([mesh.min(0), mesh.max(0)])
    return View.upright(box, mesh[EYE_CORNERS[0]], mesh[EYE_CORNERS[1]], MESH_VIEW)


def _last_view(face: Face) -> View:
    """The view that a face's points ask for; its box is cut to the image, its points are not."""
    points = face.landmarks
    box = np.concatenate([np.minimum(face.box[:2], points.min(0)), np.maximum(face.box[2:], points.max(0))])
    return View.upright(box, points[IBUG_EYES[0]], points[IBUG_EYES[1]], MESH_VIEW)


def _moved(view: View, other: View) -> bool:
    away = max(abs(view.x - other.x), abs(view.y - other.y), abs(view.size - other.size))
    return away > MOVED * view.size


def ibug_points(mesh: np.ndarray) -> np.ndarray:
    """The 68 iBUG points (68,2) of mediapipe's 468 or 478 mesh points (N,2), in the same unit."""
    landmarks = mesh[list(IBUG_TO_MESH)]
    for point, (first, second, share) in BETWEEN.items():
        landmarks[point] = (1 - share) * mesh[first] + share * mesh[second]
    return landmarks


def _face(mesh: np.ndarray, score: float, picture: Picture) -> Face:
    landmarks = ibug_points(mesh)
    limit = [picture.width, picture.height, picture.width, picture.height]
    box = np.concatenate([mesh.min(0), mesh.max(0)]).clip(0, limit)
    return Face(box.astype(np.float32), landmarks.astype(np.float32), score)


def _tiles(width: int, height: int) -> list[View]:
    """Overlapping squares over the frame, their side a third of the longer side or 640 pixels if that is more."""
    side = min(max(640, max(width, height) // 3), max(width, height))

    def starts(length: int) -> np.ndarray:
        count = 1 + max(0, int(np.ceil((length - side) / (side * (1 - TILE_OVERLAP)))))
        return np.linspace(0, max(0, length - side), count)

    return [View(x + side / 2, y + side / 2, side) for y in starts(height) for x in starts(width)]


def _merge(found: _Candidates) -> _Candidates:
    """One candidate a face: overlapping ones are averaged, weighted by their scores (strongest first)."""
    order = np.argsort(-found.scores, kind="stable")
    boxes, eyes, scores = [], [], []
    while len(order):
        same = box_overlap(found.boxes[order[0]], found.boxes[order]) > OVERLAP
        same[0] = True
        group = order[same]
        weights = found.scores[group] / found.scores[group].sum()
        boxes.append(np.tensordot(weights, found.boxes[group], 1))
        eyes.append(np.tensordot(weights, found.eyes[group], 1))
        scores.append(found.scores[order[0]])
        order = order[~same]
    return _Candidates(np.reshape(boxes, (-1, 4)), np.reshape(eyes, (-1, 2, 2)), np.array(scores))
