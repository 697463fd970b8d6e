"""Sheets for the eye: a previewed frame beside its original, and one face made with several bbox_shifts."""

from collections.abc import Sequence

import numpy as np

from .faces.drawing import draw_box
from .faces.geometry import crop_square
from .faces.upright import laid_back
from .preview import ADVICE, Moment, Take, box_text
from .sheet import (
    CAPTION,
    GAP,
    GREY,
    LARGE,
    NORMAL,
    PANEL,
    RED,
    SMALL,
    WHITE,
    YELLOW,
    Colour,
    Page,
    pixels_of,
    scaled,
    text_picture,
)

WIDTH = 2048  # pixels: no sheet is wider
LEAST_HEIGHT, MOST_HEIGHT = 480, 960  # of a frame on the sheet, as far as the width allows
LEAST_COLUMN = 300
SWEEP_TILE = 384
SWEEP_COLUMNS = 5
SWEEP_LABEL = 64
FACE_EXPAND = 1.2  # side of the close-ups relative to the face

TINT = (40, 220, 130)
# Landmarks that make a line: points, whether it is closed, colour.
PARTS = (
    (range(0, 17), False, (90, 180, 255)),
    (range(17, 22), False, (255, 160, 80)),
    (range(22, 27), False, (255, 160, 80)),
    (range(27, 31), False, (205, 140, 255)),
    (range(31, 36), False, (205, 140, 255)),
    (range(36, 42), True, (80, 230, 230)),
    (range(42, 48), True, (80, 230, 230)),
    (range(48, 60), True, (255, 96, 136)),
    (range(60, 68), True, (255, 170, 190)),
)


def preview_sheet(moment: Moment, take: Take) -> np.ndarray:
    """The original with box and landmarks, the result, and close-ups of mask, result, crop and generated face.

    (h,w,3) uint8 RGB, at most 2048 wide; a square frame of 480 to 650 pixels is shown in its own size. Without a crop
    box only the original, the result and the sentence that says why.
    """
    height, width = _panel_size(*moment.size)
    column = max(width, LEAST_COLUMN)
    side = (max(height, LEAST_HEIGHT) - CAPTION - GAP) // 2
    tiles = _tiles(moment, take)
    wide = 2 * column + 3 * GAP + (2 * side + 2 * GAP if tiles else 0)
    page = Page(wide)
    page.heading([(moment.title, LARGE, WHITE), *_facts(moment, take)])
    top = page.end
    original = _marked(moment, take, height, width)
    result = scaled(pixels_of(take.picture), height, width)
    caption = "original" if take.box is None else "original: crop box, landmarks"
    for k, (picture, text) in enumerate(((original, caption), (result, "result"))):
        page.tile(picture, text, GAP + k * (column + GAP), top, column)
    left = 3 * GAP + 2 * column
    for k, (picture, caption) in enumerate(tiles):
        x, y = left + k % 2 * (side + GAP), top + k // 2 * (side + CAPTION + GAP)
        page.tile(scaled(picture, side, side), caption, x, y, side)
    return page.pixels()


def sweep_sheet(moment: Moment, takes: Sequence[Take], current: int) -> np.ndarray:
    """The face made with each of one or more bbox_shifts, labelled with shift and crop box, the current one framed.

    (h,w,3) uint8 RGB, at most 2048 wide. A take with a problem shows its sentence instead of a picture; without a
    face the sentence is all there is.
    """
    rows = -(-len(takes) // SWEEP_COLUMNS)
    columns = -(-len(takes) // rows)
    page = Page(max(columns, 2) * (SWEEP_TILE + GAP) + GAP)
    title = (f"bbox_shift sweep: {moment.title}", LARGE, WHITE)
    if moment.face is None:
        page.heading([title, (takes[0].problem, NORMAL, RED)])
        return page.pixels()
    page.heading([title, (ADVICE.format(*moment.shift_range), NORMAL, GREY)])
    top = page.end
    for k, take in enumerate(takes):
        x, y = GAP + k % columns * (SWEEP_TILE + GAP), top + k // columns * (SWEEP_TILE + SWEEP_LABEL + GAP)
        _sweep_tile(page, moment, take, x, y, take.shift == current)
    return page.pixels()


def _facts(moment: Moment, take: Take) -> list[tuple[str, int, Colour]]:
    problem = [(take.problem, NORMAL, RED)] if take.problem else []
    if take.box is None:
        return problem
    low, high = moment.shift_range
    facts = f"bbox_shift {take.shift}, range {low} to {high} · crop box {box_text(take.box)}"
    return [(facts, NORMAL, YELLOW), *(problem or [(ADVICE.format(low, high), NORMAL, GREY)])]


def _panel_size(height: int, width: int) -> tuple[int, int]:
    """(height, width) in which a frame of that size is shown: two of them and the square of close-ups fill WIDTH."""
    room, aspect = WIDTH - 5 * GAP, width / height
    tall = room / (2 * aspect + 1)
    if tall < LEAST_HEIGHT:
        tall = (room - LEAST_HEIGHT) / (2 * aspect)
    tall = min(tall, max(LEAST_HEIGHT, min(height, MOST_HEIGHT)))
    return max(1, round(tall)), max(1, round(tall * aspect))


def _marked(moment: Moment, take: Take, height: int, width: int) -> np.ndarray:
    """The original frame at a size, with the crop box and the landmarks drawn on it."""
    import cv2

    canvas = scaled(pixels_of(moment.picture), height, width).copy()
    if moment.face is None:
        return canvas
    scale = width / moment.size[1]
    points = np.round(moment.face.landmarks * scale).astype(np.int32)
    # On a small face dots would hide it.
    radius = round(float(np.ptp(points[:, 0])) / 110)
    for part, closed, colour in PARTS:
        cv2.polylines(canvas, [points[list(part)]], closed, colour, 1, cv2.LINE_AA)
        for point in points[list(part)].tolist() if radius else ():
            cv2.circle(canvas, point, radius, colour, -1, cv2.LINE_AA)
    if take.box is not None:
        draw_box(canvas, take.box * scale, take.angle, YELLOW, 2)
    return canvas


def _tiles(moment: Moment, take: Take) -> list[tuple[np.ndarray, str]]:
    """The four close-ups with their captions, none without a crop box."""
    if take.crop is None or take.made is None:
        return []
    return [
        (_masked(moment, take), "replaced (green)"),
        (_close_up(moment, pixels_of(take.picture)), "result, close"),
        (take.crop.numpy(), "crop, 256 x 256"),
        (pixels_of(take.made), "generated, 256 x 256"),
    ]


def _masked(moment: Moment, take: Take) -> np.ndarray:
    """The face with what is replaced in green."""
    assert take.box is not None and take.mask is not None
    x1, y1, x2, y2 = (int(edge) for edge in take.box)
    mask = take.mask
    if take.angle:
        mask, (x1, y1, x2, y2) = laid_back(mask, take.box, take.angle)
    weights = np.zeros((*moment.size, 1), np.float32)
    inside = mask[max(-y1, 0) :, max(-x1, 0) :][: moment.size[0] - max(y1, 0), : moment.size[1] - max(x1, 0)]
    top, left = max(y1, 0), max(x1, 0)
    weights[top : top + inside.shape[0], left : left + inside.shape[1], 0] = inside / 255 * 0.6
    face, weights = _close_up(moment, pixels_of(moment.picture)), _close_up(moment, weights)
    return np.round(face * (1 - weights) + np.array(TINT) * weights).astype(np.uint8)


def _close_up(moment: Moment, picture: np.ndarray) -> np.ndarray:
    """The square around the face, cut out of a picture (H,W,C) of the frame's size; zero where it leaves it."""
    assert moment.face is not None
    x1, y1, x2, y2 = crop_square(moment.face.box, FACE_EXPAND)
    height, width = moment.size
    cut = np.zeros((max(y2 - y1, 1), max(x2 - x1, 1), picture.shape[2]), picture.dtype)
    inside = picture[max(y1, 0) : min(y2, height), max(x1, 0) : min(x2, width)]
    top, left = max(-y1, 0), max(-x1, 0)
    cut[top : top + inside.shape[0], left : left + inside.shape[1]] = inside
    return cut


def _sweep_tile(page: Page, moment: Moment, take: Take, x: int, y: int, current: bool) -> None:
    if current:
        frame = np.full((SWEEP_TILE + 10, SWEEP_TILE + 10, 3), YELLOW, np.uint8)
        page.put(frame, x - 5, y - 5)
    if take.problem:
        picture = np.full((SWEEP_TILE, SWEEP_TILE, 3), PANEL, np.uint8)
        page.put(picture, x, y)
        page.put(text_picture(take.problem, NORMAL, RED, SWEEP_TILE - 4 * GAP, PANEL), x + 2 * GAP, y + 2 * GAP)
    else:
        page.put(scaled(_close_up(moment, pixels_of(take.picture)), SWEEP_TILE, SWEEP_TILE), x, y)
    name = f"bbox_shift {take.shift}" + (", current" if current else "")
    page.put(text_picture(name, LARGE, YELLOW if current else WHITE, SWEEP_TILE), x, y + SWEEP_TILE + 6)
    box = "no crop box" if take.problem or take.box is None else f"box {box_text(take.box)}"
    page.put(text_picture(box, SMALL, GREY, SWEEP_TILE), x, y + SWEEP_TILE + 38)
