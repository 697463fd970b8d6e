"""The training data on disk: speeches with mouth curves, and twin tracks of talking faces."""

import hashlib
import json
import logging
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import MuseTalkError
from ..faces.geometry import crop_face
from ..media.source import open_source

log = logging.getLogger(__name__)

CURVES = ("jaw", "wide", "up", "tuck", "press")
VISEMES = 22
SPEECH_HELD_OUT = 32  # one of so many speeches is for validation, chosen by its hash
TAKES = ("a", "b")
MARGIN = 0.12  # of the box, kept around it for jitter


@dataclass(frozen=True)
class Speech:
    """One utterance: samples (M,) int16 at 16 kHz, curves (R,5) float32 and viseme (R,) uint8 at 50 rows a second."""

    name: str
    samples: np.ndarray
    curves: np.ndarray
    viseme: np.ndarray
    voice: str
    digest: str

    @property
    def held_out(self) -> bool:
        """Whether it is for validation only."""
        return int(self.digest[:8], 16) % SPEECH_HELD_OUT == 0


@dataclass(frozen=True)
class Corpus:
    """A data folder. Raises MuseTalkError when its index is missing or unreadable."""

    folder: Path

    @cached_property
    def index(self) -> dict[str, Any]:
        """The content of index.json."""
        path = self.folder / "index.json"
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise MuseTalkError(
                f"{path} cannot be read ({error}); make the data with scripts/make_corpus.py."
            ) from error

    @cached_property
    def excluded(self) -> frozenset[str]:
        """Hashes of recordings that are kept for the evaluation and never trained on."""
        return frozenset(self.index.get("excluded_sha256", []))

    def speeches(self) -> list[Speech]:
        """Every utterance but the excluded ones.

        The samples' hash is computed anew; MuseTalkError when a file says another one.
        """
        found = [self._speech(str(entry["name"])) for entry in self.index["speech"]]
        kept = [speech for speech in found if speech.digest not in self.excluded]
        if len(kept) < len(found):
            log.warning("%d speeches are kept for the evaluation and left out", len(found) - len(kept))
        return kept

    def tracks(self, split: str) -> list["Track"]:
        """The tracks of "train" or "val", without those that hold an excluded recording."""
        entries = [entry for entry in self.index["tracks"] if entry["split"] == split]
        tracks = [Track.read(self.folder / "tracks" / entry["name"], str(entry["identity"])) for entry in entries]
        return [track for track in tracks if not self.excluded.intersection(track.digests)]

    def _speech(self, name: str) -> Speech:
        path = self.folder / "speech" / f"{name}.npz"
        try:
            with np.load(path, allow_pickle=False) as data:
                arrays = {key: data[key] for key in ("samples", "curves", "viseme", "voice", "sha256")}
        except (OSError, ValueError, KeyError) as error:
            raise MuseTalkError(f"{path} cannot be read ({error}); delete it and make the data again.") from error
        digest = samples_sha256(arrays["samples"])
        if digest != str(arrays["sha256"]):
            raise MuseTalkError(f"{path} does not hold the sound it was saved with; delete it and make the data again.")
        return Speech(name, arrays["samples"], arrays["curves"], arrays["viseme"], str(arrays["voice"]), digest)


@dataclass(frozen=True)
class Track:
    """One identity in one head motion, filmed twice ("a" and "b", the twins) with different words.

    boxes: (N,4) crop boxes of the silent face, in pixels; gaps: (N,) lip gap in eye distances of each take;
    samples: (M,) int16 at 16 kHz of each take.
    """

    folder: Path
    identity: str
    boxes: np.ndarray
    gaps: dict[str, np.ndarray]
    samples: dict[str, np.ndarray]

    @classmethod
    def read(cls, folder: Path, identity: str) -> "Track":
        """The track in a folder, without its pictures. Raises MuseTalkError when it cannot be read."""
        path = folder / "track.npz"
        try:
            with np.load(path, allow_pickle=False) as data:
                gaps = {take: data[f"gap_{take}"] for take in TAKES}
                samples = {take: data[f"samples_{take}"] for take in TAKES}
                return cls(folder, identity, data["boxes"].astype(np.float32), gaps, samples)
        except (OSError, ValueError, KeyError) as error:
            raise MuseTalkError(f"{path} cannot be read ({error}); delete it and make the data again.") from error

    def __len__(self) -> int:
        return len(self.boxes)

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.folder.name

    @property
    def digests(self) -> set[str]:
        """SHA-256 of each take's samples."""
        return {samples_sha256(samples) for samples in self.samples.values()}

    def footage(self, take: str, frames: Collection[int]) -> "Footage":
        """Some frames of a take, cut to what crops can need."""
        return Footage(_region(self.folder / f"{take}.mp4", frames, self._window), self._window, list(frames))

    def still(self) -> "Footage":
        """The untouched portrait in the pose of frame 0, as footage of that frame."""
        return Footage(_region(self.folder / "still.png", [0], self._window), self._window, [0])

    @property
    def _window(self) -> tuple[int, int, int, int]:
        low, high = self.boxes[:, :2].min(0), self.boxes[:, 2:].max(0)
        margin = MARGIN * (high - low)
        x1, y1 = np.maximum(low - margin, 0).astype(int)
        x2, y2 = np.ceil(high + margin).astype(int)
        return int(x1), int(y1), int(x2), int(y2)


@dataclass(frozen=True)
class Footage:
    """Frames of a track: pictures (K,h,w,3) uint8 that show `window` (x1,y1,x2,y2) of frame numbers `frames`."""

    pictures: torch.Tensor
    window: tuple[int, int, int, int]
    frames: list[int]

    def crop(self, position: int, box: np.ndarray) -> torch.Tensor:
        """The box (4,), in whole-frame pixels, of pictures[position] as (256,256,3) uint8, cut as at inference."""
        height, width = self.pictures.shape[1:3]
        x, y = self.window[:2]
        inside = np.round(box - np.array([x, y, x, y])).clip(0, [width, height, width, height])
        return crop_face(self.pictures[position], inside)


def jittered(box: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """A crop box (4,) as a detector could have found it while the face speaks.

    An opening jaw moves the bottom down and the top up by the same (-2 to 9 % of the height), the margin below
    varies, the sides tremble. All at random, so the box carries no news of the mouth.
    """
    size = float(box[3] - box[1])
    chin = draw.uniform(-0.02, 0.09) * size
    margin = draw.uniform(-0.035, 0.035) * size
    left, right = draw.normal(0, 0.008, 2) * size
    return box + np.array([left, -chin, right, chin + margin], np.float32)


def samples_sha256(samples: np.ndarray) -> str:
    """SHA-256 of int16 samples as little-endian bytes."""
    return hashlib.sha256(samples.astype("<i2").tobytes()).hexdigest()


def _region(path: Path, frames: Collection[int], window: tuple[int, int, int, int]) -> torch.Tensor:
    x1, y1, x2, y2 = window
    return torch.stack([frame[y1:y2, x1:x2, :3].clone() for frame in open_source(path).read(frames)])
