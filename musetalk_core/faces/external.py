"""Faces that something else has found: ComfyUI's BOUNDING_BOX and FACE_LANDMARKS, one item for all frames or each."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from ..errors import MuseTalkError
from .detector import Detector, Face, ibug_points

MESH_POINTS = 468
ADVICE = "give one for all frames or one a frame"


def given_boxes(value: Any, frames: int, image_size: tuple[int, int]) -> list[list[np.ndarray]]:
    """The boxes (4,) x1 y1 x2 y2 of every frame, cut to the image; those outside it are left out.

    value: a box {"x", "y", "width", "height"} in pixels, a list of them (one for all frames or one a frame), or a
    list of such lists (the boxes of every frame). image_size: (height, width). Raises MuseTalkError for another count
    and for what is no box.
    """
    items = [value] if isinstance(value, Mapping) else value
    if not isinstance(items, Sequence) or isinstance(items, str):
        raise MuseTalkError(f"The bounding boxes are {type(value).__name__}; connect a BOUNDING_BOX output.")
    rows = [[item] if isinstance(item, Mapping) else item for item in items]
    return [_inside([_box(box) for box in row], image_size) for row in _for_frames(rows, frames, "bounding boxes")]


def given_faces(value: Any, frames: int, image_size: tuple[int, int]) -> list[list[Face]]:
    """The faces of every frame from FACE_LANDMARKS: {"frames": [[face, ..], ..], "image_size": (height, width)}.

    A face holds landmarks_xy: mediapipe's 468 or 478 points (N,2) in pixels. Raises MuseTalkError for another count,
    other frames or other points.
    """
    if not isinstance(value, Mapping) or "frames" not in value:
        raise MuseTalkError(f"The face landmarks are {type(value).__name__}; connect a FACE_LANDMARKS output.")
    size = tuple(int(side) for side in value.get("image_size", image_size))
    if size != tuple(image_size):
        raise MuseTalkError(
            f"The face landmarks were found on {size[1]}x{size[0]} pixels and the frames have "
            f"{image_size[1]}x{image_size[0]}; find them on the same frames."
        )
    rows = _for_frames(value["frames"], frames, "face landmarks")
    faces = [[_face(item, image_size) for item in row] for row in rows]
    return [sorted(row, key=lambda face: -face.area) for row in faces]


def faces_in_boxes(frame: torch.Tensor, boxes: Sequence[np.ndarray], detector: Detector) -> list[Face]:
    """The faces of a frame (H,W,3) in given boxes, largest first, with the landmarks that the detector sees there.

    Where it sees none a face keeps its box alone, with landmarks of NaN: the box is then what is generated.
    """
    guesses = [Face(box, _average_points(box), 1.0) for box in boxes]
    unknown = np.full((68, 2), np.nan, np.float32)
    found = detector.follow(frame, guesses)
    faces = [
        Face(guess.box, unknown, 1.0) if face is None else face for guess, face in zip(guesses, found, strict=True)
    ]
    return sorted(faces, key=lambda face: -face.area)


def _for_frames(rows: Sequence[Any], frames: int, name: str) -> list[Any]:
    if len(rows) not in (1, frames):
        raise MuseTalkError(f"There are {name} for {len(rows)} frames and {frames} frames; {ADVICE}.")
    return list(rows) * frames if len(rows) == 1 else list(rows)


def _box(item: Any) -> np.ndarray:
    try:
        x, y, width, height = (float(item[key]) for key in ("x", "y", "width", "height"))
    except (KeyError, TypeError, ValueError) as error:
        raise MuseTalkError(f"A bounding box is {item!r}; it needs x, y, width and height in pixels.") from error
    return np.array([x, y, x + width, y + height], np.float32)


def _inside(boxes: Sequence[np.ndarray], image_size: tuple[int, int]) -> list[np.ndarray]:
    """The boxes cut to the image, without those of which nothing is left or that are not finite."""
    cut = [box.clip(0, [image_size[1], image_size[0]] * 2) for box in boxes if np.isfinite(box).all()]
    return [box for box in cut if (box[2:] > box[:2]).all()]


def _face(item: Any, image_size: tuple[int, int]) -> Face:
    try:
        mesh = np.asarray(item["landmarks_xy"], np.float32)
    except (KeyError, TypeError, ValueError) as error:
        raise MuseTalkError(
            "A face of the face landmarks has no landmarks_xy; connect a FACE_LANDMARKS output."
        ) from error
    if mesh.ndim != 2 or mesh.shape[1] != 2 or len(mesh) < MESH_POINTS:
        raise MuseTalkError(f"The landmarks of a face have the shape {mesh.shape}; 468 or 478 points x, y are needed.")
    limit = [image_size[1], image_size[0]] * 2
    box = np.concatenate([mesh.min(0), mesh.max(0)]).clip(0, limit).astype(np.float32)
    return Face(box, ibug_points(mesh), float(item.get("score", 1.0)))


def _average_points(box: np.ndarray) -> np.ndarray:
    """68 points of an upright face that fills the box, roughly: they say only where to look."""
    turn = np.linspace(np.pi, 0, 17)
    jaw = np.stack([0.5 + 0.5 * np.cos(turn), 0.45 + 0.55 * np.sin(turn)], 1)
    across = np.linspace(0.12, 0.88, 51)
    inner = np.stack([across, np.full(51, 0.6)], 1)  # brows, nose, eyes, lips: only the eyes' level counts
    points = np.concatenate([jaw, inner])
    points[36], points[45] = (0.22, 0.38), (0.78, 0.38)
    return (box[:2] + points * (box[2:] - box[:2])).astype(np.float32)
