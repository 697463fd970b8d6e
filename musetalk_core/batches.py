"""Batches that shrink when the device runs out of memory."""

from collections.abc import Callable, Iterator
from typing import TypeVar

import torch

Result = TypeVar("Result")


def shrinking_batches(
    run: Callable[[int, int], Result], count: int, batch_size: int
) -> Iterator[tuple[int, int, Result]]:
    """Call run(start, stop) over range(count) in steps of batch_size; yields (start, stop, result) in order.

    When a call runs out of device memory the step is halved for it and for all later ones; at a single item
    the out-of-memory error is raised as it is.
    """
    start = 0
    while start < count:
        stop = min(start + batch_size, count)
        result = _unless_out_of_memory(run, start, stop)
        if result is None:
            # The failed call's tensors are free only here, after its exception is gone.
            torch.cuda.empty_cache()
            batch_size = max(1, (stop - start) // 2)
            continue
        yield start, stop, result
        start = stop


def _unless_out_of_memory(run: Callable[[int, int], Result], start: int, stop: int) -> Result | None:
    try:
        return run(start, stop)
    except torch.cuda.OutOfMemoryError:
        if stop - start == 1:
            raise
        return None
