"""Seconds of a call."""

import time
from collections.abc import Callable

import torch

from .machine import synchronise


@torch.inference_mode()
def timed(call: Callable[[], object], repeats: int, device: torch.device) -> list[float]:
    """Seconds of each of `repeats` calls after one that does not count; the device's work is waited for."""
    call()
    seconds = []
    for _ in range(repeats):
        synchronise(device)
        started = time.perf_counter()
        call()
        synchronise(device)
        seconds.append(time.perf_counter() - started)
    return seconds
