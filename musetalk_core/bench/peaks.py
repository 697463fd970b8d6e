"""What the machine can do at most: the speed of plain large convolutions and matrix products, in this very run."""

from collections.abc import Callable

import torch
from torch.nn.functional import conv2d

from .timing import timed

# Channels, side and batch of 3x3 convolutions: those of the decoder, where most of the work lies, and a smaller one.
CONVOLUTIONS = ((128, 256, 1), (256, 128, 1), (512, 64, 1), (512, 32, 4))
MATRIX = {"cpu": 2048, "cuda": 8192}


def peak_gflops(device: torch.device, dtype: torch.dtype) -> dict[str, float]:
    """GFLOP/s of the best convolution and of a square matrix product, channels last, in `dtype`."""
    best = max(_rate(*_convolution(device, dtype, *shape), device) for shape in CONVOLUTIONS)
    side = MATRIX.get(device.type, MATRIX["cpu"])
    left = torch.randn(side, side, device=device, dtype=dtype)
    product = _rate(lambda: left @ left, 2 * side**3, device)
    return {"convolution": round(best, 1), "matrix": round(product, 1)}


def _convolution(
    device: torch.device, dtype: torch.dtype, channels: int, side: int, batch: int
) -> tuple[Callable[[], object], int]:
    layout = torch.channels_last
    pixels = torch.randn(batch, channels, side, side, device=device, dtype=dtype).to(memory_format=layout)
    kernel = torch.randn(channels, channels, 3, 3, device=device, dtype=dtype).to(memory_format=layout)
    return lambda: conv2d(pixels, kernel, padding=1), 2 * 9 * batch * channels**2 * side**2


def _rate(call: Callable[[], object], flop: int, device: torch.device) -> float:
    """The best of ten: what the machine can do, not what it usually does."""
    return flop / min(timed(call, 10, device)) / 1e9
