"""The running mean of a network's weights, which is what a training gives away."""

import copy

import torch
from torch import nn


class Ema:
    """Exponential moving average of a module: `module` is the averaged copy, frozen.

    decay: at most this; in step k it is (1+k)/(10+k), so that the first weights are soon forgotten.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.module = copy.deepcopy(module).train(False).requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """Draw the average towards `module` after its step number `step` (from 0)."""
        weight = 1 - min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.module.parameters()), list(module.parameters()), weight)
        for own, other in zip(self.module.buffers(), module.buffers(), strict=True):
            own.copy_(other)
