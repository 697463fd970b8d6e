"""Still pictures as frames: one image or a folder of images."""

import os
import re
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..errors import MuseTalkError
from .source import check_index

if TYPE_CHECKING:
    from PIL.Image import Image

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})
EXIF_ORIENTATION = 274
TURNED_ORIENTATIONS = (5, 6, 7, 8)


class ImageFolder:
    """The images of a folder, in the natural order of their names (2.png before 10.png); other files are ignored.

    All must have one size; only their headers are read at first. Raises MuseTalkError for a folder without
    images, for sizes that differ, and for an image that cannot be read, naming the file.
    """

    def __init__(self, folder: str | os.PathLike[str], fps: Fraction) -> None:
        self.fps = fps
        self.tags: dict[str, str] = {}
        self.files = sorted((file for file in Path(folder).iterdir() if _is_frame(file)), key=_natural)
        if not self.files:
            raise MuseTalkError(f"The folder {Path(folder)} holds no images; give one with {_suffix_list()} files.")
        self.size = image_size(self.files[0])
        for file in self.files[1:]:
            self._check_size(file, image_size(file))

    def __len__(self) -> int:
        return len(self.files)

    def read(self, indices: Iterable[int]) -> Iterator[torch.Tensor]:
        """Yield frames (H,W,3) uint8; one is held at a time."""
        held: tuple[int, torch.Tensor] | None = None
        for index in indices:
            check_index(index, len(self))
            if held is None or held[0] != index:
                held = index, read_image(self.files[index])
                self._check_size(self.files[index], tuple(held[1].shape[:2]))
            yield held[1]

    def _check_size(self, file: Path, size: tuple[int, ...]) -> None:
        if size != self.size:
            raise MuseTalkError(
                f"{file} is {_pixels(size)} and {self.files[0].name} is {_pixels(self.size)}; give images of one size."
            )


class StillImage:
    """One image as a single frame; raises MuseTalkError, naming the file, when it cannot be read."""

    def __init__(self, path: str | os.PathLike[str], fps: Fraction) -> None:
        self.fps = fps
        self.tags: dict[str, str] = {}
        self.path = Path(path)
        self._picture = read_image(path)
        self.size = (int(self._picture.shape[0]), int(self._picture.shape[1]))

    def __len__(self) -> int:
        return 1

    def read(self, indices: Iterable[int]) -> Iterator[torch.Tensor]:
        """Yield the image (H,W,3) uint8 for every index, which can only be 0."""
        for index in indices:
            check_index(index, 1)
            yield self._picture


def is_image(path: Path) -> bool:
    """True when the name ends like a still image."""
    return path.suffix.lower() in IMAGE_SUFFIXES


def image_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """(height, width) as it is shown, from the header alone; raises MuseTalkError naming the file."""
    with _opened(path) as image:
        width, height = image.size
        tagged = "exif" in image.info or image.format == "TIFF"
        turned = tagged and image.getexif().get(EXIF_ORIENTATION) in TURNED_ORIENTATIONS
    return (width, height) if turned else (height, width)


def read_image(path: str | os.PathLike[str]) -> torch.Tensor:
    """The image (H,W,3) uint8 RGB, turned as its EXIF orientation says.

    Gray becomes three equal channels, 16-bit values v become v/257, alpha is left out, CMYK and palettes become
    RGB. Raises MuseTalkError naming the file.
    """
    from PIL import ImageOps

    with _opened(path) as image:
        try:
            upright = ImageOps.exif_transpose(image)
            pixels = np.array(_to_rgb(upright))
        except (OSError, ValueError, SyntaxError) as error:
            raise _unreadable(path) from error
    return torch.from_numpy(pixels)


def _to_rgb(image: "Image") -> "Image":
    from PIL import Image

    if image.mode.startswith("I"):
        gray = np.asarray(image).astype(np.float64) / 257
    elif image.mode == "F":
        gray = np.nan_to_num(np.asarray(image)).astype(np.float64) * 255
    else:
        return image.convert("RGB")
    return Image.fromarray(np.clip(gray + 0.5, 0, 255).astype(np.uint8)).convert("RGB")


def _opened(path: str | os.PathLike[str]) -> "Image":
    from PIL import Image

    file = Path(path)
    if not file.exists():
        raise MuseTalkError(f"There is no file {file}; check its name and folder.")
    try:
        return Image.open(file)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise _unreadable(file) from error


def _unreadable(path: str | os.PathLike[str]) -> MuseTalkError:
    return MuseTalkError(f"{Path(path)} cannot be read as an image: it is no image, damaged or far too large.")


def _is_frame(file: Path) -> bool:
    return is_image(file) and not file.name.startswith(".") and file.is_file()


def _natural(file: Path) -> list[tuple[int, int, str]]:
    """Sort key: digits by value and before letters."""
    parts = re.findall(r"[0-9]+|[^0-9]+", file.name.lower())
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts]


def _pixels(size: tuple[int, ...]) -> str:
    return f"{size[1]}x{size[0]}"


def _suffix_list() -> str:
    return ", ".join(sorted(IMAGE_SUFFIXES))
