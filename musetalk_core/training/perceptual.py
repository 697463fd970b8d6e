"""The perceptual loss of MuseTalk 1.5: VGG-19's features of a picture at four sizes."""

import torch
from torch import nn
from torch.nn import functional as F

from ..nets.vgg import Vgg19


class VggPyramidLoss(nn.Module):
    """Sum over sizes and layers of weight * mean |features - features|, divided by the sum of the layers' weights.

    scales: 1 is the picture itself, 0.5 half its size. layer_weights: of relu1_1, 2_1, 3_1, 4_1 and 5_1. After
    train.py and musetalk/loss/vgg_face.py (MuseTalk 1.5).
    """

    def __init__(self, vgg: Vgg19, scales: tuple[float, ...], layer_weights: tuple[float, ...]) -> None:
        super().__init__()
        self.vgg = vgg
        self._scales, self._weights = scales, layer_weights

    def forward(self, made: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        """Scalar for pictures (B,3,H,W) in [-1,1]; the gradient goes to `made` only. Feed 224 pixels as MuseTalk."""
        total = made.new_zeros(())
        for scale in self._scales:
            found = self.vgg(shrunk(made, scale))
            with torch.no_grad():
                wanted = self.vgg(shrunk(real, scale))
            for weight, a, b in zip(self._weights, found, wanted, strict=True):
                total = total + weight * (a - b).abs().mean()
        return total / sum(self._weights)


def shrunk(pixels: torch.Tensor, scale: float) -> torch.Tensor:
    """Pictures (B,C,H,W) blurred and thinned to every (1/scale)-th pixel, the first kept; zeros beyond the edge."""
    if scale == 1:
        return pixels
    channels = pixels.shape[1]
    kernel = gaussian(scale).to(pixels)
    blurred = F.conv2d(pixels, kernel.expand(channels, 1, *kernel.shape), padding=kernel.shape[0] // 2, groups=channels)
    step = int(1 / scale)
    return blurred[:, :, ::step, ::step]


def gaussian(scale: float) -> torch.Tensor:
    """(K,K) of sum 1: deviation (1/scale - 1)/2 pixels, K = 2 round(4 deviation) + 1."""
    deviation = (1 / scale - 1) / 2
    reach = round(4 * deviation)
    line = torch.exp(-(torch.arange(-reach, reach + 1, dtype=torch.float32) ** 2) / (2 * deviation**2))
    return torch.outer(line, line) / line.sum() ** 2
