"""Figures of a validation, over batches of pictures (B,3,H,W) in [0,1]."""

from collections.abc import Iterable

import numpy as np
import torch

from ..evaluation import image


def mean_psnr(output: torch.Tensor, target: torch.Tensor) -> float:
    """The mean of the pictures' PSNR in dB."""
    return float(np.mean([image.psnr(a, b) for a, b in _pairs(output, target)]))


def mean_sharpness(output: torch.Tensor, target: torch.Tensor) -> float:
    """The mean of the pictures' sharpness (variance of the Laplacian) as a share of the target's."""
    return float(np.mean([image.sharpness(a) / max(image.sharpness(b), 1e-9) for a, b in _pairs(output, target)]))


def _pairs(output: torch.Tensor, target: torch.Tensor) -> Iterable[tuple[np.ndarray, np.ndarray]]:
    return zip(_frames(output), _frames(target), strict=True)


def _frames(pictures: torch.Tensor) -> np.ndarray:
    return pictures.detach().float().cpu().clamp(0, 1).permute(0, 2, 3, 1).numpy()
