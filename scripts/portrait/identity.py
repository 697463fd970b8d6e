"""Other faces from one: a smooth random deformation, other colours, mirrored; and how a head moves."""

from dataclasses import dataclass

import cv2
import numpy as np

from .portrait import Pose

DETAIL = 2.5  # the photograph is enlarged so much before anything is done to it


def enlarged(picture: np.ndarray, sharpen: float = 0.3) -> np.ndarray:
    """The picture (H,W,3) uint8 DETAIL times as large by Lanczos, with a mild unsharp mask for what that softens."""
    large = cv2.resize(picture, None, fx=DETAIL, fy=DETAIL, interpolation=cv2.INTER_LANCZOS4)
    soft = cv2.GaussianBlur(large, (0, 0), 0.8 * DETAIL)
    return cv2.addWeighted(large, 1 + sharpen, soft, -sharpen, 0)


def other_identity(picture: np.ndarray, mesh: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Another person: picture (H,W,3) uint8 RGB whose face mesh (468,2) is deformed smoothly, mirrored in half of
    the cases, with other gamma and colour balance and sometimes a little blur. Find its mesh anew."""
    moved = _deformed(picture, mesh, rng)
    if rng.random() < 0.5:
        moved = moved[:, ::-1]
    tint = rng.uniform(0.8, 1.1) * rng.uniform(0.92, 1.06, 3).astype(np.float32)
    light = (moved.astype(np.float32) / 255) ** rng.uniform(0.7, 1.4) * tint
    if rng.random() < 0.3:
        light = cv2.GaussianBlur(light, (0, 0), rng.uniform(0.4, 0.8) * DETAIL / 2)
    return np.ascontiguousarray((light.clip(0, 1) * 255).round().astype(np.uint8))


def _deformed(picture: np.ndarray, mesh: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    height, width = picture.shape[:2]
    middle, reach = mesh.mean(0), float(np.ptp(mesh, 0).max())
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    stretch = rng.uniform(0.93, 1.07, 2)
    from_x, from_y = middle[0] + (x - middle[0]) * stretch[0], middle[1] + (y - middle[1]) * stretch[1]
    for _ in range(6):
        push = rng.uniform(-0.045, 0.045, 2) * reach
        at = middle + rng.uniform(-0.7, 0.7, 2) * reach
        spread = rng.uniform(0.35, 0.7) * reach
        bump = np.exp(-((x - at[0]) ** 2 + (y - at[1]) ** 2) / (2 * spread**2))
        from_x, from_y = from_x + push[0] * bump, from_y + push[1] * bump
    where = from_x.astype(np.float32), from_y.astype(np.float32)
    return cv2.remap(picture, *where, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)


@dataclass(frozen=True)
class HeadMotion:
    """Slow nods, turns and shifts of a head that speaks; deterministic in its numbers."""

    amount: float
    phases: tuple[float, ...]
    tilt: float = 0.0

    @staticmethod
    def random(rng: np.random.Generator) -> "HeadMotion":
        """From nearly still to lively."""
        phases = tuple(float(p) for p in rng.uniform(0, 2 * np.pi, 6))
        return HeadMotion(float(rng.uniform(0.3, 1.8)), phases, float(rng.normal(0, 0.02)))

    def pose(self, seconds: float) -> Pose:
        """The pose at a time."""
        wave = [np.sin(speed * seconds + p) for speed, p in zip(SPEEDS, self.phases, strict=True)]
        angle = self.tilt + self.amount * (0.018 * wave[0] + 0.01 * wave[1])
        scale = 1 + self.amount * 0.012 * wave[2]
        return Pose(angle, scale, self.amount * 0.010 * wave[3], self.amount * (0.007 * wave[4] + 0.002 * wave[5]))


SPEEDS = (1.7, 3.1, 1.3, 1.1, 1.9, 4.3)  # radians a second of HeadMotion's six waves
