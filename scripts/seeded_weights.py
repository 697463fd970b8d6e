"""Random weights and pictures that are the same on every machine, to compare networks without their checkpoints."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn


def seeded(state: Mapping[str, Tensor], seed: int) -> dict[str, Tensor]:
    """A state dict of the same names and shapes; numpy's RandomState, whose numbers never change, in sorted order.

    Matrices and kernels keep the variance of what passes through them; norms scale by about 1 and shift by about 0.
    """
    random = np.random.RandomState(seed)
    made = {}
    for name in sorted(state):
        like = state[name]
        if name.endswith("num_batches_tracked"):
            made[name] = torch.zeros_like(like)
            continue
        values = random.standard_normal(tuple(like.shape)).astype(np.float32)
        if like.ndim > 1:
            values *= (2 / max(1, like[0].numel())) ** 0.5
        elif name.endswith("running_var"):
            values = 1 + 0.2 * np.abs(values)
        elif name.endswith(("weight", ".g", ".scale")):
            values = 1 + 0.3 * values
        else:
            values *= 0.1
        made[name] = torch.from_numpy(np.ascontiguousarray(values))
    return made


def seeded_s3fd(state: Mapping[str, Tensor], seed: int) -> dict[str, Tensor]:
    """As seeded, with coarse heads that give no endless boxes, and fine ones that give few of equal probability."""
    made = seeded(state, seed)
    for name, tensor in made.items():
        if "_mbox_" in name and "_norm_" not in name:
            made[name] = tensor * 0.003
        elif name.endswith("_norm_mbox_conf.bias"):
            made[name] = tensor - 1.5 * torch.arange(len(tensor))
    return made


@torch.no_grad()
def calibrate(net: nn.Module, pictures: Tensor) -> None:
    """Set the batch norms' statistics to those of pictures, so that the answers depend on the picture."""
    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain average
    net.train(True)
    net(pictures)
    net.train(False)


def picture(height: int, width: int, seed: int) -> np.ndarray:
    """A frame (height,width,3) uint8: blobs of colour and noise."""
    random = np.random.RandomState(seed)
    coarse = random.randint(0, 256, (1 + height // 40, 1 + width // 40, 3))
    blobs = coarse.repeat(40, axis=0).repeat(40, axis=1)[:height, :width]
    return (blobs + random.randint(-30, 31, (height, width, 3))).clip(0, 255).astype(np.uint8)
