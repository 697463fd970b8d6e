"""A page of pictures and words for the eye: what the sheets are put together from."""

from collections.abc import Callable, Sequence

import numpy as np
import torch

Colour = tuple[int, int, int]

GAP = 16
CAPTION = 28
SMALL, NORMAL, LARGE = 18, 21, 25
BACKGROUND, PANEL = (22, 24, 30), (38, 41, 50)
WHITE, GREY, YELLOW, RED = (238, 240, 244), (158, 164, 176), (255, 208, 64), (255, 142, 116)


class Page:
    """A dark sheet of a fixed width that grows downwards as things are put on it."""

    def __init__(self, width: int) -> None:
        self._width = width
        self._parts: list[tuple[int, int, np.ndarray]] = []
        self.end = GAP

    def heading(self, lines: Sequence[tuple[str, int, Colour]]) -> None:
        """Lines of (text, size, colour) over the whole width, each wrapped where it is too long."""
        for text, size, colour in lines:
            self.put(text_picture(text, size, colour, self._width - 2 * GAP), GAP, self.end)
        self.end += GAP // 2

    def tile(self, picture: np.ndarray, caption: str, x: int, y: int, width: int) -> None:
        """A caption and, below it and centred in `width`, a picture."""
        self.put(text_picture(caption, SMALL, GREY, width), x, y)
        self.put(picture, x + (width - picture.shape[1]) // 2, y + CAPTION)

    def put(self, picture: np.ndarray, x: int, y: int) -> None:
        """A picture (h,w,3) uint8 with its upper left corner at x, y."""
        self._parts.append((x, y, picture))
        self.end = max(self.end, y + picture.shape[0])

    def pixels(self) -> np.ndarray:
        """The sheet (h,w,3) uint8."""
        sheet = np.full((self.end + GAP, self._width, 3), BACKGROUND, np.uint8)
        for x, y, picture in self._parts:
            sheet[y : y + picture.shape[0], x : x + picture.shape[1]] = picture
        return sheet


def text_picture(text: str, size: int, colour: Colour, width: int, ground: Colour = BACKGROUND) -> np.ndarray:
    """A text, wrapped to a width in pixels, as a picture (h,w,3) uint8 of at most that width."""
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(size)
    lines = _wrapped(text, font.getlength, width)
    image = Image.new("RGB", (width, len(lines) * (size + 7)), ground)
    draw = ImageDraw.Draw(image)
    for k, line in enumerate(lines):
        draw.text((0, k * (size + 7)), line, font=font, fill=colour)
    return np.asarray(image)


def _wrapped(text: str, length: Callable[[str], float], width: int) -> list[str]:
    """The text in lines of at most `width` as `length` measures them; a longer word has its own line."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and length(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def pixels_of(picture: torch.Tensor) -> np.ndarray:
    """A picture (h,w,3), uint8 or floating 0..1 on any device, as uint8."""
    if picture.is_floating_point():
        picture = (picture.float().nan_to_num(0.0).clamp(0, 1) * 255).round().to(torch.uint8)
    return picture.cpu().numpy()


def scaled(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """A picture (h,w,3) uint8 at another size; the same pixels when it has that size already."""
    import cv2

    if picture.shape[:2] == (height, width):
        return picture
    shrinks = height < picture.shape[0]
    return cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)
