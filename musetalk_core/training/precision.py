"""Which precision trains fastest on a device, and the autocast that goes with it."""

import time
from contextlib import AbstractContextManager
from typing import Any, TypeVar, cast

import torch
from torch import nn
from torch.nn import functional as F

from ..errors import MuseTalkError

TRAINING_PRECISIONS = ("auto", "fp32", "bf16")

MEASURED_RUNS = 20

Module = TypeVar("Module", bound=nn.Module)


def choose_precision(precision: str, device: torch.device) -> str:
    """ "fp32" or "bf16". auto: bf16 on a GPU, on a CPU the one in which a small convolution runs faster.

    It is measured because the processor's flags do not tell: with AVX512-BF16, bf16 was 2.5 times faster on one
    machine (AMD Zen 4) and 1.7 times slower on another (Intel, torch 2.13). Raises MuseTalkError for others.
    """
    if precision not in TRAINING_PRECISIONS:
        raise MuseTalkError(f"The precision {precision!r} is unknown; choose one of {', '.join(TRAINING_PRECISIONS)}.")
    if precision != "auto":
        return precision
    if device.type == "cpu":
        return "bf16" if _bf16_share() < 0.8 else "fp32"
    return "bf16" if device.type == "cuda" else "fp32"


def autocast(precision: str, device: torch.device) -> AbstractContextManager[None]:
    """A context in which networks run in bf16 when `precision` says so."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def placed(module: Module, device: torch.device, layout: torch.memory_format) -> Module:
    """The module, moved in place to a device and a memory layout."""
    return cast(Any, module).to(device, memory_format=layout)


def _bf16_share() -> float:
    """The time of a 3x3 convolution, forward and backward, in bf16 over that in fp32.

    Both by turns and the best of many, because other work on the machine slows single runs down.
    """
    best = {torch.float32: float("inf"), torch.bfloat16: float("inf")}
    for _ in range(MEASURED_RUNS):
        for dtype in best:
            best[dtype] = min(best[dtype], _seconds(dtype))
    return best[torch.bfloat16] / best[torch.float32]


def _seconds(dtype: torch.dtype) -> float:
    pixels = torch.ones(4, 48, 32, 32, dtype=dtype, requires_grad=True)
    kernel = torch.ones(48, 48, 3, 3, dtype=dtype, requires_grad=True)
    started = time.perf_counter()
    F.conv2d(pixels, kernel, padding=1).sum().backward()
    return time.perf_counter() - started
