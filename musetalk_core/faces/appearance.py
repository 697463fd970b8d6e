"""What a face looks like in 16 x 16 pixels: enough to tell the people of a clip apart, too little to know anyone."""

from dataclasses import dataclass

import numpy as np
import torch

from ..errors import MuseTalkError
from .detector import IBUG_EYES, Detector, Face
from .picture import Picture, View

SIDE = 16
AROUND = 1.3  # the square looked at, relative to the longer side of the 68 points
COLOUR = 3.0  # weight of colour against brightness: skin is much of one colour


@dataclass(frozen=True)
class Appearance:
    """A face's look: (1024,) float32 of length 1. Two of them compare by `likeness`."""

    values: np.ndarray

    @staticmethod
    def of(picture: Picture, face: Face) -> "Appearance":
        """Brightness without its mean and contrast, and colour relative to brightness, eyes level.

        So a changed exposure, size or tilt changes little. Faces without landmarks are looked at by their box.
        """
        known = bool(np.isfinite(face.landmarks).all() and face.landmarks.any())
        if known:
            points = face.landmarks
            right, left = points[IBUG_EYES[0]], points[IBUG_EYES[1]]
            view = View.upright(np.concatenate([points.min(0), points.max(0)]), right, left, AROUND)
        else:
            level = np.zeros(2)
            view = View.upright(face.box, level, level + [1, 0], 1.0)
        pixels = picture.sample(view, SIDE).numpy()
        grey = pixels.mean(0, keepdims=True)
        bright = (grey - grey.mean()) / (grey.std() + 1e-3)
        colour = COLOUR * (pixels - grey) / (grey.mean() + 1e-3)
        values = np.concatenate([bright.ravel(), colour.ravel()])
        return Appearance((values / max(float(np.linalg.norm(values)), 1e-6)).astype(np.float32))

    def likeness(self, other: "Appearance") -> float:
        """-1 to 1. Measured: one face at other sizes, tilts and exposures 0.85 to 1; two people of lfw_subset 0.3 in
        the middle, 0.79 at the 99th percentile."""
        return float(self.values @ other.values)

    def blended(self, newer: "Appearance", share: float) -> "Appearance":
        """Towards a newer look by a share of 0..1."""
        values = (1 - share) * self.values + share * newer.values
        return Appearance(values / max(float(np.linalg.norm(values)), 1e-6))

    def text(self) -> str:
        """As hexadecimal digits, one byte a value, to be kept in settings."""
        return (np.round(self.values / np.abs(self.values).max() * 127).astype(np.int8)).tobytes().hex()

    @staticmethod
    def from_text(text: str) -> "Appearance":
        """What `text` made. Raises MuseTalkError for anything else."""
        try:
            values = np.frombuffer(bytes.fromhex(text), np.int8).astype(np.float32)
        except ValueError:
            values = np.zeros(0, np.float32)
        if len(values) != 4 * SIDE * SIDE or not values.any():
            raise MuseTalkError("The reference face is unreadable; make it again from a picture.")
        return Appearance(values / np.linalg.norm(values))


def reference_text(picture: torch.Tensor, detector: Detector) -> str:
    """The look of the largest face of a picture (H,W,3), uint8 or floating 0..1, for FaceSettings.reference.

    Raises MuseTalkError when there is no face.
    """
    faces = detector.detect(picture)
    if not faces:
        raise MuseTalkError("There is no face in the reference picture; give a close picture of the speaker.")
    return Appearance.of(Picture(picture), faces[0]).text()
