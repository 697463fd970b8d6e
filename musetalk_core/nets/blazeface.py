"""BlazeFace: the short range (128 px) and the sparse full range (192 px) face detectors."""

import torch
from torch import nn
from torch.nn import functional as F


class ResidualBlock(nn.Module):
    """Depthwise 3x3, pointwise 1x1, plus the input (max-pooled and zero-padded to the new shape), then act.

    (B, channels, H, W) -> (B, out, H/stride, W/stride); H and W even. With stride 2 the 3x3 window starts at
    the even pixels (padding right and below only), as TensorFlow's SAME does.
    """

    def __init__(self, channels: int, out: int, stride: int, activation: nn.Module) -> None:
        super().__init__()
        self.stride = stride
        self.depthwise = nn.Conv2d(channels, channels, 3, stride, padding=2 - stride, groups=channels)
        self.pointwise = nn.Conv2d(channels, out, 1)
        self.activation = activation

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner = F.pad(x, (0, 1, 0, 1)) if self.stride == 2 else x
        inner = self.pointwise(self.depthwise(inner))
        skip = F.max_pool2d(x, 2) if self.stride == 2 else x
        extra = inner.shape[1] - skip.shape[1]
        if extra:
            skip = F.pad(skip, (0, 0, 0, 0, 0, extra))
        return self.activation(skip + inner)


class BlazeFaceShort(nn.Module):
    """Faces nearer than about two metres; architecture of arXiv:1907.05047, single blocks throughout.

    forward: (B,3,128,128) RGB in [-1,1] -> boxes (B,896,16) in pixels of the 128 grid, relative to the anchor
    (centre x, y, width, height, then x, y of both eyes, nose, mouth, both ears), and logits (B,896).
    anchors: (896,2) centres in 0..1; two a cell on the 16x16 grid, then six a cell on the 8x8 grid.
    """

    size = 128

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 24, 5, stride=2)
        near = ((24, 1), (28, 1), (32, 2), (36, 1), (42, 1), (48, 2), (56, 1), (64, 1), (72, 1), (80, 1), (88, 1))
        self.fine = _residual_stack(24, near)
        self.coarse = _residual_stack(88, ((96, 2), (96, 1), (96, 1), (96, 1), (96, 1)))
        self.score_fine = nn.Conv2d(88, 2, 1)
        self.score_coarse = nn.Conv2d(96, 6, 1)
        self.box_fine = nn.Conv2d(88, 32, 1)
        self.box_coarse = nn.Conv2d(96, 96, 1)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        fine = self.fine(F.relu(self.stem(F.pad(x, (1, 2, 1, 2)))))
        coarse = self.coarse(fine)
        scores = [_rows(self.score_fine(fine), 1), _rows(self.score_coarse(coarse), 1)]
        boxes = [_rows(self.box_fine(fine), 16), _rows(self.box_coarse(coarse), 16)]
        return torch.cat(boxes, 1), torch.cat(scores, 1)[..., 0]

    @staticmethod
    def anchors() -> torch.Tensor:
        """(896,2) float32 cpu, the x, y of the class docstring."""
        return torch.cat([_centres(16).repeat_interleave(2, 0), _centres(8).repeat_interleave(6, 0)])


class BottleneckBlock(nn.Module):
    """Two depthwise-pointwise pairs, narrow between them: (B,channels,H,W) -> (B,out,H/stride,W/stride).

    Adds the input when the shape stays; a ReLU ends both pairs (the second after the addition).
    """

    def __init__(self, channels: int, narrow: int, out: int, stride: int = 1) -> None:
        super().__init__()
        self.residual = stride == 1
        self.depthwise1 = nn.Conv2d(channels, channels, 3, stride, padding=1, groups=channels)
        self.pointwise1 = nn.Conv2d(channels, narrow, 1)
        self.depthwise2 = nn.Conv2d(narrow, narrow, 3, padding=1, groups=narrow)
        self.pointwise2 = nn.Conv2d(narrow, out, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner = F.relu(self.pointwise1(self.depthwise1(x)))
        inner = self.pointwise2(self.depthwise2(inner))
        return F.relu(x + inner if self.residual else inner)


class BlazeFaceFull(nn.Module):
    """Faces up to about five metres: a bottleneck backbone with a top-down pyramid to one 48x48 grid.

    forward: (B,3,192,192) RGB in [-1,1] -> boxes (B,2304,16) in pixels of the 192 grid relative to the anchor,
    ordered as BlazeFaceShort, and logits (B,2304). anchors: (2304,2) centres in 0..1, one a cell.
    """

    size = 192

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, stride=2, padding=1)
        self.stage1 = nn.Sequential(BottleneckBlock(32, 8, 32), BottleneckBlock(32, 8, 32))
        self.stage2 = _bottleneck_stage(32, 16, 64, 3)
        self.stage3 = _bottleneck_stage(64, 32, 128, 3)
        self.stage4 = _bottleneck_stage(128, 48, 192, 3)
        self.stage5 = _bottleneck_stage(192, 96, 384, 4)
        self.lateral2 = nn.Conv2d(64, 48, 1)
        self.lateral3 = nn.Conv2d(128, 64, 1)
        self.lateral4 = nn.Conv2d(192, 96, 1)
        self.down5 = nn.Conv2d(384, 96, 1)
        self.merge4 = nn.Sequential(BottleneckBlock(96, 48, 96), BottleneckBlock(96, 48, 96))
        self.down4 = nn.Conv2d(96, 64, 1)
        self.merge3 = nn.Sequential(BottleneckBlock(64, 32, 64), BottleneckBlock(64, 32, 64))
        self.down3 = nn.Conv2d(64, 48, 1)
        self.merge2 = BottleneckBlock(48, 24, 48)
        self.score_head = _quarter_head(48, 4)
        self.box_head = _quarter_head(48, 64)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        at48 = self.stage2(self.stage1(F.relu(self.stem(x))))
        at24 = self.stage3(at48)
        at12 = self.stage4(at24)
        top = F.relu(self.down5(self.stage5(at12)))
        top = self.merge4(F.relu(self.lateral4(at12)) + _double(top))
        top = self.merge3(F.relu(self.lateral3(at24)) + _double(F.relu(self.down4(top))))
        top = self.merge2(F.relu(self.lateral2(at48)) + _double(F.relu(self.down3(top))))
        return _quadruple_rows(self.box_head(top)), _quadruple_rows(self.score_head(top))[..., 0]

    @staticmethod
    def anchors() -> torch.Tensor:
        """(2304,2) float32 cpu, the x, y of the class docstring."""
        return _centres(48)


def _residual_stack(channels: int, layers: tuple[tuple[int, int], ...]) -> nn.Sequential:
    blocks = []
    for out, stride in layers:
        blocks.append(ResidualBlock(channels, out, stride, nn.ReLU()))
        channels = out
    return nn.Sequential(*blocks)


def _bottleneck_stage(channels: int, narrow: int, out: int, blocks: int) -> nn.Sequential:
    first = BottleneckBlock(channels, narrow, out, stride=2)
    return nn.Sequential(first, *(BottleneckBlock(out, narrow, out) for _ in range(blocks - 1)))


def _quarter_head(channels: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, out, 1), nn.Conv2d(out, out, 3, stride=2, padding=1, groups=out))


def _double(x: torch.Tensor) -> torch.Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)


def _rows(x: torch.Tensor, width: int) -> torch.Tensor:
    """(B, k*width, h, w) -> (B, h*w*k, width): cell by cell, row-major."""
    return x.permute(0, 2, 3, 1).reshape(len(x), -1, width)


def _quadruple_rows(x: torch.Tensor) -> torch.Tensor:
    """(B, 2*2*c, h, w) -> (B, 4*h*w, c): the four channel groups are the cell's quarters (row, column)."""
    batch, channels, height, width = x.shape
    quarters = x.reshape(batch, 2, 2, channels // 4, height, width)
    return quarters.permute(0, 4, 1, 5, 2, 3).reshape(batch, -1, channels // 4)


def _centres(cells: int) -> torch.Tensor:
    """(cells*cells, 2) x, y of the cell centres in 0..1, row-major."""
    middle = (torch.arange(cells) + 0.5) / cells
    y, x = torch.meshgrid(middle, middle, indexing="ij")
    return torch.stack([x, y], -1).reshape(-1, 2)
