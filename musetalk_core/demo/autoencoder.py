"""A compact image autoencoder, 256x256 pixels <-> 4x32x32 latents, with no convolution above 64x64."""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

PATCH = 4  # pixels on a side that one position of the 64x64 grid stands for
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


class ResidualBlock(nn.Module):
    """x + conv(relu(conv(relu(x)))), both 3x3; the identity at first because the second convolution is zero."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        for parameter in self.conv2.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.conv2(F.relu(self.conv1(F.relu(x))))


class DemoAutoencoder(nn.Module):
    """The demo model's VAE, deterministic: `encode` gives the latents themselves, there is no posterior to sample.

    widths: channels on the 64x64 and on the 32x32 grid (for a 256x256 picture); encoder_blocks and decoder_blocks:
    residual blocks on the same two grids. Fully convolutional: any height and width divisible by 8 works.
    """

    def __init__(
        self,
        widths: Sequence[int] = (48, 80),
        encoder_blocks: Sequence[int] = (1, 2),
        decoder_blocks: Sequence[int] = (3, 3),
        latent_channels: int = 4,
    ) -> None:
        super().__init__()
        fine, coarse = widths
        patch_channels = 3 * PATCH * PATCH
        self.encoder = nn.Sequential(
            nn.PixelUnshuffle(PATCH),
            nn.Conv2d(patch_channels, fine, 3, padding=1),
            *[ResidualBlock(fine) for _ in range(encoder_blocks[0])],
            nn.Conv2d(fine, coarse, 3, stride=2, padding=1),
            *[ResidualBlock(coarse) for _ in range(encoder_blocks[1])],
            nn.Conv2d(coarse, latent_channels, 3, padding=1),
        )
        self.decoder = nn.Sequential(
            nn.Conv2d(latent_channels, coarse, 3, padding=1),
            *[ResidualBlock(coarse) for _ in range(decoder_blocks[1])],
            nn.Conv2d(coarse, 4 * fine, 3, padding=1),
            nn.PixelShuffle(2),
            *[ResidualBlock(fine) for _ in range(decoder_blocks[0])],
            nn.Conv2d(fine, patch_channels, 3, padding=1),
            nn.PixelShuffle(PATCH),
        )

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """Latents (B,4,H/8,W/8), unscaled, of pixels (B,3,H,W) in [-1,1]; same dtype and device."""
        return self.encoder(pixels)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Pixels (B,3,8h,8w), about [-1,1] and not clamped, of latents (B,4,h,w); same dtype and device."""
        return self.decoder(latents)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.decode(self.encode(pixels))


@torch.no_grad()
def start_as_thumbnail(autoencoder: DemoAutoencoder) -> None:
    """Set the weights, in place, so that decode(encode(x)) is the bilinear enlargement of x averaged over 8x8.

    The latents are then mean red, green, blue and luma (BT.601). Channels that carry no picture keep their random
    weights on the way in and weigh zero on the way out, so training finds them useful. Zero padding greys the rim.
    """
    encoder = [layer for layer in autoencoder.encoder if isinstance(layer, nn.Conv2d)]
    decoder = [layer for layer in autoencoder.decoder if isinstance(layer, nn.Conv2d)]
    stem, down, head = encoder
    entry, up, tail = decoder
    for name, parameter in autoencoder.named_parameters():
        if name.endswith("bias"):
            parameter.zero_()
    for colour in range(3):
        pixels = slice(colour * PATCH * PATCH, (colour + 1) * PATCH * PATCH)
        _only(stem, colour)
        stem.weight[colour, pixels, 1, 1] = 1 / PATCH**2
        _only(down, colour)
        down.weight[colour, colour, 1:, 1:] = 1 / 4
        _only(head, colour)
        head.weight[colour, colour, 1, 1] = 1
        _only(entry, colour)
        entry.weight[colour, colour, 1, 1] = 1
        _enlarge(up, colour, 2)
        _enlarge(tail, colour, PATCH)
    _only(head, 3)
    head.weight[3, :3, 1, 1] = torch.tensor(LUMA)


def _only(layer: nn.Conv2d, row: int) -> None:
    layer.weight[row] = 0


def _enlarge(layer: nn.Conv2d, colour: int, factor: int) -> None:
    """Rows of `layer` that, pixel-shuffled by `factor`, enlarge input channel `colour` bilinearly."""
    taps = _bilinear_taps(factor)
    for y in range(factor):
        for x in range(factor):
            row = colour * factor**2 + y * factor + x
            _only(layer, row)
            layer.weight[row, colour] = torch.outer(taps[y], taps[x])


def _bilinear_taps(factor: int) -> torch.Tensor:
    """Weights (factor,3) of the left, own and right sample at each of `factor` pixel centres in one sample."""
    offset = (torch.arange(factor) + 0.5) / factor - 0.5
    return torch.stack([(-offset).clamp(min=0), 1 - offset.abs(), offset.clamp(min=0)], dim=1)
