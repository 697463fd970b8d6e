"""LSE-C, LSE-D and the audio-video offset, from SyncNet's embeddings of faces and sound."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import MuseTalkError
from ..nets.syncnet import AUDIO_STEPS, FACE_FRAMES, SyncNet
from .mfcc import mfcc

FPS = 25
MAX_SHIFT = 15  # frames; Wav2Lip's and LatentSync's evaluations
SAMPLES_PER_FRAME = 640
STEPS_PER_FRAME = 4  # MFCC rows
BATCH = 20  # windows at once, as the reference


@dataclass(frozen=True)
class SyncScore:
    """How well faces and sound of a clip belong together.

    distance: LSE-D, less is better; confidence: LSE-C, more is better, 7.7 for HDTF's real videos (arXiv 2410.10122);
    offset: frames at 25/s by which the picture is late (negative: early); windows: how many were compared.
    """

    distance: float
    confidence: float
    offset: int
    windows: int


def score(faces: Tensor, sounds: Tensor, max_shift: int = MAX_SHIFT) -> SyncScore:
    """The score of embeddings (N,D) of faces and of sounds, one a frame.

    Distances are meant over time for every shift; LSE-D is the least of these means, LSE-C their median less the
    least, offset the shift where it is (joonson/syncnet_python, SyncNetInstance.evaluate: what lies outside the clip
    is zero, distances have an epsilon of 1e-6). Raises MuseTalkError for different lengths or none.
    """
    if len(faces) != len(sounds) or not len(faces):
        raise MuseTalkError(f"{len(faces)} faces and {len(sounds)} sounds cannot be compared; give one sound a face.")
    padded = F.pad(sounds, (0, 0, max_shift, max_shift))
    means = torch.stack(
        [F.pairwise_distance(faces, padded[s : s + len(faces)]).mean() for s in range(2 * max_shift + 1)]
    )
    least = int(means.argmin())
    return SyncScore(float(means[least]), float(means.median() - means[least]), max_shift - least, len(faces))


class SyncScorer:
    """SyncNet on a device. net: loaded, in inference mode, already there."""

    def __init__(self, net: SyncNet, device: torch.device | str = "cpu") -> None:
        self.net = net
        self.device = torch.device(device)

    @torch.inference_mode()
    def score(self, faces: Iterable[np.ndarray], samples: np.ndarray, max_shift: int = MAX_SHIFT) -> SyncScore:
        """The score of faces (224,224,3) uint8 RGB at 25 frames/s and the sound (M,) float -1..1 at 16 kHz under them.

        Faces are taken one after the other, so they may be a stream; 4 kB a frame are held. Raises MuseTalkError when
        fewer than 6 frames have both picture and sound.
        """
        seen = torch.cat([torch.zeros(0, 1024), *self._see(faces, len(samples) // SAMPLES_PER_FRAME)])
        if not len(seen):
            raise MuseTalkError(
                f"SyncNet needs at least {FACE_FRAMES + 1} frames with a face and sound; give a longer clip."
            )
        return score(seen, self._hear(samples, len(seen)), max_shift)

    def _see(self, faces: Iterable[np.ndarray], limit: int) -> Iterator[Tensor]:
        """Embeddings of all windows but the last, which the reference leaves out too."""
        stream = islice(faces, limit)
        held = list(islice(stream, FACE_FRAMES - 1))
        after = next(stream, None)
        while after is not None:
            part = [after, *islice(stream, BATCH - 1)]
            after = next(stream, None)
            held += part if after is not None else part[:-1]
            if len(held) >= FACE_FRAMES:
                pixels = torch.from_numpy(np.stack(held)[..., ::-1].copy())
                yield self.net.see(pixels.permute(0, 3, 1, 2).float().to(self.device)).cpu()
            held = held[-(FACE_FRAMES - 1) :]

    def _hear(self, samples: np.ndarray, count: int) -> Tensor:
        rows = torch.from_numpy(mfcc(samples)).float()
        windows = rows.unfold(0, AUDIO_STEPS, STEPS_PER_FRAME)[:count, None]  # (count,1,13,20)
        return torch.cat([self.net.hear(part.to(self.device)).cpu() for part in windows.split(BATCH)])
