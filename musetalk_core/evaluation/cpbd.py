"""CPBD: how sharp a picture looks without a reference (Narvekar and Karam 2011, "A No-Reference Image Blur Metric").

A blur at an edge is seen when the edge is wider than the just noticeable width for the contrast around it. CPBD is the
share of edges whose blur is seen with at most 63 % probability.
"""

import numpy as np

from .image import luma

BLOCK = 64  # pixels
EDGE_SHARE = 0.002  # of a block's pixels, from which it counts
LOW_CONTRAST = 50  # of 255
WIDTH_LOW, WIDTH_HIGH = 5, 3  # just noticeable widths in pixels
BETA = 3.6
JUST_NOTICEABLE = 0.63  # 1 - 1/e
LONGEST = 100  # pixels to each side of an edge
CANNY = (25, 51)  # a tenth and a fifth of 255


def cpbd(frame: np.ndarray) -> float:
    """0 blurred to 1 sharp for a picture (H,W,3), uint8 or floating 0..1; NaN without an edge (flat, or below 64 px).

    Values compare only at the same size and content.
    """
    import cv2

    picture = luma(frame)
    widths = edge_widths(picture)
    strong = cv2.Canny(cv2.GaussianBlur(picture.clip(0, 255).astype(np.uint8), (0, 0), 1.0), *CANNY) > 0
    seen, total = 0, 0
    for y in range(0, picture.shape[0] - BLOCK + 1, BLOCK):
        for x in range(0, picture.shape[1] - BLOCK + 1, BLOCK):
            block = np.s_[y : y + BLOCK, x : x + BLOCK]
            if strong[block].mean() <= EDGE_SHARE:
                continue
            contrast = picture[block].max() - picture[block].min()
            noticeable = WIDTH_LOW if contrast <= LOW_CONTRAST else WIDTH_HIGH
            found = widths[block][widths[block] > 0]
            blurred = 1 - np.exp(-((found / noticeable) ** BETA))
            seen, total = seen + int((blurred <= JUST_NOTICEABLE).sum()), total + len(found)
    return seen / total if total else float("nan")


def edge_widths(picture: np.ndarray) -> np.ndarray:
    """(H,W) widths in pixels of upright edges of a luma picture (H,W), 0 elsewhere.

    From an edge (a Sobel maximum along x above twice the root mean square) to the nearest extreme of luma on either
    side (Marziliano et al. 2002), at most LONGEST pixels each.
    """
    import cv2

    across = cv2.Sobel(picture, cv2.CV_64F, 1, 0, borderType=cv2.BORDER_REPLICATE) / 8
    down = cv2.Sobel(picture, cv2.CV_64F, 0, 1, borderType=cv2.BORDER_REPLICATE) / 8
    power = across**2 + down**2
    peak = np.zeros(picture.shape, bool)
    peak[:, 1:-1] = (power[:, 1:-1] > power[:, :-2]) & (power[:, 1:-1] >= power[:, 2:])
    edges = peak & (power > 4 * power.mean()) & (np.abs(across) >= np.abs(down))
    rising = across > 0
    # Along a rising edge luma falls to the left and grows to the right; a falling edge is a rising one of -luma.
    widths = np.where(rising, _extent(picture), _extent(-picture))
    return np.where(edges, widths, 0)


def _extent(picture: np.ndarray) -> np.ndarray:
    """(H,W): steps to the left while values fall, plus steps to the right while they grow."""
    grows = np.diff(picture, axis=1) > 0
    left, right = np.zeros(picture.shape), np.zeros(picture.shape)
    for x in range(1, picture.shape[1]):
        left[:, x] = np.where(grows[:, x - 1], left[:, x - 1] + 1, 0)
        right[:, -x - 1] = np.where(grows[:, -x], right[:, -x] + 1, 0)
    return np.minimum(left, LONGEST) + np.minimum(right, LONGEST)
