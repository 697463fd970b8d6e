"""MuseTalk's frozen autoencoder in training: scaled latents of pictures, and pictures with a gradient of latents."""

from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from ..generator import SCALING
from ..latents import DiffusersCodec


class FrozenVae:
    """A diffusers AutoencoderKL, moved to `device` in float32, its weights without gradients.

    Pictures are (N,3,H,W) in [-1,1], latents (N,4,H/8,W/8) times 0.18215, as the UNet sees them.
    """

    def __init__(self, vae: Any, device: torch.device) -> None:
        self._codec = DiffusersCodec(vae.requires_grad_(False), device, torch.float32)
        self._vae = vae

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """The posterior's mode, without a gradient."""
        return self._codec.encode(pixels / 2 + 0.5) * SCALING

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Pictures, not clamped; the gradient reaches the latents.

        One by one, and computed again for the gradient, so that the activations of a single picture are held.
        """
        return torch.cat([_again(self._decode, one) for one in (latents / SCALING).split(1)])

    def _decode(self, latents: torch.Tensor) -> torch.Tensor:
        return self._vae.decode(latents).sample


def _again(call: Any, value: torch.Tensor) -> torch.Tensor:
    return checkpoint(call, value, use_reentrant=False) if value.requires_grad else call(value)
