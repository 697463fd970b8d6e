"""A face track for the eye: boxes, landmarks, numbers and presence drawn on the frames."""

from collections.abc import Sequence

import numpy as np
import torch

from .geometry import visible_share
from .track import FaceTrack
from .tracker import TrackedFace
from .upright import corners_in_frame

GREEN, YELLOW, RED, BLUE = (90, 220, 90), (255, 208, 64), (255, 110, 90), (110, 190, 255)
FONT_SHARE = 0.0016  # of the frame's height: the letters' scale
LEAST_FONT = 0.35


def draw_track(frame: torch.Tensor, track: FaceTrack, row: int, others: Sequence[TrackedFace] = ()) -> torch.Tensor:
    """A frame (H,W,3), uint8 or floating 0..1, with its track drawn on a copy: (H,W,3) float32 0..1 on the CPU.

    Yellow: the crop box; green dots: the landmarks; blue: every face with its number; the frame's border is green where
    the speaker is present and red where not, with the reason in the corner.
    """
    import cv2

    pixels = frame[..., :3].cpu()
    if pixels.is_floating_point():
        pixels = (pixels.float().nan_to_num(0.0).clamp(0, 1) * 255).round().to(torch.uint8)
    canvas = np.ascontiguousarray(pixels.numpy()).copy()
    height, width = canvas.shape[:2]
    line = max(1, round(height / 360))
    for tracked in others:
        _rectangle(canvas, tracked.face.box, BLUE, line)
        _label(canvas, f"{tracked.identity}", tracked.face.box[0], tracked.face.box[1], BLUE)
    present = bool(track.present[row])
    if present:
        box = track.boxes[row]
        draw_box(canvas, box, float(track.angles[row]), YELLOW, line)
        if track.landmarks is not None and track.landmarks[row].any():
            for x, y in np.round(track.landmarks[row]).astype(int).tolist():
                cv2.circle(canvas, (x, y), line, GREEN, -1, cv2.LINE_AA)
        share = visible_share(box, track.image_size)
        text = f"{row}: {track.identity}" + ("" if share >= 0.995 else f", {share:.0%} in the image")
    else:
        text = f"{row}: {track.reasons[row]}"
    colour = GREEN if present else RED
    cv2.rectangle(canvas, (0, 0), (width - 1, height - 1), colour, 2 * line)
    _label(canvas, text, 4 * line, height - 4 * line, colour)
    return torch.from_numpy(canvas).float() / 255


def draw_box(canvas: np.ndarray, box: np.ndarray, angle: float, colour: tuple[int, int, int], line: int) -> None:
    """Draw the outline of a box (4,), turned by `angle` radians about its centre, `line` pixels wide."""
    import cv2

    if not angle:
        return _rectangle(canvas, box, colour, line)
    corners = np.round((corners_in_frame(box, box, angle) - 0.5) * 16).astype(np.int32)
    cv2.polylines(canvas, [corners], True, colour, line, cv2.LINE_AA, shift=4)


def _rectangle(canvas: np.ndarray, box: np.ndarray, colour: tuple[int, int, int], line: int) -> None:
    import cv2

    x1, y1, x2, y2 = (round(float(edge)) for edge in box)
    cv2.rectangle(canvas, (x1, y1), (x2 - 1, y2 - 1), colour, line)


def _label(canvas: np.ndarray, text: str, x: float, y: float, colour: tuple[int, int, int]) -> None:
    """A text whose lower left corner is x, y, on a dark ground, inside the picture."""
    import cv2

    scale = max(LEAST_FONT, canvas.shape[0] * FONT_SHARE)
    (width, height), below = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)
    left = int(np.clip(x, 0, max(0, canvas.shape[1] - width)))
    bottom = int(np.clip(y, height + below, canvas.shape[0])) - below
    cv2.rectangle(canvas, (left, bottom - height - 1), (left + width, bottom + below), (20, 20, 20), -1)
    cv2.putText(canvas, text, (left, bottom), cv2.FONT_HERSHEY_SIMPLEX, scale, colour, 1, cv2.LINE_AA)
