"""DWPose around its network: boxes of a frame to the pictures it looks at, its answers to points of the frame."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import nn

from ..nets.dwpose import BINS, HEIGHT, POINTS, WIDTH, DWPose

PADDING = 1.25  # the network looks at this much more than the box
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)  # ImageNet's, RGB
BATCH = 8
# The other of each left and right pair of COCO-WholeBody: body, feet, face, hands.
MIRRORED_FACE = (
    *range(16, -1, -1),  # jaw
    *range(26, 16, -1),  # brows
    *(27, 28, 29, 30, 35, 34, 33, 32, 31),  # nose
    *(45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40),  # eyes
    *(54, 53, 52, 51, 50, 49, 48, 59, 58, 57, 56, 55),  # outer lips
    *(64, 63, 62, 61, 60, 67, 66, 65),  # inner lips
)
MIRRORED = (
    *(0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15),
    *(20, 21, 22, 17, 18, 19),
    *(23 + point for point in MIRRORED_FACE),
    *range(112, 133),
    *range(91, 112),
)


class PoseEstimator(Protocol):
    """Finds the 133 points of the people in given boxes. net: what it runs, for whoever moves networks."""

    @property
    def net(self) -> nn.Module: ...

    def estimate(self, frame: np.ndarray, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Points (N,133,2) float32 in pixels and scores (N,133), about 0..1, of boxes (N,4) x1 y1 x2 y2.

        frame: (H,W,3) uint8 RGB.
        """
        ...


@dataclass(frozen=True)
class DWPoseEstimator:
    """The points by our own DWPose; net: on `device`. Equal to mmpose's inference_topdown.

    flip_test: average with the mirrored picture, as MuseTalk does, at twice the cost.
    """

    net: DWPose
    device: torch.device
    flip_test: bool = True

    @torch.inference_mode()
    def estimate(self, frame: np.ndarray, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See PoseEstimator."""
        points = [np.zeros((0, POINTS, 2), np.float32)]
        scores = [np.zeros((0, POINTS), np.float32)]
        for start in range(0, len(boxes), BATCH):
            centres, sizes = views(boxes[start : start + BATCH])
            pixels = [look(frame, centre, size) for centre, size in zip(centres, sizes, strict=True)]
            across, down = self._answers(normalised(np.stack(pixels)).to(self.device))
            places, probable = strongest(across, down)
            points.append(to_frame(places, centres, sizes))
            scores.append(probable)
        return np.concatenate(points), np.concatenate(scores)

    def _answers(self, pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.flip_test:
            return self.net(pictures)
        across, down = self.net(torch.cat([pictures, pictures.flip(-1)]))
        count, swap = len(pictures), list(MIRRORED)
        return (across[:count] + across[count:, swap].flip(-1)) * 0.5, (down[:count] + down[count:, swap]) * 0.5


def views(boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Centres (N,2) and sizes (N,2) float32 of what the network sees: padded, lengthened to its aspect ratio.

    boxes: (N,4) x1 y1 x2 y2 in pixels; the view may leave the frame.
    """
    boxes = np.asarray(boxes, dtype=np.float32)
    centres = (boxes[:, :2] + boxes[:, 2:]) * np.float32(0.5)
    width, height = ((boxes[:, 2:] - boxes[:, :2]) * np.float32(PADDING)).T
    ratio = WIDTH / HEIGHT
    wide = width > height * ratio
    sizes = np.where(wide, [width, width / ratio], [height * ratio, height])
    return centres, sizes.T.astype(np.float32)


def look(frame: np.ndarray, centre: np.ndarray, size: np.ndarray) -> np.ndarray:
    """The view (384,288,3) uint8 of a frame (H,W,3) uint8, bilinear; black outside the frame."""
    import cv2

    left = centre - np.array([0.5 * size[0], 0.0], dtype=np.float32)
    corner = left + np.array([0.0, centre[0] - left[0]], dtype=np.float32)
    source = np.stack([centre, left, corner])
    target = np.array([[WIDTH / 2, HEIGHT / 2], [0, HEIGHT / 2], [0, (HEIGHT + WIDTH) / 2]], dtype=np.float32)
    return cv2.warpAffine(frame, cv2.getAffineTransform(source, target), (WIDTH, HEIGHT), flags=cv2.INTER_LINEAR)


def normalised(views: np.ndarray) -> torch.Tensor:
    """Views (N,384,288,3) uint8 RGB -> the network's input (N,3,384,288) float32."""
    pixels = torch.from_numpy(views).permute(0, 3, 1, 2).float()
    return (pixels - torch.tensor(MEAN).view(1, 3, 1, 1)) / torch.tensor(STD).view(1, 3, 1, 1)


def strongest(across: torch.Tensor, down: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Places (N,133,2) float32 in pixels of the view and scores (N,133) of the network's answers.

    A point is at the highest value of both axes and as probable as the lower of the two; one that is nowhere
    (0 or less) stands at -1 bin, as in mmpose.
    """
    (top_x, x), (top_y, y) = across.float().max(dim=-1), down.float().max(dim=-1)
    scores = torch.minimum(top_x, top_y).cpu().numpy()
    places = torch.stack([x, y], dim=-1).float().cpu().numpy()
    places[scores <= 0] = -1
    return places / BINS, scores


def to_frame(places: np.ndarray, centres: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Places (N,133,2) in pixels of the views -> points (N,133,2) float32 in pixels of the frame.

    Reckoned in float64 as mmpose does: float32 throughout is off by up to 1e-4 pixels.
    """
    shares = places / np.array([WIDTH, HEIGHT])
    return (shares * sizes[:, None] + centres[:, None] - 0.5 * sizes[:, None]).astype(np.float32)
