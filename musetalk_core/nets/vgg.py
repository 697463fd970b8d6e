"""VGG-19 up to its fifth block: pictures compared by what a classifier sees in them.

Simonyan and Zisserman 2015. Module names are the keys of torchvision's checkpoint `vgg19-dcbb9e9d.pth`: features.N.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

WIDTHS = (64, 128, 256, 512, 512)
DEPTHS = (2, 2, 4, 4, 1)  # convolutions of each block; those behind relu5_1 are not needed
FIRST = (0, 5, 10, 19, 28)  # features.N of each block's first convolution
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, of RGB in 0..1


class Vgg19(nn.Module):
    """The features that perceptual losses compare; `widths` are the channels of the five blocks."""

    mean: Tensor
    std: Tensor

    def __init__(self, widths: Sequence[int] = WIDTHS) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = 3
        for width, depth in zip(widths, DEPTHS, strict=True):
            if layers:
                layers.append(nn.MaxPool2d(2))
            for _ in range(depth):
                layers += [nn.Conv2d(inputs, width, 3, padding=1), nn.ReLU()]
                inputs = width
        self.features = nn.Sequential(*layers)
        # Made of numbers on the CPU, not loaded: a module that is built on the meta device needs them too.
        for name, values in (("mean", MEAN), ("std", STD)):
            constant = torch.tensor(values, device="cpu").view(1, 3, 1, 1)
            self.register_buffer(name, constant, persistent=False)

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """relu1_1, relu2_1, relu3_1, relu4_1 and relu5_1 of RGB pictures (B,3,H,W), H and W 16 or more.

        Pictures have ImageNet's mean taken off and are divided by its deviation as they come. The classifier was
        trained on 0..1; MuseTalk shows it -1..1.
        """
        found = []
        values = (pixels - self.mean) / self.std
        for number, layer in enumerate(self.features):
            values = layer(values)
            if number - 1 in FIRST:
                found.append(values)
        return found
