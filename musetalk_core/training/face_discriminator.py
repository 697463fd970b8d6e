"""MuseTalk's patch discriminator, and what the generator is compared by inside it."""

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm


class _Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, first: bool, last: bool, spectral: bool) -> None:
        super().__init__()
        convolution = nn.Conv2d(inputs, outputs, 4)
        self.conv = spectral_norm(convolution) if spectral else convolution
        self.norm = nn.Identity() if first else nn.InstanceNorm2d(outputs, affine=True)
        self._halves = not last

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        maps = F.leaky_relu(self.norm(self.conv(maps)), 0.2)
        return F.avg_pool2d(maps, 2) if self._halves else maps


class FaceDiscriminator(nn.Module):
    """Pictures (B,3,H,W) in [-1,1] -> verdicts, about 1 real and 0 made: (B,1,22,22) of 224 pixels, 26x26 of 256.

    Blocks of a 4x4 convolution without padding, instance norm (not in the first), leaky ReLU and 2x2 mean (not in the
    last), then a 1x1 convolution; block k has width * 2**(k+1) channels, `widest` at most. spectral: the convolutions
    are divided by their spectral norm. After musetalk/loss/discriminator.py (MuseTalk 1.5): 2.76 M parameters.
    """

    def __init__(self, width: int = 32, blocks: int = 4, widest: int = 512, spectral: bool = True) -> None:
        super().__init__()
        outputs = [min(widest, width * 2 ** (number + 1)) for number in range(blocks)]
        inputs = [3, *outputs]
        self.blocks = nn.ModuleList(
            _Block(inputs[k], outputs[k], k == 0, k == blocks - 1, spectral) for k in range(blocks)
        )
        verdict = nn.Conv2d(outputs[-1], 1, 1)
        self.verdict = spectral_norm(verdict) if spectral else verdict

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """The verdicts, and the maps of every block, which feature matching compares."""
        maps = []
        for block in self.blocks:
            pixels = block(pixels)
            maps.append(pixels)
        return self.verdict(pixels), maps


def feature_matching(made: list[torch.Tensor], real: list[torch.Tensor], weights: tuple[float, ...]) -> torch.Tensor:
    """Sum over blocks of weight * mean |made - real| of the discriminator's maps (Wang et al. 2018, pix2pixHD)."""
    return torch.stack([w * (a - b).abs().mean() for w, a, b in zip(weights, made, real, strict=True)]).sum()


def mouth_crops(pixels: torch.Tensor, boxes: torch.Tensor, size: int = 256) -> torch.Tensor:
    """Mouths (M,3,size,size), bilinear, of pictures (B,3,H,W) and their boxes (B,4).

    Boxes are x1 y1 x2 y2 in pixels, their far edges not included; what lies outside the picture is cut off. A box that
    holds no pixel, such as 0 0 0 0, says that no mouth is seen, and gives no crop.
    """
    height, width = pixels.shape[2:]
    crops = [pixels.new_empty(0, pixels.shape[1], size, size)]
    for picture, box in zip(pixels, boxes.round().long().tolist(), strict=True):
        left, right = (min(max(x, 0), width) for x in box[::2])
        top, bottom = (min(max(y, 0), height) for y in box[1::2])
        if right > left and bottom > top:
            crops.append(resized(picture[None, :, top:bottom, left:right], size))
    return torch.cat(crops)


def resized(pixels: torch.Tensor, size: int) -> torch.Tensor:
    """Pictures (B,C,size,size), bilinear without a filter, as MuseTalk shows them to its losses."""
    return F.interpolate(pixels, (size, size), mode="bilinear", align_corners=False)
