"""What a measurement was made on, and how much memory it took."""

import os
import platform
from pathlib import Path
from typing import Any

import torch

from .. import __version__

MIB = 2**20


def machine(device: torch.device) -> dict[str, Any]:
    """Processor, cores, GPU, system, versions and the load at this moment, as plain values for JSON."""
    import diffusers
    import transformers

    facts: dict[str, Any] = {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "instructions": [name for name in ("avx512_bf16", "amx_bf16") if name in _cpu_flags()],
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "transformers": transformers.__version__,
        "musetalk_suite": __version__,
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }
    if device.type == "cuda":
        facts["gpu"] = torch.cuda.get_device_name(device)
        facts["cuda"] = torch.version.cuda
    return facts


def peak_memory(device: torch.device) -> dict[str, float]:
    """MiB held at most: by this process (Linux alone tells it), and on a GPU by torch; no key without a figure."""
    peak = {}
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text(encoding="ascii").splitlines() if line.startswith("VmHWM"))
        peak["host_mib"] = round(int(line.split()[1]) / 1024, 1)
    if device.type == "cuda":
        peak["gpu_mib"] = round(torch.cuda.max_memory_allocated(device) / MIB, 1)
    return peak


def synchronise(device: torch.device) -> None:
    """Wait until the device has done what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _cpu_name() -> str:
    return _cpu_line("model name") or platform.processor() or platform.machine()


def _cpu_flags() -> list[str]:
    return _cpu_line("flags").split()


def _cpu_line(key: str) -> str:
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return ""
    lines = info.read_text(encoding="utf-8").splitlines()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(key)), "")
