"""The generator: from a masked and a reference latent and the sound of a frame to the latent of a speaking face."""

import math
from typing import Any, Protocol

import torch

from .errors import MuseTalkError
from .latents import fastest_layout
from .weights.layouts import UNetLayout

SCALING = 0.18215


class Generator(Protocol):
    """A network that makes latents of speaking faces.

    tokens: audio tokens per frame that it needs, None for any number; width: channels of a token.
    """

    @property
    def tokens(self) -> int | None: ...

    @property
    def width(self) -> int: ...

    def generate(self, masked: torch.Tensor, reference: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Unscaled latents (B,4,h,w) twice and tokens (B,n,width) -> latents (B,4,h,w) float32, unscaled."""
        ...


class MuseTalkGenerator:
    """MuseTalk's UNet (a diffusers UNet2DConditionModel that lies on `device` in `dtype`), one pass at timestep 0.

    layout: of the checkpoint; "musetalk" takes [masked, reference], "mask" takes [mask, masked, reference] with
    the mask 1 in the kept upper half. scaling: the VAE's factor (0.18215 for Stable Diffusion 1), applied to the
    latents on their way in and taken off on their way out. positions: the tokens get their place in time, as
    in MuseTalk. Raises MuseTalkError for other layouts.
    """

    tokens: int | None = None

    def __init__(
        self,
        unet: Any,
        layout: UNetLayout,
        device: torch.device | str,
        dtype: torch.dtype,
        scaling: float = SCALING,
        positions: bool = True,
    ) -> None:
        if layout.kind not in ("musetalk", "mask"):
            raise MuseTalkError(
                f"This UNet has the layout {layout.kind!r}, whose extra inputs MuseTalk does not make; "
                "choose a MuseTalk UNet with 8 or 9 input channels."
            )
        self._layout = fastest_layout(dtype)
        self._unet = unet.to(memory_format=self._layout)
        self._with_mask = layout.kind == "mask"
        self._device = torch.device(device)
        self._dtype = dtype
        self._scaling = scaling
        self._positions = positions
        self.width: int = unet.config.cross_attention_dim

    @torch.no_grad()
    def generate(self, masked: torch.Tensor, reference: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """One pass for a batch, inputs on any device.

        masked, reference: (B,4,h,w) unscaled latents; tokens: (B,n,width) audio tokens without position. Returns
        (B,4,h,w) unscaled latents, float32 on the generator's device. Raises MuseTalkError when the batches or
        the width differ.
        """
        self._check(masked, reference, tokens)
        pair = [latent.to(self._device, torch.float32).contiguous() for latent in (masked, reference)]
        latents = torch.cat(pair, dim=1) * self._scaling
        if self._with_mask:
            latents = torch.cat([_kept_half(latents), latents], dim=1)
        sound = tokens.to(self._device, torch.float32)
        if self._positions:
            sound = sound + positional_encoding(tokens.shape[1], self.width).to(self._device)
        timestep = torch.zeros(1, dtype=torch.long, device=self._device)
        latents = latents.to(self._dtype).contiguous(memory_format=self._layout)
        output = self._unet(latents, timestep, encoder_hidden_states=sound.to(self._dtype))
        return output.sample.float() / self._scaling

    def _check(self, masked: torch.Tensor, reference: torch.Tensor, tokens: torch.Tensor) -> None:
        if masked.shape != reference.shape or len(masked) != len(tokens):
            raise MuseTalkError(
                f"The generator got masked latents {tuple(masked.shape)}, reference latents {tuple(reference.shape)} "
                f"and the sound of {len(tokens)} frames; give the same number of each."
            )
        if tokens.shape[-1] != self.width:
            raise MuseTalkError(
                f"The audio features have {tokens.shape[-1]} channels and this model hears {self.width}; "
                "use the audio encoder that was loaded with the model."
            )


def positional_encoding(length: int, width: int) -> torch.Tensor:
    """Sinusoidal positions (length, width) float32, width even: sin on even, cos on odd channels, base 10000.

    Source: Vaswani et al. 2017, section 3.5.
    """
    rates = torch.exp(torch.arange(0, width, 2).float() * (-math.log(10000.0) / width))
    angles = torch.arange(length).float()[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1)


def _kept_half(latents: torch.Tensor) -> torch.Tensor:
    """The mask channel (B,1,h,w): 1 in the upper half, 0 in the generated lower half."""
    mask = latents.new_zeros(len(latents), 1, *latents.shape[2:])
    mask[:, :, : latents.shape[2] // 2] = 1
    return mask
