"""BiSeNet for face parsing: which of 19 classes (skin, nose, lips, ...) every pixel belongs to.

Yu et al. 2018, arXiv:1808.00897, with the first ResNet-18 stages in the place of the spatial path. Module names
follow the keys of the published CelebAMask-HQ checkpoint `79999_iter.pth`.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def _pool(x: Tensor) -> Tensor:
    """Mean over the picture: (B,C,H,W) -> (B,C,1,1)."""
    return F.avg_pool2d(x, x.shape[-2:])


class ConvBNReLU(nn.Module):
    """Convolution that keeps the size, batch norm, ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


class ResidualBlock(nn.Module):
    """ResNet's block of two 3x3 convolutions (He et al. 2015)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample: nn.Module | None = None
        if stride != 1 or inputs != outputs:
            projection = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.downsample = nn.Sequential(projection, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        hidden = F.relu(self.bn1(self.conv1(x)))
        return F.relu(shortcut + self.bn2(self.conv2(hidden)))


def _stage(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    return nn.Sequential(ResidualBlock(inputs, outputs, stride), ResidualBlock(outputs, outputs, 1))


class ResNet18(nn.Module):
    """ResNet-18 without its classifier: features at 1/8 (128), 1/16 (256) and 1/32 (512 channels)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.layer1 = _stage(64, 64, 1)
        self.layer2 = _stage(64, 128, 2)
        self.layer3 = _stage(128, 256, 2)
        self.layer4 = _stage(256, 512, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, stride=2, padding=1)
        eighth = self.layer2(self.layer1(x))
        sixteenth = self.layer3(eighth)
        return eighth, sixteenth, self.layer4(sixteenth)


class AttentionRefinement(nn.Module):
    """A convolution whose channels are weighted by a gate computed from their means."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = ConvBNReLU(inputs, outputs)
        self.conv_atten = nn.Conv2d(outputs, outputs, 1, bias=False)
        self.bn_atten = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return x * torch.sigmoid(self.bn_atten(self.conv_atten(_pool(x))))


class ContextPath(nn.Module):
    """Detail (128 channels at 1/8) and context (128 channels at 1/8) of a picture."""

    def __init__(self) -> None:
        super().__init__()
        self.resnet = ResNet18()
        self.arm16 = AttentionRefinement(256, 128)
        self.arm32 = AttentionRefinement(512, 128)
        self.conv_head32 = ConvBNReLU(128, 128)
        self.conv_head16 = ConvBNReLU(128, 128)
        self.conv_avg = ConvBNReLU(512, 128, kernel=1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        eighth, sixteenth, last = self.resnet(x)
        context = self.arm32(last) + self.conv_avg(_pool(last))
        context = self.conv_head32(F.interpolate(context, sixteenth.shape[-2:], mode="nearest"))
        context = self.arm16(sixteenth) + context
        context = self.conv_head16(F.interpolate(context, eighth.shape[-2:], mode="nearest"))
        return eighth, context


class FeatureFusion(nn.Module):
    """Joins detail and context; the gated features are added to the plain ones."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.convblk = ConvBNReLU(inputs, outputs, kernel=1)
        self.conv1 = nn.Conv2d(outputs, outputs // 4, 1, bias=False)
        self.conv2 = nn.Conv2d(outputs // 4, outputs, 1, bias=False)

    def forward(self, detail: Tensor, context: Tensor) -> Tensor:
        fused = self.convblk(torch.cat([detail, context], dim=1))
        gate = torch.sigmoid(self.conv2(F.relu(self.conv1(_pool(fused)))))
        return fused * gate + fused


class ParsingHead(nn.Module):
    """Class scores at the resolution of its input."""

    def __init__(self, inputs: int, hidden: int, n_classes: int) -> None:
        super().__init__()
        self.conv = ConvBNReLU(inputs, hidden)
        self.conv_out = nn.Conv2d(hidden, n_classes, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv_out(self.conv(x))


class BiSeNet(nn.Module):
    """(B,3,H,W) pictures, ImageNet-normalised RGB -> (B,n_classes,H,W) scores, on the module's device.

    `conv_out16` and `conv_out32` are the checkpoint's heads of deeper supervision: loaded, not computed, since only
    a loss uses them. H and W: 64 or more (512 in MuseTalk).
    """

    def __init__(self, n_classes: int = 19) -> None:
        super().__init__()
        self.cp = ContextPath()
        self.ffm = FeatureFusion(256, 256)
        self.conv_out = ParsingHead(256, 256, n_classes)
        self.conv_out16 = ParsingHead(128, 64, n_classes)
        self.conv_out32 = ParsingHead(128, 64, n_classes)

    def forward(self, x: Tensor) -> Tensor:
        scores = self.conv_out(self.ffm(*self.cp(x)))
        return F.interpolate(scores, x.shape[-2:], mode="bilinear", align_corners=True)
