"""Is the picture good? Likeness, sharpness, the border of the mask, and trembling, on plain arrays.

Frames are (H,W,3) RGB numpy arrays, uint8 0..255 or floating 0..1. Regions are (H,W) bool. Luma is BT.601 in 0..255.
"""

import numpy as np

from ..errors import MissingWeightsError, MuseTalkError

LUMA = (0.299, 0.587, 0.114)
OUTER_LIPS = slice(48, 60)
MOUTH_MARGIN = 0.25  # of the lips' width, added on all sides of the mouth region
INSIDE = 128  # mask values from here on count as the generated side


def luma(frame: np.ndarray) -> np.ndarray:
    """(H,W) float64, 0..255, of a frame."""
    return _scaled(frame) @ np.array(LUMA)


def psnr(frame: np.ndarray, reference: np.ndarray, region: np.ndarray | None = None) -> float:
    """10 log10(255^2 / mean squared error) in dB over the region's pixels, inf for equal pictures.

    Raises MuseTalkError for different shapes or an empty region.
    """
    if frame.shape != reference.shape:
        raise MuseTalkError(f"Pictures of shape {frame.shape} and {reference.shape} cannot be compared.")
    difference = _scaled(frame) - _scaled(reference)
    if region is not None:
        difference = difference[region]
    if not difference.size:
        raise MuseTalkError("The region to compare is empty; give one inside the picture.")
    error = float((difference**2).mean())
    return float("inf") if error == 0 else float(10 * np.log10(255**2 / error))


def mouth_region(landmarks: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(H,W) bool, size = (H,W): the box of the outer lips 48-59 plus MOUTH_MARGIN of its width on every side.

    landmarks: (68,2) iBUG points in pixels. What leaves the picture is cut.
    """
    lips = landmarks[OUTER_LIPS]
    margin = MOUTH_MARGIN * (lips[:, 0].max() - lips[:, 0].min())
    x1, y1 = np.floor(lips.min(0) - margin).astype(int).clip(0)
    x2, y2 = np.ceil(lips.max(0) + margin).astype(int).clip(0)
    region = np.zeros(size, bool)
    region[y1:y2, x1:x2] = True
    return region


def ssim_map(frame: np.ndarray, reference: np.ndarray) -> tuple[float, np.ndarray]:
    """The structural similarity of two pictures' luma, -1..1, 1 for equal, and (H,W) of it around each pixel.

    scikit-image's (7x7 window, range 255), whose mean leaves out 3 pixels at the border. Raises MuseTalkError for
    different shapes and pictures below 7 pixels, MissingWeightsError without scikit-image.
    """
    if frame.shape != reference.shape or min(frame.shape[:2]) < 7:
        raise MuseTalkError(
            f"Pictures of shape {frame.shape} and {reference.shape} have no SSIM; give 7 pixels or more."
        )
    try:
        from skimage.metrics import structural_similarity
    except ImportError as error:
        raise MissingWeightsError(
            "The package scikit-image is not installed; run `pip install -r requirements-evaluate.txt`."
        ) from error
    whole, places = structural_similarity(luma(frame), luma(reference), data_range=255, full=True)
    return float(whole), places


def l1(frame: np.ndarray, reference: np.ndarray) -> float:
    """The mean absolute difference of two pictures of one shape, 0..255."""
    if frame.shape != reference.shape:
        raise MuseTalkError(f"Pictures of shape {frame.shape} and {reference.shape} cannot be compared.")
    return float(np.abs(_scaled(frame) - _scaled(reference)).mean())


def sharpness(frame: np.ndarray, region: np.ndarray | None = None) -> float:
    """The variance of the luma's Laplacian (4 neighbours, mirrored at the edge) over the region's pixels.

    More is sharper; only values of the same content at the same size compare. Raises MuseTalkError for an empty region.
    """
    picture = np.pad(luma(frame), 1, mode="reflect")
    laplacian = picture[:-2, 1:-1] + picture[2:, 1:-1] + picture[1:-1, :-2] + picture[1:-1, 2:]
    laplacian -= 4 * picture[1:-1, 1:-1]
    values = laplacian if region is None else laplacian[region]
    if not values.size:
        raise MuseTalkError("The region to measure is empty; give one inside the picture.")
    return float(values.var())


def seam_energy(frame: np.ndarray, mask: np.ndarray) -> float:
    """How hard the picture changes across the mask's border: the mean luma difference, 0..255, of neighbours.

    mask: (H,W) uint8; counted are all pairs of 4-neighbours of which one is >= INSIDE and the other is not. The
    picture's own edges count too: compare with the untouched frame. NaN without a border.
    """
    inside, picture = mask >= INSIDE, luma(frame)
    across = np.abs(np.diff(picture, axis=1))[inside[:, 1:] != inside[:, :-1]]
    down = np.abs(np.diff(picture, axis=0))[inside[1:] != inside[:-1]]
    pairs = np.concatenate([across, down])
    return float(pairs.mean()) if len(pairs) else float("nan")


def border_band(mask: np.ndarray, width: int) -> np.ndarray:
    """(H,W) bool: the pixels of the generated side (mask >= INSIDE) at most `width` pixels from the other side.

    A blurred face beside a sharp one shows here first: compare `sharpness` of output and source in this band.
    """
    import cv2

    inside = (mask >= INSIDE).astype(np.uint8)
    core = cv2.erode(inside, np.ones((2 * width + 1, 2 * width + 1), np.uint8))
    return (inside > 0) & (core == 0)


def temporal_jitter(values: np.ndarray) -> float:
    """The mean absolute second difference over time of values (N,...), in their unit; 0 for steady motion.

    values: luma of frames, landmarks over the eye distance, or any curve; NaN is left out. NaN below 3 frames.
    """
    values = np.asarray(values, np.float64)
    if len(values) < 3:
        return float("nan")
    second = np.abs(values[2:] - 2 * values[1:-1] + values[:-2])
    kept = second[np.isfinite(second)]
    return float(kept.mean()) if kept.size else float("nan")


def _scaled(frame: np.ndarray) -> np.ndarray:
    """float64 in 0..255."""
    return frame.astype(np.float64) * (255 if np.issubdtype(frame.dtype, np.floating) else 1)
