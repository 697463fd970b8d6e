"""The sync loss: the sound must belong to the mouths, in the eyes and ears of LatentSync's SyncNet."""

import torch
from torch.nn import functional as F

from ..errors import MuseTalkError
from ..nets.latentsync_syncnet import FACE_SIZE, FRAMES, LatentSyncNet

LEAST = 1e-6  # likeness below which the loss stays where it is, at 13.8


def likeness_loss(sound: torch.Tensor, sight: torch.Tensor) -> torch.Tensor:
    """Mean of -log(cosine) of embeddings (B,W): the cross-entropy of a cosine against "in sync" (Wav2Lip, LatentSync).

    The cosine is kept within [1e-6, 1]; below, there is no gradient.
    """
    cosine = F.cosine_similarity(sound.float(), sight.float(), dim=1)
    return -cosine.clamp(LEAST, 1).log().mean()


def sync_loss(
    net: LatentSyncNet, made: torch.Tensor, real: torch.Tensor, start: int, mel: torch.Tensor
) -> torch.Tensor:
    """The loss of made faces (B,S,3,256,256) that take the place of frames start..start+S of real ones (B,16,...).

    Fewer than 16 made frames save the memory of their decoding. mel: (B,1,80,52) from the first real frame on. Raises
    MuseTalkError for other sizes.
    """
    if real.shape[1] != FRAMES or made.shape[3:] != (FACE_SIZE, FACE_SIZE):
        raise MuseTalkError(
            f"The sync loss got {real.shape[1]} frames of {made.shape[4]}x{made.shape[3]} pixels, and SyncNet looks at "
            f"{FRAMES} of {FACE_SIZE}x{FACE_SIZE}; set frames to {FRAMES}, or sync to 0."
        )
    mixed = torch.cat([real[:, :start], made, real[:, start + made.shape[1] :]], 1)
    with torch.no_grad():
        sound = net.hear(mel)
    return likeness_loss(sound, net.see(lower_half(mixed).flatten(1, 2)))


def lower_half(pixels: torch.Tensor) -> torch.Tensor:
    """The lower half (..,H - H//2,W) of pictures (..,H,W)."""
    return pixels[..., pixels.shape[-2] // 2 :, :]
