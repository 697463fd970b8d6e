"""The demo autoencoder as a Codec: pixels in [0,1] on one side, unscaled latents on the other."""

import torch

from .autoencoder import DemoAutoencoder


class DemoCodec:
    """A Codec around a DemoAutoencoder that already lies on `device` in `dtype`; it never moves it."""

    def __init__(self, vae: DemoAutoencoder, device: torch.device | str, dtype: torch.dtype) -> None:
        self.vae = vae
        self.device = torch.device(device)
        self.dtype = dtype

    @torch.no_grad()
    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """Latents (B,4,H/8,W/8) float32 on the codec's device of pixels (B,3,H,W) in [0,1]."""
        return self.vae.encode(pixels.to(self.device, self.dtype) * 2 - 1).float()

    @torch.no_grad()
    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Pixels (B,3,8h,8w) float32, clamped to [0,1], on the codec's device of unscaled latents (B,4,h,w)."""
        pixels = self.vae.decode(latents.to(self.device, self.dtype)).float()
        return (pixels / 2 + 0.5).clamp(0, 1)
