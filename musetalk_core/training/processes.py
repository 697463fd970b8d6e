"""Several processes that train one network together, through accelerate."""

from collections.abc import Iterable
from typing import Any, cast

import torch
from torch import nn

from ..engine import choose_device
from ..errors import MuseTalkError


class Processes:
    """This process among those that `accelerate launch` or torchrun started; alone without them.

    accumulate: backward passes of a step. device: of engine.choose_device, for a process that is alone; several have
    one each, or the CPU all. Raises MuseTalkError when accelerate is not installed.
    """

    def __init__(self, accumulate: int, device: str = "auto") -> None:
        try:
            from accelerate import Accelerator
        except ImportError as error:
            raise MuseTalkError(
                "Training the UNet needs accelerate; install it with `pip install -r requirements-train.txt`."
            ) from error
        self._accelerator = Accelerator(
            cpu=device == "cpu", gradient_accumulation_steps=accumulate, device_placement=False
        )
        self.count: int = self._accelerator.num_processes
        self.rank: int = self._accelerator.process_index
        self.device = self._accelerator.device if self.count > 1 else choose_device(device)

    def shared(self, module: nn.Module) -> nn.Module:
        """The module such that its gradients are the mean over all processes."""
        return cast(nn.Module, self._accelerator.prepare(module))

    def accumulate(self, module: nn.Module) -> Any:
        """A context for one of a step's backward passes; gradients are exchanged in the last one."""
        return self._accelerator.accumulate(module)

    def backward(self, loss: torch.Tensor) -> None:
        """Add the gradients of the loss / accumulate."""
        self._accelerator.backward(loss)

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace gradients by their mean over all processes, where one without any counts as zeros."""
        if self.count == 1:
            return
        for parameter in parameters:
            own = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            parameter.grad = cast(torch.Tensor, self._accelerator.reduce(own, "mean"))
