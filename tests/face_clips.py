"""Clips of people with known truth: who is where in every frame, made of one portrait."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from clips import faceless, portrait

SIDE = 160  # of a person's picture at scale 1
# The middle of the mouth in `portrait`, as a share of its side: mediapipe's own place (223.2, 146.7) of skimage's
# astronaut, of which the portrait is rows 0 to 300 and columns 80 to 380.
MOUTH = np.array([(223.2 - 80) / 300, 146.7 / 300])


@dataclass(frozen=True)
class Place:
    """Where a person's picture is in a frame: its middle in pixels, its scale, its turn in degrees clockwise."""

    x: float
    y: float
    scale: float = 1.0
    turn: float = 0.0

    def matrix(self) -> np.ndarray:
        """From pixels of the person's picture to pixels of the frame, (2,3)."""
        turn = np.deg2rad(self.turn)
        linear = self.scale * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        return np.column_stack([linear, np.array([self.x, self.y]) - linear @ [SIDE / 2, SIDE / 2]])


def person(kind: str) -> np.ndarray:
    """ "her": the portrait; "him": its mirror image, darker and of another colour. (SIDE,SIDE,3) uint8."""
    picture = portrait(SIDE)
    if kind.startswith("her"):
        return picture
    return (picture[:, ::-1] * np.array([0.55, 0.6, 0.75])).astype(np.uint8)


def outline(kind: str) -> np.ndarray:
    """Which pixels of a person's picture are the person: head and shoulders. (SIDE,SIDE) uint8, 0 or 255."""
    mask = np.zeros((SIDE, SIDE), np.uint8)
    if kind == "hand":
        return mask + 255
    middle = round(SIDE * (MOUTH[0] if kind.startswith("her") else 1 - MOUTH[0]))
    cv2.ellipse(mask, (middle, round(SIDE * 0.4)), (round(SIDE * 0.24), round(SIDE * 0.36)), 0, 0, 360, 255, -1)
    cv2.ellipse(mask, (middle, SIDE), (round(SIDE * 0.5), round(SIDE * 0.3)), 0, 0, 360, 255, -1)
    return mask


def mouth(kind: str, place: Place) -> np.ndarray:
    """Where the middle of a person's mouth truly is, (2,) pixels."""
    share = MOUTH if kind.startswith("her") else np.array([1 - MOUTH[0], MOUTH[1]])
    return place.matrix() @ [*(share * SIDE), 1]


def frame(people: Mapping[str, Place], size: tuple[int, int] = (240, 480), shade: int = 0) -> np.ndarray:
    """A frame (h,w,3) uint8 with people on a plain ground, later ones in front. "hand": a brown board, no face."""
    height, width = size
    picture = np.repeat(np.linspace(90, 130, width, dtype=np.uint8)[None, :, None], height, 0).repeat(3, 2)
    picture = np.roll(picture, shade, 1).copy()
    for kind, place in people.items():
        own = np.full((SIDE, SIDE, 3), (96, 64, 48), np.uint8) if kind == "hand" else person(kind)
        matrix = place.matrix().astype(np.float64)
        cover = cv2.warpAffine(outline(kind), matrix, (width, height))
        moved = cv2.warpAffine(own, matrix, (width, height), borderMode=cv2.BORDER_REPLICATE)
        picture[cover > 127] = moved[cover > 127]
    return picture


def clip(frames: Sequence[Mapping[str, Place]], size: tuple[int, int] = (240, 480)) -> torch.Tensor:
    """(N,h,w,3) uint8."""
    return torch.from_numpy(np.stack([frame(people, size) for people in frames]))


def elsewhere(count: int, size: tuple[int, int] = (240, 480)) -> torch.Tensor:
    """Another scene, without anybody, (count,h,w,3) uint8."""
    return torch.from_numpy(np.stack([cv2.resize(picture, size[::-1]) for picture in faceless(count)]))
