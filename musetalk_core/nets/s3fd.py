"""S3FD: a detector of faces of any size, one anchor for each of six scales.

Zhang et al. 2017, arXiv:1708.05237. Module names follow the keys of face-alignment's `s3fd-619a316812.pth`.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

SCORE = 0.5  # least probability of a face; upstream's earlier limit of 0.05 only lengthens the list that is thinned
OVERLAP = 0.3  # of two boxes with more intersection over union the more probable one stays
SMALLEST = 32  # pixels; the poolings leave nothing of smaller pictures
MEAN_BGR = (104.0, 117.0, 123.0)
VARIANCES = (0.1, 0.2)  # of an anchor's place and of the logarithm of its size
VGG = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
# Where boxes are read off, from stride 4 to 128: the module before, its channels, its class scores. The finest has
# three kinds of background, of which the strongest counts.
HEADS = (
    ("conv3_3_norm", 256, 4),
    ("conv4_3_norm", 512, 2),
    ("conv5_3_norm", 512, 2),
    ("fc7", 1024, 2),
    ("conv6_2", 512, 2),
    ("conv7_2", 256, 2),
)

Heads = list[tuple[Tensor, Tensor]]


class L2Norm(nn.Module):
    """Scales the channels of every place to length one, then each channel by its weight."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        length = x.pow(2).sum(dim=1, keepdim=True).sqrt() + 1e-10
        return x / length * self.weight.view(1, -1, 1, 1)


class S3FD(nn.Module):
    """(B,3,H,W) pictures, BGR 0..255 minus MEAN_BGR, H and W at least SMALLEST -> six heads, finest first.

    A head: face scores (B,2,h,w) before softmax, [background, face], and offsets (B,4,h,w) of centre and size.
    """

    def __init__(self) -> None:
        super().__init__()
        inputs = 3
        for stage, widths in enumerate(VGG, 1):
            for layer, width in enumerate(widths, 1):
                self.add_module(f"conv{stage}_{layer}", nn.Conv2d(inputs, width, 3, padding=1))
                inputs = width
        self.fc6 = nn.Conv2d(512, 1024, 3, padding=3)
        self.fc7 = nn.Conv2d(1024, 1024, 1)
        self.conv6_1 = nn.Conv2d(1024, 256, 1)
        self.conv6_2 = nn.Conv2d(256, 512, 3, stride=2, padding=1)
        self.conv7_1 = nn.Conv2d(512, 128, 1)
        self.conv7_2 = nn.Conv2d(128, 256, 3, stride=2, padding=1)
        for name, width, classes in HEADS:
            if name.endswith("_norm"):
                self.add_module(name, L2Norm(width))
            self.add_module(f"{name}_mbox_conf", nn.Conv2d(width, classes, 3, padding=1))
            self.add_module(f"{name}_mbox_loc", nn.Conv2d(width, 4, 3, padding=1))

    def forward(self, x: Tensor) -> Heads:
        return [self._head(name, features) for (name, *_), features in zip(HEADS, self._features(x), strict=True)]

    def _features(self, x: Tensor) -> list[Tensor]:
        """The features of the six scales."""
        found = []
        for stage, widths in enumerate(VGG, 1):
            for layer in range(1, len(widths) + 1):
                x = F.relu(self.get_submodule(f"conv{stage}_{layer}")(x), inplace=True)
            if stage >= 3:
                found.append(self.get_submodule(f"conv{stage}_3_norm")(x))
            x = F.max_pool2d(x, 2)
        found.append(F.relu(self.fc7(F.relu(self.fc6(x)))))
        found.append(F.relu(self.conv6_2(F.relu(self.conv6_1(found[-1])))))
        found.append(F.relu(self.conv7_2(F.relu(self.conv7_1(found[-1])))))
        return found

    def _head(self, name: str, features: Tensor) -> tuple[Tensor, Tensor]:
        scores = self.get_submodule(f"{name}_mbox_conf")(features)
        background = scores[:, :-1].amax(dim=1, keepdim=True)
        return torch.cat([background, scores[:, -1:]], dim=1), self.get_submodule(f"{name}_mbox_loc")(features)

    @torch.inference_mode()
    def find(self, pictures: Tensor) -> list[np.ndarray]:
        """The faces of pictures (B,3,H,W), RGB 0..255, on the network's device; any size.

        One array (N,5) float64 a picture: x1 y1 x2 y2 in pixels, may leave the picture; probability. Most probable
        first; at least SCORE, and no two overlap by more than OVERLAP.
        """
        height, width = pictures.shape[-2:]
        pixels = pictures.float().flip(1) - torch.tensor(MEAN_BGR, device=pictures.device).view(1, 3, 1, 1)
        heads = self(F.pad(pixels, (0, max(0, SMALLEST - width), 0, max(0, SMALLEST - height))))
        return [thin_out(boxes) for boxes in decode(heads)]


def decode(heads: Heads) -> list[np.ndarray]:
    """Boxes (N,5) float64 x1 y1 x2 y2 probability of every picture, those of at least SCORE, in no order.

    An anchor of stride s at column i lies at s/2 + i*s and is 4*s wide and high.
    """
    found: list[list[np.ndarray]] = [[] for _ in heads[0][0]]
    for level, (scores, offsets) in enumerate(heads):
        stride = 2 ** (level + 2)
        faces = F.softmax(scores, dim=1)[:, 1]
        picture, row, column = torch.nonzero(faces > SCORE, as_tuple=True)
        centre = stride / 2 + stride * torch.stack([column, row], dim=1).cpu().numpy().astype(np.float64)
        offset = offsets[picture, :, row, column].float().cpu().numpy()
        middle = centre + offset[:, :2] * VARIANCES[0] * (4.0 * stride)
        size = (4.0 * stride) * np.exp(offset[:, 2:] * VARIANCES[1]).astype(np.float64)
        corner = middle - size / 2
        probability = faces[picture, row, column].float().cpu().numpy()[:, None]
        boxes = np.concatenate([corner, corner + size, probability], axis=1)
        owner = picture.cpu().numpy()
        for k, mine in enumerate(found):
            mine.append(boxes[owner == k])
    return [np.concatenate(boxes) for boxes in found]


def thin_out(boxes: np.ndarray, overlap: float = OVERLAP) -> np.ndarray:
    """Boxes (N,5) without those that overlap a more probable one; most probable first.

    Non-maximum suppression, with sides counted in whole pixels (x2 - x1 + 1) as the network's authors do.
    """
    left = boxes[np.argsort(-boxes[:, 4], kind="stable")]
    kept: list[np.ndarray] = []
    while len(left):
        best, left = left[0], left[1:]
        kept.append(best)
        common = _area(np.maximum(best[:2], left[:, :2]), np.minimum(best[2:4], left[:, 2:4]))
        union = _area(best[:2], best[2:4]) + _area(left[:, :2], left[:, 2:4]) - common
        left = left[common / union <= overlap]
    return np.reshape(kept, (-1, 5))


def _area(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    return (high - low + 1).clip(0).prod(axis=-1)
