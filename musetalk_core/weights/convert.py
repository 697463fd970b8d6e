"""Rewriting a weight file in another format or precision."""

from pathlib import Path

import torch

from ..errors import MuseTalkError
from ..files import whole_file
from .state_dict import StateDict, read_state_dict

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def convert(source: Path, target: Path, precision: str | None = None, overwrite: bool = False) -> StateDict:
    """Write the tensors of `source` to `target` under the same names; returns them as written.

    The target's suffix gives the format: .safetensors, or .pth, .pt, .bin (torch). precision: "fp32", "fp16", "bf16"
    for floating tensors, None keeps each as it is. Written under a temporary name and renamed when whole.
    Raises MuseTalkError for an unreadable source, an existing target without `overwrite`, another suffix, values
    that the precision cannot hold, or a folder that cannot be written.
    """
    if target.suffix not in (".safetensors", ".pth", ".pt", ".bin"):
        raise MuseTalkError(f"{target.name} has no known weight format; end it in .safetensors, .pth, .pt or .bin.")
    if target.exists() and not overwrite:
        raise MuseTalkError(f"{target} exists; give another name or --overwrite.")
    dtype = DTYPES[precision] if precision else None
    state = {name: _copy(name, tensor, dtype) for name, tensor in read_state_dict(source).items()}
    _write(state, target)
    return state


def _copy(name: str, tensor: torch.Tensor, dtype: torch.dtype | None) -> torch.Tensor:
    """A tensor with storage of its own, as safetensors needs; `dtype` is for floating ones."""
    if dtype is None or not tensor.is_floating_point():
        return tensor.clone(memory_format=torch.contiguous_format)
    copy = tensor.to(dtype, copy=True, memory_format=torch.contiguous_format)
    if not copy.isfinite().all() and tensor.isfinite().all():
        raise MuseTalkError(f"The tensor {name!r} has values too large for {dtype}; convert to bf16 or keep fp32.")
    return copy


def _write(state: StateDict, target: Path) -> None:
    with whole_file(target) as part:
        part.touch()  # torch and safetensors report a folder that cannot be written to each in its own way
        if target.suffix == ".safetensors":
            from safetensors.torch import save_file

            save_file(state, part, metadata={"format": "pt"})
        else:
            torch.save(state, part)
