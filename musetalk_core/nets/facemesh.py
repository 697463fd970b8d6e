"""FaceMesh with attention: 468 points of one upright face, lips and eyes refined."""

import torch
from torch import nn
from torch.nn import functional as F

from .blazeface import ResidualBlock

# The mesh points that each refining branch gives anew, in the branch's order (from the model's own options).
LIPS = (
    *(61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291, 185, 40, 39, 37, 0, 267, 269, 270, 409),
    *(78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308, 191, 80, 81, 82, 13, 312, 311, 310, 415),
    *(76, 77, 90, 180, 85, 16, 315, 404, 320, 307, 306, 184, 74, 73, 72, 11, 302, 303, 304, 408),
    *(62, 96, 89, 179, 86, 15, 316, 403, 319, 325, 292, 183, 42, 41, 38, 12, 268, 271, 272, 407),
)
RIGHT_EYE = (  # the subject's right eye and brow: left in the picture
    *(33, 7, 163, 144, 145, 153, 154, 155, 133, 246, 161, 160, 159, 158, 157, 173),
    *(130, 25, 110, 24, 23, 22, 26, 112, 243, 247, 30, 29, 27, 28, 56, 190),
    *(226, 31, 228, 229, 230, 231, 232, 233, 244, 113, 225, 224, 223, 222, 221, 189),
    *(35, 124, 46, 53, 52, 65, 143, 111, 117, 118, 119, 120, 121, 128, 245, 156, 70, 63, 105, 66, 107, 55, 193),
)
LEFT_EYE = (
    *(263, 249, 390, 373, 374, 380, 381, 382, 362, 466, 388, 387, 386, 385, 384, 398),
    *(359, 255, 339, 254, 253, 252, 256, 341, 463, 467, 260, 259, 257, 258, 286, 414),
    *(446, 261, 448, 449, 450, 451, 452, 453, 464, 342, 445, 444, 443, 442, 441, 413),
    *(265, 353, 276, 283, 282, 295, 372, 340, 346, 347, 348, 349, 350, 357, 465, 383),
    *(300, 293, 334, 296, 336, 285, 417),
)
GRID = 16  # a branch looks at GRID x GRID samples of the feature map
FEATURE_STRIDE = 4  # input pixels per feature map pixel
REGION_SCALE = 1.5  # the branch's view is this much larger than the region's points


class FaceMesh(nn.Module):
    """Face points by a residual backbone, then by three branches that look at lips and eyes again.

    forward: (B,3,192,192) RGB in [0,1] -> points (B,468,2) x, y in input pixels and logits (B,): how surely
    this is a face (sigmoid > 0.5 = yes). Architecture: the face_landmark_with_attention model of MediaPipe
    (arXiv:1907.06724, arXiv:2006.10962) without its iris branches.
    """

    size = 192

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, stride=2)
        self.stem_activation = nn.PReLU(16)
        self.features = _stack(16, (16, 16, 32), downsample={2})
        self.backbone = _stack(32, (32, 32, 64, 64, 64, *(128,) * 9), downsample={2, 5, 8, 11})
        self.neck = _Neck(128)
        self.points = nn.Conv2d(32, 468 * 3, 3)
        self.flag = nn.Conv2d(32, 1, 3)
        self.lips = RegionBranch(LIPS, corners=(61, 291))
        self.right_eye = RegionBranch(RIGHT_EYE, corners=(33, 133))
        self.left_eye = RegionBranch(LEFT_EYE, corners=(362, 263))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features = self.features(self.stem_activation(self.stem(F.pad(x, (0, 1, 0, 1)))))
        deep = self.neck(self.backbone(features))
        mesh = self.points(deep).reshape(-1, 468, 3)[..., :2]
        refined = mesh.clone()
        for branch in (self.lips, self.right_eye, self.left_eye):
            refined[:, branch.indices] = branch(features, mesh)
        return refined, self.flag(deep).reshape(-1)


class RegionBranch(nn.Module):
    """Finds one region's points again in a rotated, scaled view of the features.

    forward: features (B,32,48,48) and the coarse mesh (B,468,2) in input pixels -> (B,len(region),2) in input
    pixels. corners: the two mesh points whose line is turned to horizontal.
    """

    def __init__(self, region: tuple[int, ...], corners: tuple[int, int]) -> None:
        super().__init__()
        self.indices = list(region)
        self.corners = corners
        self.blocks = _stack(32, (32, 32, 64, 64, 64, *(128,) * 6), downsample={2, 5, 8})
        self.neck = _Neck(128)
        self.points = nn.Conv2d(32, 2 * len(region), 2)

    def forward(self, features: torch.Tensor, mesh: torch.Tensor) -> torch.Tensor:
        view = region_view(mesh / FEATURE_STRIDE, self.indices, self.corners)
        deep = self.neck(self.blocks(sample_view(features, view)))
        local = self.points(deep).reshape(-1, len(self.indices), 2) / FEATURE_STRIDE
        return FEATURE_STRIDE * (local @ view[:, :, :2].mT + view[:, None, :, 2])


def region_view(mesh: torch.Tensor, region: list[int], corners: tuple[int, int]) -> torch.Tensor:
    """The affine map (B,2,3) from a GRID x GRID view to the mesh's pixels.

    The view is upright with respect to the line between the corners, centred on the region's bounding box in
    that rotated frame and REGION_SCALE times as wide and high. mesh: (B,468,2). Formula: MediaPipe's
    landmarks-to-transform-matrix operation (Apache-2.0).
    """
    line = mesh[:, corners[1]] - mesh[:, corners[0]]
    angle = torch.atan2(line[:, 1], line[:, 0])
    cos, sin = torch.cos(angle), torch.sin(angle)
    to_frame = torch.stack([torch.stack([cos, -sin], -1), torch.stack([sin, cos], -1)], -2)
    upright = mesh[:, region] @ to_frame  # rows times R = rotation by -angle
    low, high = upright.amin(1), upright.amax(1)
    centre = (to_frame @ ((low + high) / 2)[..., None])[..., 0]
    linear = to_frame * ((high - low) * REGION_SCALE / GRID)[:, None, :]
    offset = centre - linear.sum(-1) * GRID / 2
    return torch.cat([linear, offset[..., None]], -1)


def sample_view(features: torch.Tensor, view: torch.Tensor) -> torch.Tensor:
    """(B,C,H,W) seen through view (B,2,3) -> (B,C,GRID,GRID), bilinear at cell centres.

    A sample whose position lies outside the centres of the border pixels is 0 (MediaPipe's
    transform-tensor-bilinear operation).
    """
    height, width = features.shape[2:]
    middle = torch.arange(GRID, device=view.device, dtype=view.dtype) + 0.5
    y, x = torch.meshgrid(middle, middle, indexing="ij")
    grid = torch.stack([x, y, torch.ones_like(x)], -1).reshape(-1, 3)
    position = (grid @ view.mT - 0.5).reshape(-1, GRID, GRID, 2)
    limit = torch.tensor([width - 1, height - 1], device=view.device, dtype=view.dtype)
    inside = ((position >= 0) & (position <= limit)).all(-1)[:, None]
    sampled = F.grid_sample(features, position * 2 / limit - 1, mode="bilinear", align_corners=True)
    return sampled * inside


class _Neck(nn.Module):
    """1x1 to 32 channels, PReLU, one residual block."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, 32, 1)
        self.activation = nn.PReLU(32)
        self.block = ResidualBlock(32, 32, 1, nn.PReLU(32))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.block(self.activation(self.reduce(x)))


def _stack(channels: int, widths: tuple[int, ...], downsample: set[int]) -> nn.Sequential:
    """Residual blocks to the given widths; those at the positions in downsample halve the size."""
    blocks = []
    for position, out in enumerate(widths):
        stride = 2 if position in downsample else 1
        blocks.append(ResidualBlock(channels, out, stride, nn.PReLU(out)))
        channels = out
    return nn.Sequential(*blocks)
