"""Face parsing: from picture regions to class labels, from labels to the mask that is replaced."""

from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from .nets.bisenet import BiSeNet
from .settings import MaskSettings, ParsingMode

LABEL_SIZE = 512
GPU_BATCH = 8
SKIN, NOSE, MOUTH, UPPER_LIP, LOWER_LIP, NECK = 1, 10, 11, 12, 13, 14
# Skin, brows, eyes, glasses, nose, mouth and lips; and what is in front when it lies within the face's outline:
# background (as anything unknown is called), necklace, cloth, hair, hat.
FACE_CLASSES = (1, 2, 3, 4, 5, 6, 10, 11, 12, 13)
FRONT_CLASSES = (0, 15, 16, 17, 18)
# Of the 512-pixel picture: slivers between the true outline and the hull are narrower, hands and microphones wider.
NARROWEST_FRONT = 17
_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)


class FaceParser:
    """BiSeNet with the picture handling around it; `bisenet` must already be on `device`."""

    def __init__(self, bisenet: BiSeNet, device: torch.device | str = "cpu") -> None:
        self.bisenet = bisenet.train(False)
        self.device = torch.device(device)
        self._mean = torch.tensor(_IMAGENET_MEAN, device=self.device).view(1, 3, 1, 1)
        self._std = torch.tensor(_IMAGENET_STD, device=self.device).view(1, 3, 1, 1)

    def labels(self, regions: Iterable[Tensor | np.ndarray]) -> np.ndarray:
        """Regions (h,w,3) uint8 RGB of any sizes -> (B,512,512) uint8 classes 0..18.

        Each region is stretched to 512x512 (PIL bilinear) and parsed in batches of at most 8, on a CPU one by one
        (measured 20 % faster there). Regions are taken batch by batch, so a generator keeps memory bounded.
        """
        size = 1 if self.device.type == "cpu" else GPU_BATCH
        pictures = (_stretch(region) for region in regions)
        parts = [self._parse(batch) for batch in _batches(pictures, size)]
        return np.concatenate(parts) if parts else np.zeros((0, LABEL_SIZE, LABEL_SIZE), np.uint8)

    @torch.inference_mode()
    def _parse(self, pictures: list[np.ndarray]) -> np.ndarray:
        pixels = torch.from_numpy(np.stack(pictures)).to(self.device).permute(0, 3, 1, 2)
        pixels = pixels.contiguous().to(torch.float32).div(255).sub(self._mean).div(self._std)
        dtype = next(self.bisenet.parameters()).dtype
        return self.bisenet(pixels.to(dtype)).argmax(1).to(torch.uint8).cpu().numpy()


def label_mask(labels: np.ndarray, settings: MaskSettings) -> np.ndarray:
    """Classes (512,512) uint8 -> (512,512) uint8 mask, 255 where the face is replaced, else 0.

    raw: skin, mouth and lips. neck: the same and the neck. jaw (MuseTalk 1.5): the skin grown upwards and thinned
    near the cheeks, without the nose, and mouth and lips.
    """
    lips = np.isin(labels, (MOUTH, UPPER_LIP, LOWER_LIP))
    mode: ParsingMode = settings.parsing_mode
    if mode == "jaw":
        skin = _jaw_skin(labels == SKIN, settings.left_cheek_width, settings.right_cheek_width)
        chosen = (skin & (labels != NOSE)) | lips
    elif mode == "neck":
        chosen = (labels == SKIN) | (labels == NECK) | lips
    else:
        chosen = (labels == SKIN) | lips
    return chosen.astype(np.uint8) * 255


def front_mask(labels: np.ndarray, picture: np.ndarray) -> np.ndarray:
    """Where something is in front of the face: (512,512) bool of classes (512,512) uint8.

    picture: uint8 mask of the same square at any size, what would be replaced. Counted are the pixels in it, or inside
    the convex hull of the largest face region, that are no part of a head, in patches at least 17 pixels wide. A hand
    that the parser takes for skin is not found.
    """
    import cv2

    face = np.isin(labels, FACE_CLASSES).astype(np.uint8)
    outline = (cv2.resize(picture, labels.shape[::-1], interpolation=cv2.INTER_NEAREST) > 127).astype(np.uint8)
    contours, _ = cv2.findContours(face, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    if contours:
        cv2.fillConvexPoly(outline, cv2.convexHull(max(contours, key=cv2.contourArea)), 1)
    front = outline * np.isin(labels, FRONT_CLASSES).astype(np.uint8)
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (NARROWEST_FRONT, NARROWEST_FRONT))
    return cv2.morphologyEx(front, cv2.MORPH_OPEN, kernel) > 0


def _jaw_skin(skin: np.ndarray, left: int, right: int) -> np.ndarray:
    import cv2

    grown = cv2.dilate(skin.astype(np.uint8), _jaw_kernel())
    flat_ellipse = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (35, 3))
    thinned = cv2.erode(grown, flat_ellipse, iterations=2)
    columns = np.arange(skin.shape[1])
    centre = skin.shape[1] // 2
    cheeks = (columns <= centre - left) | (columns >= centre + right)
    return np.where(cheeks[None, :], thinned, grown) > 0


@lru_cache(maxsize=1)
def _jaw_kernel() -> np.ndarray:
    """33x33 uint8: empty rows 0..9, a cone that widens by 2 a row from 1 (row 10) to 21 (row 20), then a tail."""
    rows = np.arange(33)[:, None]
    half_width = np.minimum(rows, 20) - 10
    return (np.abs(np.arange(33)[None, :] - 16) <= half_width).astype(np.uint8)


def _stretch(region: Tensor | np.ndarray) -> np.ndarray:
    from PIL import Image

    pixels = region.cpu().numpy() if isinstance(region, Tensor) else region
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    return np.asarray(picture.resize((LABEL_SIZE, LABEL_SIZE), Image.Resampling.BILINEAR))


def _batches(items: Iterator[np.ndarray], size: int) -> Iterator[list[np.ndarray]]:
    while batch := list(islice(items, size)):
        yield batch
