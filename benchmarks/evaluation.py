#!/usr/bin/env python3
"""Time and memory of `evaluate` on many clips.

    HOST/venv/bin/python benchmarks/evaluation.py [--clips 100] [--seconds 5] [--threads 2] [--json FILE]

Writes clips of a real face that moves, with sound, and one broken file; measures all of them with every measure that
runs without a download, and SyncNet with random weights in the true format, which costs what the true ones cost. The
numbers that SyncNet gives here mean nothing and are not kept.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "tests")]

from clips import moving_portrait, tone, write_video  # noqa: E402

from musetalk_core.evaluation.dataset import ClipFiles  # noqa: E402
from musetalk_core.evaluation.quality import QualityTools  # noqa: E402
from musetalk_core.evaluation.run import Evaluation, evaluate  # noqa: E402
from musetalk_core.evaluation.speech import SyncSettings  # noqa: E402
from musetalk_core.evaluation.sync import SyncScorer  # noqa: E402
from musetalk_core.faces.detector import FaceDetector  # noqa: E402
from musetalk_core.nets.syncnet import SyncNet  # noqa: E402

RESULT = REPOSITORY / "benchmarks" / "results" / "evaluation.json"
SIZE, FPS = 384, 25


def write_clip(folder: Path, seconds: float) -> ClipFiles:
    """A clip that is its own source and reference: every measure runs."""
    count = round(seconds * FPS)
    there = moving_portrait(24, SIZE)
    frames = np.concatenate([there, there[::-1]])[np.arange(count) % 48]
    path = write_video(folder / "clip.mov", frames, audio=tone(seconds))
    return ClipFiles("clip", path, None, path, path)


def measure(clips: int, seconds: float, threads: int) -> dict[str, Any]:
    """The figures of one run; memory in MB is the process's highest so far after each clip."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    scorer = SyncScorer(SyncNet().train(False).requires_grad_(False))
    memory: list[float] = []

    def progress(result: Evaluation, done: int) -> None:
        memory.append(round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1))
        print(f"{done} of {clips + 1}: {memory[-1]} MB")

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        one = write_clip(folder, seconds)
        (folder / "broken.mp4").write_bytes(b"\0" * 5000)
        rows = [one] * clips + [ClipFiles("broken", folder / "broken.mp4")]
        tools = QualityTools(FaceDetector(FaceDetector.load_nets()))
        started, cpu = time.perf_counter(), time.process_time()
        result = evaluate(rows, tools, scorer, SyncSettings(), None, progress)
        wall, cpu = time.perf_counter() - started, time.process_time() - cpu
    return {
        "clips": clips,
        "clip_seconds": seconds,
        "frame": f"{SIZE}x{SIZE}",
        "measured": len(result.measured),
        "skipped": list(result.skipped),
        "wall_seconds": round(wall, 1),
        "cpu_seconds": round(cpu, 1),
        "cpu_seconds_per_clip": round(cpu / max(1, len(result.measured)), 2),
        "memory_after_first_mb": memory[0],
        "memory_after_last_mb": memory[-1],
        "threads": threads,
        "load": [round(value, 1) for value in os.getloadavg()],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--clips", type=int, default=100, help="default: %(default)s")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each; default: %(default)s")
    parser.add_argument("--threads", type=int, default=2, help="default: %(default)s")
    parser.add_argument("--json", type=Path, default=RESULT, help="default: %(default)s")
    args = parser.parse_args()
    figures = measure(args.clips, args.seconds, args.threads)
    figures["machine"] = f"{platform.machine()}, torch {torch.__version__}"
    args.json.parent.mkdir(parents=True, exist_ok=True)
    args.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(figures, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
