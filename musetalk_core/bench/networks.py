"""MuseTalk's networks in their true architecture, with random weights: speed and memory do not ask what they say."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import nn

from ..face_parsing import SKIN
from ..nets.bisenet import BiSeNet
from ..nets.s3fd import S3FD

# Per call, 2 for a multiplication and an addition; counted by torch's flop_counter with plain attention.
UNET_GFLOP, DECODE_GFLOP, ENCODE_GFLOP, BISENET_GFLOP = 177.8, 622.2, 272.7, 27.5
S3FD_GFLOP_PER_PIXEL = 540.6 / (1216 * 704)
LATENT_SPREAD = 1 / 0.18215  # of Stable Diffusion's unscaled latents, whose factor makes it 1
PICTURE_SPREAD = 0.5  # of pictures in -1..1, about that of photographs

Net = TypeVar("Net", bound=nn.Module)


def random_unet(dtype: torch.dtype, device: torch.device) -> Any:
    """MuseTalk's UNet: 850 M parameters, made in `dtype` so that memory never holds more."""
    from diffusers import UNet2DConditionModel

    return _made(
        lambda: UNet2DConditionModel(
            sample_size=64,
            in_channels=8,
            out_channels=4,
            cross_attention_dim=384,
            attention_head_dim=8,
            block_out_channels=(320, 640, 1280, 1280),
            layers_per_block=2,
        ),
        dtype,
        device,
    )


def random_vae(dtype: torch.dtype, device: torch.device) -> Any:
    """Stable Diffusion's autoencoder: 84 M parameters."""
    from diffusers import AutoencoderKL

    return _made(
        lambda: AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(128, 256, 512, 512),
            layers_per_block=2,
            latent_channels=4,
        ),
        dtype,
        device,
    )


def random_whisper(device: torch.device) -> Any:
    """Whisper-tiny's encoder in float32."""
    from transformers import WhisperConfig
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    return _made(lambda: WhisperEncoder(WhisperConfig()), torch.float32, device)


def random_bisenet(device: torch.device) -> BiSeNet:
    """The face parser in float32; it takes everything for skin, so that there is something to blend."""
    net = _made(lambda: BiSeNet(19), torch.float32, device)
    with torch.no_grad():
        weight = net.conv_out.conv_out.weight
        weight.mul_(1e-3)
        weight[SKIN] = weight[SKIN].abs() * 1e3  # its input is a rectified one: nowhere negative
    return net


def random_s3fd(device: torch.device) -> S3FD:
    """The face detector in float32; its heads are damped, so that noise makes it see no face anywhere."""
    net = _made(S3FD, torch.float32, device)
    with torch.no_grad():
        for name, module in net.named_modules():
            if name.endswith("_mbox_conf") and isinstance(module, nn.Conv2d) and module.bias is not None:
                module.weight.mul_(1e-3)
                module.bias.copy_(torch.linspace(5, -5, len(module.bias)))
    return net


@torch.no_grad()
def give_spread(vae: Any, unet: Any, pixels: torch.Tensor, tokens: torch.Tensor) -> None:
    """Scale the last layers so that latents, predictions and pictures spread as trained networks' do.

    vae, unet: float32 on the CPU. pixels: (B,3,H,W) in -1..1; tokens: (B,50,384). Without it random networks answer
    nearly the same to everything, and a decibel means nothing.
    """
    latents = vae.encode(pixels).latent_dist.mean
    _scale(vae.quant_conv, LATENT_SPREAD / latents.std())
    latents = latents * (LATENT_SPREAD / latents.std()) * 0.18215
    predicted = unet(torch.cat([latents, latents], 1), torch.zeros(1, dtype=torch.long), tokens).sample
    _scale(unet.conv_out, 1 / predicted.std())
    _scale(vae.decoder.conv_out, PICTURE_SPREAD / vae.decode(predicted / predicted.std() / 0.18215).sample.std())


def _scale(layer: Any, factor: torch.Tensor) -> None:
    layer.weight.mul_(factor)
    layer.bias.mul_(factor)


def _made(build: Callable[[], Net], dtype: torch.dtype, device: torch.device) -> Net:
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        net = build()
    finally:
        torch.set_default_dtype(before)
    return net.to(device).train(False).requires_grad_(False)
