"""A small patch discriminator: what it calls real has texture, which an L1 alone washes out."""

import torch
from torch import nn
from torch.nn import functional as F

DETAIL_GAIN = 10.0  # brings skin texture, a few hundredths of the range, to the scale of ordinary inputs


class PatchDiscriminator(nn.Module):
    """Pictures (B,3,H,W) in [-1,1] -> verdicts (B,1,H/8-1,W/8-1), about 1 real and 0 made.

    It sees a picture minus its 3x3 mean only: colours and shapes, which the other losses care for, would hide for
    thousands of steps what it is there to tell apart (with the whole picture it stayed at chance). Then three 4x4
    convolutions of stride 2 and one of stride 1: a patch of 48 pixels. H and W divisible by 8.
    """

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, width, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(width, 2 * width, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(2 * width, 4 * width, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(4 * width, 1, 4, padding=1),
        )

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        smooth = F.avg_pool2d(F.pad(pixels, (1, 1, 1, 1), mode="replicate"), 3, 1)
        return self.layers(DETAIL_GAIN * (pixels - smooth))
