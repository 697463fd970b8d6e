"""A frame as the face networks look at it: square, possibly turned views of it at a small size."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

from ..errors import MuseTalkError


@dataclass(frozen=True)
class View:
    """A square of the frame: centre x, y and side in pixels, turned by `angle` (radians, clockwise on screen)."""

    x: float
    y: float
    size: float
    angle: float = 0.0

    @staticmethod
    def around(width: int, height: int) -> "View":
        """The smallest square around the whole frame."""
        return View(width / 2, height / 2, max(width, height))

    @staticmethod
    def upright(box: np.ndarray, right_eye: np.ndarray, left_eye: np.ndarray, scale: float) -> "View":
        """A square `scale` times the longer side of the box (4,), turned so that the eyes are level."""
        x1, y1, x2, y2 = (float(edge) for edge in box)
        angle = math.atan2(left_eye[1] - right_eye[1], left_eye[0] - right_eye[0])
        return View((x1 + x2) / 2, (y1 + y2) / 2, max(x2 - x1, y2 - y1, 1.0) * scale, angle)

    def to_frame(self, points: np.ndarray) -> np.ndarray:
        """Points (N,2) of the view in 0..1 -> frame pixels."""
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        offset = (points - 0.5) * self.size
        return np.array([self.x, self.y]) + offset @ np.array([[cos, sin], [-sin, cos]])


class Picture:
    """A frame (H,W,3) on the CPU, read-only, from which views are sampled.

    frame: uint8, or floating 0..1 (half types are widened once). NaN counts as 0 and a fourth channel is dropped.
    Raises MuseTalkError for another shape or an empty frame.
    """

    def __init__(self, frame: torch.Tensor) -> None:
        if frame.ndim != 3 or frame.shape[2] not in (3, 4) or not frame.numel():
            shape = tuple(frame.shape)
            raise MuseTalkError(f"A frame has shape {shape}; faces are found in (height, width, 3) RGB pictures.")
        if frame.dtype not in (torch.uint8, torch.float32):
            frame = frame.float()
        self.pixels = frame.detach().cpu().numpy()
        self.height, self.width = self.pixels.shape[:2]

    def sample(self, view: View, size: int) -> torch.Tensor:
        """(3,size,size) float32 0..1 of a view; what lies outside the frame is black.

        Parts of the frame that are shown smaller are first reduced by area averaging (only the region needed), so
        that no full-size float copy is made and fine texture does not alias.
        """
        left, top, right, bottom = self._reach(view)
        if right <= left or bottom <= top:
            return torch.zeros(3, size, size)
        region, across, down = self._reduced((left, top, right, bottom), view.size / size)
        x, y = (view.x - left) * across, (view.y - top) * down
        height, width = region.shape[1:]
        middle = (torch.arange(size) + 0.5) / size - 0.5
        v, u = torch.meshgrid(middle * view.size, middle * view.size, indexing="ij")
        cos, sin = math.cos(view.angle), math.sin(view.angle)
        column = x + (cos * u - sin * v) * across
        row = y + (sin * u + cos * v) * down
        grid = torch.stack([column * 2 / width - 1, row * 2 / height - 1], -1)
        return F.grid_sample(region[None], grid[None], align_corners=False, padding_mode="zeros")[0]

    def _reach(self, view: View) -> tuple[int, int, int, int]:
        """The part of the frame that a view touches, with a small border for interpolation."""
        half = view.size / 2 * (abs(math.cos(view.angle)) + abs(math.sin(view.angle))) + 2
        left, top = max(0, math.floor(view.x - half)), max(0, math.floor(view.y - half))
        right, bottom = min(self.width, math.ceil(view.x + half)), min(self.height, math.ceil(view.y + half))
        return left, top, right, bottom

    def _reduced(self, part: tuple[int, int, int, int], shrink: float) -> tuple[torch.Tensor, float, float]:
        """A part of the frame (3,h,w) float 0..1, reduced by about `shrink` when that is above 1, and its scales."""
        left, top, right, bottom = part
        region = self.pixels[top:bottom, left:right, :3]
        small = _shrunk(region, shrink)
        if small.dtype != np.uint8 and not np.isfinite(small).all():
            small = _shrunk(np.nan_to_num(region, nan=0.0, posinf=1.0, neginf=0.0), shrink)
        pixels = torch.from_numpy(small).permute(2, 0, 1)
        pixels = pixels.float() / 255 if pixels.dtype == torch.uint8 else pixels.clamp(0, 1)
        height, width = small.shape[:2]
        return pixels, width / (right - left), height / (bottom - top)


def _shrunk(region: np.ndarray, shrink: float) -> np.ndarray:
    """The region (h,w,3) reduced by area averaging, as a fresh array; a copy when shrink is 1 or less."""
    import cv2

    if shrink <= 1:
        return region.copy()
    height, width = region.shape[:2]
    size = (max(1, round(width / shrink)), max(1, round(height / shrink)))
    return cv2.resize(region, size, interpolation=cv2.INTER_AREA)
