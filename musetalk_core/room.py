"""Room for a job: what it needs of the disk and of memory, and whether that is there before it begins."""

import logging
import shutil
from pathlib import Path

from .errors import MuseTalkError
from .media.encoding import Encoding

log = logging.getLogger(__name__)

# Bits per pixel and frame at crf 18; every 6 more of crf halve them. Measured with x264: a face that stands still took
# 0.005 at 1080x1080 and 0.017 at 256x256 (preset medium), a moving one 0.053. LEAST lies below all of them, so that no
# job is refused that could be done.
LEAST_BITS = 0.004
USUAL_BITS = 0.05
# A batch is held as the pictures read and as one tensor for the face detector.
BATCH_COPIES = 2


def check_video_room(
    output: Path, size: tuple[int, int], frames: int, encoding: Encoding, batch_size: int, copies: int = 1
) -> None:
    """Raise MuseTalkError when a video of `frames` frames of size (H,W) cannot have room, before it is begun.

    copies: how many of the video lie beside `output` at once. batch_size: frames in memory at once, of 3 bytes a pixel.
    Room for the least that such a video takes is asked for; less than the usual is logged.
    """
    height, width = size
    what = f"{output.name} with its {frames} frames of {width}x{height}"
    least = copies * video_bytes(size, frames, encoding.crf, LEAST_BITS)
    check_disk(what, least, output.parent)
    usual, free = copies * video_bytes(size, frames, encoding.crf, USUAL_BITS), free_disk(output.parent)
    if usual > free:
        log.warning(
            "%s usually needs %s of disk in %s and %s are free.", what, _size(usual), output.parent, _size(free)
        )
    batch = f"A batch of {batch_size} frames of {width}x{height}"
    needed = BATCH_COPIES * batch_size * height * width * 3
    check_memory(batch, needed, free_memory(), "choose a smaller batch size or scale the video down")


def video_bytes(size: tuple[int, int], frames: int, crf: int, bits: float) -> int:
    """Bytes of an H.264 video of (H,W) pixels that takes `bits` per pixel and frame at crf 18."""
    return round(size[0] * size[1] * frames * bits * 2 ** ((18 - crf) / 6) / 8)


def check_disk(what: str, needed: int, folder: Path) -> None:
    """Raise MuseTalkError with the numbers when `needed` bytes are not free in a folder; one that is absent passes."""
    free = free_disk(folder)
    if needed > free:
        raise MuseTalkError(
            f"{what} needs at least {_size(needed)} of disk in {folder} and {_size(free)} are free; make room, choose "
            "another folder, or a higher crf."
        )


def check_memory(what: str, needed: int, free: int, advice: str) -> None:
    """Raise MuseTalkError with the numbers and the advice when `needed` bytes do not fit into `free` ones."""
    if needed > free:
        raise MuseTalkError(f"{what} needs {_size(needed)} and {_size(free)} of memory are free; {advice}.")


def free_disk(folder: Path) -> int:
    """Bytes free in a folder; without end where there is no such folder, which its writer then says."""
    return shutil.disk_usage(folder).free if folder.is_dir() else 2**63


def free_memory() -> int:
    """Bytes of main memory that can be had without swapping."""
    import psutil

    return int(psutil.virtual_memory().available)


def _size(number: int) -> str:
    return f"{number / 1e9:.1f} GB" if number >= 10**8 else f"{number / 1e6:.2f} MB"
