"""How many frames go through the networks at once: as many as asked for or as fit, fewer after memory ran out."""

from collections.abc import Callable, Iterator
from typing import TypeVar

import torch

Result = TypeVar("Result")

AUTOMATIC = 0
DEFAULT_BATCH = 8
MOST_AUTOMATIC = 32
# Live activations of MuseTalk's UNet for one frame and byte of a number: 8 MiB counted with fused attention, up to 24
# more for the 8 x 1024 x 1024 scores without.
UNET_BYTES = 32 * 2**20
# Of the VAE's decoder for one frame of 256 x 256 and byte of a number: 2178 a pixel, what ComfyUI reckons with for this
# decoder (memory_used_decode in comfy/sd.py). Live are 768 (a map of 256 channels before its norm, after it and after
# its activation), the rest is what convolutions work in.
DECODER_BYTES = 2178 * 256 * 256
# The rest is for what the allocator cannot use because it is in pieces.
USED_SHARE = 0.8


class BatchSize:
    """How many frames go through networks at once; it falls when memory runs out, and stays there.

    frames: so many now, at least 1. fixed: every pass has so many rows, see filled() and execution.Execution.
    """

    def __init__(self, frames: int, fixed: bool = False) -> None:
        self.frames = frames
        self.fixed = fixed

    def filled(self, rows: torch.Tensor) -> torch.Tensor:
        """Rows (n,...), n from 1 to `frames`; where passes are fixed, with the last one repeated up to `frames`."""
        missing = self.frames - len(rows) if self.fixed else 0
        return torch.cat([rows, rows[-1:].expand(missing, *rows.shape[1:])]) if missing > 0 else rows


def steady_frames(setting: int) -> int:
    """The frames of a batch for what must not depend on the memory that is free: AUTOMATIC counts as DEFAULT_BATCH."""
    return setting or DEFAULT_BATCH


def batch_frames(setting: int, device: torch.device, dtype: torch.dtype) -> int:
    """The frames of a pass that the setting batch_size means on a device where the networks lie in `dtype`.

    AUTOMATIC: as many as fit into a CUDA device's free memory, and DEFAULT_BATCH on every other.
    """
    if setting != AUTOMATIC:
        return setting
    if device.type != "cuda":
        return DEFAULT_BATCH
    free, _ = torch.cuda.mem_get_info(device)
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return fitting_frames(free + unused, dtype)


def fitting_frames(free: int, dtype: torch.dtype) -> int:
    """Frames, 1 to MOST_AUTOMATIC, that go through UNet and decoder in `free` bytes: 0.35 GB each in 2-byte types."""
    per_frame = (UNET_BYTES + DECODER_BYTES) * dtype.itemsize
    return min(max(int(free * USED_SHARE) // per_frame, 1), MOST_AUTOMATIC)


def shrinking_batches(
    run: Callable[[int, int], Result], count: int, size: BatchSize
) -> Iterator[tuple[int, int, Result]]:
    """Call run(start, stop) over range(count) in steps of size.frames; yields (start, stop, result) in order.

    When a call runs out of device memory the step is halved for it and for all later ones, also those of later
    calls with this `size`; at a single item the out-of-memory error is raised as it is.
    """
    start = 0
    while start < count:
        stop = min(start + size.frames, count)
        tried = size.frames if size.fixed else stop - start
        result = _unless_out_of_memory(run, start, stop, tried)
        if result is None:
            # The failed call's tensors are free only here, after its exception is gone.
            torch.cuda.empty_cache()
            size.frames = max(1, tried // 2)
            continue
        yield start, stop, result
        start = stop


def _unless_out_of_memory(run: Callable[[int, int], Result], start: int, stop: int, tried: int) -> Result | None:
    try:
        return run(start, stop)
    except torch.cuda.OutOfMemoryError:
        if tried == 1:
            raise
        return None
