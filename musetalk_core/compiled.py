"""Networks compiled by torch for the device and the shape they run on."""

from collections.abc import Sequence

import torch

from .errors import MuseTalkError

# Not the modes with CUDA graphs: torch keeps these per thread, and the loop runs the networks in one thread a video.
MODES = {"cuda": "max-autotune-no-cudagraphs"}


def compile_nets(nets: Sequence[torch.nn.Module], device: torch.device) -> None:
    """Have torch compile networks that lie on `device`, in place, when they first run; once for every shape of input.

    The first run takes minutes; torch keeps what it made in a folder of its own for the next program
    (TORCHINDUCTOR_CACHE_DIR). Results differ from the uncompiled ones in the last digits. Raises MuseTalkError where
    torch cannot compile: on a CPU it needs a C++ compiler, on a GPU Triton and a C compiler.
    """
    _try_compiler(device)
    for net in nets:
        net.compile(mode=MODES.get(device.type), dynamic=False)


def _try_compiler(device: torch.device) -> None:
    """Compile a line, so that what is missing is told before the work begins."""
    try:
        torch.compile(lambda values: values.sin() + 1)(torch.zeros(8, device=device))
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise MuseTalkError(
            f"The networks cannot be compiled here ({reason}); install a C++ compiler (on a GPU Triton too), "
            "or leave --compile out."
        ) from error
