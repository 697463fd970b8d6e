"""A sheet that shows where a result went wrong: crop, mask, generated face, blend and difference of chosen frames."""

from collections.abc import Sequence

import numpy as np
import torch

from .errors import MuseTalkError
from .faces.geometry import crop_face, crop_square
from .faces.track import FaceTrack
from .sheet import CAPTION, GAP, GREY, LARGE, NORMAL, RED, WHITE, Page, pixels_of, scaled, text_picture

TILE = 256
MOST_ROWS = 16
EVENLY = 6  # frames shown when none are named
DIFFERENCE_GAIN = 4
EXPAND = 1.2  # side of the close-ups relative to the box
TINT = (40, 220, 130)


def chosen_frames(text: str, count: int) -> list[int]:
    """The frame numbers of a list such as "0, 12, 40", rising and each once; six spread evenly when it is empty.

    Raises MuseTalkError for what is no frame of `count`, and for more than 16.
    """
    words = text.replace(",", " ").replace(";", " ").split()
    if not words:
        return sorted({round(k * (count - 1) / max(EVENLY - 1, 1)) for k in range(EVENLY)})
    rows = set()
    for word in words:
        if not (word.isascii() and word.isdigit()) or int(word) >= count:
            raise MuseTalkError(f"frames holds {word!r}; give whole numbers from 0 to {count - 1}, such as 0, 12, 40.")
        rows.add(int(word))
    if len(rows) > MOST_ROWS:
        raise MuseTalkError(f"frames names {len(rows)} frames; give at most {MOST_ROWS}.")
    return sorted(rows)


def debug_sheet(
    frames: torch.Tensor,
    track: FaceTrack,
    rows: Sequence[int],
    faces: torch.Tensor | None = None,
    masks: torch.Tensor | None = None,
    results: torch.Tensor | None = None,
) -> np.ndarray:
    """A row for every frame of `rows`, a column for everything that is given: (h,w,3) uint8 RGB.

    frames, results: (N,H,W,3), faces (N,h,w,3), uint8 or floating 0..1; masks (N,256,256) floating 0..1, what is
    replaced of each box, shown in green on the crop. The difference is four times |result - frame|. A frame without a
    face has a sentence in its row. Raises MuseTalkError when the numbers of frames differ.
    """
    given = {"track": track, "faces": faces, "masks": masks, "results": results}
    wrong = [f"{len(part)} {name}" for name, part in given.items() if part is not None and len(part) != len(frames)]
    if wrong:
        raise MuseTalkError(f"{len(frames)} frames were given with {wrong[0]}; make all of them from the same frames.")
    captions = ["crop"] + ["mask"] * (masks is not None) + ["generated"] * (faces is not None)
    captions += ["blend", f"difference x {DIFFERENCE_GAIN}"] * (results is not None)
    page = Page(len(captions) * (TILE + GAP) + GAP)
    for row in rows:
        top = page.end + GAP // 2
        page.put(text_picture(f"frame {row}", LARGE, WHITE, TILE), GAP, top)
        if not track.present[row]:
            words = "No face was found in this frame, so it stays as it is."
            page.put(text_picture(words, NORMAL, RED, TILE * 2), GAP, top + CAPTION + GAP // 2)
            continue
        tiles = _tiles(frames, track, row, faces, masks, results)
        for k, (picture, caption) in enumerate(zip(tiles, captions, strict=True)):
            x = GAP + k * (TILE + GAP)
            page.put(text_picture(caption, NORMAL, GREY, TILE), x, top + CAPTION + GAP // 2)
            page.put(scaled(picture, TILE, TILE), x, top + 2 * CAPTION + GAP // 2)
    return page.pixels()


def _tiles(
    frames: torch.Tensor,
    track: FaceTrack,
    row: int,
    faces: torch.Tensor | None,
    masks: torch.Tensor | None,
    results: torch.Tensor | None,
) -> list[np.ndarray]:
    box = track.boxes[row]
    crop = crop_face(frames[row], box, float(track.angles[row])).numpy()
    tiles = [crop]
    if masks is not None:
        weights = scaled(pixels_of(masks[row]), *crop.shape[:2])[..., None] / 255 * 0.6
        tiles.append(np.round(crop * (1 - weights) + np.array(TINT) * weights).astype(np.uint8))
    if faces is not None:
        tiles.append(pixels_of(faces[row]))
    if results is not None:
        before, after = (_close_up(part[row], box) for part in (frames, results))
        change = np.abs(after.astype(int) - before) * DIFFERENCE_GAIN
        tiles += [after, change.clip(0, 255).astype(np.uint8)]
    return tiles


def _close_up(picture: torch.Tensor, box: np.ndarray) -> np.ndarray:
    """The square around the box (side,side,3) uint8, black where it leaves the picture."""
    x1, y1, x2, y2 = crop_square(box, EXPAND)
    height, width = picture.shape[:2]
    cut = np.zeros((max(y2 - y1, 1), max(x2 - x1, 1), 3), np.uint8)
    inside = pixels_of(picture[max(y1, 0) : min(y2, height), max(x1, 0) : min(x2, width)])
    top, left = max(-y1, 0), max(-x1, 0)
    cut[top : top + inside.shape[0], left : left + inside.shape[1]] = inside
    return cut
