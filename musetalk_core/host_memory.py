"""The C library's freed memory: kept for the next tensor instead of given back to the system."""

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8  # malloc.h of glibc
NEVER = 2**31 - 1


def keep_freed_memory() -> bool:
    """Make glibc's malloc keep what is freed, for this process and from now on; False where there is no glibc.

    A tensor above 32 MB is otherwise mapped anew each time, and the system clears its pages before it hands them
    out: 20 to 30 % of the time of a VAE's decode on two cores. The process then stays as large as it
    was at its largest, so call it in a process of our own, never in somebody's ComfyUI. All threads share one heap:
    with one for each thread of the video's codecs memory crept up by 50 MiB in five minutes. Source: mallopt(3).
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    wanted = {M_MMAP_MAX: 0, M_TRIM_THRESHOLD: NEVER, M_ARENA_MAX: 1}
    return all(mallopt(option, value) for option, value in wanted.items())
