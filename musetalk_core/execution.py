"""How the loop runs on a device: beside the processor's work or in turn with it, in full batches or as they come."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Execution:
    """Two switches that change the speed of the loop and not its frames.

    overlap: frames are read, generated and written in threads of their own. On a CPU these would take from the networks
    what they give. fixed: every pass of the generator has the full batch size, filled up with copies of its last row.
    Networks that are compiled for one shape, or whose kernels were chosen for it, then see no other.
    """

    overlap: bool
    fixed: bool

    @staticmethod
    def on(device: torch.device, compiled: bool = False) -> "Execution":
        """What suits networks on `device`; compiled: see compiled.compile_nets."""
        return Execution(overlap=device.type != "cpu", fixed=compiled or device.type == "cuda")
