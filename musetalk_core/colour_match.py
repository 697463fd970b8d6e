"""The colours of a generated face brought to those of the frame around it."""

import numpy as np

RING_SHARE = 0.06  # half the ring's width, of the shorter side of the region
LEAST_RING, LEAST_PIXELS = 2, 16
# Differences further than this many standard deviations (estimated by the median's) from the median one are not light
# but content: a mouth that moved, an edge of the jaw, hair. Smaller is steadier over time; the trembling that is left
# is level_jitter in benchmarks/results/blend_seams.json.
OUTLIER = 1.5
MAD_TO_STD = 1.4826  # of a normal distribution
CONTRAST = (0.8, 1.25)  # the ring says little about the contrast of the lips, so it is not followed further


def match_colours(face: np.ndarray, original: np.ndarray, mask: np.ndarray, amount: float) -> np.ndarray:
    """The face with mean and contrast of the original's ring, (h,w,3) uint8.

    face, original: (h,w,3) uint8 RGB, the same region of a frame. mask: (h,w) uint8, what is replaced. The ring are the
    pixels near the border of the mask, on both sides of it, where both pictures show the same skin. Means and standard
    deviations over it are compared in CIE L*a*b* (D65), outliers left out, as Reinhard et al. 2001 do over whole
    pictures. amount: 0 (the face as it is) to 1. Without a border the face comes back as it is.
    """
    import cv2

    ring = border_ring(mask)
    if amount == 0 or np.count_nonzero(ring) < LEAST_PIXELS:
        return face
    lab = cv2.cvtColor(face.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    target = cv2.cvtColor(original.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)[ring]
    source = lab[ring]
    kept = _same_content(target - source)
    if np.count_nonzero(kept) < LEAST_PIXELS:
        return face
    source, target = source[kept], target[kept]
    contrast = (target.std(0) / np.maximum(source.std(0), 1e-3)).clip(*CONTRAST)
    matched = (lab - source.mean(0)) * contrast + target.mean(0)
    lab += (matched - lab) * np.float32(amount)
    rgb = cv2.cvtColor(lab.astype(np.float32), cv2.COLOR_LAB2RGB)
    return np.round(rgb.clip(0, 1) * 255).astype(np.uint8)


def border_ring(mask: np.ndarray) -> np.ndarray:
    """(h,w) bool: the pixels within a few percent of the region's shorter side of the mask's border (128)."""
    import cv2

    inside = (mask >= 128).astype(np.uint8)
    reach = max(LEAST_RING, round(min(mask.shape) * RING_SHARE))
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
    return cv2.dilate(inside, kernel) != cv2.erode(inside, kernel)


def _same_content(differences: np.ndarray) -> np.ndarray:
    """(n,) bool: which of the differences (n,3) lie near the median one in every channel."""
    centred = np.abs(differences - np.median(differences, 0))
    spread = np.median(centred, 0) * MAD_TO_STD
    return (centred <= OUTLIER * spread + 0.5).all(1)
