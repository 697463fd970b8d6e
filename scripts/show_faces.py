"""Draw what the face stage finds: python scripts/show_faces.py PICTURE OUT (or --demo OUT for skimage's astronaut).

Green: the face box. Yellow: the crop box that is generated. White: the parsed square. Dots: the 68 landmarks.
"""

import argparse
import sys
from pathlib import Path

import cv2
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from musetalk_core.faces.detector import Face, FaceDetector
from musetalk_core.faces.geometry import crop_box, crop_square, landmark_mask

GREEN, YELLOW, WHITE = (90, 220, 90), (255, 210, 40), (255, 255, 255)
PARTS = (
    (range(0, 17), False, (80, 170, 255)),
    (range(17, 22), False, (255, 140, 60)),
    (range(22, 27), False, (255, 140, 60)),
    (range(27, 31), False, (200, 120, 255)),
    (range(31, 36), False, (200, 120, 255)),
    (range(36, 42), True, (60, 230, 230)),
    (range(42, 48), True, (60, 230, 230)),
    (range(48, 60), True, (255, 80, 120)),
    (range(60, 68), True, (255, 160, 180)),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("picture", help="a picture, or --demo", nargs="?")
    parser.add_argument("out", type=Path)
    parser.add_argument("--demo", action="store_true")
    parser.add_argument("--height", type=int, default=960, help="of the drawing, in pixels")
    options = parser.parse_args()
    pixels = _astronaut() if options.demo else cv2.imread(options.picture)[..., ::-1].copy()
    faces = FaceDetector(FaceDetector.load_nets()).detect(torch.from_numpy(pixels))
    print(f"{len(faces)} face(s)")
    scale = options.height / pixels.shape[0]
    canvas = cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
    for face in faces:
        draw(canvas, face, pixels.shape[:2], scale)
    cv2.imwrite(str(options.out), canvas[..., ::-1])


def _astronaut() -> np.ndarray:
    from skimage.data import astronaut

    return astronaut()[0:300, 80:380].copy()


def draw(canvas: np.ndarray, face: Face, image_size: tuple[int, int], scale: float) -> None:
    """Draw one face onto a canvas that is `scale` times the picture."""
    box = crop_box(face.landmarks, face.box, image_size)
    if box is not None:
        square = crop_square(box)
        _shade(canvas, landmark_mask(face.landmarks * scale, _scaled(square, scale)), _scaled(square, scale))
        _rectangle(canvas, square, scale, WHITE, 1)
        _rectangle(canvas, box, scale, YELLOW, 3)
    _rectangle(canvas, face.box, scale, GREEN, 2)
    points = np.round(face.landmarks * scale).astype(np.int32)
    for part, closed, colour in PARTS:
        cv2.polylines(canvas, [points[list(part)]], closed, colour, 1, cv2.LINE_AA)
        for i in part:
            cv2.circle(canvas, [int(v) for v in points[i]], 3, colour, -1, cv2.LINE_AA)


def _scaled(box: np.ndarray | tuple[int, ...], scale: float) -> tuple[int, int, int, int]:
    x1, y1, x2, y2 = (round(float(edge) * scale) for edge in box)
    return x1, y1, x2, y2


def _rectangle(canvas: np.ndarray, box: np.ndarray | tuple, scale: float, colour: tuple, width: int) -> None:
    x1, y1, x2, y2 = _scaled(box, scale)
    cv2.rectangle(canvas, (x1, y1), (x2, y2), colour, width, cv2.LINE_AA)


def _shade(canvas: np.ndarray, mask: np.ndarray, square: tuple[int, int, int, int]) -> None:
    x1, y1, x2, y2 = square
    whole = np.zeros(canvas.shape[:2], bool)
    top, left = max(0, y1), max(0, x1)
    part = mask[top - y1 :, left - x1 :][: canvas.shape[0] - top, : canvas.shape[1] - left]
    whole[top : top + part.shape[0], left : left + part.shape[1]] = part > 0
    canvas[whole] = (canvas[whole] * 0.8 + np.array([40, 90, 160]) * 0.2).astype(np.uint8)


if __name__ == "__main__":
    main()
