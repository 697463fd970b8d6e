"""DWPose: RTMPose-l for 133 points of a whole body, at 288x384 pixels.

Jiang et al. 2023, arXiv:2303.07399 (RTMPose); Yang et al. 2023, arXiv:2307.15880 (DWPose). Module names follow the
keys of `dw-ll_ucoco_384.pth`. Gives bit for bit what mmpose 1.3.2 gives (scripts/compare_dwpose.py).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTH, HEIGHT = 288, 384  # pixels of the input
POINTS = 133  # COCO-WholeBody: body 0-16, feet 17-22, face 23-90 (iBUG 68), hands 91-132
BINS = 2  # places told apart in a pixel, across and down
STRIDE = 32  # of the backbone
HIDDEN = 256  # width of the head
# Of each stage: channels in and out, blocks, whether blocks add their input, whether it pools spatially.
STAGES = (
    (64, 128, 3, True, False),
    (128, 256, 6, True, False),
    (256, 512, 6, True, False),
    (512, 1024, 3, False, True),
)


class ConvBNSiLU(nn.Module):
    """Convolution that keeps the size (divided by the stride), batch norm, SiLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(self.bn(self.conv(x)))


class SeparableConv(nn.Module):
    """A convolution of each channel alone, then one across the channels."""

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()
        self.depthwise_conv = ConvBNSiLU(channels, channels, kernel, groups=channels)
        self.pointwise_conv = ConvBNSiLU(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.pointwise_conv(self.depthwise_conv(x))


class CSPNeXtBlock(nn.Module):
    """A 3x3 and a large separable convolution, with or without adding the input."""

    def __init__(self, channels: int, add: bool) -> None:
        super().__init__()
        self.conv1 = ConvBNSiLU(channels, channels, 3)
        self.conv2 = SeparableConv(channels, 5)
        self.add = add

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(self.conv1(x))
        return x + y if self.add else y


class ChannelAttention(nn.Module):
    """Weights each channel by a gate computed from the means of all."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * F.hardsigmoid(self.fc(F.adaptive_avg_pool2d(x, 1)))


class CSPLayer(nn.Module):
    """Half of the channels through blocks, half past them (cross stage partial, arXiv:1911.11929)."""

    def __init__(self, channels: int, blocks: int, add: bool) -> None:
        super().__init__()
        half = channels // 2
        self.main_conv = ConvBNSiLU(channels, half)
        self.short_conv = ConvBNSiLU(channels, half)
        self.final_conv = ConvBNSiLU(channels, channels)
        self.blocks = nn.Sequential(*(CSPNeXtBlock(half, add) for _ in range(blocks)))
        self.attention = ChannelAttention(channels)

    def forward(self, x: Tensor) -> Tensor:
        joined = torch.cat([self.blocks(self.main_conv(x)), self.short_conv(x)], dim=1)
        return self.final_conv(self.attention(joined))


class SpatialPyramidPooling(nn.Module):
    """Joins the features with their maxima over 5, 9 and 13 places."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = ConvBNSiLU(channels, channels // 2)
        self.conv2 = ConvBNSiLU(channels * 2, channels)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        pooled = [F.max_pool2d(x, size, stride=1, padding=size // 2) for size in (5, 9, 13)]
        return self.conv2(torch.cat([x, *pooled], dim=1))


def _stage(inputs: int, outputs: int, blocks: int, add: bool, pools: bool) -> nn.Sequential:
    pooling = [SpatialPyramidPooling(outputs)] if pools else []
    return nn.Sequential(ConvBNSiLU(inputs, outputs, 3, 2), *pooling, CSPLayer(outputs, blocks, add))


class CSPNeXt(nn.Module):
    """Pictures (B,3,H,W) -> features (B,1024,H/32,W/32)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(ConvBNSiLU(3, 32, 3, 2), ConvBNSiLU(32, 32, 3), ConvBNSiLU(32, 64, 3))
        self.stage1, self.stage2, self.stage3, self.stage4 = (_stage(*sizes) for sizes in STAGES)

    def forward(self, x: Tensor) -> Tensor:
        return self.stage4(self.stage3(self.stage2(self.stage1(self.stem(x)))))


class ScaleNorm(nn.Module):
    """Divides each row by its root mean square (never less than 1e-5) and multiplies by one learned number."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.g = nn.Parameter(torch.ones(1))
        self.scale = width**-0.5

    def forward(self, x: Tensor) -> Tensor:
        length = torch.linalg.norm(x, dim=-1, keepdim=True) * self.scale
        return x / length.clamp(min=1e-5) * self.g


class Scale(nn.Module):
    """A learned factor for each channel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


class GatedAttention(nn.Module):
    """Gated attention unit between the points, with squared ReLU in the place of softmax (arXiv:2202.10447)."""

    def __init__(self, width: int = HIDDEN, key_width: int = 128) -> None:
        super().__init__()
        self.sizes = [2 * width, 2 * width, key_width]
        self.o = nn.Linear(2 * width, width, bias=False)
        self.uv = nn.Linear(width, sum(self.sizes), bias=False)
        self.gamma = nn.Parameter(torch.rand(2, key_width))
        self.beta = nn.Parameter(torch.rand(2, key_width))
        self.ln = ScaleNorm(width)
        self.res_scale = Scale(width)

    def forward(self, x: Tensor) -> Tensor:
        gate, value, base = F.silu(self.uv(self.ln(x))).split(self.sizes, dim=2)
        query, key = (base[:, :, None] * self.gamma + self.beta).unbind(dim=2)
        attention = F.relu(query @ key.transpose(1, 2) / self.sizes[2] ** 0.5).square()
        return self.res_scale(x) + self.o(gate * (attention @ value))


class SimCCHead(nn.Module):
    """Features (B,1024,12,9) -> a score for each half pixel across (B,133,576) and down (B,133,768)."""

    def __init__(self) -> None:
        super().__init__()
        places = (WIDTH // STRIDE) * (HEIGHT // STRIDE)
        self.final_layer = nn.Conv2d(STAGES[-1][1], POINTS, 7, padding=3)
        self.mlp = nn.Sequential(ScaleNorm(places), nn.Linear(places, HIDDEN, bias=False))
        self.gau = GatedAttention()
        self.cls_x = nn.Linear(HIDDEN, WIDTH * BINS, bias=False)
        self.cls_y = nn.Linear(HIDDEN, HEIGHT * BINS, bias=False)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        points = self.gau(self.mlp(self.final_layer(features).flatten(2)))
        return self.cls_x(points), self.cls_y(points)


class DWPose(nn.Module):
    """(B,3,384,288) pictures, ImageNet-normalised RGB -> scores across (B,133,576) and down (B,133,768)."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = CSPNeXt()
        self.head = SimCCHead()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.head(self.backbone(x))
