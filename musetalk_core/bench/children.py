"""One measurement in a process of its own, so that peaks of memory and caches of one way do not touch the other's."""

import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

import torch

from ..host_memory import keep_freed_memory
from .clip import Clip
from .machine import peak_memory, synchronise

Way = Literal["baseline", "fast", "fast_s3fd"]


@dataclass(frozen=True)
class Job:
    """One way of working on a device.

    precision: of the fast ways (fp32, bf16, fp16). threads: of torch, 0 for its own choice. repeats: timed calls of
    each stage. clip: what is made end to end; None to measure the stages.
    """

    way: Way
    device: str
    precision: str
    threads: int
    repeats: int
    clip: Clip | None = None


def measure(job: Job) -> dict[str, Any]:
    """Run a job in a new process and return its figures; an error of it is raised here."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(run, job).result()


def run(job: Job) -> dict[str, Any]:
    """Run a job here. Stages: {"stages": {name: [ms a frame, ...]}, "memory": ..}, and the fast way's "peaks" in
    GFLOP/s. A clip: {"ms": a frame, "memory": ..}; loading and the first frames' warming up are not timed."""
    from ..engine import choose_dtype
    from .baseline import Baseline
    from .fast import Fast
    from .peaks import peak_gflops
    from .stages import baseline_stages, fast_stages, measured

    device = torch.device(job.device)
    if job.threads:
        torch.set_num_threads(job.threads)
    if job.way != "baseline":
        keep_freed_memory()
    dtype = choose_dtype(job.precision, device)
    way: Any = Baseline(device) if job.way == "baseline" else Fast(device, dtype, job.clip is None or "s3fd" in job.way)
    if job.clip is not None:
        return {"ms": _whole(way, job.clip, device), "memory": peak_memory(device)}
    stages = baseline_stages(way) if job.way == "baseline" else fast_stages(way)
    figures: dict[str, Any] = {"stages": measured(stages, job.repeats, device), "memory": peak_memory(device)}
    if job.way != "baseline":
        figures["peaks"] = {
            str(kind).removeprefix("torch."): peak_gflops(device, kind) for kind in (dtype, torch.float32)
        }
    return figures


def _whole(way: Any, clip: Clip, device: torch.device) -> float:
    """Milliseconds a frame of the second of two runs, the first with as few frames as fill a batch."""
    from .baseline import BATCH, Baseline, boxes_of

    boxes = boxes_of(clip) if isinstance(way, Baseline) else None
    seconds = 0.0
    for frames in (min(BATCH, clip.frames), clip.frames):
        part = Clip(clip.video, clip.audio, frames)
        with tempfile.TemporaryDirectory(prefix="musetalk-bench-") as folder:
            synchronise(device)
            started = time.perf_counter()
            if isinstance(way, Baseline) and boxes is not None:
                way.run(part, boxes[:frames], Path(folder))
            else:
                way.run(part, Path(folder))
            synchronise(device)
            seconds = time.perf_counter() - started
    return seconds * 1000 / clip.frames
