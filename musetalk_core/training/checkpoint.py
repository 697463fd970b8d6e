"""Checkpoints: everything a training needs to go on exactly as if it had not been stopped, in one safetensors file."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import MuseTalkError

FORMAT = "musetalk-training-1"
SUFFIX, PARTIAL = ".safetensors", ".partial"


@dataclass(frozen=True)
class Position:
    """Where a training stands: steps done and seconds spent in them.

    There is no random state to keep: every step draws from generators seeded by (seed, step); nor one of the
    learning rate, which is a function of the position.
    """

    step: int
    seconds: float


def save_checkpoint(
    folder: Path,
    position: Position,
    modules: Mapping[str, nn.Module],
    optimizers: Mapping[str, torch.optim.Optimizer],
    facts: Mapping[str, str],
    keep: int,
) -> Path:
    """Write folder/<step>.safetensors atomically, then delete all but the newest `keep`; returns the path.

    A write that is cut off leaves a .partial file, which nothing reads and the next write removes. facts: what
    the run must agree on when it goes on (stage, settings, precision).
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, torch.Tensor] = {}
    for name, module in modules.items():
        tensors |= {f"module/{name}/{key}": value for key, value in module.state_dict().items()}
    for name, optimizer in optimizers.items():
        for index, state in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer/{name}/{index}/{key}": torch.as_tensor(value) for key, value in state.items()}
    metadata = {"format": FORMAT, "step": str(position.step), "seconds": repr(position.seconds)}
    path = folder / f"{position.step:08d}{SUFFIX}"
    write_tensors(path, tensors, metadata | dict(facts))
    for old in _finished(folder)[:-keep]:
        old.unlink()
    return path


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file that appears whole or not at all, even when the power fails.

    Raises MuseTalkError when the disk is full or the system refuses; what was there stays.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    for left in path.parent.glob(f"*{PARTIAL}"):
        left.unlink()
    partial = path.with_name(path.name + PARTIAL)
    held = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    try:
        save_file(held, partial, dict(metadata))
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    except (SafetensorError, OSError) as error:
        partial.unlink(missing_ok=True)
        raise MuseTalkError(
            f"{path} cannot be written ({error}); make room and go on with --resume, the one before is whole."
        ) from error


def newest_checkpoint(folder: Path) -> Path | None:
    """The finished checkpoint with the most steps, None when there is none."""
    found = _finished(folder)
    return found[-1] if found else None


def load_checkpoint(
    path: Path,
    modules: Mapping[str, nn.Module],
    optimizers: Mapping[str, torch.optim.Optimizer],
    facts: Mapping[str, str],
) -> Position:
    """Put a checkpoint's state into the modules and optimizers, wherever they lie; returns where it stood.

    Raises MuseTalkError when the file is damaged or was made by another stage or with other settings (`facts`).
    """
    tensors, metadata = read_tensors(path)
    if metadata.get("format") != FORMAT:
        raise MuseTalkError(f"{path} is no checkpoint of this trainer; give the folder of one that was stopped.")
    for name, value in facts.items():
        if metadata.get(name) != value:
            raise MuseTalkError(
                f"{path} was trained with {name} {metadata.get(name)}, this run has {value}; "
                "use the same, or start anew in another folder."
            )
    for name, module in modules.items():
        module.load_state_dict(_below(tensors, f"module/{name}/"))
    for name, optimizer in optimizers.items():
        _load_optimizer(optimizer, _below(tensors, f"optimizer/{name}/"))
    return Position(int(metadata["step"]), float(metadata["seconds"]))


def read_tensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors on the CPU and metadata of a safetensors file. Raises MuseTalkError when it is missing or damaged."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise MuseTalkError(f"There is no file {path}; run the stage that writes it first.")
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except SafetensorError as error:
        raise MuseTalkError(f"{path} is damaged ({error}); delete it and resume from the one before.") from error


def save_weights(path: Path, module: nn.Module, facts: Mapping[str, Any]) -> None:
    """Write a stage's result: the module's tensors, and `facts` as JSON under the metadata key "facts"."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_tensors(path, module.state_dict(), {"format": FORMAT, "facts": json.dumps(dict(facts), sort_keys=True)})


def load_weights(path: Path, module: nn.Module) -> dict[str, Any]:
    """Load a stage's result into a module of the same shape; returns the facts it was saved with."""
    tensors, metadata = read_tensors(path)
    try:
        module.load_state_dict(tensors)
    except RuntimeError as error:
        raise MuseTalkError(f"{path} does not fit this network; train it again ({error}).") from error
    return json.loads(metadata.get("facts", "{}"))


def _finished(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"*{SUFFIX}"))


def _below(tensors: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _load_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, torch.Tensor]) -> None:
    state: dict[int, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        index, key = name.split("/", 1)
        state.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    for parameter, values in optimizer.state.items():
        for key, value in values.items():
            if value.shape == parameter.shape:  # the parameter's memory layout too: another one is slower
                values[key] = torch.empty_like(parameter, requires_grad=False).copy_(value)
