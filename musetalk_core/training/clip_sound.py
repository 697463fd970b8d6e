"""What a clip's sound is to the networks, computed once: hidden states of an audio encoder, and the sync spectrum."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch

from ..audio_features import AudioEncoder, FrameRows, extract_features
from ..errors import MuseTalkError
from ..files import whole_file
from ..media.audio import AudioFile, mono16k
from .clips import FPS, SOUND, FaceClip
from .sync_mel import WINDOW_ROWS, mel_start, sync_mel

MEL = "mel"
RATE = 16000


@dataclass(frozen=True)
class ClipSound:
    """The cached sound of a clip, read piece by piece.

    features: a file with hidden (R,S,D) float16, 50 rows/s; mel: a file with mel (M,80) float16, 80 rows/s.
    """

    features: Path
    mel: Path
    mel_rows: int

    @property
    def latest(self) -> int:
        """The last frame that a whole sync window can begin with; negative when there is none."""
        return ((self.mel_rows - WINDOW_ROWS + 1) * 25 - 1) // 80

    def tokens(self, start: int, stop: int, left: int = 2, right: int = 2) -> torch.Tensor:
        """Audio tokens of the frames start..stop-1, (stop-start, 2*(left+right+1)*S, D) float32, as at inference."""
        rows = FrameRows(FPS, left, right)
        low, high = rows.span(start, stop)
        return rows.tokens(_rows(self.features, "hidden", max(low, 0), high), max(low, 0), start, stop)

    def sync_window(self, start: int) -> torch.Tensor:
        """The sync spectrum (1,80,52) float32 that begins with a frame; `start` up to `latest`."""
        row = mel_start(start)
        return _rows(self.mel, MEL, row, row + WINDOW_ROWS).T[None].contiguous()


def open_sound(folder: Path, clip: FaceClip, extractor: str) -> ClipSound:
    """The cached sound of a clip. Raises MuseTalkError with the command that makes it when it is not there."""
    features, mel = _file(folder, extractor, clip.name), _file(folder, MEL, clip.name)
    for path in (features, mel):
        if not path.is_file():
            raise MuseTalkError(f"There is no {path}; make it with `train features --data {folder}`.")
    from safetensors import safe_open

    with safe_open(mel, framework="pt") as file:
        rows = file.get_slice(MEL).get_shape()[0]
    return ClipSound(features, mel, rows)


def cache_sound(folder: Path, clip: FaceClip, encoder: AudioEncoder | None) -> bool:
    """Compute and store what a clip's sound lacks; True when something was made.

    encoder: None for the spectrum only. What was made of another sound is made anew. Raises MuseTalkError for a sound
    that cannot be read.
    """
    try:
        digest = hashlib.sha256(clip.sound.read_bytes()).hexdigest()
    except OSError as error:
        raise MuseTalkError(f"{clip.sound} cannot be read: {error.strerror or error}.") from error
    kinds = [MEL] if encoder is None else [MEL, encoder.extractor]
    missing = [kind for kind in kinds if not _is_made(_file(folder, kind, clip.name), digest)]
    if not missing:
        return False
    samples = mono16k(AudioFile(clip.sound))
    for kind in missing:
        if kind == MEL:
            tensors = {MEL: torch.from_numpy(sync_mel(samples))}
        else:
            assert encoder is not None
            tensors = {"hidden": _hidden(encoder, samples)}
        _write(_file(folder, kind, clip.name), tensors, digest)
    return True


def _hidden(encoder: AudioEncoder, samples: np.ndarray) -> torch.Tensor:
    return extract_features(encoder, samples, Fraction(len(samples), RATE), FPS).hidden


def _file(folder: Path, kind: str, name: str) -> Path:
    return folder / SOUND / kind / f"{name}.safetensors"


def _write(path: Path, tensors: Mapping[str, torch.Tensor], digest: str) -> None:
    from safetensors.torch import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    halves = {name: tensor.half().contiguous() for name, tensor in tensors.items()}
    with whole_file(path) as part:
        save_file(halves, part, metadata={"sound_sha256": digest})


def _is_made(path: Path, digest: str) -> bool:
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        return False
    try:
        with safe_open(path, framework="pt") as file:
            return (file.metadata() or {}).get("sound_sha256") == digest
    except SafetensorError:
        return False


def _rows(path: Path, name: str, low: int, high: int) -> torch.Tensor:
    """Rows low..high-1 of a stored tensor, as far as it goes, float32."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            stored = file.get_slice(name)
            count = stored.get_shape()[0]
            return stored[min(low, count) : min(high, count)].float()
    except SafetensorError as error:
        raise MuseTalkError(f"{path} is damaged ({error}); delete it and run `train features` again.") from error
