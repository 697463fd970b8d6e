"""Draws docs/images/blend_modes.jpg: crop, mask and blend of every mask mode on the portrait of scikit-image.

Without BiSeNet weights the class map is drawn from the 68 landmarks (a stand-in for looking at the modes, not a face
parser). The pasted face is the portrait's own crop in false colours, so that the replaced area shows.

    python scripts/show_masks.py [output.png]
"""

import sys
from pathlib import Path

import cv2
import numpy as np
import torch
from skimage import data

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from musetalk_core.blending import Masker, blend_mask, composite  # noqa: E402
from musetalk_core.face_parsing import label_mask  # noqa: E402
from musetalk_core.faces.detector import FaceDetector  # noqa: E402
from musetalk_core.faces.geometry import crop_box, crop_face, crop_square  # noqa: E402
from musetalk_core.faces.track import FaceTrack  # noqa: E402
from musetalk_core.settings import MaskSettings  # noqa: E402

TILE = 256
COLOURS = {0: (40, 40, 40), 1: (230, 180, 140), 2: (90, 60, 30), 4: (80, 120, 220), 10: (240, 220, 90)}
COLOURS |= {11: (120, 0, 40), 12: (220, 60, 90), 13: (250, 110, 130), 14: (150, 110, 190)}


def drawn_labels(landmarks: np.ndarray, square: tuple[int, int, int, int]) -> np.ndarray:
    """(512,512) classes: skin up to the hairline, neck, brows, eyes, nose, mouth, lips."""
    points = (landmarks - np.array(square[:2])) * (512 / (square[2] - square[0]))
    chin, brow = points[8], points[17:27].mean(0)
    forehead = points[17:27] + (brow - chin) * 0.45
    labels = np.zeros((512, 512), np.uint8)

    def fill(value: int, shape: np.ndarray) -> None:
        cv2.fillPoly(labels, [np.round(shape).astype(np.int32)], value)

    fill(14, np.stack([points[5], points[11], points[11] + (0, 400), points[5] + (0, 400)]))
    fill(1, cv2.convexHull(np.concatenate([points[:17], forehead]).astype(np.float32))[:, 0])
    fill(2, points[17:22] + (0, 3))
    fill(2, points[22:27] + (0, 3))
    fill(4, points[36:42])
    fill(4, points[42:48])
    fill(10, cv2.convexHull(points[27:36].astype(np.float32))[:, 0])
    fill(12, np.concatenate([points[48:55], points[64:59:-1]]))
    fill(13, np.concatenate([points[54:60], points[[48, 60, 67, 66, 65, 64]]]))
    fill(11, points[60:68])
    return labels


def tile(picture: np.ndarray, caption: str) -> np.ndarray:
    """A square picture with its caption below."""
    grown = cv2.resize(picture, (TILE, TILE), interpolation=cv2.INTER_AREA)
    grown = np.repeat(grown[..., None], 3, 2) if grown.ndim == 2 else grown
    bar = np.full((24, TILE, 3), 255, np.uint8)
    cv2.putText(bar, caption, (6, 17), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (0, 0, 0), 1, cv2.LINE_AA)
    return np.concatenate([grown, bar])


def in_square(mask: np.ndarray, box: np.ndarray, square: tuple[int, int, int, int]) -> np.ndarray:
    """The box's mask, on black, as a picture of the square."""
    x1, y1, x2, y2 = (int(edge) for edge in box)
    picture = np.zeros((square[3] - square[1], square[2] - square[0]), np.uint8)
    picture[y1 - square[1] : y2 - square[1], x1 - square[0] : x2 - square[0]] = mask
    return picture


def main() -> None:
    """Writes the picture and prints its path."""
    output = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs" / "images" / "blend_modes.jpg"
    portrait = data.astronaut()
    frame = torch.from_numpy(portrait.copy())
    found = FaceDetector(FaceDetector.load_nets()).detect(frame)[0]
    size = (portrait.shape[0], portrait.shape[1])
    box = crop_box(found.landmarks, found.box, size, 0, 10)
    if box is None:
        raise SystemExit("No usable face box on the portrait.")
    square = crop_square(box)
    crop = crop_face(frame, box)
    false_colours = (crop.float() * torch.tensor([0.45, 1.0, 0.55])).to(torch.uint8)
    x1, y1, x2, y2 = square
    marked = cv2.rectangle(portrait.copy(), square[:2], square[2:], (0, 120, 255), 2)
    marked = cv2.rectangle(marked, box[:2].astype(int).tolist(), box[2:].astype(int).tolist(), (0, 200, 0), 2)
    labels = drawn_labels(found.landmarks, square)
    coloured = np.zeros((512, 512, 3), np.uint8)
    for value, colour in COLOURS.items():
        coloured[labels == value] = colour
    columns = [
        [
            tile(marked, "frame, box, parsed square"),
            tile(crop.numpy(), "crop 256"),
            tile(false_colours.numpy(), "face to paste"),
            tile(coloured, "classes (drawn)"),
        ]
    ]
    masks = {}
    for mode in ("raw", "neck", "jaw"):
        settings = MaskSettings(mode)
        classes = label_mask(labels, settings)
        masks[mode] = (classes, blend_mask(classes, box, square, settings))
    one = np.array([True])
    for name, points in (("landmarks", found.landmarks[None]), ("box only", None)):
        masks[name] = (None, Masker(None, MaskSettings()).masks([frame], FaceTrack(box[None], points, one, size))[0])
    for name, (classes, mask) in masks.items():
        shown = in_square(mask, box, square)
        blended = composite(frame, false_colours, box, mask).numpy()[y1:y2, x1:x2]
        natural = composite(frame, crop, box, mask).numpy()[y1:y2, x1:x2]
        first = tile(classes, f"{name}: classes") if classes is not None else tile(shown * 0, f"{name}: no parser")
        rest = [tile(shown, f"{name}: mask"), tile(blended, f"{name}: blend"), tile(natural, f"{name}: own crop")]
        columns.append([first, *rest])
    sheet = np.concatenate([np.concatenate(column) for column in columns], axis=1)
    output.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(output), sheet[..., ::-1])
    print(output)


if __name__ == "__main__":
    main()
