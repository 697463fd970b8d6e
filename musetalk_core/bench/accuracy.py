"""What the fast arithmetic costs: each network in 16 bits against all of them in float32."""

import copy
from typing import Any

import torch

from ..generator import MuseTalkGenerator
from ..latents import DiffusersCodec, encode_crops
from ..weights.layouts import MUSETALK_LAYOUT
from .networks import give_spread, random_unet, random_vae

FACES = 2
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
CPU = torch.device("cpu")


def accuracy(crops: torch.Tensor, device: torch.device, precisions: tuple[str, ...]) -> dict[str, dict[str, float]]:
    """Decibels (PSNR, peak 1) of the generated face with one or all networks in a precision, against float32.

    crops: (B,256,256,3) uint8 of faces. Random networks whose answers spread like trained ones (give_spread), run on
    `device`; the encoder's, UNet's and decoder's own share is measured with the two others in float32.
    """
    tokens = torch.randn(len(crops), 50, 384, generator=torch.Generator().manual_seed(1))
    vae, unet = random_vae(torch.float32, CPU), random_unet(torch.float32, CPU)
    pixels = crops.permute(0, 3, 1, 2).float() / 127.5 - 1
    give_spread(vae, unet, pixels, tokens)
    exact = _Chain(vae, unet, device, torch.float32)
    latents = encode_crops(exact.codec, crops)
    predicted = exact.generator.generate(*latents, tokens)
    faces = exact.codec.decode(predicted)
    result = {}
    for name in precisions:
        rough = _Chain(vae, unet, device, DTYPES[name])
        rough_latents = encode_crops(rough.codec, crops)
        result[name] = {
            "encoder": _psnr(exact.face(*rough_latents, tokens), faces),
            "unet": _psnr(exact.codec.decode(rough.generator.generate(*latents, tokens)), faces),
            "decoder": _psnr(rough.codec.decode(predicted), faces),
            "all": _psnr(rough.face(*rough_latents, tokens), faces),
        }
    return result


class _Chain:
    """Codec and generator with weights of their own on a device in a dtype."""

    def __init__(self, vae: Any, unet: Any, device: torch.device, dtype: torch.dtype) -> None:
        self.codec = DiffusersCodec(copy.deepcopy(vae), device, dtype)
        self.generator = MuseTalkGenerator(copy.deepcopy(unet).to(dtype).to(device), MUSETALK_LAYOUT, device, dtype)

    def face(self, masked: torch.Tensor, reference: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        return self.codec.decode(self.generator.generate(masked, reference, tokens))


def _psnr(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """Decibels; 20 log10 of the peak (1) over the root of the mean squared difference."""
    return round(float(-10 * torch.log10((found - wanted).double().pow(2).mean())), 2)
