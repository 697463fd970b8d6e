"""Validation strips: what goes in, what comes out and what should have, side by side in one picture."""

from collections.abc import Sequence
from pathlib import Path

import torch


def save_strip(path: Path, columns: Sequence[torch.Tensor]) -> None:
    """Write a PNG with one column per tensor (B,3,H,W) in [0,1] and one row per item; all of one shape."""
    from PIL import Image

    rows = torch.cat([column.detach().float().cpu() for column in columns], dim=3)
    picture = torch.cat(list(rows), dim=1).clamp(0, 1).mul(255).round().to(torch.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture.permute(1, 2, 0).numpy()).save(path)
