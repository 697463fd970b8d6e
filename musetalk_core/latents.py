"""Pictures and latents: the codec, the two latents the generator needs, and faces back from latents."""

from typing import Any, Protocol

import torch

from .errors import MuseTalkError

CROP_SIZE = 256


class Codec(Protocol):
    """An image autoencoder whose latents are UNSCALED and 8 times smaller than its pictures."""

    @property
    def device(self) -> torch.device: ...

    @property
    def dtype(self) -> torch.dtype: ...

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """Pictures (B,3,H,W) in [0,1] on any device -> mean latents (B,4,H/8,W/8) float32 on the codec's device."""
        ...

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Latents (B,4,h,w) on any device -> pictures (B,3,8h,8w) float32 in [0,1] on the codec's device."""
        ...


class DiffusersCodec:
    """A diffusers AutoencoderKL, which lies on `device` in `dtype`, as a Codec.

    The posterior's mean is taken, never a sample; its scaling factor is not applied.
    """

    def __init__(self, vae: Any, device: torch.device | str, dtype: torch.dtype) -> None:
        self._vae = vae
        self.device = torch.device(device)
        self.dtype = dtype

    @torch.no_grad()
    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """Pictures (B,3,H,W) in [0,1] -> posterior mean (B,4,H/8,W/8) float32 on the codec's device."""
        centred = pixels.to(self.device, torch.float32) * 2 - 1
        # torch's CPU group norm is wrong in the third digit on channels-last input with flat areas.
        return self._vae.encode(centred.to(self.dtype).contiguous()).latent_dist.mean.float()

    @torch.no_grad()
    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Latents (B,4,h,w) -> pictures (B,3,8h,8w) float32 clamped to [0,1] on the codec's device; NaN stays NaN."""
        centred = self._vae.decode(latents.to(self.device, self.dtype).contiguous()).sample
        return (centred.float() / 2 + 0.5).clamp(0, 1)


def mask_lower_half(pixels: torch.Tensor) -> torch.Tensor:
    """A copy of pictures (B,C,H,W) whose rows from H//2 on are 0 (black in [0,1])."""
    masked = pixels.clone()
    masked[..., pixels.shape[-2] // 2 :, :] = 0
    return masked


def crops_to_pixels(crops: torch.Tensor) -> torch.Tensor:
    """Crops (B,256,256,3) RGB, uint8 or floating 0..1 -> contiguous (B,3,256,256) float32 in [0,1]; NaN becomes 0.

    Raises MuseTalkError for another size.
    """
    if crops.ndim != 4 or crops.shape[1:] != (CROP_SIZE, CROP_SIZE, 3):
        raise MuseTalkError(
            f"The face crops have the shape {tuple(crops.shape)}; give pictures of 256 x 256 pixels in RGB, as the "
            "face detection cuts them."
        )
    pixels = crops.permute(0, 3, 1, 2).float().contiguous()
    if not crops.is_floating_point():
        return pixels / 255
    return pixels.nan_to_num(0.0).clamp(0, 1)


def encode_crops(codec: Codec, crops: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Latents (masked, reference) of crops (B,256,256,3): lower half black, and whole; each (B,4,32,32) float32.

    Raises MuseTalkError for crops of another size.
    """
    pixels = crops_to_pixels(crops)
    return codec.encode(mask_lower_half(pixels)), codec.encode(pixels)


def decode_faces(codec: Codec, latents: torch.Tensor) -> torch.Tensor:
    """Faces (B,256,256,3) float32 in [0,1], contiguous, of latents (B,4,32,32), on the codec's device."""
    return codec.decode(latents).permute(0, 2, 3, 1).contiguous()
