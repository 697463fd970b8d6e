"""Two clips beside each other."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from ..errors import MuseTalkError
from .image import psnr

LOWEST = 5  # frames named


def compare_frames(
    frames: Tensor, others: Tensor, gain: float, progress: Callable[[], None] = lambda: None
) -> tuple[Tensor, str]:
    """(N,H,2W or 3W,3) float32 0..1: frame, other and their difference times gain (none for gain 0); and a report.

    frames, others: (N,H,W,3), uint8 or floating 0..1. Raises MuseTalkError when their sizes differ.
    """
    if frames.shape != others.shape:
        sizes = [f"{batch.shape[2]}x{batch.shape[1]}" for batch in (frames, others)]
        raise MuseTalkError(f"The frames have {sizes[0]} and {sizes[1]} pixels; scale one to the other.")
    sheets, decibels = [], []
    for frame, other in zip(frames, others, strict=True):
        first, second = _unit(frame), _unit(other)
        parts = [first, second] + ([((first - second).abs() * gain).clamp(0, 1)] if gain else [])
        sheets.append(torch.cat(parts, 1))
        decibels.append(psnr(first.numpy(), second.numpy()))
        progress()
    return torch.stack(sheets), _report(np.array(decibels))


def _report(decibels: np.ndarray) -> str:
    apart = np.flatnonzero(np.isfinite(decibels))
    if not len(apart):
        return f"{len(decibels)} frames: all are equal"
    lowest = apart[np.argsort(decibels[apart], kind="stable")[:LOWEST]]
    named = ", ".join(f"{k} ({decibels[k]:.1f} dB)" for k in lowest)
    mean = decibels[apart].mean()
    return f"{len(decibels)} frames: {len(decibels) - len(apart)} equal, the others {mean:.1f} dB; lowest: {named}"


def _unit(frame: Tensor) -> Tensor:
    frame = frame.cpu()
    return frame.float() if frame.is_floating_point() else frame.float() / 255
