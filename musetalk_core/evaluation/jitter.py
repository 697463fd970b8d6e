"""Does the face tremble? Nose and mouth followed by the eyes, and how unsteadily their luma changes."""

import numpy as np

from .image import luma
from .perceptual import align

SIZE = 128  # pixels of the steadied face
OUTER_EYES = ((32.0, 24.0), (96.0, 24.0))  # where the outer corners of the eyes come to lie
CORNERS = (36, 45)  # iBUG points
REGIONS = {"nose_jitter": np.s_[36:64, 46:82], "mouth_jitter": np.s_[64:100, 34:94]}
STEADY = 0.6  # share of the eyes' last place in the next: detectors tremble more than heads


class RegionJitter:
    """The mean absolute second difference over time of luma, 0..255, in the nose and the mouth of a steadied face.

    Frames come in order. The eyes lie above what lip-sync replaces, so they hold the face still; their own trembling
    stays in the value: compare with the source's. 0 for a still picture or light that changes steadily.
    """

    def __init__(self) -> None:
        self._eyes: np.ndarray | None = None
        self._last: list[np.ndarray] = []
        self._sums = dict.fromkeys(REGIONS, 0.0)
        self._count = 0

    def add(self, frame: np.ndarray, landmarks: np.ndarray | None) -> None:
        """Take in a frame (H,W,3) with its iBUG points (68,2), or None where no face is: the row begins anew."""
        if landmarks is None:
            self._eyes, self._last = None, []
            return
        eyes = landmarks[list(CORNERS)].astype(np.float64)
        self._eyes = eyes if self._eyes is None else STEADY * self._eyes + (1 - STEADY) * eyes
        self._last = [*self._last[-2:], luma(steadied(frame, self._eyes))]
        if len(self._last) == 3:
            second = np.abs(self._last[2] - 2 * self._last[1] + self._last[0])
            for name, region in REGIONS.items():
                self._sums[name] += float(second[region].mean())
            self._count += 1

    def figures(self) -> dict[str, float]:
        """nose_jitter and mouth_jitter; NaN below three frames in a row."""
        return {name: total / self._count if self._count else float("nan") for name, total in self._sums.items()}


def steadied(frame: np.ndarray, eyes: np.ndarray) -> np.ndarray:
    """(SIZE,SIZE,3) of the frame's type: the face with the outer corners of the eyes (2,2) at OUTER_EYES."""
    import cv2

    turn = align(eyes.astype(np.float64), np.array(OUTER_EYES))
    return cv2.warpAffine(frame, turn, (SIZE, SIZE), borderMode=cv2.BORDER_REPLICATE)
